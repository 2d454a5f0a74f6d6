//! Reads an index.

use crate::decoder::OpenRecord;
use crate::index::{
    BlockMap, CheckpointEntry, Destructive, Listed, Loss, MAX_LISTED, MAX_PENDING, Outcomes, RestorePoint,
    SegmentIndex, Tail, TimelineBegin,
};
use crate::{Fork, Lsn, PgTimestamp, RelFile, SegmentName, SegmentSize, TimelineId, WalVersion};

/// The most blocks of all forks that a map is read with: 2 TiB of them.
const MAX_BLOCKS: u64 = 1 << 28;

/// Reads fields off the front; `None` for what can't be.
pub(super) struct Reader<'r>(pub(super) &'r [u8]);

impl<'r> Reader<'r> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
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

    pub(super) fn signed(&mut self) -> Option<i64> {
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

    pub(super) fn index(&mut self) -> Option<SegmentIndex> {
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
            xids: self.option(|reader| Some((reader.number32()?, reader.number32()?)))?,
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
