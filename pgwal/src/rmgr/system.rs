//! Commit status, multixacts, standby information, commit timestamps, replication origins, generic page differences,
//! logical messages (`access/clog.h`, `access/multixact.h`, `storage/standbydefs.h`, `access/commit_ts.h`,
//! `replication/origin.h`, `replication/message.h`).

use super::Rmgr;
use super::describe::{Description, Subject, Value, utc};
use super::inval::{self, Invalidations, invalidations};
use super::payload::Payload;
use super::storage::Oids;
use crate::{Lsn, PgTimestamp, WalVersion};

/// A record of commit status or commit timestamps: pages added and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPage {
    /// A page is added.
    Zero {
        /// Its number.
        page: i64,
    },
    /// Pages before this one are removed.
    Truncate {
        /// The first page left.
        page: i64,
        /// The oldest transaction left.
        oldest_xid: u32,
    },
}

/// A record for hot standby.
#[derive(Debug, Clone, Copy)]
pub enum Standby<'a> {
    /// Exclusive locks held on the primary.
    Locks(Locks<'a>),
    /// The transactions running.
    RunningXacts(RunningXacts<'a>),
    /// Cache invalidations of a transaction without a number.
    Invalidations {
        /// The messages.
        messages: Invalidations<'a>,
        /// The database.
        database: u32,
        /// Its tablespace.
        tablespace: u32,
        /// Whether the relation cache's file goes.
        init_file: bool,
    },
}

/// Locks in a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Locks<'a>(&'a [u8]);

/// The transactions running at a moment.
#[derive(Debug, Clone, Copy)]
pub struct RunningXacts<'a> {
    /// The next transaction to be started.
    pub next_xid: u32,
    /// The oldest still running.
    pub oldest_running: u32,
    /// The newest that has ended.
    pub latest_completed: u32,
    /// Whether subtransactions are missing from the list.
    pub subxid_overflow: bool,
    /// Top-level transactions.
    pub xids: Oids<'a>,
    /// Subtransactions.
    pub subxids: Oids<'a>,
}

/// A message for logical decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The database it was sent from.
    pub database: u32,
    /// Whether it counts only if its transaction commits.
    pub transactional: bool,
    /// Its prefix.
    pub prefix: &'a [u8],
    /// Its content.
    pub content: &'a [u8],
}

/// Page numbers became 64 bits wide in PostgreSQL 17.
fn page_number(data: Payload<'_>, version: WalVersion) -> Option<(i64, usize)> {
    if version >= WalVersion::V17 { Some((data.i64(0)?, 8)) } else { Some((i64::from(data.i32(0)?), 4)) }
}

impl StatusPage {
    /// Reads the main data; `None` for an unknown operation or data that ends early.
    pub fn read(operation: u8, main: &[u8], version: WalVersion) -> Option<Self> {
        let data = Payload(main);
        let (page, next) = page_number(data, version)?;
        match operation {
            0x00 => Some(StatusPage::Zero { page }),
            0x10 => Some(StatusPage::Truncate { page, oldest_xid: data.u32(next)? }),
            _ => None,
        }
    }
}

impl<'a> Standby<'a> {
    /// Reads the main data; `None` for an unknown operation or data that ends early.
    pub fn read(operation: u8, main: &'a [u8]) -> Option<Self> {
        let data = Payload(main);
        let count = |at: usize| usize::try_from(data.i32(at)?).ok();
        match operation {
            0x00 => Some(Standby::Locks(Locks(data.array(4, count(0)?, 12)?))),
            0x10 => {
                let (xids, subxids) = (count(0)?, count(4)?);
                Some(Standby::RunningXacts(RunningXacts {
                    next_xid: data.u32(12)?,
                    oldest_running: data.u32(16)?,
                    latest_completed: data.u32(20)?,
                    subxid_overflow: data.flag(8)?,
                    xids: Oids(data.array(24, xids, 4)?),
                    subxids: Oids(data.array(24 + 4 * xids, subxids, 4)?),
                }))
            }
            0x20 => Some(Standby::Invalidations {
                messages: invalidations(data, 16, data.i32(12)?)?,
                database: data.u32(0)?,
                tablespace: data.u32(4)?,
                init_file: data.flag(8)?,
            }),
            _ => None,
        }
    }
}

