//! More table records: pruning, freezing, visibility, multi-inserts (`access/heapam_xlog.h`).

use super::describe::{Description, Subject, Truth, Value};
use super::heap::{self, OPERATION_MASK};
use super::payload::Payload;
use crate::WalVersion::{V13, V14, V15, V16};

const INIT_PAGE: u8 = 0x80;

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (main, version) = (subject.main(), subject.version());
    let newer = version >= V16;
    match (subject.operation() & OPERATION_MASK, version) {
        (0x10, V13) => number(d, "remxid ", "latest_removed_xid", main.u32(0)?),
        (0x10, V14 | V15) => {
            d.say("latestRemovedXid ", "latest_removed_xid", main.u32(0)?);
            d.say(" nredirected ", "nredirected", main.u16(4)?);
            d.say(" ndead ", "ndead", main.u16(6)?);
            Some(())
        }
        (0x10, V16) => prune(d, subject, main),
        (0x20, V14 | V15) => number(d, "nunused ", "nunused", main.u16(0)?),
        (0x20, V16) => {
            let count = main.u16(0)?;
            d.say("nunused: ", "nunused", count);
            if let Some(data) = subject.block_data(0) {
                d.say_array(", unused:", "unused", data.u16s(0, usize::from(count))?);
            }
            Some(())
        }
        (0x20, V13) | (0x30, V14 | V15) => {
            d.say("cutoff xid ", "cutoff_xid", main.u32(0)?);
            d.say(" ntuples ", "ntuples", main.u16(4)?);
            Some(())
        }
        (0x30, V13) => number(d, "remxid ", "latest_removed_xid", main.u32(12)?),
        (0x30, V16) => freeze(d, subject, main),
        (0x10 | 0x20 | 0x30, _) => prune_and_freeze(d, subject, main),
        (0x40, _) => {
            d.say(
                if newer { "snapshotConflictHorizon: " } else { "cutoff xid " },
                "conflict_xid",
                main.u32(0)?,
            );
            d.say(if newer { ", flags: " } else { " flags " }, "flags", Value::Flags(main.u8(4)?));
            Some(())
        }
        (0x50, _) => multi_insert(d, subject, main),
        (0x60, _) if newer => heap::lock(d, main),
        (0x60, _) => heap::old_lock(d, main, "xmax "),
        (0x70, _) => new_cid(d, main, newer),
        _ => Some(()),
    }
}

fn number(d: &mut Description, prefix: &str, name: &'static str, value: impl Into<Value>) -> Option<()> {
    d.say(prefix, name, value);
    Some(())
}

fn multi_insert(d: &mut Description, subject: &Subject<'_>, main: Payload<'_>) -> Option<()> {
    let (flags, count) = (main.u8(0)?, main.u16(2)?);
    if subject.version() < V16 {
        d.say("", "ntuples", count);
        d.say(" tuples flags ", "flags", Value::Flags(flags));
        return Some(());
    }
    d.say("ntuples: ", "ntuples", count);
    d.say(", flags: ", "flags", Value::Flags(flags));
    // On a new page the offsets aren't stored: they count from 1.
    if subject.operation() & INIT_PAGE == 0 && subject.block_data(0).is_some() {
        d.say_array(", offsets:", "offsets", main.u16s(4, usize::from(count))?);
    }
    Some(())
}

fn new_cid(d: &mut Description, main: Payload<'_>, newer: bool) -> Option<()> {
    d.say(if newer { "rel: " } else { "rel " }, "rel", main.relation(16)?);
    let tid = format!("{}/{}", main.block_id(28)?, main.u16(32)?);
    d.say(if newer { ", tid: " } else { "; tid " }, "tid", tid);
    d.say(if newer { ", cmin: " } else { "; cmin: " }, "cmin", main.u32(4)?);
    d.say(", cmax: ", "cmax", main.u32(8)?);
    d.say(", combo: ", "combo", main.u32(12)?);
    Some(())
}

/// Pruning in PostgreSQL 16: what is unused isn't counted, but takes the rest of the data.
fn prune(d: &mut Description, subject: &Subject<'_>, main: Payload<'_>) -> Option<()> {
    let (redirected, dead) = (usize::from(main.u16(4)?), usize::from(main.u16(6)?));
    d.say("snapshotConflictHorizon: ", "conflict_xid", main.u32(0)?);
    d.say(", nredirected: ", "nredirected", redirected as u64);
    d.say(", ndead: ", "ndead", dead as u64);
    let Some(data) = subject.block_data(0) else { return Some(()) };
    let unused = (data.0.len() / 2).checked_sub(redirected * 2 + dead)?;
    d.say(", nunused: ", "nunused", unused as u64);
    d.say_array(", redirected:", "redirected", redirections(data, 0, redirected)?);
    d.say_array(", dead:", "dead", data.u16s(redirected * 4, dead)?);
    d.say_array(", unused:", "unused", data.u16s(redirected * 4 + dead * 2, unused)?);
    Some(())
}

