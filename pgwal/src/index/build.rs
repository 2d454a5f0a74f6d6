//! Makes the index of a segment in one pass over its bytes.

use super::blocks::BlockMapBuilder;
use super::{
    CheckpointEntry, Destructive, Listed, Loss, MAX_PENDING, Outcomes, RestorePoint, SegmentIndex, Tail,
    TimelineBegin, widen,
};
use crate::decoder::{Decoder, Keep};
use crate::fault::{Fault, FaultKind};
use crate::page::LONG_HEADER_BYTES;
use crate::record::{Parts, RecordHeader};
use crate::rmgr::heap;
use crate::rmgr::storage::{Dbase, Smgr, Tablespace};
use crate::rmgr::xact::{self, Completion, Xact};
use crate::rmgr::xlog::Xlog;
use crate::rmgr::{Operation, Rmgr};
use crate::{BLOCK_BYTES, Fork, Lsn, PgTimestamp, Record, RelFile, SegmentName, SegmentSize, WalVersion};

/// Records longer than this are not put together, in bytes: of a longer commit only the time is read.
const MAX_KEPT_BYTES: u32 = 1 << 20;

/// How an index is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexOptions {
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Whether to note which blocks change.
    pub blocks: bool,
}

/// Makes the index of a segment: feed it the segment's bytes in chunks, then finish.
#[derive(Debug)]
pub struct Indexer {
    decoder: Decoder,
    parts: Parts,
    with_blocks: bool,
    index: SegmentIndex,
    pending: Vec<Destructive>,
    failed: bool,
    /// Whether the segment before isn't known.
    fresh: bool,
    /// Whether every record's layout is checked, not only of those that are noted.
    strict: bool,
    blocks: BlockMapBuilder,
}

impl Indexer {
    /// Begins with a segment whose predecessor isn't known: a record that began there is left out.
    ///
    /// `None` when the segment's name doesn't fit the segment size.
    pub fn new(segment: SegmentName, options: IndexOptions) -> Option<Self> {
        let start = segment.first_lsn(options.segment_size)?;
        let decoder = Decoder::new(start, options.segment_size).with_keep(Keep::Some(is_kept));
        Some(Indexer::with_decoder(segment, options, start, decoder))
    }

    /// Begins with the segment after the one that `before` ends with.
    ///
    /// `None` when `segment` doesn't follow it, or its WAL doesn't reach the segment's end.
    pub fn after(before: &SegmentIndex, segment: SegmentName, blocks: bool) -> Option<Self> {
        let options = IndexOptions { segment_size: before.segment_size, blocks };
        let tail = before.tail.as_ref().filter(|_| before.complete)?;
        let start = segment.first_lsn(options.segment_size).filter(|start| *start == before.end)?;
        let decoder = Decoder::new(start, options.segment_size)
            .with_keep(Keep::Some(is_kept))
            .with_system_id(before.system_id)
            .with_version(before.version)
            .resume(tail.last_record, tail.timeline, tail.open.clone());
        let mut indexer = Indexer::with_decoder(segment, options, start, decoder);
        indexer.fresh = false;
        indexer.pending.clone_from(&tail.pending);
        Some(indexer)
    }

