//! The segment index: what a segment holds, in a few hundred bytes.
//!
//! It answers what a DBA asks before a restore without reading the WAL again: which moments and transactions a segment
//! covers, which restore points and checkpoints, and what was dropped or truncated, by which commit. On request it also
//! holds the map of changed blocks, from which incremental backups are made.
//!
//! A record belongs to the segment that it *ends* in: only with that segment can it be replayed. So the index of a segment is
//! made from its bytes and from the [`Tail`] of the index before, which holds the start of a record that crosses the
//! boundary. Made again from the same segments, it has the same bytes.

mod blocks;
mod build;
mod format;

pub use blocks::{BlockMap, ForkBlocks};
pub use build::{IndexOptions, Indexer};
pub use format::IndexFormatError;

use crate::decoder::OpenRecord;
use crate::{Lsn, PgTimestamp, RelFile, SegmentName, SegmentSize, TimelineId, WalVersion};

/// The most entries of each list in an index; what is beyond is counted only.
pub const MAX_LISTED: usize = 512;
/// The most operations that wait for their transaction's end from one segment to the next.
pub const MAX_PENDING: usize = 512;

/// What a segment (or several, [merged](SegmentIndex::merge)) holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The segment; the last one of several.
    pub segment: SegmentName,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// The version that wrote it.
    pub version: WalVersion,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The position of the first byte.
    pub start: Lsn,
    /// The end of the WAL in it: the segment's end, or earlier in a partial one.
    pub end: Lsn,
    /// Whether it is read to the segment's end.
    pub complete: bool,
    /// Whether the first record that ends in it is missing, for want of its start.
    pub head_missing: bool,
    /// How many records end in it.
    pub records: u64,
    /// The first record that ends in it.
    pub first_record: Option<Lsn>,
    /// The last record that ends in it.
    pub last_record: Option<Lsn>,
    /// Commits.
    pub commits: Outcomes,
    /// Aborts.
    pub aborts: Outcomes,
    /// The lowest and highest transaction number that wrote in it, in the order of a 32-bit ring.
    pub xids: Option<(u32, u32)>,
    /// Restore points.
    pub restore_points: Listed<RestorePoint>,
    /// Checkpoints.
    pub checkpoints: Listed<CheckpointEntry>,
    /// Timelines that begin.
    pub timelines: Listed<TimelineBegin>,
    /// Operations that destroy data, in the segment where their commit ends.
    pub destructive: Listed<Destructive>,
    /// Blocks changed, if that was asked for.
    pub blocks: Option<BlockMap>,
    /// What the index of the next segment needs.
    pub tail: Option<Tail>,
}

/// Transactions that end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes {
    /// How many.
    pub count: u64,
    /// The earliest and the latest moment, by the server's clock.
    pub times: Option<(PgTimestamp, PgTimestamp)>,
    /// The lowest and highest of the transactions, in the order of a 32-bit ring: top levels, prepared ones by their own number.
    pub xids: Option<(u32, u32)>,
    /// The end of the last one's record: recovery that includes it reads up to here.
    pub last_end: Option<Lsn>,
}

/// A list with an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The entries, in the order of the WAL, at most [`MAX_LISTED`].
    pub entries: Vec<T>,
    /// How many there are beyond those.
    pub more: u64,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its record.
    pub lsn: Lsn,
    /// When it was made.
    pub time: PgTimestamp,
    /// Its name.
    pub name: String,
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointEntry {
    /// Its record.
    pub lsn: Lsn,
    /// Where recovery from it starts.
    pub redo: Lsn,
    /// Its timeline.
    pub timeline: u32,
    /// Whether the server was shut down.
    pub shutdown: bool,
    /// When it began, in seconds since 1970.
    pub unix_seconds: i64,
}

/// A timeline that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineBegin {
    /// The record that says so.
    pub lsn: Lsn,
    /// The timeline.
    pub timeline: u32,
    /// The one it leaves.
    pub previous: u32,
    /// When.
    pub time: PgTimestamp,
}

/// An operation that destroys data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destructive {
    /// Its record.
    pub lsn: Lsn,
    /// Its transaction; 0 for none.
    pub xid: u32,
    /// What it does.
    pub what: Loss,
    /// The commit: where its record starts and when it was; `None` for what takes effect without one.
    pub commit: Option<(Lsn, PgTimestamp)>,
}

