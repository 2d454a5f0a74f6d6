//! Records of the log itself: checkpoints, switches, restore points, changed settings (`access/xlog_internal.h`,
//! `catalog/pg_control.h`).

use super::describe::{Description, Subject, Truth};
use super::payload::Payload;
use crate::{Lsn, PgTimestamp, WalVersion};

/// The operations by number.
pub mod op {
    /// A checkpoint at shutdown.
    pub const CHECKPOINT_SHUTDOWN: u8 = 0x00;
    /// A checkpoint while running.
    pub const CHECKPOINT_ONLINE: u8 = 0x10;
    /// OIDs set aside.
    pub const NEXTOID: u8 = 0x30;
    /// The segment ends early.
    pub const SWITCH: u8 = 0x40;
    /// A base backup ended.
    pub const BACKUP_END: u8 = 0x50;
    /// Settings that a standby must follow changed.
    pub const PARAMETER_CHANGE: u8 = 0x60;
    /// A named restore point.
    pub const RESTORE_POINT: u8 = 0x70;
    /// `full_page_writes` changed.
    pub const FPW_CHANGE: u8 = 0x80;
    /// Recovery ended, a new timeline began.
    pub const END_OF_RECOVERY: u8 = 0x90;
    /// A page image for a hint.
    pub const FPI_FOR_HINT: u8 = 0xA0;
    /// A page image.
    pub const FPI: u8 = 0xB0;
    /// The record left unfinished before is void.
    pub const OVERWRITE_CONTRECORD: u8 = 0xD0;
    /// Where the redo of an online checkpoint starts (PostgreSQL 17 and later).
    pub const CHECKPOINT_REDO: u8 = 0xE0;
}

/// How much detail the WAL holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalLevel {
    /// Crash recovery only.
    Minimal,
    /// Archiving and standbys.
    Replica,
    /// Logical decoding.
    Logical,
    /// A number unknown here.
    Unknown(i32),
}

impl WalLevel {
    const fn from_number(number: i32) -> Self {
        match number {
            0 => WalLevel::Minimal,
            1 => WalLevel::Replica,
            2 => WalLevel::Logical,
            other => WalLevel::Unknown(other),
        }
    }

    /// The setting's value, or `?`.
    pub const fn name(self) -> &'static str {
        match self {
            WalLevel::Minimal => "minimal",
            WalLevel::Replica => "replica",
            WalLevel::Logical => "logical",
            WalLevel::Unknown(_) => "?",
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where recovery from it starts reading.
    pub redo: Lsn,
    /// The timeline.
    pub timeline: u32,
    /// The timeline before; another if this one begins here.
    pub previous_timeline: u32,
    /// The setting `full_page_writes`.
    pub full_page_writes: bool,
    /// The setting `wal_level` (PostgreSQL 17 and later).
    pub wal_level: Option<WalLevel>,
    /// The next transaction, its epoch in the high half.
    pub next_xid: u64,
    /// The next OID.
    pub next_oid: u32,
    /// The next multixact.
    pub next_multi: u32,
    /// The next multixact's offset.
    pub next_multi_offset: u32,
    /// The oldest transaction not frozen, and its database.
    pub oldest_xid: (u32, u32),
    /// The oldest multixact, and its database.
    pub oldest_multi: (u32, u32),
    /// When, in seconds since 1970.
    pub unix_seconds: i64,
    /// The oldest and newest transaction with a commit timestamp.
    pub commit_ts_xids: (u32, u32),
    /// The oldest running transaction (online checkpoints only).
    pub oldest_active_xid: u32,
    /// Whether the server was shut down.
    pub shutdown: bool,
}

/// A record of the log itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xlog<'a> {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// Nothing.
    Noop,
    /// OIDs are set aside up to this one.
    NextOid(u32),
    /// The segment ends here.
    Switch,
    /// A base backup that began at this position ended.
    BackupEnd(Lsn),
    /// Settings that a standby must follow.
    ParameterChange(Parameters),
    /// A named restore point.
    RestorePoint {
        /// When it was made.
        time: PgTimestamp,
        /// Its name.
        name: &'a [u8],
    },
    /// `full_page_writes` is now this.
    FullPageWrites(bool),
    /// Recovery ended.
    EndOfRecovery {
        /// When.
        time: PgTimestamp,
        /// The timeline that begins.
        timeline: u32,
        /// The one it leaves.
        previous_timeline: u32,
        /// The setting `wal_level` (PostgreSQL 17 and later).
        wal_level: Option<WalLevel>,
    },
    /// Page images and nothing else.
    PageImages {
        /// Whether it is for a hint only.
        for_hint: bool,
    },
    /// The record that began there is void.
    OverwriteContrecord {
        /// The void record.
        lsn: Lsn,
        /// When it was found.
        time: PgTimestamp,
    },
    /// The redo position of the checkpoint that follows.
    CheckpointRedo(WalLevel),
}