impl<'a> Locks<'a> {
    /// Transaction, database and relation of each.
    pub fn iter(self) -> impl Iterator<Item = (u32, u32, u32)> + 'a {
        self.0.as_chunks::<12>().0.iter().filter_map(|lock| {
            let lock = Payload(lock);
            Some((lock.u32(0)?, lock.u32(4)?, lock.u32(8)?))
        })
    }
}

impl<'a> LogicalMessage<'a> {
    /// Reads the main data; `None` when it ends early.
    pub fn read(main: &'a [u8]) -> Option<Self> {
        let data = Payload(main);
        let size = |at: usize| usize::try_from(data.u64(at)?).ok();
        let (prefix, content) = (size(8)?, size(16)?);
        Some(LogicalMessage {
            database: data.u32(0)?,
            transactional: data.flag(4)?,
            // The prefix ends with a zero byte.
            prefix: data.array(24, prefix.checked_sub(1)?, 1)?,
            content: data.array(24usize.checked_add(prefix)?, content, 1)?,
        })
    }
}

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (operation, main, version) = (subject.operation(), subject.main(), subject.version());
    match subject.record.rmgr() {
        Rmgr::Clog => match StatusPage::read(operation, main.0, version)? {
            StatusPage::Zero { page } => d.say("page ", "page", page),
            StatusPage::Truncate { page, oldest_xid } => {
                d.say("page ", "page", page);
                d.say("; oldestXact ", "oldest_xid", oldest_xid);
            }
        },
        Rmgr::CommitTs if operation == 0x20 => commit_ts_set(d, main)?,
        Rmgr::CommitTs => match StatusPage::read(operation, main.0, version)? {
            StatusPage::Zero { page } => d.say("", "page", page),
            StatusPage::Truncate { page, oldest_xid } => {
                d.say("pageno ", "page", page);
                d.say(", oldestXid ", "oldest_xid", oldest_xid);
            }
        },
        Rmgr::MultiXact => multixact(d, operation, main, version)?,
        Rmgr::Standby => standby(d, subject)?,
        Rmgr::ReplicationOrigin if operation == 0x00 => {
            d.say("set ", "node", main.u16(8)?);
            d.say("; lsn ", "lsn", main.lsn(0)?);
            d.say("; force: ", "force", u8::from(main.flag(10)?));
        }
        Rmgr::ReplicationOrigin if operation == 0x10 => d.say("drop ", "node", main.u16(0)?),
        Rmgr::Generic => generic(d, main)?,
        Rmgr::LogicalMessage if operation == 0x00 => logical_message(d, main, version)?,
        _ => {}
    }
    Some(())
}

/// PostgreSQL 13 could set commit timestamps by a record of its own.
fn commit_ts_set(d: &mut Description, main: Payload<'_>) -> Option<()> {
    d.say("set ", "time", Value::Text(utc(PgTimestamp::from_micros(main.i64(0)?))));
    d.say("/", "node", main.u16(8)?);
    d.say(" for: ", "xid", main.u32(12)?);
    let rest = main.after(16)?;
    d.say_each(", ", "subxacts", rest.u32s(0, rest.0.len() / 4)?);
    Some(())
}

