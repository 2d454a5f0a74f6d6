//! Transaction records: commit, abort, prepare (`access/xact.h`).

use super::describe::{Description, Subject, Value, utc};
use super::inval::{self, Invalidations, invalidations};
use super::payload::Payload;
use super::storage::relation_path;
use crate::{Fork, Lsn, PgTimestamp, RelFile, WalVersion};

/// The operations by number.
pub mod op {
    /// The part of the information byte that tells the operation.
    pub const MASK: u8 = 0x70;
    /// A commit.
    pub const COMMIT: u8 = 0x00;
    /// The first half of a two-phase commit.
    pub const PREPARE: u8 = 0x10;
    /// An abort.
    pub const ABORT: u8 = 0x20;
    /// The second half of a two-phase commit.
    pub const COMMIT_PREPARED: u8 = 0x30;
    /// A prepared transaction is rolled back.
    pub const ABORT_PREPARED: u8 = 0x40;
    /// Subtransactions are assigned to their top level.
    pub const ASSIGNMENT: u8 = 0x50;
    /// Invalidations for logical decoding (PostgreSQL 14 and later).
    pub const INVALIDATIONS: u8 = 0x60;
    /// Says that extra information follows.
    pub const HAS_INFO: u8 = 0x80;
}

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATS: u32 = 1 << 8;
const APPLY_FEEDBACK: u32 = 1 << 29;
const UPDATE_RELCACHE_FILE: u32 = 1 << 30;
const FORCE_SYNC: u32 = 1 << 31;

/// The end of a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Completion<'a> {
    /// When, by the server's clock.
    pub time: PgTimestamp,
    /// Flags (`XACT_XINFO_*`).
    pub info: u32,
    /// The database and its tablespace.
    pub database: Option<(u32, u32)>,
    /// The subtransactions that end with it.
    pub subxacts: Xids<'a>,
    /// The relation files that are dropped.
    pub dropped: Relations<'a>,
    /// The statistics that are dropped (PostgreSQL 15 and later).
    pub dropped_stats: Stats<'a>,
    /// Cache invalidations (commits only).
    pub invalidations: Invalidations<'a>,
    /// The prepared transaction that this ends.
    pub prepared_xid: Option<u32>,
    /// The prepared transaction's name, where the WAL is for logical decoding.
    pub gid: Option<&'a [u8]>,
    /// The commit at its replication origin.
    pub origin: Option<(Lsn, PgTimestamp)>,
}

/// A prepared transaction.
#[derive(Debug, Clone, Copy)]
pub struct Prepare<'a> {
    /// Its name.
    pub gid: &'a [u8],
    /// The transaction.
    pub xid: u32,
    /// Its database.
    pub database: u32,
    /// Its role.
    pub owner: u32,
    /// When it was prepared.
    pub time: PgTimestamp,
    /// Its subtransactions.
    pub subxacts: Xids<'a>,
    /// Relation files dropped by its commit.
    pub dropped_on_commit: Relations<'a>,
    /// Relation files dropped by its rollback.
    pub dropped_on_abort: Relations<'a>,
    /// Statistics dropped by its commit.
    pub stats_on_commit: Stats<'a>,
    /// Statistics dropped by its rollback.
    pub stats_on_abort: Stats<'a>,
    /// Cache invalidations.
    pub invalidations: Invalidations<'a>,
    /// Whether the relation cache's file goes.
    pub init_file: bool,
    /// The prepare at its replication origin; zeros without one.
    pub origin: (Lsn, PgTimestamp),
}

/// Transaction numbers in a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Xids<'a>(&'a [u8]);

/// Relation files in a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Relations<'a>(&'a [u8]);

/// Dropped statistics in a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats<'a> {
    bytes: &'a [u8],
    item_bytes: usize,
}

