//! Rows on a page of a table (`storage/bufpage.h`, `access/htup_details.h`).

use crate::rmgr::payload::Payload;

/// A page header's size in bytes; line pointers follow.
const HEADER_BYTES: usize = 24;
const POINTER_BYTES: usize = 4;
/// A line pointer that leads to a row.
const POINTER_NORMAL: u32 = 1;
/// A row header's size in bytes without the bitmap of nulls.
pub(super) const ROW_HEADER_BYTES: usize = 23;

const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;

/// What a row's own flags say of a transaction in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// It committed.
    Committed,
    /// It aborted, or there is none.
    Void,
    /// Its fate has to be looked up.
    Open(u32),
}

/// A row on a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRow<'p> {
    /// Its number on the page, from 1.
    pub(super) offset: u16,
    /// The transaction that made it.
    pub(super) created: Hint,
    /// The transaction that removed it.
    pub(super) removed: Hint,
    /// Its data, header and nulls excluded.
    pub(super) data: &'p [u8],
}

/// The rows of a page, dead ones too. What doesn't fit together is left out.
pub(super) fn rows(page: &[u8]) -> impl Iterator<Item = PageRow<'_>> {
    let bytes = Payload(page);
    let lower = bytes.u16(12).map_or(0, usize::from).min(page.len());
    let count = lower.saturating_sub(HEADER_BYTES) / POINTER_BYTES;
    (1..=u16::try_from(count).unwrap_or(u16::MAX)).filter_map(move |offset| row(bytes, offset))
}

/// The row with this number.
pub(super) fn row(page: Payload<'_>, offset: u16) -> Option<PageRow<'_>> {
    let pointer_at = HEADER_BYTES + usize::from(offset.checked_sub(1)?) * POINTER_BYTES;
    let lower = usize::from(page.u16(12)?);
    let pointer = page.u32(pointer_at).filter(|_| pointer_at + POINTER_BYTES <= lower)?;
    let (start, flags, length) = ((pointer & 0x7FFF) as usize, pointer >> 15 & 3, (pointer >> 17) as usize);
    if flags != POINTER_NORMAL || start < lower {
        return None;
    }
    let row = Payload(page.array(start, length, 1)?);
    let (xmin, xmax, flags) = (row.u32(0)?, row.u32(4)?, row.u16(20)?);
    let data = row.after(usize::from(row.u8(22)?)).filter(|_| row.0.len() > ROW_HEADER_BYTES)?.0;
    // Both bits of the creator together: frozen.
    let created = match (flags & XMIN_COMMITTED != 0, flags & XMIN_INVALID != 0) {
        (true, _) => Hint::Committed,
        (false, true) => Hint::Void,
        (false, false) => Hint::Open(xmin),
    };
    let removed = if xmax == 0 || flags & (XMAX_INVALID | XMAX_LOCK_ONLY | XMAX_IS_MULTI) != 0 {
        Hint::Void
    } else if flags & XMAX_COMMITTED != 0 {
        Hint::Committed
    } else {
        Hint::Open(xmax)
    };
    Some(PageRow { offset, created, removed, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_page_is_gone_through(page: Vec<u8>, lower in 0..400_u16) {
            let mut page = page;
            page.resize(512, 0x55);
            page[12..14].copy_from_slice(&lower.to_le_bytes());
            for row in rows(&page) {
                prop_assert!(row.data.len() < page.len());
            }
        }
    }
}
