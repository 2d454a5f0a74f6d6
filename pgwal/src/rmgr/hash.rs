//! Hash index records (`access/hash_xlog.h`).

use super::describe::{Description, Subject, Truth, Value};
use crate::WalVersion::{V13, V14, V15, V17};

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (main, version) = (subject.main(), subject.version());
    match subject.operation() {
        0x00 => {
            d.say("num_tuples ", "num_tuples", Value::Real(main.f64(0)?));
            d.say(", fillfactor ", "fillfactor", main.u16(12)?);
        }
        0x10 => d.say("bmsize ", "bmsize", main.u16(0)?),
        0x20 => d.say("off ", "off", main.u16(0)?),
        0x30 => {
            d.say("bmsize ", "bmsize", main.u16(0)?);
            d.say_whether(", bmpage_found ", "bmpage_found", main.flag(2)?, Truth::Letter);
        }
        0x40 => {
            let flags = main.u8(8)?;
            d.say("new_bucket ", "new_bucket", main.u32(0)?);
            let letter = Truth::Letter;
            d.say_whether(", meta_page_masks_updated ", "meta_page_masks_updated", flags & 1 != 0, letter);
            d.say_whether(", issplitpoint_changed ", "issplitpoint_changed", flags & 2 != 0, letter);
        }
        0x60 => {
            d.say("old_bucket_flag ", "old_bucket_flag", main.u16(0)?);
            d.say(", new_bucket_flag ", "new_bucket_flag", main.u16(2)?);
        }
        0x70 => {
            d.say("ntups ", "ntups", main.u16(0)?);
            d.say_whether(", is_primary ", "is_primary", main.flag(2)?, Truth::Letter);
        }
        0x80 => {
            d.say("prevblkno ", "prevblkno", main.u32(0)?);
            d.say(", nextblkno ", "nextblkno", main.u32(4)?);
            d.say(", ntups ", "ntups", main.u16(8)?);
            d.say_whether(", is_primary ", "is_primary", main.flag(10)?, Truth::Letter);
        }
        0x90 => {
            d.say_whether("clear_dead_marking ", "clear_dead_marking", main.flag(0)?, Truth::Letter);
            d.say_whether(", is_primary ", "is_primary", main.flag(1)?, Truth::Letter);
        }
        0xB0 => d.say("ntuples ", "ntuples", Value::Real(main.f64(0)?)),
        0xC0 => {
            d.say("ntuples ", "ntuples", main.u16(4)?);
            let label = match version {
                V13 => ", latest removed xid ",
                V14 | V15 => ", latestRemovedXid ",
                _ => ", snapshotConflictHorizon ",
            };
            d.say(label, "conflict_xid", main.u32(0)?);
            if version >= V17 {
                d.say_whether(", isCatalogRel ", "is_catalog", main.flag(6)?, Truth::Letter);
            }
        }
        _ => {}
    }
    Some(())
}
