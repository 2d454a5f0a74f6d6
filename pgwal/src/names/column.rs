//! Dropped columns. `pg_attribute` keeps their rows, under a name that says so (`RemoveAttributeById` of `catalog/heap.c`).

use std::collections::BTreeSet;

use super::change::{self, NewData, RowEvent};
use super::page;
use crate::image::Page;
use crate::record::{BLOCK_BYTES, Parts, Record};
use crate::rmgr::payload::Payload;

/// The OID of `pg_attribute`, which is also the number of its file until it is rewritten.
pub(super) const ATTRIBUTE: u32 = 1249;
/// Where a row has the name, behind the relation's OID.
const NAME_AT: usize = 4;
/// A dropped column's name: dots, this, its number, and the dots again.
const DOTS: &[u8] = b"........";
const DROPPED: &[u8] = b"pg.dropped.";
/// Most columns of a table (`MaxHeapAttributeNumber`).
const COLUMNS_MAX: u16 = 1600;

/// A column that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DroppedColumn {
    /// The table, where the record says it: one that tells only how the row differs from the one before does not.
    pub(crate) relation: Option<u32>,
    /// Its number (`attnum`).
    pub(crate) number: u16,
}

impl DroppedColumn {
    /// What an update of `pg_attribute` drops, if it drops a column.
    pub(super) fn read(record: &Record<'_>, parts: &Parts) -> Option<Self> {
        let mut dropped = None;
        change::events(record, parts, |event| {
            let RowEvent::Updated { to, data, .. } = event else { return };
            dropped = match data {
                NewData::Whole(row) => whole(row),
                NewData::Between { prefix, middle, .. } => between(prefix, middle),
                NewData::OnPage => on_page(record, parts, to.offset),
            };
        })?;
        dropped
    }

    /// Whether one of these hashes of cache entries is this column's in the table: commits carry those of what they change.
    pub(crate) fn is_among(self, relation: u32, hashes: &BTreeSet<u32>) -> bool {
        // `CatalogCacheComputeHashValue` of `utils/cache/catcache.c` for two keys.
        hashes.contains(&(murmur(u32::from(self.number)).rotate_left(8) ^ murmur(relation)))
    }
}

fn whole(row: &[u8]) -> Option<DroppedColumn> {
    let row = Payload(row);
    let number = number(row.after(NAME_AT)?.0.strip_prefix(DOTS)?)?;
    Some(DroppedColumn { relation: row.u32(0), number })
}

/// The table's OID is always in front of what differs; so may be dots that the old name began with, but not all: then it
/// was dropped already.
fn between(prefix: usize, middle: &[u8]) -> Option<DroppedColumn> {
    let dots = DOTS.get(prefix.checked_sub(NAME_AT)?..).filter(|dots| !dots.is_empty())?;
    Some(DroppedColumn { relation: None, number: number(middle.strip_prefix(dots)?)? })
}

fn on_page(record: &Record<'_>, parts: &Parts, offset: u16) -> Option<DroppedColumn> {
    let mut page: Page = [0; BLOCK_BYTES as usize];
    parts.block(0)?.image.as_ref()?.restore(record, &mut page).ok()?;
    whole(page::row(Payload(&page), offset)?.data)
}

/// The number in a dropped column's name, from behind its first dots on.
fn number(name: &[u8]) -> Option<u16> {
    let rest = name.strip_prefix(DROPPED)?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = rest.split_at(digits);
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (rest.starts_with(DOTS) && number <= COLUMNS_MAX).then_some(number)
}

/// `murmurhash32` of `common/hashfn.h`.
const fn murmur(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85EB_CA6B);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xC2B2_AE35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &[u8] = b"........pg.dropped.12........\0\0";

    #[test]
    fn a_dropped_column_tells_its_number_and_where_it_can_its_table() {
        let row = [&16384u32.to_le_bytes(), NAME].concat();
        assert_eq!(whole(&row), Some(DroppedColumn { relation: Some(16384), number: 12 }));
        for eaten in 0..DOTS.len() {
            let told = between(NAME_AT + eaten, &NAME[eaten..]);
            assert_eq!(told, Some(DroppedColumn { relation: None, number: 12 }));
        }
    }

    #[test]
    fn any_other_row_drops_nothing() {
        for name in
            [&b"price\0"[..], b"........pg.dropped.........", b"........pg.dropped.99999........", b""]
        {
            assert_eq!(whole(&[&16384u32.to_le_bytes(), name].concat()), None);
            assert_eq!(between(NAME_AT, name), None);
        }
        // What is dropped already, and what begins within the table's OID.
        assert_eq!(between(NAME_AT + DOTS.len(), &NAME[DOTS.len()..]), None);
        assert_eq!(between(2, NAME), None);
        assert_eq!(whole(&[1, 2]), None);
    }
}
