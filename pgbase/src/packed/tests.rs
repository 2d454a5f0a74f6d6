use std::process::{Command, Stdio};

use barkeep_transport::codec::Level;
use proptest::prelude::*;

use super::*;

const COMPRESSIONS: [Compression; 3] = [Compression::Gzip, Compression::Lz4, Compression::Zstd];

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 100 + at % 7 + (at >> 13)) as u8).collect()
}

fn packed(compression: Compression, content: &[u8]) -> Vec<u8> {
    let packing = Packing { compression, level: Level::Medium };
    whole_file(&mut BlockPacker::with_blocks(packing, SMALLEST_BLOCK_BYTES).unwrap(), content).unwrap()
}

fn open(compression: Compression, bytes: &[u8]) -> io::Result<PackedFile> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    PackedFile::new(file, compression)
}

#[test]
fn files_come_out_as_they_went_in_from_any_place() {
    for compression in COMPRESSIONS {
        for length in [0, 1, 8192, (1 << 20) - 1, 1 << 20, (3 << 20) + 5] {
            let content = content(length);
            let mut file = open(compression, &packed(compression, &content)).unwrap();
            assert_eq!(file.size(), length as u64);
            let mut all = Vec::new();
            file.read_to_end(&mut all).unwrap();
            assert!(all == content, "{compression} {length}");
            for at in [0, 1, 8192, 1 << 20, (2 << 20) + 100] {
                let Some(wanted) = content.get(at..length.min(at + 10_000)) else { continue };
                let mut part = vec![0; wanted.len()];
                file.read_exact_at(&mut part, at as u64).unwrap();
                assert!(part == wanted, "{compression} {length} {at}");
            }
        }
    }
}

#[test]
fn the_formats_own_tools_decompress_them() {
    for (compression, tool) in
        [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd"), (Compression::Lz4, "lz4")]
    {
        let content = content((2 << 20) + 77);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, packed(compression, &content)).unwrap();
        let input = Stdio::from(File::open(&path).unwrap());
        // Not every machine has every tool.
        let Ok(output) = Command::new(tool).arg("-dc").stdin(input).output() else { continue };
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content, "{tool}");
    }
}

#[test]
fn what_is_cut_off_or_changed_is_never_taken_for_whole() {
    for compression in COMPRESSIONS {
        let content = content((1 << 20) + 5000);
        let whole = packed(compression, &content);
        for cut in [0, 1, 10, whole.len() / 2, whole.len() - 1] {
            assert!(open(compression, &whole[..cut]).is_err(), "{compression} {cut}");
        }
        // Every byte near the end, and some of the rest.
        let near_end = whole.len().saturating_sub(90)..whole.len();
        for at in near_end.chain((0..whole.len()).step_by(997)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            let mut all = Vec::new();
            let read = open(compression, &bytes).and_then(|mut file| file.read_to_end(&mut all));
            assert!(read.is_err() || all == content, "{compression}: byte {at}");
        }
    }
}

#[test]
fn names_are_told_apart() {
    for (stored, own) in [
        ("16384.zst", Some("16384")),
        ("mine.gz.gz", Some("mine.gz")),
        ("16384.1.lz4", Some("16384.1")),
        ("16384.1", None),
        (".zst", None),
        ("zst", None),
    ] {
        assert_eq!(original_name(OsStr::new(stored)).map(|(name, _)| name), own.map(OsStr::new), "{stored}");
    }
    for compression in COMPRESSIONS {
        let stored = stored_name(OsStr::new("a"), compression);
        assert_eq!(original_name(&stored), Some((OsStr::new("a"), compression)));
    }
}

proptest! {
    #[test]
    fn rubbish_is_no_compressed_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for compression in COMPRESSIONS {
            prop_assert!(open(compression, &bytes).is_err());
            // Behind it a right end mark, and a length that may be anything.
            let marked = [&bytes[..], b"\x24\0\0\0BKPE"].concat();
            prop_assert!(open(compression, &marked).is_err());
        }
    }
}
