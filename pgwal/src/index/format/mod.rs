//! The index as bytes.
//!
//! ```text
//! offset  size
//!  0      4    "BKWI"
//!  4      2    format version, 2
//!  6      2    zero
//!  8      4    length of the payload
//! 12      n    payload
//! 12+n    4    CRC-32C of all before
//! ```
//!
//! Numbers outside the payload are little-endian. The payload holds the fields of [`SegmentIndex`] in their order. Numbers in
//! it are LEB128; signed ones zigzag before that; times are signed microseconds since 2000; texts and bytes come after their
//! length, lists after the number of their entries (and then the number of entries left out); what may be missing comes after
//! a 0 or 1. Blocks of a fork are runs: the gap since the run before, and the run's length less one.
//!
//! A reader that meets another version makes the index again.

mod read;
mod write;

use read::Reader;
use write::Writer;

use super::SegmentIndex;

const MAGIC: [u8; 4] = *b"BKWI";
const FORMAT_VERSION: u16 = 2;
const HEADER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

/// Bytes that aren't an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexFormatError {
    /// Something else, or cut off.
    #[error("this is no segment index, or only part of one")]
    Magic,
    /// Another version of the format: the index has to be made again.
    #[error("the segment index has format version {found}, this program reads version {FORMAT_VERSION}")]
    Version {
        /// What it says.
        found: u16,
    },
    /// The checksum is wrong.
    #[error("the segment index is damaged: its checksum is wrong")]
    Checksum,
    /// A field can't be.
    #[error("the segment index is damaged: a field can't be read")]
    Field,
}

impl SegmentIndex {
    /// The index as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(1024));
        writer.0.extend(MAGIC);
        writer.0.extend(FORMAT_VERSION.to_le_bytes());
        writer.0.extend([0; HEADER_BYTES - 6]);
        writer.index(self);
        let mut bytes = writer.0;
        // An index of 4 GiB would need a segment of several times that.
        let length = (bytes.len() - HEADER_BYTES) as u32;
        bytes[8..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// Reads an index.
    ///
    /// # Errors
    /// When the bytes are none, are damaged, or have another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexFormatError> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(IndexFormatError::Magic)?;
        if header[..4] != MAGIC {
            return Err(IndexFormatError::Magic);
        }
        let found = u16::from_le_bytes([header[4], header[5]]);
        if found != FORMAT_VERSION {
            return Err(IndexFormatError::Version { found });
        }
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let (checked, checksum) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(IndexFormatError::Magic)?;
        if checked.len() != HEADER_BYTES + length {
            return Err(IndexFormatError::Magic);
        }
        if crc32c::crc32c(checked) != u32::from_le_bytes(*checksum) {
            return Err(IndexFormatError::Checksum);
        }
        let mut reader = Reader(&checked[HEADER_BYTES..]);
        let index = reader.index().ok_or(IndexFormatError::Field)?;
        if reader.0.is_empty() { Ok(index) } else { Err(IndexFormatError::Field) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::OpenRecord;
    use crate::index::*;
    use crate::{Fork, Lsn, PgTimestamp, RelFile, SegmentSize, TimelineId, WalVersion};
    use proptest::prelude::*;

    fn index() -> SegmentIndex {
        let time = PgTimestamp::from_micros;
        let file = RelFile { tablespace: 1663, database: 5, number: 16_400 };
        let lsn = Lsn::from_u64(0x300_0028);
        let mut blocks = BlockMap::default();
        [7, 8, 9, 100_000].into_iter().for_each(|block| blocks.fork(file, Fork::MAIN).insert(block));
        blocks.fork(file, Fork::VM).cut(3);
        let operation = |what| Destructive { lsn, xid: 700, what, commit: Some((lsn, time(-5))) };
        let mut destructive = Listed::default();
        destructive.push(operation(Loss::RelationFile(file)));
        destructive.push(operation(Loss::RelationEnd { file, blocks: 3 }));
        destructive.push(operation(Loss::TruncatedTable { database: 5, relation: 9 }));
        destructive.push(operation(Loss::Database(9)));
        let mut restore_points = Listed::default();
        restore_points.push(RestorePoint { lsn, time: time(9), name: "before".to_owned() });
        let mut checkpoints = Listed::default();
        let checkpoint =
            CheckpointEntry { lsn, redo: lsn, timeline: 2, shutdown: true, unix_seconds: 1_700_000_000 };
        checkpoints.push(checkpoint);
        let mut timelines = Listed::default();
        timelines.push(TimelineBegin { lsn, timeline: 2, previous: 1, time: time(8) });
        let open = OpenRecord { lsn, total: 99, got: 40, crc: 0xDEAD_BEEF, bytes: vec![1, 2, 3] };
        let pending = vec![Destructive { commit: None, ..operation(Loss::Tablespace(7)) }];
        SegmentIndex {
            segment: "000000020000000000000003".parse().unwrap(),
            segment_size: SegmentSize::DEFAULT,
            version: WalVersion::V17,
            system_id: u64::MAX,
            start: Lsn::from_u64(0x300_0000),
            end: Lsn::from_u64(0x400_0000),
            complete: true,
            head_missing: false,
            records: 12,
            first_record: Some(lsn),
            last_record: Some(lsn),
            commits: Outcomes {
                count: 3,
                times: Some((time(i64::MIN), time(i64::MAX))),
                xids: Some((u32::MAX - 1, 5)),
                last_end: Some(lsn),
            },
            aborts: Outcomes::default(),
            xids: Some((3, u32::MAX)),
            restore_points,
            checkpoints,
            timelines,
            destructive,
            blocks: Some(blocks),
            tail: Some(Tail { last_record: lsn, timeline: TimelineId::FIRST, open: Some(open), pending }),
        }
    }

    #[test]
    fn is_read_back_as_it_was_written() {
        let bytes = index().to_bytes();
        assert_eq!(SegmentIndex::from_bytes(&bytes).as_ref(), Ok(&index()));
        assert_eq!(SegmentIndex::from_bytes(&bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn damage_and_other_versions_are_told_apart() {
        let bytes = index().to_bytes();
        let check = |change: &dyn Fn(&mut Vec<u8>), error: IndexFormatError| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            assert_eq!(SegmentIndex::from_bytes(&bytes), Err(error));
        };
        check(&|bytes| bytes[0] = 0, IndexFormatError::Magic);
        check(&|bytes| bytes.truncate(30), IndexFormatError::Magic);
        check(&|bytes| bytes[4] = 3, IndexFormatError::Version { found: 3 });
        check(&|bytes| bytes[20] ^= 1, IndexFormatError::Checksum);
    }

    proptest! {
        #[test]
        fn a_payload_of_any_bytes_is_read_or_refused(payload: Vec<u8>) {
            let _ = Reader(&payload).index();
        }

        #[test]
        fn numbers_round_trip(number: u64, signed: i64) {
            let mut writer = Writer(Vec::new());
            writer.number(number);
            writer.signed(signed);
            let mut reader = Reader(&writer.0);
            prop_assert_eq!((reader.number(), reader.signed()), (Some(number), Some(signed)));
        }
    }
}