fn freeze(d: &mut Description, subject: &Subject<'_>, main: Payload<'_>) -> Option<()> {
    let count = usize::from(main.u16(4)?);
    d.say("snapshotConflictHorizon: ", "conflict_xid", main.u32(0)?);
    d.say(", nplans: ", "nplans", count as u64);
    if let Some(data) = subject.block_data(0) {
        d.say_array(", plans:", "plans", plans(data, 0, count, count * PLAN_BYTES)?);
    }
    Some(())
}

const HAS_CONFLICT_HORIZON: u8 = 1 << 3;
const HAS_PLANS: u8 = 1 << 4;
const HAS_REDIRECTIONS: u8 = 1 << 5;
const HAS_DEAD: u8 = 1 << 6;
const HAS_UNUSED: u8 = 1 << 7;
const IS_CATALOG: u8 = 1 << 1;

/// Pruning and freezing in one record, in PostgreSQL 17 and later.
fn prune_and_freeze(d: &mut Description, subject: &Subject<'_>, main: Payload<'_>) -> Option<()> {
    let flags = main.u8(1)?;
    if flags & HAS_CONFLICT_HORIZON != 0 {
        d.say("snapshotConflictHorizon: ", "conflict_xid", main.u32(2)?);
    }
    d.say_whether(", isCatalogRel: ", "is_catalog", flags & IS_CATALOG != 0, Truth::Letter);
    let Some(data) = subject.block_data(0) else { return Some(()) };
    let mut at = 0;
    let mut part = |flag: u8, header: usize, item_bytes: usize| {
        if flags & flag == 0 {
            return Some((0, at));
        }
        let count = usize::from(data.u16(at)?);
        let start = at + header;
        at = start + count * item_bytes;
        Some((count, start))
    };
    let (plan_count, plans_at) = part(HAS_PLANS, 4, PLAN_BYTES)?;
    let (redirected, redirected_at) = part(HAS_REDIRECTIONS, 2, 4)?;
    let (dead, dead_at) = part(HAS_DEAD, 2, 2)?;
    let (unused, unused_at) = part(HAS_UNUSED, 2, 2)?;
    d.say(", nplans: ", "nplans", plan_count as u64);
    d.say(", nredirected: ", "nredirected", redirected as u64);
    d.say(", ndead: ", "ndead", dead as u64);
    d.say(", nunused: ", "nunused", unused as u64);
    if plan_count > 0 {
        d.say_array(", plans:", "plans", plans(data, plans_at, plan_count, at)?);
    }
    if redirected > 0 {
        d.say_array(", redirected:", "redirected", redirections(data, redirected_at, redirected)?);
    }
    if dead > 0 {
        d.say_array(", dead:", "dead", data.u16s(dead_at, dead)?);
    }
    if unused > 0 {
        d.say_array(", unused:", "unused", data.u16s(unused_at, unused)?);
    }
    Some(())
}

const PLAN_BYTES: usize = 12;

/// Freeze plans from `at` on, whose row numbers lie one after the other from `offsets_at` on.
fn plans(data: Payload<'_>, at: usize, count: usize, mut offsets_at: usize) -> Option<Vec<String>> {
    let mut described = Vec::new();
    for index in 0..count {
        let plan = data.after(at + index * PLAN_BYTES)?;
        let tuples = plan.u16(10)?;
        let offsets: Vec<String> =
            data.u16s(offsets_at, usize::from(tuples))?.map(|offset| offset.to_string()).collect();
        offsets_at += usize::from(tuples) * 2;
        described.push(format!(
            "{{ xmax: {}, infomask: {}, infomask2: {}, ntuples: {tuples}, offsets: [{}] }}",
            plan.u32(0)?,
            plan.u16(6)?,
            plan.u16(4)?,
            offsets.join(", ")
        ));
    }
    Some(described)
}

fn redirections(data: Payload<'_>, at: usize, count: usize) -> Option<impl Iterator<Item = String>> {
    let pairs = data.array(at, count, 4)?.as_chunks::<4>().0;
    Some(
        pairs.iter().map(|[a, b, c, d]| {
            format!("{}->{}", u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))
        }),
    )
}