/// What is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A relation's file: `DROP`, `TRUNCATE`, or a rewrite as by `VACUUM FULL`.
    RelationFile(RelFile),
    /// The end of a relation, as vacuum cuts it off.
    RelationEnd {
        /// The relation's file.
        file: RelFile,
        /// How many blocks are left.
        blocks: u32,
    },
    /// A table, by `TRUNCATE`, in WAL for logical decoding.
    TruncatedTable {
        /// The database.
        database: u32,
        /// The table's OID.
        relation: u32,
    },
    /// A database.
    Database(u32),
    /// A tablespace.
    Tablespace(u32),
}

/// What the index of the next segment needs of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The last whole record.
    pub last_record: Lsn,
    /// The timeline of the last page.
    pub timeline: TimelineId,
    /// The record that goes on in the next segment, if one does.
    pub open: Option<OpenRecord>,
    /// Operations whose transaction hasn't ended.
    pub pending: Vec<Destructive>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { entries: Vec::new(), more: 0 }
    }
}

impl<T> Listed<T> {
    pub(crate) fn push(&mut self, entry: T) {
        if self.entries.len() < MAX_LISTED {
            self.entries.push(entry);
        } else {
            self.more += 1;
        }
    }

    fn merge(&mut self, later: Listed<T>) {
        self.more += later.more;
        for entry in later.entries {
            self.push(entry);
        }
    }
}

impl Outcomes {
    fn add(&mut self, xid: u32, time: PgTimestamp, end: Lsn) {
        let xids = (xid != 0).then_some((xid, xid));
        self.merge(&Outcomes { count: 1, times: Some((time, time)), xids, last_end: Some(end) });
    }

    fn merge(&mut self, later: &Outcomes) {
        self.count += later.count;
        self.last_end = later.last_end.or(self.last_end);
        self.times = match (self.times, later.times) {
            (Some((first, last)), Some((from, to))) => Some((first.min(from), last.max(to))),
            (one, other) => one.or(other),
        };
        self.xids = widen_all(self.xids, later.xids);
    }
}

impl SegmentIndex {
    /// Whether `other`, of the same name, was made from other WAL: records differ, which their checksums prove. Of a change that no
    /// checksum finds, and of whether the segment before was known, it does not depend.
    pub fn differs_from(&self, other: &Self) -> bool {
        let end = |index: &Self| (index.last_record, index.tail.as_ref().map(|tail| tail.last_record));
        // With the segment before, there may be a record more.
        let first = |index: &Self| (index.head_missing, index.first_record);
        let counted = |index: &Self| (index.records, index.commits, index.aborts, index.xids);
        end(self) != end(other)
            || first(self) == first(other)
                && (counted(self) != counted(other)
                    || self.restore_points != other.restore_points
                    || self.checkpoints != other.checkpoints
                    || self.timelines != other.timelines)
    }

    /// Takes in the index of what follows, so that this one covers both.
    ///
    /// Returns it unchanged if it doesn't follow: another cluster, or a gap.
    ///
    /// # Errors
    /// The index that doesn't follow.
    pub fn merge(&mut self, later: SegmentIndex) -> Result<(), Box<SegmentIndex>> {
        let follows = later.start == self.end
            && self.complete
            && (later.system_id, later.segment_size) == (self.system_id, self.segment_size);
        if !follows {
            return Err(Box::new(later));
        }
        self.segment = later.segment;
        self.version = later.version;
        self.end = later.end;
        self.complete = later.complete;
        self.records += later.records;
        self.first_record = self.first_record.or(later.first_record);
        self.last_record = later.last_record.or(self.last_record);
        self.commits.merge(&later.commits);
        self.aborts.merge(&later.aborts);
        self.xids = widen_all(self.xids, later.xids);
        self.restore_points.merge(later.restore_points);
        self.checkpoints.merge(later.checkpoints);
        self.timelines.merge(later.timelines);
        self.destructive.merge(later.destructive);
        self.blocks = match (self.blocks.take(), later.blocks) {
            (Some(mut blocks), Some(later)) => {
                blocks.merge(&later);
                Some(blocks)
            }
            // A map with a gap is none.
            _ => None,
        };
        self.tail = later.tail;
        Ok(())
    }
}

/// A range of transaction numbers that holds two.
fn widen_all(one: Option<(u32, u32)>, other: Option<(u32, u32)>) -> Option<(u32, u32)> {
    match (one, other) {
        (Some(xids), Some((low, high))) => Some(widen(widen(xids, low), high)),
        (one, other) => one.or(other),
    }
}

/// A range of transaction numbers that also holds `xid`, in the order of a ring.
pub(crate) const fn widen((low, high): (u32, u32), xid: u32) -> (u32, u32) {
    let before = (xid.wrapping_sub(low) as i32) < 0;
    let after = (xid.wrapping_sub(high) as i32) > 0;
    (if before { xid } else { low }, if after { xid } else { high })
}