/// Settings that a standby must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// `max_connections`
    pub max_connections: i32,
    /// `max_worker_processes`
    pub max_worker_processes: i32,
    /// `max_wal_senders`
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: i32,
    /// `wal_level`
    pub wal_level: WalLevel,
    /// `wal_log_hints`
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
}

impl<'a> Xlog<'a> {
    /// Reads the main data of a record of the log itself; `None` for an unknown operation or data that ends early.
    pub fn read(operation: u8, main: &'a [u8], version: WalVersion) -> Option<Self> {
        let data = Payload(main);
        Some(match operation {
            op::CHECKPOINT_SHUTDOWN | op::CHECKPOINT_ONLINE => {
                Xlog::Checkpoint(checkpoint(data, version, operation == op::CHECKPOINT_SHUTDOWN)?)
            }
            0x20 => Xlog::Noop,
            op::NEXTOID => Xlog::NextOid(data.u32(0)?),
            op::SWITCH => Xlog::Switch,
            op::BACKUP_END => Xlog::BackupEnd(data.lsn(0)?),
            op::PARAMETER_CHANGE => Xlog::ParameterChange(Parameters {
                max_connections: data.i32(0)?,
                max_worker_processes: data.i32(4)?,
                max_wal_senders: data.i32(8)?,
                max_prepared_transactions: data.i32(12)?,
                max_locks_per_transaction: data.i32(16)?,
                wal_level: WalLevel::from_number(data.i32(20)?),
                wal_log_hints: data.flag(24)?,
                track_commit_timestamp: data.flag(25)?,
            }),
            op::RESTORE_POINT => Xlog::RestorePoint { time: data.time(0)?, name: data.text(8)? },
            op::FPW_CHANGE => Xlog::FullPageWrites(data.flag(0)?),
            op::END_OF_RECOVERY => Xlog::EndOfRecovery {
                time: data.time(0)?,
                timeline: data.u32(8)?,
                previous_timeline: data.u32(12)?,
                wal_level: if version >= WalVersion::V17 {
                    data.i32(16).map(WalLevel::from_number)
                } else {
                    None
                },
            },
            op::FPI_FOR_HINT | op::FPI => Xlog::PageImages { for_hint: operation == op::FPI_FOR_HINT },
            op::OVERWRITE_CONTRECORD => Xlog::OverwriteContrecord { lsn: data.lsn(0)?, time: data.time(8)? },
            op::CHECKPOINT_REDO if version >= WalVersion::V17 => {
                Xlog::CheckpointRedo(WalLevel::from_number(data.i32(0)?))
            }
            _ => return None,
        })
    }
}