/// A transaction record.
#[derive(Debug, Clone, Copy)]
pub enum Xact<'a> {
    /// A commit, also of a prepared transaction.
    Commit(Completion<'a>),
    /// An abort, also of a prepared transaction.
    Abort(Completion<'a>),
    /// The first half of a two-phase commit.
    Prepare(Prepare<'a>),
    /// Subtransactions are assigned to their top level.
    Assignment {
        /// The top level.
        top: u32,
        /// The subtransactions.
        subxacts: Xids<'a>,
    },
    /// Invalidations for logical decoding.
    Invalidations(Invalidations<'a>),
}

impl<'a> Xact<'a> {
    /// Reads the main data of a transaction record, whose information byte is `info`; `None` for an unknown operation or
    /// data that ends early.
    pub fn read(info: u8, main: &'a [u8], version: WalVersion) -> Option<Self> {
        let data = Payload(main);
        Some(match info & op::MASK {
            op::COMMIT | op::COMMIT_PREPARED => Xact::Commit(completion(info, data, version)?),
            op::ABORT | op::ABORT_PREPARED => Xact::Abort(completion(info, data, version)?),
            op::PREPARE => Xact::Prepare(prepare(data, version)?),
            op::ASSIGNMENT => Xact::Assignment { top: data.u32(0)?, subxacts: Xids(counted(data, 4, 4)?) },
            op::INVALIDATIONS => Xact::Invalidations(invalidations(data, 4, data.i32(0)?)?),
            _ => return None,
        })
    }
}

impl Completion<'_> {
    /// Whether the relation cache's file goes.
    pub const fn drops_init_file(&self) -> bool {
        self.info & UPDATE_RELCACHE_FILE != 0
    }
}

impl<'a> Xids<'a> {
    /// The numbers in order.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four))
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.0.len() / 4
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl<'a> Relations<'a> {
    /// The files in order.
    pub fn iter(self) -> impl Iterator<Item = RelFile> + 'a {
        self.0.as_chunks::<12>().0.iter().filter_map(|file| Payload(file).relation(0))
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0.len() < 12
    }
}

impl<'a> Stats<'a> {
    /// Kind, database and object of each.
    pub fn iter(self) -> impl Iterator<Item = (i32, u32, u64)> + 'a {
        // An item is 12 bytes, or 16 in PostgreSQL 18; 0 only in an empty list.
        self.bytes.chunks_exact(self.item_bytes.max(1)).filter_map(move |item| {
            let item = Payload(item);
            let high = if self.item_bytes == 16 { u64::from(item.u32(12)?) } else { 0 };
            Some((item.i32(0)?, item.u32(4)?, high << 32 | u64::from(item.u32(8)?)))
        })
    }
}

/// What follows a 32-bit count at `at`: that many items.
fn counted(data: Payload<'_>, at: usize, item_bytes: usize) -> Option<&[u8]> {
    let count = usize::try_from(data.i32(at)?).ok()?;
    data.array(at + 4, count, item_bytes)
}

const fn stat_bytes(version: WalVersion) -> usize {
    if matches!(version, WalVersion::V18) { 16 } else { 12 }
}

fn completion(info: u8, data: Payload<'_>, version: WalVersion) -> Option<Completion<'_>> {
    let mut completion = Completion {
        time: data.time(0)?,
        info: 0,
        database: None,
        subxacts: Xids::default(),
        dropped: Relations::default(),
        dropped_stats: Stats::default(),
        invalidations: Invalidations::default(),
        prepared_xid: None,
        gid: None,
        origin: None,
    };
    let mut at = 8;
    if info & op::HAS_INFO != 0 {
        completion.info = data.u32(at)?;
        at += 4;
    }
    let has = |flag: u32| completion.info & flag != 0;
    if has(HAS_DATABASE) {
        completion.database = Some((data.u32(at)?, data.u32(at + 4)?));
        at += 8;
    }
    if has(HAS_SUBXACTS) {
        completion.subxacts = Xids(counted(data, at, 4)?);
        at += 4 + completion.subxacts.0.len();
    }
    if has(HAS_RELATIONS) {
        completion.dropped = Relations(counted(data, at, 12)?);
        at += 4 + completion.dropped.0.len();
    }
    if has(HAS_DROPPED_STATS) {
        let item_bytes = stat_bytes(version);
        completion.dropped_stats = Stats { bytes: counted(data, at, item_bytes)?, item_bytes };
        at += 4 + completion.dropped_stats.bytes.len();
    }
    if has(HAS_INVALIDATIONS) {
        completion.invalidations = invalidations(data, at + 4, data.i32(at)?)?;
        at += 4 + completion.invalidations.0.len();
    }
    if has(HAS_TWO_PHASE) {
        completion.prepared_xid = Some(data.u32(at)?);
        at += 4;
        if has(HAS_GID) {
            let gid = data.text(at)?;
            completion.gid = Some(gid);
            at += gid.len() + 1;
        }
    }
    if has(HAS_ORIGIN) {
        completion.origin = Some((data.lsn(at)?, data.time(at + 8)?));
    }
    Some(completion)
}

/// PostgreSQL 15 put two counts of dropped statistics before the invalidations.
fn prepare(data: Payload<'_>, version: WalVersion) -> Option<Prepare<'_>> {
    let with_stats = version >= WalVersion::V15;
    let tail = if with_stats { 48 } else { 40 };
    let count = |at: usize| usize::try_from(data.i32(at)?).ok();
    let mut at = tail + 24;
    // Each part is aligned to 8.
    let mut part = |count: usize, size: usize| {
        let bytes = data.array(at, count, size)?;
        at = at.checked_add(bytes.len())?.checked_next_multiple_of(8)?;
        Some(bytes)
    };
    let gid = part(usize::from(data.u16(tail + 6)?), 1)?;
    let subxacts = Xids(part(count(28)?, 4)?);
    let dropped_on_commit = Relations(part(count(32)?, 12)?);
    let dropped_on_abort = Relations(part(count(36)?, 12)?);
    let item_bytes = stat_bytes(version);
    let mut stats = |at: usize| {
        let count = if with_stats { count(at)? } else { 0 };
        Some(Stats { bytes: part(count, item_bytes)?, item_bytes })
    };
    let (stats_on_commit, stats_on_abort) = (stats(40)?, stats(44)?);
    let invalidations = Invalidations(part(count(tail)?, inval::MESSAGE_BYTES)?);
    Some(Prepare {
        gid: gid.split(|byte| *byte == 0).next().unwrap_or_default(),
        xid: data.u32(8)?,
        database: data.u32(12)?,
        owner: data.u32(24)?,
        time: data.time(16)?,
        subxacts,
        dropped_on_commit,
        dropped_on_abort,
        stats_on_commit,
        stats_on_abort,
        invalidations,
        init_file: data.flag(tail + 4)?,
        origin: (data.lsn(tail + 8)?, data.time(tail + 16)?),
    })
}

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let info = subject.record.header.info;
    match Xact::read(info, subject.main().0, subject.version())? {
        Xact::Commit(commit) => describe_completion(d, subject, &commit, true),
        Xact::Abort(abort) => describe_completion(d, subject, &abort, false),
        Xact::Prepare(prepare) => describe_prepare(d, subject, &prepare),
        Xact::Assignment { top, subxacts } => {
            d.say("xtop ", "xtop", top);
            d.push(": subxacts:");
            d.say_each(" ", "subxacts", subxacts.iter());
        }
        Xact::Invalidations(messages) => inval::describe(d, messages, None),
    }
    Some(())
}

fn describe_completion(d: &mut Description, subject: &Subject<'_>, end: &Completion<'_>, commit: bool) {
    if let Some(xid) = end.prepared_xid.filter(|xid| *xid != 0) {
        d.say("", "prepared_xid", xid);
        d.push(": ");
    }
    d.say("", "time", end.time);
    relations(d, subject, "rels", "rels", end.dropped);
    subxacts(d, end.subxacts);
    let newer = subject.version() >= WalVersion::V15;
    if commit {
        stats(d, "", "dropped_stats", end.dropped_stats);
        let init_file = end.drops_init_file().then(|| end.database.unwrap_or_default());
        inval::describe(d, end.invalidations, init_file);
        if newer && end.info & APPLY_FEEDBACK != 0 {
            d.mark("; apply_feedback", "apply_feedback", true);
        }
        if end.info & FORCE_SYNC != 0 {
            d.mark("; sync", "sync", true);
        }
    }
    if let Some(at_origin) = end.origin.filter(|_| commit || newer) {
        origin(d, subject, at_origin);
    }
    if !commit && newer {
        stats(d, "", "dropped_stats", end.dropped_stats);
    }
}

fn describe_prepare(d: &mut Description, subject: &Subject<'_>, prepare: &Prepare<'_>) {
    d.say("gid ", "gid", String::from_utf8_lossy(prepare.gid).into_owned());
    d.say(": ", "time", prepare.time);
    relations(d, subject, "rels(commit)", "rels_on_commit", prepare.dropped_on_commit);
    relations(d, subject, "rels(abort)", "rels_on_abort", prepare.dropped_on_abort);
    stats(d, "commit ", "stats_on_commit", prepare.stats_on_commit);
    stats(d, "abort ", "stats_on_abort", prepare.stats_on_abort);
    subxacts(d, prepare.subxacts);
    inval::describe(d, prepare.invalidations, prepare.init_file.then_some((prepare.database, 0)));
    if subject.version() >= WalVersion::V15 && subject.parts.origin.is_some() {
        origin(d, subject, prepare.origin);
    }
}

fn relations(
    d: &mut Description,
    subject: &Subject<'_>,
    label: &str,
    name: &'static str,
    files: Relations<'_>,
) {
    if files.is_empty() {
        return;
    }
    d.push("; ");
    d.push(label);
    d.push(":");
    d.say_each(" ", name, files.iter().map(|file| relation_path(file, Fork::MAIN, subject.version())));
}

fn subxacts(d: &mut Description, xids: Xids<'_>) {
    if !xids.is_empty() {
        d.push("; subxacts:");
        d.say_each(" ", "subxacts", xids.iter());
    }
}

fn stats(d: &mut Description, label: &str, name: &'static str, stats: Stats<'_>) {
    if stats.bytes.is_empty() {
        return;
    }
    d.push("; ");
    d.push(label);
    d.push("dropped stats:");
    d.say_each(" ", name, stats.iter().map(|(kind, database, object)| format!("{kind}/{database}/{object}")));
}

fn origin(d: &mut Description, subject: &Subject<'_>, (lsn, time): (Lsn, PgTimestamp)) {
    d.say("; origin: node ", "origin", subject.parts.origin.unwrap_or_default());
    d.say(", lsn ", "origin_lsn", lsn);
    d.say(", at ", "origin_time", Value::Text(utc(time)));
}