    /// Also checks, in the same pass, all that [`verify`](crate::verify) does.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.decoder = self.decoder.strict();
        self.decoder.expect_timeline(self.index.segment.timeline());
        self.strict = true;
        self
    }

    /// Refuses WAL of another cluster.
    #[must_use]
    pub fn with_system_id(mut self, system_id: u64) -> Self {
        self.decoder = self.decoder.with_system_id(system_id);
        self
    }

    fn with_decoder(segment: SegmentName, options: IndexOptions, start: Lsn, decoder: Decoder) -> Self {
        let index = SegmentIndex {
            segment,
            segment_size: options.segment_size,
            version: WalVersion::V18,
            system_id: 0,
            start,
            end: start,
            complete: false,
            head_missing: false,
            records: 0,
            first_record: None,
            last_record: None,
            commits: Outcomes::default(),
            aborts: Outcomes::default(),
            xids: None,
            restore_points: Listed::default(),
            checkpoints: Listed::default(),
            timelines: Listed::default(),
            destructive: Listed::default(),
            blocks: None,
            tail: None,
        };
        Indexer {
            decoder,
            parts: Parts::new(),
            with_blocks: options.blocks,
            index,
            pending: Vec::new(),
            failed: false,
            fresh: true,
            strict: false,
            blocks: BlockMapBuilder::default(),
        }
    }

    /// Takes in the next bytes of the segment.
    ///
    /// # Errors
    /// Where the WAL ends or is damaged. The index then covers what is before.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut input = bytes;
        loop {
            match self.decoder.next(&mut input) {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => {
                    let index = &mut self.index;
                    index.records += 1;
                    if index.first_record.is_none() {
                        index.first_record = Some(record.lsn);
                        let first_possible = LONG_HEADER_BYTES as u64;
                        index.head_missing =
                            self.fresh && index.segment_size.offset_of(record.lsn) > first_possible;
                    }
                    index.last_record = Some(record.lsn);
                    index.end = record.end;
                    if record.header.xid != 0 {
                        let xid = record.header.xid;
                        index.xids = Some(index.xids.map_or((xid, xid), |range| widen(range, xid)));
                    }
                    let of_interest = is_of_interest(&record.header);
                    if of_interest || self.with_blocks {
                        // Damage that the checksum covers up is the server's own: it would stop recovery too.
                        if let Err(kind) = self.parts.read(&record) {
                            self.failed = true;
                            return Err(Fault { lsn: record.lsn, kind });
                        }
                    }
                    if self.with_blocks {
                        for block in &self.parts.blocks {
                            self.blocks.fork(block.relation, block.fork).insert(block.block);
                        }
                    }
                    if self.strict
                        && !(of_interest || self.with_blocks)
                        && let Err(kind) = Parts::check(&record)
                    {
                        self.failed = true;
                        return Err(Fault { lsn: record.lsn, kind });
                    }
                    if of_interest {
                        let mut notes = Notes {
                            index: &mut self.index,
                            pending: &mut self.pending,
                            blocks: self.with_blocks.then_some(&mut self.blocks),
                        };
                        notes.record(&record, &self.parts);
                    }
                }
                Err(fault) => {
                    self.failed = true;
                    return Err(fault);
                }
            }
        }
    }

    /// What only shows where the segment's bytes end: that there are too few or too many, or a timeline that began without
    /// a record of it. To be asked when all of them were fed.
    pub fn fault_at_end(&mut self) -> Option<Fault> {
        let (position, size) = (self.decoder.position(), self.index.segment_size);
        let found = position.as_u64().wrapping_sub(self.index.start.as_u64());
        if found != size.bytes() {
            self.failed = true;
            return Some(FaultKind::SegmentLength { found, expected: size.bytes() }.at(position));
        }
        self.decoder.end_segment()
    }

    /// The index of what was fed; `None` when not even a page was sound.
    pub fn finish(mut self) -> Option<SegmentIndex> {
        self.index.version = self.decoder.version()?;
        self.index.system_id = self.decoder.system_id()?;
        self.index.head_missing |= self.fresh && self.index.first_record.is_none();
        let segment_end = self.index.segment.end_lsn(self.index.segment_size)?;
        self.index.complete = !self.failed && self.decoder.position() == segment_end;
        if self.index.complete {
            self.index.end = segment_end;
        }
        if let (Some(timeline), Some(last_record)) = (self.decoder.timeline(), self.decoder.last_record()) {
            let open = self.decoder.open_record();
            self.index.tail = Some(Tail { last_record, timeline, open, pending: self.pending });
        }
        self.index.blocks = self.with_blocks.then(|| self.blocks.finish());
        Some(self.index)
    }
}

/// Records that are put together as a whole.
fn is_kept(header: &RecordHeader) -> bool {
    header.total_bytes <= MAX_KEPT_BYTES && is_of_interest(header)
}

