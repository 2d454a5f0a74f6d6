//! GiST records (`access/gistxlog.h`).

use super::describe::{Description, Subject, Truth, Value};
use crate::WalVersion::{V16, V17};

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (main, version) = (subject.main(), subject.version());
    let xid = if version >= V16 { "snapshotConflictHorizon " } else { "latestRemovedXid " };
    match subject.operation() {
        0x10 => {
            d.push("delete: ");
            d.say(xid, "conflict_xid", main.u32(0)?);
            d.say(", nitems: ", "nitems", main.u16(4)?);
            if version >= V17 {
                d.say_whether(", isCatalogRel ", "is_catalog", main.flag(6)?, Truth::Letter);
            }
        }
        0x20 => {
            d.say("rel ", "rel", main.relation(0)?);
            d.say("; blk ", "blk", main.u32(12)?);
            d.push("; ");
            d.say(xid, "conflict_xid", Value::FullXid(main.u64(16)?));
            if version >= V17 {
                d.say_whether(", isCatalogRel ", "is_catalog", main.flag(24)?, Truth::Letter);
            }
        }
        0x30 => {
            d.say("page_split: splits to ", "pages", main.u16(18)?);
            d.push(" pages");
        }
        0x60 => {
            d.say("deleteXid ", "delete_xid", Value::FullXid(main.u64(0)?));
            d.say("; downlink ", "downlink", main.u16(8)?);
        }
        _ => {}
    }
    Some(())
}
