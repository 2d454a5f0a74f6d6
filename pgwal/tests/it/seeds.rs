//! Seeds for fuzzing, out of real WAL: made only where the environment variable `FUZZ_CORPUS` names a directory.

use std::collections::BTreeSet;
use std::path::Path;

use pgwal::index::{IndexOptions, Indexer};
use pgwal::{Decoder, Parts, SegmentSize, WalVersion};

use crate::workload::Workload;

/// The bytes before the payload of an index file.
const INDEX_HEADER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

#[test]
fn of_every_operation_are_written_on_request() {
    let Some(corpus) = std::env::var_os("FUZZ_CORPUS") else { return };
    for (number, version) in WalVersion::ALL.into_iter().enumerate() {
        testkit::require_pg!(version.major());
        write_seeds(Path::new(&corpus), number as u8, version.major());
    }
}

/// A record of each operation, the first pages of the WAL, the index of each segment.
fn write_seeds(corpus: &Path, number: u8, major: u32) {
    let (records, indexes) = (corpus.join("records"), corpus.join("segment_index"));
    std::fs::create_dir_all(&records).unwrap();
    std::fs::create_dir_all(&indexes).unwrap();
    let (workload, size) = (Workload::run(major, 16), SegmentSize::DEFAULT);
    let segments = workload.segments();
    let mut decoder = Decoder::new(segments[0].first_lsn(size).unwrap(), size);
    let (mut parts, mut seen) = (Parts::new(), BTreeSet::new());
    for segment in segments {
        let bytes = std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        // The target's first two bytes choose the version and the size of the pieces.
        let seed = |content: &[u8]| [&[number, 100], content].concat();
        std::fs::write(records.join(format!("{major}-{segment}")), seed(&bytes[..32 << 10])).unwrap();
        let mut indexer = Indexer::new(segment, IndexOptions { segment_size: size, blocks: true }).unwrap();
        let ended = indexer.feed(&bytes).is_err();
        let index = indexer.finish().unwrap().to_bytes();
        let payload = &index[INDEX_HEADER_BYTES..index.len() - CHECKSUM_BYTES];
        std::fs::write(indexes.join(format!("{major}-{segment}")), payload).unwrap();
        let mut input = &bytes[..];
        while let Ok(Some(record)) = decoder.next(&mut input) {
            parts.read(&record).unwrap();
            let image = parts.blocks.iter().find_map(|block| block.image.as_ref()?.compression);
            let name = format!("{major}-{}-{:02x}-{image:?}", record.rmgr(), record.header.operation());
            if record.bytes.len() < 10_000 && seen.insert(name.clone()) {
                std::fs::write(records.join(name), seed(record.bytes)).unwrap();
            }
        }
        if ended {
            break;
        }
    }
    assert!(seen.len() > 80, "{}", seen.len());
}
