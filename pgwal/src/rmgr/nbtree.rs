//! B-tree records (`access/nbtxlog.h`).

use super::describe::{Description, Subject, Truth, Value};
use super::payload::Payload;
use crate::WalVersion;
use crate::WalVersion::{V13, V14, V16, V17};

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (main, version) = (subject.main(), subject.version());
    // PostgreSQL 16 changed "name value; name value" to "name: value, name: value".
    let newer = version >= V16;
    match subject.operation() {
        0x00 | 0x10 | 0x20 | 0x50 => d.say(if newer { "off: " } else { "off " }, "off", main.u16(0)?),
        0x30 | 0x40 => {
            let colon = if newer { ":" } else { "" };
            d.say(&format!("level{colon} "), "level", main.u32(0)?);
            d.say(&format!(", firstrightoff{colon} "), "firstrightoff", main.u16(4)?);
            d.say(&format!(", newitemoff{colon} "), "newitemoff", main.u16(6)?);
            d.say(&format!(", postingoff{colon} "), "postingoff", main.u16(8)?);
        }
        0x60 => d.say(if newer { "nintervals: " } else { "nintervals " }, "nintervals", main.u16(0)?),
        0x70 => delete(d, subject, main)?,
        0x80 | 0x90 => unlink(d, main, version)?,
        0xA0 => d.say(if newer { "level: " } else { "lev " }, "level", main.u32(4)?),
        0xB0 => pairs(
            d,
            newer,
            &[
                ("topparent", main.u32(16)?.into()),
                ("leaf", main.u32(4)?.into()),
                ("left", main.u32(8)?.into()),
                ("right", main.u32(12)?.into()),
            ],
        ),
        0xC0 => {
            pairs(d, newer, &[("ndeleted", main.u16(0)?.into()), ("nupdated", main.u16(2)?.into())]);
            deleted(d, subject, main.u16(0)?, main.u16(2)?)?;
        }
        0xD0 => reuse(d, main, version)?,
        0xE0 => meta_cleanup(d, subject, version)?,
        _ => {}
    }
    Some(())
}

/// `name: value, name: value`, or `name value; name value` before PostgreSQL 16.
fn pairs(d: &mut Description, newer: bool, pairs: &[(&'static str, Value)]) {
    for (index, (name, value)) in pairs.iter().enumerate() {
        let separator = match (index, newer) {
            (0, _) => "",
            (_, true) => ", ",
            (_, false) => "; ",
        };
        d.say(&format!("{separator}{name}{} ", if newer { ":" } else { "" }), name, value.clone());
    }
}

fn delete(d: &mut Description, subject: &Subject<'_>, main: Payload<'_>) -> Option<()> {
    let version = subject.version();
    let newer = version >= V16;
    d.say(
        if newer { "snapshotConflictHorizon: " } else { "latestRemovedXid " },
        "conflict_xid",
        main.u32(0)?,
    );
    if version == V13 {
        d.say("; ndeleted ", "ndeleted", main.u32(4)?);
        return Some(());
    }
    d.push(if newer { ", " } else { "; " });
    pairs(d, newer, &[("ndeleted", main.u16(4)?.into()), ("nupdated", main.u16(6)?.into())]);
    if version >= V17 {
        d.say_whether(", isCatalogRel: ", "is_catalog", main.flag(8)?, Truth::Letter);
    }
    deleted(d, subject, main.u16(4)?, main.u16(6)?)
}

fn unlink(d: &mut Description, main: Payload<'_>, version: WalVersion) -> Option<()> {
    if version == V13 {
        let fields = [
            ("left", main.u32(0)?.into()),
            ("right", main.u32(4)?.into()),
            ("btpo_xact", main.u32(20)?.into()),
            ("leafleft", main.u32(8)?.into()),
            ("leafright", main.u32(12)?.into()),
            ("topparent", main.u32(16)?.into()),
        ];
        pairs(d, false, &fields);
        return Some(());
    }
    let fields = [
        ("left", main.u32(0)?.into()),
        ("right", main.u32(4)?.into()),
        ("level", main.u32(8)?.into()),
        ("safexid", Value::FullXid(main.u64(16)?)),
        ("leafleft", main.u32(24)?.into()),
        ("leafright", main.u32(28)?.into()),
        ("leaftopparent", main.u32(32)?.into()),
    ];
    pairs(d, version >= V16, &fields);
    Some(())
}

fn reuse(d: &mut Description, main: Payload<'_>, version: WalVersion) -> Option<()> {
    let newer = version >= V16;
    d.say(if newer { "rel: " } else { "rel " }, "rel", main.relation(0)?);
    let xid = if version >= V14 { Value::FullXid(main.u64(16)?) } else { main.u32(16)?.into() };
    d.say(if newer { ", snapshotConflictHorizon: " } else { "; latestRemovedXid " }, "conflict_xid", xid);
    if version >= V17 {
        d.say_whether(", isCatalogRel: ", "is_catalog", main.flag(24)?, Truth::Letter);
    }
    Some(())
}

fn meta_cleanup(d: &mut Description, subject: &Subject<'_>, version: WalVersion) -> Option<()> {
    let data = subject.block_data(0)?;
    if version == V13 {
        d.say("oldest_btpo_xact ", "oldest_btpo_xact", data.u32(20)?);
        let tuples = format!("{:.6}", data.f64(24)?);
        d.say("; last_cleanup_num_heap_tuples: ", "last_cleanup_num_heap_tuples", tuples);
    } else {
        let pages = data.u32(20)?;
        pairs(d, version >= V16, &[("last_cleanup_num_delpages", pages.into())]);
    }
    Some(())
}

/// What PostgreSQL 16 and later print of removed row pointers.
fn deleted(d: &mut Description, subject: &Subject<'_>, ndeleted: u16, nupdated: u16) -> Option<()> {
    let Some(data) = subject.block_data(0).filter(|_| subject.version() >= V16) else { return Some(()) };
    let (ndeleted, nupdated) = (usize::from(ndeleted), usize::from(nupdated));
    d.say_array(", deleted:", "deleted", data.u16s(0, ndeleted)?);
    let offsets = data.u16s(ndeleted * 2, nupdated)?;
    let mut at = (ndeleted + nupdated) * 2;
    let mut updates = Vec::new();
    for offset in offsets {
        let count = data.u16(at)?;
        let pointers: Vec<String> =
            data.u16s(at + 2, usize::from(count))?.map(|pointer| pointer.to_string()).collect();
        at += 2 + usize::from(count) * 2;
        updates.push(format!("{{ off: {offset}, nptids: {count}, ptids: [{}] }}", pointers.join(", ")));
    }
    d.say_array(", updated:", "updated", updates);
    Some(())
}
