//! The index as bytes.
//!
//! ```text
//! offset  size
//!  0      4    "BKWI"
//!  4      2    format version, 1
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

use super::blocks::BlockMap;
use super::{
    CheckpointEntry, Destructive, Listed, Loss, MAX_LISTED, MAX_PENDING, Outcomes, RestorePoint,
    SegmentIndex, Tail, TimelineBegin,
};
use crate::decoder::OpenRecord;
use crate::{Fork, Lsn, PgTimestamp, RelFile, SegmentName, SegmentSize, TimelineId, WalVersion};

const MAGIC: [u8; 4] = *b"BKWI";
const FORMAT_VERSION: u16 = 1;
/// The most blocks of all forks that a map is read with: 2 TiB of them.
const MAX_BLOCKS: u64 = 1 << 28;
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

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        let mut rest = number;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    fn signed(&mut self, number: i64) {
        self.number((number << 1 ^ number >> 63) as u64);
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    fn lsn(&mut self, lsn: Lsn) {
        self.number(lsn.as_u64());
    }

    fn time(&mut self, time: PgTimestamp) {
        self.signed(time.as_micros());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(list.len() as u64);
        list.iter().for_each(|entry| write(self, entry));
    }

    fn listed<T>(&mut self, listed: &Listed<T>, write: impl FnMut(&mut Self, &T)) {
        self.list(&listed.entries, write);
        self.number(listed.more);
    }

    fn file(&mut self, file: RelFile) {
        [file.tablespace, file.database, file.number].into_iter().for_each(|oid| self.number(u64::from(oid)));
    }

    fn index(&mut self, index: &SegmentIndex) {
        self.number(u64::from(index.version.major()));
        self.number(index.segment_size.bytes());
        self.number(u64::from(index.segment.timeline().as_u32()));
        self.lsn(index.segment.first_lsn(index.segment_size).unwrap_or_default());
        self.number(index.system_id);
        self.lsn(index.start);
        self.lsn(index.end);
        self.flag(index.complete);
        self.flag(index.head_missing);
        self.number(index.records);
        self.option(index.first_record, Self::lsn);
        self.option(index.last_record, Self::lsn);
        self.outcomes(&index.commits);
        self.outcomes(&index.aborts);
        self.option(index.xids, |writer, (low, high)| {
            writer.number(u64::from(low));
            writer.number(u64::from(high));
        });
        self.listed(&index.restore_points, |writer, point| {
            writer.lsn(point.lsn);
            writer.time(point.time);
            writer.bytes(point.name.as_bytes());
        });
        self.listed(&index.checkpoints, |writer, checkpoint| {
            writer.lsn(checkpoint.lsn);
            writer.lsn(checkpoint.redo);
            writer.number(u64::from(checkpoint.timeline));
            writer.flag(checkpoint.shutdown);
            writer.signed(checkpoint.unix_seconds);
        });
        self.listed(&index.timelines, |writer, begin| {
            writer.lsn(begin.lsn);
            writer.number(u64::from(begin.timeline));
            writer.number(u64::from(begin.previous));
            writer.time(begin.time);
        });
        self.listed(&index.destructive, Self::destructive);
        self.option(index.blocks.as_ref(), Self::blocks);
        self.option(index.tail.as_ref(), Self::tail);
    }

    fn outcomes(&mut self, outcomes: &Outcomes) {
        self.number(outcomes.count);
        self.option(outcomes.times, |writer, (first, last)| {
            writer.time(first);
            writer.time(last);
        });
        self.option(outcomes.last_end, Self::lsn);
    }

    fn destructive(&mut self, operation: &Destructive) {
        self.lsn(operation.lsn);
        self.number(u64::from(operation.xid));
        match operation.what {
            Loss::RelationFile(file) => {
                self.0.push(0);
                self.file(file);
            }
            Loss::RelationEnd { file, blocks } => {
                self.0.push(1);
                self.file(file);
                self.number(u64::from(blocks));
            }
            Loss::TruncatedTable { database, relation } => {
                self.0.push(2);
                self.number(u64::from(database));
                self.number(u64::from(relation));
            }
            Loss::Database(oid) => {
                self.0.push(3);
                self.number(u64::from(oid));
            }
            Loss::Tablespace(oid) => {
                self.0.push(4);
                self.number(u64::from(oid));
            }
        }
        self.option(operation.commit, |writer, (lsn, time)| {
            writer.lsn(lsn);
            writer.time(time);
        });
    }

    fn blocks(&mut self, blocks: &BlockMap) {
        self.number(blocks.len() as u64);
        for (file, fork, changed) in blocks.iter() {
            self.file(file);
            self.0.push(fork.0);
            self.option(changed.limit(), |writer, limit| writer.number(u64::from(limit)));
            let mut runs: Vec<(u32, u32)> = Vec::new();
            for block in changed.blocks() {
                match runs.last_mut() {
                    Some((_, last)) if *last + 1 == block => *last = block,
                    _ => runs.push((block, block)),
                }
            }
            self.number(runs.len() as u64);
            let mut next = 0;
            for (first, last) in runs {
                self.number(u64::from(first) - next);
                self.number(u64::from(last - first));
                next = u64::from(last) + 1;
            }
        }
    }

    fn tail(&mut self, tail: &Tail) {
        self.lsn(tail.last_record);
        self.number(u64::from(tail.timeline.as_u32()));
        self.option(tail.open.as_ref(), |writer, open| {
            writer.lsn(open.lsn);
            writer.number(u64::from(open.total));
            writer.number(u64::from(open.got));
            writer.number(u64::from(open.crc));
            writer.bytes(&open.bytes);
        });
        self.list(&tail.pending, Self::destructive);
    }
}

