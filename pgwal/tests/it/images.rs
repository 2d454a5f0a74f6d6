//! Page images, restored: the pages that `pg_waldump --save-fullpage` saves, whatever the compression.

use std::collections::BTreeMap;
use std::process::Command;

use pgwal::image::ImageError;
use pgwal::record::ImageCompression;
use pgwal::{Decoder, Parts, SegmentSize};

use crate::workload::Workload;

/// Every image: its name as pg_waldump gives it, its compression, its page.
fn images(workload: &Workload) -> BTreeMap<String, (Option<ImageCompression>, Vec<u8>)> {
    let size = SegmentSize::new(workload.segment_bytes).unwrap();
    let segments = workload.segments();
    let mut decoder = Decoder::new(segments[0].first_lsn(size).unwrap(), size);
    let (mut parts, mut images) = (Parts::new(), BTreeMap::new());
    for segment in segments {
        let bytes = std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        let mut input = &bytes[..];
        while let Some(record) = match decoder.next(&mut input) {
            Ok(record) => record,
            Err(_) => return images,
        } {
            parts.read(&record).unwrap();
            for block in &parts.blocks {
                let Some(image) = &block.image else { continue };
                let mut page = [0; 8192];
                match image.restore(&record, &mut page) {
                    Ok(()) => {}
                    Err(ImageError::NotBuilt(ImageCompression::Zstd)) if cfg!(not(feature = "zstd")) => {
                        continue;
                    }
                    Err(error) => panic!("{} {block:?}: {error}", record.lsn),
                }
                let lsn = record.lsn.as_u64();
                let relation = block.relation.to_string().replace('/', ".");
                let (high, low, fork) = (lsn >> 32, lsn & 0xFFFF_FFFF, block.fork.name());
                let name = format!("00000001-{high:08X}-{low:08X}.{relation}.{}_{fork}", block.block);
                images.insert(name, (image.compression, page.to_vec()));
            }
        }
    }
    images
}

#[test]
fn are_the_pages_that_pg_waldump_saves() {
    testkit::require_pg!(18);
    let workload = Workload::run(18, 16);
    let ours = images(&workload);
    let (dir, size) = (testkit::TestDir::new(), SegmentSize::DEFAULT);
    let output = Command::new(testkit::client_tool("pg_waldump", 18).unwrap())
        .args(["--quiet", "--save-fullpage"])
        .arg(dir.join("pages"))
        .arg("-p")
        .arg(workload.wal_dir())
        .args(["--start", &workload.segments()[0].first_lsn(size).unwrap().to_string()])
        .output()
        .unwrap();
    let mut theirs = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join("pages")).unwrap_or_else(|error| panic!("{error}: {output:?}")) {
        let entry = entry.unwrap();
        theirs.insert(entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
    }
    assert!(theirs.len() > 500, "{}", theirs.len());
    assert!(ours.values().any(|(compression, _)| *compression == Some(ImageCompression::Pglz)));
    assert!(ours.keys().eq(theirs.keys()));
    for (name, (compression, page)) in &ours {
        assert!(page == &theirs[name], "{name} {compression:?}");
    }
}

#[test]
fn of_every_compression_are_pages() {
    testkit::require_pg!(15);
    let images = images(&Workload::run(15, 16));
    let mut methods: Vec<&str> =
        images.values().filter_map(|(method, _)| method.map(ImageCompression::name)).collect();
    methods.sort_unstable();
    methods.dedup();
    let expected: &[&str] = if cfg!(feature = "zstd") { &["lz4", "pglz", "zstd"] } else { &["lz4", "pglz"] };
    assert_eq!(methods, expected);
    for (name, (method, page)) in &images {
        // lower <= upper <= special <= size; the size and layout version of every page.
        let word = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let sound = word(12) <= word(14) && word(14) <= word(16) && word(16) <= 8192 && word(18) == 0x2004;
        assert!(sound || page.iter().all(|byte| *byte == 0), "{name} {method:?}");
    }
}
