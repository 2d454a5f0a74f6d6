//! Fills a server's index store with as many entries as asked for, made from one real segment: for measurements of what
//! commands cost on archives that are too large to be made.
//!
//! Usage: `fill_index_store SERVER_DIRECTORY SEGMENT_FILE COUNT`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use barkeep_catalog::index_store::Facts;
use barkeep_catalog::inspect::Soundness;
use barkeep_catalog::{IndexStore, Layout};
use pgwal::index::{IndexOptions, Indexer};
use pgwal::page::identify_segment;
use pgwal::{Lsn, SegmentName, TimelineId};

/// Entries that are written at once.
const SHARE: u64 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, home, sample, count] = &arguments[..] else {
        return Err("usage: fill_index_store SERVER_DIRECTORY SEGMENT_FILE COUNT".into());
    };
    let count: u64 = count.parse()?;
    let bytes = std::fs::read(sample)?;
    let (_, header, _, size) = identify_segment(&bytes).ok_or("no WAL segment")?;
    let timeline = TimelineId::new(header.timeline).ok_or("a page without a timeline")?;
    let segment = SegmentName::at(timeline, header.address, size);
    let options = IndexOptions { segment_size: size, blocks: false };
    let mut indexer = Indexer::new(segment, options).ok_or("no such segment")?;
    // Where its WAL ends, the index does too.
    let _ = indexer.feed(&bytes);
    let sample = indexer.finish().ok_or("nothing could be read")?;

    let home = Path::new(home);
    let store = IndexStore::of(&Layout::new("main", home, home));
    for first in (1..=count).step_by(SHARE as usize) {
        let mut entries = Vec::new();
        for number in first..(first + SHARE).min(count + 1) {
            let start = Lsn::from_u64(number * size.bytes());
            let segment = SegmentName::at(timeline, start, size);
            let mut index = sample.clone();
            index.segment = segment;
            index.start = start;
            index.end = segment.end_lsn(size).unwrap_or(start);
            index.complete = true;
            let facts = Facts {
                segment,
                soundness: Soundness::Sound,
                note: String::new(),
                chained: true,
                bytes: size.bytes(),
                hash: [0; 16],
                stored_bytes: 5_592_405,
                modified: None,
            };
            entries.push((facts, Some(Arc::new(index))));
        }
        store.add(&entries)?;
    }
    let begin = Instant::now();
    let indexes = store.load()?;
    let loaded = begin.elapsed();
    let decoded = store.load_as(|entry| entry.index())?.iter().flatten().count();
    let decoding = begin.elapsed() - loaded;
    let index_bytes = sample.to_bytes().len();
    let entries = indexes.len();
    println!(
        "{entries} entries, indexes of {index_bytes} bytes: read in {loaded:.1?}, {decoded} read and decoded in {decoding:.1?}"
    );
    Ok(())
}
