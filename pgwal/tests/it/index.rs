//! The index of real segments: complete, the same whichever way it is made, and right about what matters.

use std::collections::{BTreeMap, BTreeSet};

use pgwal::index::{IndexOptions, Indexer, Loss, SegmentIndex};
use pgwal::rmgr::Operation;
use pgwal::rmgr::xact::Xact;
use pgwal::{Decoder, Fork, Lsn, Parts, RelFile, SegmentSize};

use crate::workload::Workload;

/// What the records themselves say.
#[derive(Default)]
struct Facts {
    records: u64,
    commits: u64,
    aborts: u64,
    dropped: u64,
    end: Lsn,
    blocks: BTreeMap<(RelFile, Fork), BTreeSet<u32>>,
}

fn facts(workload: &Workload, size: SegmentSize) -> Facts {
    let segments = workload.segments();
    let mut decoder = Decoder::new(segments[0].first_lsn(size).unwrap(), size);
    let (mut parts, mut facts) = (Parts::new(), Facts::default());
    for segment in segments {
        let bytes = std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        let mut input = &bytes[..];
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Err(_) => return facts,
                Ok(Some(record)) => {
                    parts.read(&record).unwrap();
                    facts.records += 1;
                    facts.end = record.end;
                    for block in &parts.blocks {
                        facts.blocks.entry((block.relation, block.fork)).or_default().insert(block.block);
                    }
                    match Operation::read(&record, &parts) {
                        Some(Operation::Transaction(Xact::Commit(commit))) => {
                            facts.commits += 1;
                            facts.dropped += commit.dropped.iter().count() as u64;
                        }
                        Some(Operation::Transaction(Xact::Abort(_))) => facts.aborts += 1,
                        _ => {}
                    }
                }
            }
        }
    }
    facts
}

fn indexes(workload: &Workload, size: SegmentSize, chunk_bytes: usize) -> Vec<SegmentIndex> {
    let mut made: Vec<SegmentIndex> = Vec::new();
    for segment in workload.segments() {
        let options = IndexOptions { segment_size: size, blocks: true };
        let mut indexer = match made.last() {
            None => Indexer::new(segment, options).unwrap(),
            Some(before) => Indexer::after(before, segment, true).unwrap(),
        };
        let bytes = std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        let ended = bytes.chunks(chunk_bytes).any(|chunk| indexer.feed(chunk).is_err());
        made.push(indexer.finish().unwrap());
        if ended {
            break;
        }
    }
    made
}

fn check(major: u32) {
    let size = SegmentSize::MIN;
    let workload = Workload::run(major, 1);
    let facts = facts(&workload, size);
    let made = indexes(&workload, size, 256 << 10);
    // Chunks of any size, another run, a way through bytes: the same.
    let bytes = |indexes: &[SegmentIndex]| indexes.iter().map(SegmentIndex::to_bytes).collect::<Vec<_>>();
    assert!(bytes(&made) == bytes(&indexes(&workload, size, 1003)));
    for index in &made {
        assert_eq!(SegmentIndex::from_bytes(&index.to_bytes()).as_ref(), Ok(index));
        assert!(index.xids.is_none_or(|(low, high)| low <= high));
    }
    assert!(made.iter().skip(1).all(|index| !index.head_missing));
    let mut small: Vec<usize> =
        made.iter().map(|index| SegmentIndex { blocks: None, ..index.clone() }.to_bytes().len()).collect();
    small.sort_unstable();
    assert!(small[small.len() / 2] < 4096, "{small:?}");
    let mut made = made.into_iter();
    let mut all = made.next().unwrap();
    for index in made {
        all.merge(index).unwrap();
    }
    assert_eq!((all.records, all.end, all.complete), (facts.records, facts.end, false));
    assert_eq!((all.commits.count, all.aborts.count), (facts.commits, facts.aborts));
    assert_eq!(
        all.restore_points.entries.iter().map(|point| &*point.name).collect::<Vec<_>>(),
        ["before the end"]
    );
    assert!(all.checkpoints.entries.len() > 5 && all.checkpoints.entries.last().unwrap().shutdown);
    let losses = &all.destructive;
    let is_file = |what: &Loss| matches!(what, Loss::RelationFile(_));
    let files = losses.entries.iter().filter(|loss| is_file(&loss.what)).count() as u64;
    assert!(files <= facts.dropped && files + losses.more >= facts.dropped.min(files + losses.more));
    assert!(
        losses.entries.iter().any(|loss| matches!(loss.what, Loss::Database(_)) && loss.commit.is_some())
    );
    assert!(
        losses
            .entries
            .iter()
            .any(|loss| matches!(loss.what, Loss::TruncatedTable { .. }) && loss.commit.is_some())
    );
    assert!(losses.entries.iter().any(|loss| matches!(loss.what, Loss::RelationEnd { .. })));
    // Every block is there, but for those cut off; nothing else is.
    let map = all.blocks.unwrap();
    for (file, fork, changed) in map.iter() {
        let known = facts.blocks.get(&(file, fork));
        assert!(changed.blocks().all(|block| known.is_some_and(|known| known.contains(&block))));
    }
    for ((file, fork), blocks) in &facts.blocks {
        let changed = map.get(*file, *fork).unwrap();
        let limit = changed.limit().unwrap_or(u32::MAX);
        assert!(blocks.iter().all(|block| *block >= limit || changed.contains(*block)), "{file} {fork:?}");
    }
}

#[test]
fn of_every_version_is_complete_and_repeatable() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        check(major);
    }
}
