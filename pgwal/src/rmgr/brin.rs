//! BRIN records (`access/brin_xlog.h`).

use super::describe::{Description, Subject};

const OPERATION_MASK: u8 = 0x70;

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let main = subject.main();
    match subject.operation() & OPERATION_MASK {
        0x00 => {
            d.say("v", "version", main.u16(4)?);
            d.say(" pagesPerRange ", "pages_per_range", main.u32(0)?);
        }
        0x10 => {
            d.say("heapBlk ", "heap_block", main.u32(0)?);
            d.say(" pagesPerRange ", "pages_per_range", main.u32(4)?);
            d.say(" offnum ", "off", main.u16(8)?);
        }
        0x20 => {
            d.say("heapBlk ", "heap_block", main.u32(4)?);
            d.say(" pagesPerRange ", "pages_per_range", main.u32(8)?);
            d.say(" old offnum ", "old_off", main.u16(0)?);
            d.say(", new offnum ", "new_off", main.u16(12)?);
        }
        0x30 => d.say("offnum ", "off", main.u16(0)?),
        0x40 => d.say("targetBlk ", "target_block", main.u32(0)?),
        0x50 => {
            d.say("pagesPerRange ", "pages_per_range", main.u32(0)?);
            d.say(", heapBlk ", "heap_block", main.u32(4)?);
            d.say(", page offset ", "page_offset", main.u16(8)?);
        }
        _ => {}
    }
    Some(())
}
