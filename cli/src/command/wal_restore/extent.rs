//! How far PostgreSQL gets in a segment in which something is wrong, and whether WAL goes on behind that.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use pgwal::behind::Behind;
use pgwal::index::{IndexOptions, Indexer};
use pgwal::page::{LONG_HEADER_BYTES, PageHeader, identify_segment};
use pgwal::{Fault, SegmentName, SegmentSize, WalVersion};

/// Size of the pieces in which a segment is read, in bytes.
const PIECE_BYTES: usize = 128 << 10;

/// How far recovery gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Nobody knows: no WAL of a known version.
    Unknown,
    /// To the segment's end.
    Whole,
    /// To this fault.
    UpTo {
        /// What is wrong, and where.
        fault: Fault,
        /// Whether something was written behind it. A server that crashed leaves zeros or old pages there, or pages with the
        /// middle of the record that it did not finish.
        goes_on: bool,
        /// The cluster's segment size.
        size: SegmentSize,
    },
}

/// Reads a segment, by PostgreSQL's own rules.
///
/// # Errors
/// When it can't be read.
pub(super) fn extent(segment: SegmentName, file: &File) -> io::Result<Extent> {
    let mut head = [0; LONG_HEADER_BYTES];
    file.read_exact_at(&mut head, 0)?;
    let Some((_, header, _, size)) = identify_segment(&head) else { return Ok(Extent::Unknown) };
    let Some(indexer) = Indexer::new(segment, IndexOptions { segment_size: size, blocks: false }) else {
        return Ok(Extent::Unknown);
    };
    Ok(match first_fault(indexer, file)? {
        None => Extent::Whole,
        Some(fault) => {
            let goes_on = is_written_after(&fault, &header, file)?;
            Extent::UpTo { fault, goes_on, size }
        }
    })
}

fn first_fault(mut indexer: Indexer, mut file: &File) -> io::Result<Option<Fault>> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(indexer.fault_at_end()),
            Ok(count) => {
                if let Err(fault) = indexer.feed(&piece[..count]) {
                    return Ok(Some(fault));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether WAL was written behind a fault.
fn is_written_after(fault: &Fault, first: &PageHeader, file: &File) -> io::Result<bool> {
    let version = WalVersion::from_magic(first.magic);
    let mut behind = Behind::new(first.address, fault, version, first.address);
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut piece, offset) {
            Ok(0) => return Ok(behind.goes_on()),
            Ok(count) => {
                behind.feed(&piece[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    const START: u64 = 7 << 20;

    fn check(damage: impl FnOnce(&mut Vec<u8>)) -> Extent {
        let mut bytes = testkit::wal::segment(1, START, testkit::wal::SEGMENT_BYTES, 0);
        damage(&mut bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        extent("000000010000000000000007".parse().unwrap(), &file).unwrap()
    }

    fn goes_on(damage: impl FnOnce(&mut Vec<u8>)) -> bool {
        match check(damage) {
            Extent::UpTo { goes_on, size, .. } => {
                assert_eq!(size, SegmentSize::MIN);
                goes_on
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_behind_a_fault_tells_damage_from_an_end() {
        assert_eq!(check(|_| ()), Extent::Whole);
        assert_eq!(check(|wal| wal[0] = 0xff), Extent::Unknown);
        // A bit, in a page's header and in a record.
        assert!(goes_on(|wal| wal[40_962] ^= 0x40));
        assert!(goes_on(|wal| wal[50_000] ^= 1));
        // Only zeros from somewhere on: within a record, and between two.
        assert!(!goes_on(|wal| wal[50_000..].fill(0)));
        assert!(!goes_on(|wal| wal[49_152..].fill(0)));
        // Pages of the segment that was recycled.
        let old = testkit::wal::segment(1, START - (1 << 20), testkit::wal::SEGMENT_BYTES, 0);
        assert!(!goes_on(|wal| wal[49_152..].copy_from_slice(&old[49_152..])));
        // The middle of a record that has no end: written, but nothing behind it.
        assert!(!goes_on(|wal| {
            wal[49_152 + 2..][..2].copy_from_slice(&1_u16.to_le_bytes());
            wal[49_152 + 16..][..4].copy_from_slice(&100_000_u32.to_le_bytes());
            wal[57_344..].fill(0);
        }));
        // In the last record there is no telling by the segment alone.
        assert!(!goes_on(|wal| *wal.last_mut().unwrap() ^= 1));
    }
}