/// Reads fields off the front; `None` for what can't be.
struct Reader<'r>(&'r [u8]);

impl<'r> Reader<'r> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn number32(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn lsn(&mut self) -> Option<Lsn> {
        self.number().map(Lsn::from_u64)
    }

    fn time(&mut self) -> Option<PgTimestamp> {
        self.signed().map(PgTimestamp::from_micros)
    }

    fn bytes(&mut self) -> Option<&'r [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn list<T>(&mut self, limit: usize, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::try_from(self.number()?).ok().filter(|count| *count <= limit)?;
        (0..count).map(|_| read(self)).collect()
    }

    fn listed<T>(&mut self, read: impl FnMut(&mut Self) -> Option<T>) -> Option<Listed<T>> {
        Some(Listed { entries: self.list(MAX_LISTED, read)?, more: self.number()? })
    }

    fn file(&mut self) -> Option<RelFile> {
        Some(RelFile { tablespace: self.number32()?, database: self.number32()?, number: self.number32()? })
    }

    fn index(&mut self) -> Option<SegmentIndex> {
        let version = WalVersion::from_major(self.number32()?)?;
        let segment_size = SegmentSize::new(self.number()?)?;
        let timeline = TimelineId::new(self.number32()?)?;
        let segment = SegmentName::at(timeline, self.lsn()?, segment_size);
        Some(SegmentIndex {
            segment,
            segment_size,
            version,
            system_id: self.number()?,
            start: self.lsn()?,
            end: self.lsn()?,
            complete: self.flag()?,
            head_missing: self.flag()?,
            records: self.number()?,
            first_record: self.option(Self::lsn)?,
            last_record: self.option(Self::lsn)?,
            commits: self.outcomes()?,
            aborts: self.outcomes()?,
            xids: self.option(|reader| Some((reader.number32()?, reader.number32()?)))?,
            restore_points: self.listed(Self::restore_point)?,
            checkpoints: self.listed(Self::checkpoint)?,
            timelines: self.listed(Self::timeline_begin)?,
            destructive: self.listed(Self::destructive)?,
            blocks: self.option(Self::blocks)?,
            tail: self.option(Self::tail)?,
        })
    }

    fn outcomes(&mut self) -> Option<Outcomes> {
        Some(Outcomes {
            count: self.number()?,
            times: self.option(|reader| Some((reader.time()?, reader.time()?)))?,
            last_end: self.option(Self::lsn)?,
        })
    }

    fn restore_point(&mut self) -> Option<RestorePoint> {
        let (lsn, time) = (self.lsn()?, self.time()?);
        Some(RestorePoint { lsn, time, name: std::str::from_utf8(self.bytes()?).ok()?.to_owned() })
    }

    fn checkpoint(&mut self) -> Option<CheckpointEntry> {
        Some(CheckpointEntry {
            lsn: self.lsn()?,
            redo: self.lsn()?,
            timeline: self.number32()?,
            shutdown: self.flag()?,
            unix_seconds: self.signed()?,
        })
    }

    fn timeline_begin(&mut self) -> Option<TimelineBegin> {
        Some(TimelineBegin {
            lsn: self.lsn()?,
            timeline: self.number32()?,
            previous: self.number32()?,
            time: self.time()?,
        })
    }

    fn destructive(&mut self) -> Option<Destructive> {
        let (lsn, xid) = (self.lsn()?, self.number32()?);
        let what = match self.byte()? {
            0 => Loss::RelationFile(self.file()?),
            1 => Loss::RelationEnd { file: self.file()?, blocks: self.number32()? },
            2 => Loss::TruncatedTable { database: self.number32()?, relation: self.number32()? },
            3 => Loss::Database(self.number32()?),
            4 => Loss::Tablespace(self.number32()?),
            _ => return None,
        };
        let commit = self.option(|reader| Some((reader.lsn()?, reader.time()?)))?;
        Some(Destructive { lsn, xid, what, commit })
    }

    fn blocks(&mut self) -> Option<BlockMap> {
        let mut map = BlockMap::default();
        let mut room = MAX_BLOCKS;
        for _ in 0..self.number()? {
            let (file, fork) = (self.file()?, Fork(self.byte()?));
            let limit = self.option(Self::number32)?;
            let changed = map.fork(file, fork);
            if let Some(limit) = limit {
                changed.cut(limit);
            }
            let mut next: u64 = 0;
            for _ in 0..self.number()? {
                let first = next.checked_add(self.number()?)?;
                let last = first.checked_add(self.number()?)?;
                u32::try_from(last).ok()?;
                room = room.checked_sub(last - first + 1)?;
                (first..=last).for_each(|block| changed.insert(block as u32));
                next = last + 1;
            }
        }
        Some(map)
    }

    fn tail(&mut self) -> Option<Tail> {
        Some(Tail {
            last_record: self.lsn()?,
            timeline: TimelineId::new(self.number32()?)?,
            open: self.option(|reader| {
                Some(OpenRecord {
                    lsn: reader.lsn()?,
                    total: reader.number32()?,
                    got: reader.number32()?,
                    crc: reader.number32()?,
                    bytes: reader.bytes()?.to_vec(),
                })
            })?,
            pending: self.list(MAX_PENDING, Self::destructive)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        check(&|bytes| bytes[4] = 2, IndexFormatError::Version { found: 2 });
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
