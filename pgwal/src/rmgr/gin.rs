//! GIN records (`access/ginxlog.h`).

use super::describe::{Description, Subject, Truth};
use super::payload::Payload;

const IS_DATA: u16 = 1;
const IS_LEAF: u16 = 2;
const SPLIT_ROOT: u16 = 4;

/// `sizeof(GinMetaPageData)`
const META_BYTES: usize = 56;

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let main = subject.main();
    match subject.operation() {
        0x20 => insert(d, subject, main)?,
        0x30 => {
            let flags = main.u16(24)?;
            d.say_whether("isrootsplit: ", "isrootsplit", flags & SPLIT_ROOT != 0, Truth::Letter);
            d.say_whether(" isdata: ", "isdata", flags & IS_DATA != 0, Truth::Letter);
            d.say_whether(" isleaf: ", "isleaf", flags & IS_LEAF != 0, Truth::Letter);
        }
        0x90 if !page_image(d, subject) => recompress(d, subject.block_data(0)?)?,
        0x80 => d.say("ndeleted: ", "ndeleted", main.i32(META_BYTES)?),
        _ => {}
    }
    Some(())
}

fn insert(d: &mut Description, subject: &Subject<'_>, main: Payload<'_>) -> Option<()> {
    let flags = main.u16(0)?;
    d.say_whether("isdata: ", "isdata", flags & IS_DATA != 0, Truth::Letter);
    d.say_whether(" isleaf: ", "isleaf", flags & IS_LEAF != 0, Truth::Letter);
    if flags & IS_LEAF == 0 {
        d.say(" children: ", "left_child", main.block_id(2)?);
        d.say("/", "right_child", main.block_id(6)?);
    }
    if page_image(d, subject) {
        return Some(());
    }
    let data = subject.block_data(0)?;
    if flags & IS_DATA == 0 {
        d.say_whether(" isdelete: ", "isdelete", data.flag(2)?, Truth::Letter);
    } else if flags & IS_LEAF != 0 {
        recompress(d, data)?;
    } else {
        let item = format!("{}-{}/{}", data.block_id(2)?, data.block_id(6)?, data.u16(10)?);
        d.say(" pitem: ", "pitem", item);
    }
    Some(())
}

/// Whether block 0 comes as an image, and says so.
fn page_image(d: &mut Description, subject: &Subject<'_>) -> bool {
    let Some(image) = subject.parts.block(0).and_then(|block| block.image.as_ref()) else { return false };
    d.push(if image.apply { " (full page image)" } else { " (full page image, for WAL verification)" });
    true
}

/// What happens to the posting lists of a leaf page.
fn recompress(d: &mut Description, data: Payload<'_>) -> Option<()> {
    let count = data.u16(0)?;
    d.say(" ", "segments", count);
    d.push(" segments:");
    let mut at = 2;
    let mut actions = Vec::new();
    for _ in 0..count {
        let (segment, action) = (data.u8(at)?, data.u8(at + 1)?);
        at += 2;
        let text = match action {
            1 => format!("{segment} (delete)"),
            2 | 3 => {
                // A posting list: 8 bytes of header, the last two of them its length.
                at += 8 + usize::from(data.u16(at + 6)?).next_multiple_of(2);
                format!("{segment} ({})", if action == 2 { "insert" } else { "replace" })
            }
            4 => {
                let items = data.u16(at)?;
                at += 2 + usize::from(items) * 6;
                format!("{segment} (add {items} items)")
            }
            unknown => format!("{segment} unknown action {unknown} ???"),
        };
        actions.push(text);
        // An action that can't be read can't be skipped either.
        if !(1..=4).contains(&action) {
            break;
        }
    }
    d.say_each(" ", "actions", actions);
    Some(())
}