/// PostgreSQL 17 put `wal_level` into what was padding before.
fn checkpoint(data: Payload<'_>, version: WalVersion, shutdown: bool) -> Option<Checkpoint> {
    Some(Checkpoint {
        redo: data.lsn(0)?,
        timeline: data.u32(8)?,
        previous_timeline: data.u32(12)?,
        full_page_writes: data.flag(16)?,
        wal_level: if version >= WalVersion::V17 { data.i32(20).map(WalLevel::from_number) } else { None },
        next_xid: data.u64(24)?,
        next_oid: data.u32(32)?,
        next_multi: data.u32(36)?,
        next_multi_offset: data.u32(40)?,
        oldest_xid: (data.u32(44)?, data.u32(48)?),
        oldest_multi: (data.u32(52)?, data.u32(56)?),
        unix_seconds: data.i64(64)?,
        commit_ts_xids: (data.u32(72)?, data.u32(76)?),
        oldest_active_xid: data.u32(80)?,
        shutdown,
    })
}

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    match Xlog::read(subject.operation(), subject.main().0, subject.version())? {
        Xlog::Checkpoint(checkpoint) => describe_checkpoint(d, &checkpoint),
        Xlog::Noop | Xlog::Switch | Xlog::PageImages { .. } => {}
        Xlog::NextOid(oid) => d.say("", "oid", oid),
        Xlog::BackupEnd(start) => d.say("", "start", start),
        Xlog::ParameterChange(p) => {
            d.say("max_connections=", "max_connections", p.max_connections);
            d.say(" max_worker_processes=", "max_worker_processes", p.max_worker_processes);
            d.say(" max_wal_senders=", "max_wal_senders", p.max_wal_senders);
            d.say(" max_prepared_xacts=", "max_prepared_xacts", p.max_prepared_transactions);
            d.say(" max_locks_per_xact=", "max_locks_per_xact", p.max_locks_per_transaction);
            d.say(" wal_level=", "wal_level", p.wal_level.name());
            d.say_whether(" wal_log_hints=", "wal_log_hints", p.wal_log_hints, Truth::Switch);
            d.say_whether(
                " track_commit_timestamp=",
                "track_commit_timestamp",
                p.track_commit_timestamp,
                Truth::Switch,
            );
        }
        Xlog::RestorePoint { name, .. } => d.say("", "name", String::from_utf8_lossy(name).into_owned()),
        Xlog::FullPageWrites(on) => d.say_whether("", "full_page_writes", on, Truth::Word),
        Xlog::EndOfRecovery { time, timeline, previous_timeline, wal_level } => {
            d.say("tli ", "tli", timeline);
            d.say("; prev tli ", "prev_tli", previous_timeline);
            d.say("; time ", "time", time);
            if let Some(level) = wal_level {
                d.say("; wal_level ", "wal_level", level.name());
            }
        }
        Xlog::OverwriteContrecord { lsn, time } => {
            d.say("lsn ", "lsn", lsn);
            d.say("; time ", "time", time);
        }
        Xlog::CheckpointRedo(level) => d.say("wal_level ", "wal_level", level.name()),
    }
    Some(())
}

fn describe_checkpoint(d: &mut Description, checkpoint: &Checkpoint) {
    d.say("redo ", "redo", checkpoint.redo);
    d.say("; tli ", "tli", checkpoint.timeline);
    d.say("; prev tli ", "prev_tli", checkpoint.previous_timeline);
    d.say_whether("; fpw ", "fpw", checkpoint.full_page_writes, Truth::Word);
    if let Some(level) = checkpoint.wal_level {
        d.say("; wal_level ", "wal_level", level.name());
    }
    d.say("; xid ", "xid", super::describe::Value::FullXid(checkpoint.next_xid));
    d.say("; oid ", "oid", checkpoint.next_oid);
    d.say("; multi ", "multi", checkpoint.next_multi);
    d.say("; offset ", "offset", checkpoint.next_multi_offset);
    d.say("; oldest xid ", "oldest_xid", checkpoint.oldest_xid.0);
    d.say(" in DB ", "oldest_xid_db", checkpoint.oldest_xid.1);
    d.say("; oldest multi ", "oldest_multi", checkpoint.oldest_multi.0);
    d.say(" in DB ", "oldest_multi_db", checkpoint.oldest_multi.1);
    d.say("; oldest/newest commit timestamp xid: ", "oldest_commit_ts_xid", checkpoint.commit_ts_xids.0);
    d.say("/", "newest_commit_ts_xid", checkpoint.commit_ts_xids.1);
    d.say("; oldest running xid ", "oldest_running_xid", checkpoint.oldest_active_xid);
    d.say("; ", "kind", if checkpoint.shutdown { "shutdown" } else { "online" });
}
