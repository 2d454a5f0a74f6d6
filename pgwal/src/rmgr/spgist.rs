//! SP-GiST records (`access/spgxlog.h`).

use super::describe::{Description, Subject, Truth};
use super::payload::Payload;
use crate::WalVersion::{V13, V16, V17};

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let main = subject.main();
    if subject.version() == V13 {
        return describe_v13(d, subject.operation(), main);
    }
    match subject.operation() {
        0x10 => {
            d.say("off: ", "off", main.u16(2)?);
            d.say(", headoff: ", "headoff", main.u16(4)?);
            parent(d, main, 6)?;
            d.mark(" (newpage)", "newpage", main.flag(0)?);
            d.mark(" (nulls)", "nulls", main.flag(1)?);
        }
        0x20 => {
            d.say("nmoves: ", "nmoves", main.u16(0)?);
            parent(d, main, 6)?;
            d.mark(" (newpage)", "newpage", main.flag(2)?);
            d.mark(" (replacedead)", "replacedead", main.flag(3)?);
            d.mark(" (nulls)", "nulls", main.flag(4)?);
        }
        0x30 => {
            d.say("off: ", "off", main.u16(0)?);
            d.say(", newoff: ", "newoff", main.u16(2)?);
            d.say(", parentBlk: ", "parent_block", i32::from(i8::from_le_bytes([main.u8(5)?])));
            parent(d, main, 6)?;
            d.mark(" (newpage)", "newpage", main.flag(4)?);
        }
        0x40 => {
            d.say("prefixoff: ", "prefixoff", main.u16(0)?);
            d.say(", postfixoff: ", "postfixoff", main.u16(2)?);
            d.mark(" (newpage)", "newpage", main.flag(4)?);
            d.mark(" (same)", "same", main.flag(5)?);
        }
        0x50 => {
            d.say("ndelete: ", "ndelete", main.u16(2)?);
            d.say(", ninsert: ", "ninsert", main.u16(4)?);
            d.say(", inneroff: ", "inneroff", main.u16(8)?);
            parent(d, main, 14)?;
            d.mark(" (innerIsParent)", "inner_is_parent", main.flag(12)?);
            d.mark(" (nulls)", "nulls", main.flag(11)?);
            d.mark(" (isRootSplit)", "is_root_split", main.flag(0)?);
        }
        0x60 => {
            d.say("ndead: ", "ndead", main.u16(0)?);
            d.say(", nplaceholder: ", "nplaceholder", main.u16(2)?);
            d.say(", nmove: ", "nmove", main.u16(4)?);
            d.say(", nchain: ", "nchain", main.u16(6)?);
        }
        0x70 => d.say("ndelete: ", "ndelete", main.u16(0)?),
        0x80 => {
            d.say("ntoplaceholder: ", "ntoplaceholder", main.u16(0)?);
            d.say(", firstplaceholder: ", "firstplaceholder", main.u16(2)?);
            let newer = subject.version() >= V16;
            let label = if newer { ", snapshotConflictHorizon: " } else { ", newestredirectxid: " };
            d.say(label, "conflict_xid", main.u32(4)?);
            if subject.version() >= V17 {
                d.say_whether(", isCatalogRel: ", "is_catalog", main.flag(8)?, Truth::Letter);
            }
        }
        _ => {}
    }
    Some(())
}

/// The parent's row number and node lie side by side.
fn parent(d: &mut Description, main: Payload<'_>, at: usize) -> Option<()> {
    d.say(", parentoff: ", "parentoff", main.u16(at)?);
    d.say(", nodeI: ", "node", main.u16(at + 2)?);
    Some(())
}

/// PostgreSQL 13 said less.
fn describe_v13(d: &mut Description, operation: u8, main: Payload<'_>) -> Option<()> {
    match operation {
        0x10 => {
            d.push("add leaf to page");
            d.say("; off ", "off", main.u16(2)?);
            d.say("; headoff ", "headoff", main.u16(4)?);
            d.say("; parentoff ", "parentoff", main.u16(6)?);
            d.mark(" (newpage)", "newpage", main.flag(0)?);
            d.mark(" (nulls)", "nulls", main.flag(1)?);
        }
        0x20 => {
            d.say("", "nmoves", main.u16(0)?);
            d.push(" leafs");
        }
        0x30 => d.say("off ", "off", main.u16(0)?),
        0x40 => {
            d.say("prefix off: ", "prefixoff", main.u16(0)?);
            d.say(", postfix off: ", "postfixoff", main.u16(2)?);
            d.say(" (same ", "same", main.u8(5)?);
            d.say(", new ", "newpage", main.u8(4)?);
            d.push(")");
        }
        0x50 => {
            d.say("ndel ", "ndelete", main.u16(2)?);
            d.say("; nins ", "ninsert", main.u16(4)?);
            d.mark(" (innerIsParent)", "inner_is_parent", main.flag(12)?);
            d.mark(" (isRootSplit)", "is_root_split", main.flag(0)?);
        }
        0x80 => d.say("newest XID ", "conflict_xid", main.u32(4)?),
        _ => {}
    }
    Some(())
}
