//! The index of real segments: complete, the same whichever way it is made, and right about what matters.

use std::collections::{BTreeMap, BTreeSet};

use pgwal::index::{IndexOptions, Indexer, Loss, SegmentIndex};
use pgwal::rmgr::Operation;
use pgwal::rmgr::storage::relation_path;
use pgwal::rmgr::xact::Xact;
use pgwal::{Decoder, Fork, Lsn, Parts, RelFile, SegmentSize, WalVersion};

use testkit::Cluster;

use crate::workload::{self, Workload};

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

/// What the server's own WAL summarizer says of the blocks changed from one checkpoint to another, both at a segment's
/// start, is what the indexes of the segments between say.
fn check_against_summarizer(major: u32) {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("wal_level", "logical")
        .setting("wal_keep_size", "4GB")
        .setting("max_prepared_transactions", "10")
        .setting("autovacuum", "off")
        .setting("wal_log_hints", "on")
        .setting("summarize_wal", "on")
        .start();
    // Redo of a checkpoint right after a switch is the first record of a segment.
    let boundary = || -> Lsn {
        cluster.switch_wal();
        cluster.execute("CHECKPOINT");
        cluster.value("SELECT redo_lsn FROM pg_control_checkpoint()").parse().unwrap()
    };
    let start = boundary();
    workload::run_all(&cluster);
    let end = boundary();
    let done = format!("SELECT summarized_lsn >= '{end}' FROM pg_get_wal_summarizer_state()");
    testkit::wait_for("the summarizer", 60, || cluster.value(&done).starts_with('t').then_some(()));
    let theirs = cluster.query_text(&format!(
        "SELECT concat_ws(' ', start_lsn, reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber, is_limit_block)
         FROM pg_available_wal_summaries() s, LATERAL pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn)
         WHERE s.start_lsn >= '{start}' AND s.end_lsn <= '{end}' ORDER BY s.start_lsn"
    ));
    assert!(theirs.len() > 2000, "{}", theirs.len());
    // Several summaries, merged: what is cut off later is void earlier.
    let mut expected: BTreeMap<(RelFile, Fork), (Option<u32>, BTreeSet<u32>)> = BTreeMap::new();
    let mut by_summary: BTreeMap<Lsn, Vec<(RelFile, Fork, u32, bool)>> = BTreeMap::new();
    for line in &theirs {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        let file = RelFile { tablespace: number(1), database: number(2), number: number(3) };
        let entry = (file, Fork(number(4) as u8), number(5), words[6].starts_with('t'));
        by_summary.entry(words[0].parse().unwrap()).or_default().push(entry);
    }
    for summary in by_summary.values() {
        for (file, fork, limit, _) in summary.iter().filter(|entry| entry.3) {
            let known = expected.entry((*file, *fork)).or_default();
            known.0 = Some(known.0.map_or(*limit, |before| before.min(*limit)));
            known.1.retain(|block| block < limit);
        }
        for (file, fork, block, _) in summary.iter().filter(|entry| !entry.3) {
            expected.entry((*file, *fork)).or_default().1.insert(*block);
        }
    }
    let size = SegmentSize::MIN;
    let mut ours: Option<SegmentIndex> = None;
    let mut before: Option<SegmentIndex> = None;
    for segment in workload::segments_in(&cluster.data_dir().join("pg_wal")) {
        let first = segment.first_lsn(size).unwrap();
        if first < size.start_of(start) || first >= size.start_of(end) {
            continue;
        }
        let options = IndexOptions { segment_size: size, blocks: true };
        let going = before.as_ref().map(|before| Indexer::after(before, segment, true).unwrap());
        let mut indexer = going.unwrap_or_else(|| Indexer::new(segment, options).unwrap());
        let bytes = std::fs::read(cluster.data_dir().join("pg_wal").join(segment.to_string())).unwrap();
        indexer.feed(&bytes).unwrap();
        let index = indexer.finish().unwrap();
        match &mut ours {
            Some(ours) => ours.merge(index.clone()).unwrap(),
            None => ours = Some(index.clone()),
        }
        before = Some(index);
    }
    let ours = ours.unwrap().blocks.unwrap();
    let mut found: BTreeMap<(RelFile, Fork), (Option<u32>, BTreeSet<u32>)> = BTreeMap::new();
    for (file, fork, changed) in ours.iter().filter(|(_, fork, _)| *fork != Fork::FSM) {
        found.insert((file, fork), (changed.limit(), changed.blocks().collect()));
    }
    expected.retain(|(_, fork), _| *fork != Fork::FSM);
    let mut compared = 0;
    for ((file, fork), theirs) in &expected {
        let ours = found.get(&(*file, *fork)).unwrap_or_else(|| panic!("{file} {fork:?} is missing"));
        assert_eq!(ours.0, theirs.0, "{file} {fork:?}");
        // The server keeps blocks that were cut off again after the first time: they are beyond the file's end.
        let path = cluster.data_dir().join(relation_path(*file, *fork, WalVersion::V18));
        let blocks = std::fs::metadata(path).map_or(0, |file| (file.len() / 8192) as u32);
        let is_there = |block: &&u32| **block < blocks;
        assert!(ours.1.is_subset(&theirs.1), "{file} {fork:?}");
        assert!(ours.1.iter().filter(is_there).eq(theirs.1.iter().filter(is_there)), "{file} {fork:?}");
        compared += usize::from(blocks > 0);
    }
    assert!(compared > 50, "{compared}");
    let only_ours: Vec<_> = found.iter().filter(|(key, _)| !expected.contains_key(key)).collect();
    assert!(only_ours.is_empty(), "{only_ours:?}");
}

#[test]
fn the_blocks_are_those_of_the_servers_summaries() {
    for major in [17, 18] {
        testkit::require_pg!(major);
        check_against_summarizer(major);
    }
}
