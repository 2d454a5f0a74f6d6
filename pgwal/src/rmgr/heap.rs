//! Table records (`access/heapam_xlog.h`).

use super::describe::{Description, Subject, Value};
use super::inval::{self, invalidations};
use super::payload::Payload;
use super::storage::Oids;
use crate::WalVersion;

/// The part of the operation that tells it; the rest says that the page is new.
pub const OPERATION_MASK: u8 = 0x70;
/// A row is added to a table.
pub const INSERT: u8 = 0x00;
/// A row is removed.
pub const DELETE: u8 = 0x10;
/// A row is replaced by another.
pub const UPDATE: u8 = 0x20;
/// `TRUNCATE`.
pub const TRUNCATE: u8 = 0x30;
/// A row is replaced by another on the same page, whose index entries stay.
pub const HOT_UPDATE: u8 = 0x40;
/// A row is overwritten, without a transaction.
pub const INPLACE: u8 = 0x70;
/// Rows are added to a page at once; of the second resource manager for tables.
pub const MULTI_INSERT: u8 = 0x50;

/// A `TRUNCATE` by SQL, in WAL for logical decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// The database.
    pub database: u32,
    /// `CASCADE` was given.
    pub cascade: bool,
    /// `RESTART IDENTITY` was given.
    pub restart_sequences: bool,
    /// The relations' OIDs.
    pub relations: Oids<'a>,
}

impl<'a> Truncate<'a> {
    /// Reads the main data; `None` when it ends early.
    pub fn read(main: &'a [u8]) -> Option<Self> {
        let data = Payload(main);
        let flags = data.u8(8)?;
        let count = usize::try_from(data.u32(4)?).ok()?;
        Some(Truncate {
            database: data.u32(0)?,
            cascade: flags & 1 != 0,
            restart_sequences: flags & 2 != 0,
            relations: Oids(data.array(12, count, 4)?),
        })
    }
}

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (main, newer) = (subject.main(), subject.version() >= WalVersion::V16);
    match subject.operation() & OPERATION_MASK {
        0x00 => insert(d, main, newer),
        0x10 => delete(d, main, newer),
        0x20 | 0x40 => update(d, main, newer),
        TRUNCATE => truncate(d, &Truncate::read(main.0)?, newer),
        0x60 if newer => lock(d, main),
        0x60 => old_lock(d, main, "xid "),
        0x50 => offset(d, main, newer),
        _ => {
            offset(d, main, newer)?;
            if subject.version() >= WalVersion::V18 {
                let messages = invalidations(main, 20, main.i32(16)?)?;
                let init_file = if main.flag(12)? { Some((main.u32(4)?, main.u32(8)?)) } else { None };
                inval::describe(d, messages, init_file);
            }
            Some(())
        }
    }
}

fn offset(d: &mut Description, main: Payload<'_>, newer: bool) -> Option<()> {
    d.say(if newer { "off: " } else { "off " }, "off", main.u16(0)?);
    Some(())
}

fn insert(d: &mut Description, main: Payload<'_>, newer: bool) -> Option<()> {
    offset(d, main, newer)?;
    d.say(if newer { ", flags: " } else { " flags " }, "flags", Value::Flags(main.u8(2)?));
    Some(())
}

fn delete(d: &mut Description, main: Payload<'_>, newer: bool) -> Option<()> {
    if newer {
        return lock(d, main);
    }
    d.say("off ", "off", main.u16(4)?);
    d.say(" flags ", "flags", Value::Flags(main.u8(7)?));
    d.push(" ");
    old_infobits(d, main.u8(6)?);
    Some(())
}

fn update(d: &mut Description, main: Payload<'_>, newer: bool) -> Option<()> {
    if newer {
        d.say("old_xmax: ", "old_xmax", main.u32(0)?);
        d.say(", old_off: ", "old_off", main.u16(4)?);
        infobits(d, ", old_infobits:", "old_infobits", main.u8(6)?);
        d.say(", flags: ", "flags", Value::Flags(main.u8(7)?));
        d.say(", new_xmax: ", "new_xmax", main.u32(8)?);
        d.say(", new_off: ", "new_off", main.u16(12)?);
    } else {
        d.say("off ", "old_off", main.u16(4)?);
        d.say(" xmax ", "old_xmax", main.u32(0)?);
        d.say(" flags ", "flags", Value::Flags(main.u8(7)?));
        d.push(" ");
        old_infobits(d, main.u8(6)?);
        d.say("; new off ", "new_off", main.u16(12)?);
        d.say(" xmax ", "new_xmax", main.u32(8)?);
    }
    Some(())
}

fn truncate(d: &mut Description, truncate: &Truncate<'_>, newer: bool) -> Option<()> {
    let count = (truncate.relations.0.len() / 4) as u64;
    if newer {
        let flags = [(truncate.cascade, "CASCADE"), (truncate.restart_sequences, "RESTART_SEQS")];
        d.say_array("flags:", "flags", flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name));
        d.say(", nrelids: ", "nrelids", count);
        d.say_array(", relids:", "relids", truncate.relations.iter());
    } else {
        d.mark("cascade ", "cascade", truncate.cascade);
        d.mark("restart_seqs ", "restart_seqs", truncate.restart_sequences);
        d.say("nrelids ", "nrelids", count);
        d.push(" relids");
        d.say_each(" ", "relids", truncate.relations.iter());
    }
    Some(())
}

/// `xl_heap_lock`, `xl_heap_lock_updated` and `xl_heap_delete`, all laid out alike, as PostgreSQL 16 and later print them.
pub(super) fn lock(d: &mut Description, main: Payload<'_>) -> Option<()> {
    d.say("xmax: ", "xmax", main.u32(0)?);
    d.say(", off: ", "off", main.u16(4)?);
    infobits(d, ", infobits:", "infobits", main.u8(6)?);
    d.say(", flags: ", "flags", Value::Flags(main.u8(7)?));
    Some(())
}

/// The same (but for deletes) as earlier versions print them.
pub(super) fn old_lock(d: &mut Description, main: Payload<'_>, xid: &str) -> Option<()> {
    d.say("off ", "off", main.u16(4)?);
    d.push(": ");
    d.say(xid, "xmax", main.u32(0)?);
    d.say(": flags ", "flags", Value::Flags(main.u8(7)?));
    d.push(" ");
    old_infobits(d, main.u8(6)?);
    Some(())
}

fn infobit_names(bits: u8) -> impl Iterator<Item = &'static str> {
    let names = ["IS_MULTI", "LOCK_ONLY", "EXCL_LOCK", "KEYSHR_LOCK", "KEYS_UPDATED"];
    names.into_iter().enumerate().filter(move |(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| name)
}

fn infobits(d: &mut Description, prefix: &str, name: &'static str, bits: u8) {
    d.say_array(prefix, name, infobit_names(bits));
}

fn old_infobits(d: &mut Description, bits: u8) {
    d.say_each("", "infobits", infobit_names(bits).map(|name| format!("{name} ")));
}