/// Records whose payload the index reads.
fn is_of_interest(header: &RecordHeader) -> bool {
    match Rmgr::from_id(header.rmid) {
        // Page images are the bulk of the log's own records.
        Rmgr::Xlog => !matches!(header.operation(), 0xA0 | 0xB0),
        Rmgr::Transaction | Rmgr::Storage | Rmgr::Database | Rmgr::Tablespace => true,
        Rmgr::Heap => header.operation() & heap::OPERATION_MASK == heap::TRUNCATE,
        _ => false,
    }
}

/// Writes down what a record of interest says.
struct Notes<'n> {
    index: &'n mut SegmentIndex,
    pending: &'n mut Vec<Destructive>,
    blocks: Option<&'n mut BlockMapBuilder>,
}

impl Notes<'_> {
    fn record(&mut self, record: &Record<'_>, parts: &Parts) {
        let Some(operation) = Operation::read(record, parts) else { return self.not_kept(record, parts) };
        match operation {
            Operation::Xlog(xlog) => self.xlog(record, &xlog),
            Operation::Transaction(Xact::Commit(commit)) => self.commit(record, &commit),
            Operation::Transaction(Xact::Abort(abort)) => self.abort(record, &abort),
            Operation::Storage(smgr) => self.storage(record, smgr),
            Operation::Database(Dbase::Drop { database, tablespaces }) => {
                self.pend(record, Loss::Database(database));
                tablespaces.iter().for_each(|tablespace| self.whole_database(tablespace, database));
            }
            Operation::Database(
                Dbase::CreateFileCopy { to: (database, tablespace), .. }
                | Dbase::CreateWalLog { to: (database, tablespace) },
            ) => {
                self.whole_database(tablespace, database);
            }
            Operation::Tablespace(Tablespace::Drop { oid }) => self.pend(record, Loss::Tablespace(oid)),
            Operation::Truncate(truncate) => {
                for relation in truncate.relations.iter() {
                    self.pend(record, Loss::TruncatedTable { database: truncate.database, relation });
                }
            }
            _ => {}
        }
    }

    /// Of a record too long to be kept, the start of the main data is there: of a commit or abort, its time.
    fn not_kept(&mut self, record: &Record<'_>, parts: &Parts) {
        let start = parts.main.start;
        let Some(bytes) = record.slice(&(start..start + 8)).first_chunk::<8>() else { return };
        let time = PgTimestamp::from_micros(i64::from_le_bytes(*bytes));
        match (record.rmgr(), record.header.info & xact::op::MASK) {
            (Rmgr::Transaction, xact::op::COMMIT | xact::op::COMMIT_PREPARED) => {
                self.index.commits.add(record.header.xid, time, record.end);
            }
            (Rmgr::Transaction, xact::op::ABORT | xact::op::ABORT_PREPARED) => {
                self.index.aborts.add(record.header.xid, time, record.end)
            }
            _ => {}
        }
    }

    fn xlog(&mut self, record: &Record<'_>, xlog: &Xlog<'_>) {
        let lsn = record.lsn;
        match *xlog {
            Xlog::RestorePoint { time, name } => {
                let name = String::from_utf8_lossy(name).into_owned();
                self.index.restore_points.push(RestorePoint { lsn, time, name });
            }
            Xlog::Checkpoint(checkpoint) => {
                self.index.checkpoints.push(CheckpointEntry {
                    lsn,
                    redo: checkpoint.redo,
                    timeline: checkpoint.timeline,
                    shutdown: checkpoint.shutdown,
                    unix_seconds: checkpoint.unix_seconds,
                });
                if checkpoint.timeline != checkpoint.previous_timeline {
                    let micros = checkpoint.unix_seconds.checked_mul(1_000_000);
                    let time = micros.and_then(PgTimestamp::from_unix_micros);
                    self.timeline(
                        lsn,
                        checkpoint.timeline,
                        checkpoint.previous_timeline,
                        time.unwrap_or(EPOCH),
                    );
                }
            }
            Xlog::EndOfRecovery { time, timeline, previous_timeline, .. } => {
                self.timeline(lsn, timeline, previous_timeline, time);
            }
            _ => {}
        }
    }

    fn timeline(&mut self, lsn: Lsn, timeline: u32, previous: u32, time: PgTimestamp) {
        self.index.timelines.push(TimelineBegin { lsn, timeline, previous, time });
    }

    fn commit(&mut self, record: &Record<'_>, commit: &Completion<'_>) {
        let xid = commit.prepared_xid.unwrap_or(record.header.xid);
        self.index.commits.add(xid, commit.time, record.end);
        let committed = Some((record.lsn, commit.time));
        for mut operation in self.ended(record, commit) {
            operation.commit = committed;
            self.index.destructive.push(operation);
        }
        for file in commit.dropped.iter() {
            let what = Loss::RelationFile(file);
            self.index.destructive.push(Destructive { lsn: record.lsn, xid, what, commit: committed });
        }
        self.dropped(commit);
    }

    fn abort(&mut self, record: &Record<'_>, abort: &Completion<'_>) {
        self.index.aborts.add(abort.prepared_xid.unwrap_or(record.header.xid), abort.time, record.end);
        drop(self.ended(record, abort));
        self.dropped(abort);
    }

    /// Takes the pending operations of a transaction that ends, and of its subtransactions.
    fn ended(&mut self, record: &Record<'_>, end: &Completion<'_>) -> Vec<Destructive> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let top = end.prepared_xid.unwrap_or(record.header.xid);
        let is_its_own = |operation: &mut Destructive| {
            operation.xid == top || end.subxacts.iter().any(|xid| xid == operation.xid)
        };
        self.pending.extract_if(.., is_its_own).collect()
    }

    fn storage(&mut self, record: &Record<'_>, smgr: Smgr) {
        match smgr {
            Smgr::Create { relation, fork } => self.cut(relation, fork, 0),
            Smgr::Truncate { relation, blocks, forks } => {
                self.pend(record, Loss::RelationEnd { file: relation, blocks });
                // What is left of the free space map isn't told: as a whole it counts as void.
                let map_blocks = blocks.div_ceil(HEAP_BLOCKS_PER_MAP_BLOCK);
                for (flag, fork, limit) in
                    [(1, Fork::MAIN, blocks), (2, Fork::VM, map_blocks), (4, Fork::FSM, 0)]
                {
                    if forks & flag != 0 {
                        self.cut(relation, fork, limit);
                    }
                }
            }
        }
    }

    /// Notes an operation that counts once its transaction commits, or at once if there is none.
    fn pend(&mut self, record: &Record<'_>, what: Loss) {
        let operation = Destructive { lsn: record.lsn, xid: record.header.xid, what, commit: None };
        if operation.xid != 0 && self.pending.len() < MAX_PENDING {
            self.pending.push(operation);
        } else {
            self.index.destructive.push(operation);
        }
    }

    fn dropped(&mut self, end: &Completion<'_>) {
        for file in end.dropped.iter() {
            (0..4).for_each(|fork| self.cut(file, Fork(fork), 0));
        }
    }

    /// A database that comes or goes as a whole is noted as relation 0, cut off to nothing.
    fn whole_database(&mut self, tablespace: u32, database: u32) {
        self.cut(RelFile { tablespace, database, number: 0 }, Fork::MAIN, 0);
    }

    fn cut(&mut self, file: RelFile, fork: Fork, limit: u32) {
        if let Some(blocks) = &mut self.blocks {
            blocks.fork(file, fork).cut(limit);
        }
    }
}

/// How many blocks of a table one block of its visibility map covers: two bits each, behind a page header of 24 bytes
/// (`access/heap/visibilitymap.c`).
const HEAP_BLOCKS_PER_MAP_BLOCK: u32 = (BLOCK_BYTES as u32 - 24) * 4;

const EPOCH: PgTimestamp = PgTimestamp::from_micros(0);
