//! What records of tables do to rows (`access/heapam_xlog.h`): which rows come and go, and the bytes of new ones.

use crate::record::{BlockRef, Parts, Record};
use crate::rmgr::Rmgr;
use crate::rmgr::heap;
use crate::rmgr::payload::Payload;

use super::page::ROW_HEADER_BYTES;

/// The page is a new one, and the row its first.
const INIT_PAGE: u8 = 0x80;
const PREFIX_FROM_OLD: u8 = 1 << 5;
const SUFFIX_FROM_OLD: u8 = 1 << 6;
/// A row's header in an insertion or an update: two words of flags, and the offset of the data.
const SHORT_HEADER_BYTES: usize = 5;
/// Its header among several inserted at once: the length of the data before that.
const MULTI_HEADER_BYTES: usize = 7;

/// Where a row is in its table: block, and number on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowPlace {
    /// The block.
    pub block: u32,
    /// The row's number on the page, from 1.
    pub offset: u16,
}

/// The data of a new row, header and nulls excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewData<'r> {
    /// In one piece.
    Whole(&'r [u8]),
    /// The middle, and how much of the old row goes before and after it.
    Between { prefix: usize, middle: &'r [u8], suffix: usize },
    /// In the page image that comes with the record, or nowhere.
    OnPage,
}

/// What happens to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowEvent<'r> {
    Inserted(RowPlace, NewData<'r>),
    Updated { from: RowPlace, to: RowPlace, data: NewData<'r> },
    Deleted(RowPlace),
}

/// Hands every row that comes or goes by this record to `each`. `None` when its payload ends early.
pub(super) fn events<'r>(
    record: &Record<'r>,
    parts: &Parts,
    mut each: impl FnMut(RowEvent<'r>),
) -> Option<()> {
    let main = Payload(record.slice(&parts.main));
    let operation = record.header.operation() & heap::OPERATION_MASK;
    let block = parts.block(0)?;
    let place = |block: &BlockRef, offset: u16| RowPlace { block: block.block, offset };
    match (record.rmgr(), operation) {
        (Rmgr::Heap, heap::INSERT) => {
            let data = Payload(record.slice(&block.data));
            let data = if data.0.is_empty() { NewData::OnPage } else { NewData::Whole(short_row(data)?.0) };
            each(RowEvent::Inserted(place(block, main.u16(0)?), data));
        }
        (Rmgr::Heap, heap::DELETE) => each(RowEvent::Deleted(place(block, main.u16(4)?))),
        (Rmgr::Heap, heap::UPDATE | heap::HOT_UPDATE) => {
            let from = place(parts.block(1).unwrap_or(block), main.u16(4)?);
            let to = place(block, main.u16(12)?);
            let data = updated(Payload(record.slice(&block.data)), main.u8(7)?)?;
            each(RowEvent::Updated { from, to, data });
        }
        (Rmgr::Heap2, heap::MULTI_INSERT) => {
            let count = main.u16(2)?;
            let is_new = record.header.operation() & INIT_PAGE != 0;
            let mut data = Payload(record.slice(&block.data));
            for index in 0..count {
                let offset =
                    if is_new { index.checked_add(1)? } else { main.u16(4 + usize::from(index) * 2)? };
                if data.0.is_empty() {
                    each(RowEvent::Inserted(place(block, offset), NewData::OnPage));
                    continue;
                }
                let length = usize::from(data.u16(0)?);
                let row = data.array(0, MULTI_HEADER_BYTES + length, 1)?;
                each(RowEvent::Inserted(
                    place(block, offset),
                    NewData::Whole(short_row(Payload(&row[2..]))?.0),
                ));
                // Each begins at an even address; so does the first.
                data = data.after((MULTI_HEADER_BYTES + length).next_multiple_of(2)).unwrap_or(Payload(&[]));
            }
        }
        _ => {}
    }
    Some(())
}

/// How many rows a record inserts, updates and deletes, in that order, of which only the headers need be there.
pub(crate) fn counts(record: &Record<'_>, parts: &Parts) -> (u64, u64, u64) {
    match (record.rmgr(), record.header.operation() & heap::OPERATION_MASK) {
        (Rmgr::Heap, heap::INSERT) => (1, 0, 0),
        (Rmgr::Heap, heap::UPDATE | heap::HOT_UPDATE) => (0, 1, 0),
        (Rmgr::Heap, heap::DELETE) => (0, 0, 1),
        (Rmgr::Heap2, heap::MULTI_INSERT) => {
            (Payload(record.slice(&parts.main)).u16(2).map_or(0, u64::from), 0, 0)
        }
        _ => (0, 0, 0),
    }
}

/// The data of a row behind its short header and nulls.
fn short_row(row: Payload<'_>) -> Option<Payload<'_>> {
    let data_offset = usize::from(row.u8(4)?).checked_sub(ROW_HEADER_BYTES)?;
    row.after(SHORT_HEADER_BYTES + data_offset)
}

fn updated(data: Payload<'_>, flags: u8) -> Option<NewData<'_>> {
    if data.0.is_empty() {
        return Some(NewData::OnPage);
    }
    let mut at = 0;
    let mut length = |flag: u8| {
        if flags & flag == 0 {
            return Some(0);
        }
        let length = data.u16(at)?;
        at += 2;
        Some(usize::from(length))
    };
    let (prefix, suffix) = (length(PREFIX_FROM_OLD)?, length(SUFFIX_FROM_OLD)?);
    let middle = short_row(data.after(at)?)?.0;
    Some(if (prefix, suffix) == (0, 0) {
        NewData::Whole(middle)
    } else {
        NewData::Between { prefix, middle, suffix }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_may_leave_out_what_did_not_change() {
        // Prefix 4, suffix 2; flags, data offset 24 (one byte of nulls or padding), then "xy".
        let data = [4, 0, 2, 0, 1, 0, 2, 0, 24, 0, b'x', b'y'];
        let flags = PREFIX_FROM_OLD | SUFFIX_FROM_OLD;
        let between = NewData::Between { prefix: 4, middle: b"xy", suffix: 2 };
        assert_eq!(updated(Payload(&data), flags), Some(between));
        assert_eq!(updated(Payload(&data[4..]), 0), Some(NewData::Whole(b"xy")));
        assert_eq!(updated(Payload(&[]), flags), Some(NewData::OnPage));
        assert_eq!(updated(Payload(&data[..6]), flags), None);
    }
}