fn multixact(d: &mut Description, operation: u8, main: Payload<'_>, version: WalVersion) -> Option<()> {
    match operation {
        0x00 | 0x10 => d.say("", "page", page_number(main, version)?.0),
        0x20 => {
            let count = usize::try_from(main.i32(8)?).ok()?;
            d.say("", "multi", main.u32(0)?);
            d.say(" offset ", "offset", main.u32(4)?);
            d.say(" nmembers ", "nmembers", main.i32(8)?);
            d.push(": ");
            let members = main.array(12, count, 8)?.as_chunks::<8>().0.iter().filter_map(|member| {
                let member = Payload(member);
                let status = ["keysh", "sh", "fornokeyupd", "forupd", "nokeyupd", "upd"];
                let status = status.get(member.u32(4)? as usize).unwrap_or(&"unk");
                Some(format!("{} ({status}) ", member.u32(0)?))
            });
            d.say_each("", "members", members);
        }
        0x30 => {
            d.say("offsets [", "offsets_from", main.u32(4)?);
            d.say(", ", "offsets_to", main.u32(8)?);
            d.say("), members [", "members_from", main.u32(12)?);
            d.say(", ", "members_to", main.u32(16)?);
            d.push(")");
        }
        _ => {}
    }
    Some(())
}

fn standby(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    match Standby::read(subject.operation(), subject.main().0)? {
        Standby::Locks(locks) => d.say_each(
            "",
            "locks",
            locks.iter().map(|(xid, database, relation)| format!("xid {xid} db {database} rel {relation} ")),
        ),
        Standby::RunningXacts(running) => running_xacts(d, &running, subject.version()),
        Standby::Invalidations { messages, database, tablespace, init_file } => {
            inval::describe(d, messages, init_file.then_some((database, tablespace)));
        }
    }
    Some(())
}

fn running_xacts(d: &mut Description, running: &RunningXacts<'_>, version: WalVersion) {
    d.say("nextXid ", "next_xid", running.next_xid);
    d.say(" latestCompletedXid ", "latest_completed_xid", running.latest_completed);
    d.say(" oldestRunningXid ", "oldest_running_xid", running.oldest_running);
    let list = |d: &mut Description, xids: Oids<'_>, label: &str, name: &'static str| {
        if !xids.0.is_empty() {
            d.push(&format!("; {} {label}:", xids.0.len() / 4));
            d.say_each(" ", name, xids.iter());
        }
    };
    list(d, running.xids, "xacts", "xacts");
    let newer = version >= WalVersion::V16;
    let overflow = if newer { "; subxid overflowed" } else { "; subxid ovf" };
    d.mark(overflow, "subxid_overflow", running.subxid_overflow);
    if newer {
        list(d, running.subxids, "subxacts", "subxacts");
    }
}

fn generic(d: &mut Description, main: Payload<'_>) -> Option<()> {
    let mut rest = main;
    while !rest.0.is_empty() {
        let (offset, length) = (rest.u16(0)?, rest.u16(2)?);
        rest = rest.after(4 + usize::from(length)).unwrap_or(Payload(&[]));
        d.say("offset ", "offset", offset);
        d.say(", length ", "length", length);
        if !rest.0.is_empty() {
            d.push("; ");
        }
    }
    Some(())
}

fn logical_message(d: &mut Description, main: Payload<'_>, version: WalVersion) -> Option<()> {
    let message = LogicalMessage::read(main.0)?;
    if version == WalVersion::V13 {
        d.push(if message.transactional { "transactional" } else { "nontransactional" });
        d.say(" message size ", "size", message.content.len() as u64);
        d.push(" bytes");
        return Some(());
    }
    d.push(if message.transactional { "transactional" } else { "non-transactional" });
    d.say(", prefix \"", "prefix", String::from_utf8_lossy(message.prefix).into_owned());
    d.say("\"; payload (", "size", message.content.len() as u64);
    d.push(" bytes): ");
    let hex: Vec<String> = message.content.iter().map(|byte| format!("{byte:02X}")).collect();
    d.say("", "payload", hex.join(" "));
    Some(())
}

/// What a replication origin has replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginProgress {
    /// The origin.
    pub node: u16,
    /// Its position there.
    pub lsn: Lsn,
}

impl OriginProgress {
    /// Reads the main data of a `SET` record; `None` when it ends early.
    pub fn read(main: &[u8]) -> Option<Self> {
        let data = Payload(main);
        Some(OriginProgress { node: data.u16(8)?, lsn: data.lsn(0)? })
    }
}
