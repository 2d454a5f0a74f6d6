//! Transactions that go on: what they have done so far.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::names::{Change, DroppedColumn};
use crate::{Lsn, RelFile};

/// Most transactions that are followed at once.
const OPEN_MAX: usize = 1 << 18;
/// Most notes of each kind that are kept of one transaction.
const NOTES_MAX: usize = 1 << 20;

/// Rows changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }
}

/// Something that takes effect, or is told, beside the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// A name changes.
    Name(Change),
    /// A relation's file is made.
    FileMade(RelFile),
    /// A database's files are made.
    DatabaseMade(u32),
    /// A database's files are removed, at once.
    DatabaseRemoved(u32),
    /// A tablespace is removed, at once.
    TablespaceRemoved(u32),
    /// A table is truncated, as WAL for logical decoding says.
    Truncated { database: u32, relation: u32 },
    /// A column is dropped.
    ColumnDropped { database: u32, column: DroppedColumn },
}

/// A transaction that goes on.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) bytes: u64,
    /// The tables and how many rows of each were changed.
    pub(super) tables: BTreeMap<RelFile, Counts>,
    /// The table that was changed last, not in `tables` until it is settled.
    current: Option<(RelFile, Counts)>,
    pub(super) notes: Vec<(Lsn, Note)>,
}

impl Open {
    #[inline]
    pub(super) fn count(&mut self, table: RelFile, counts: Counts) {
        match &mut self.current {
            Some((current, sum)) if *current == table => sum.add(counts),
            _ => {
                self.settle();
                self.current = Some((table, counts));
            }
        }
    }

    /// Makes `tables` complete.
    pub(super) fn settle(&mut self) {
        if let Some((table, counts)) = self.current.take()
            && (self.tables.len() < NOTES_MAX || self.tables.contains_key(&table))
        {
            self.tables.entry(table).or_default().add(counts);
        }
    }

    pub(super) fn note(&mut self, lsn: Lsn, note: Note) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push((lsn, note));
        }
    }

    /// Takes in a subtransaction.
    pub(super) fn merge(&mut self, mut other: Open) {
        self.bytes += other.bytes;
        other.settle();
        for (table, counts) in &other.tables {
            self.count(*table, *counts);
        }
        self.notes.append(&mut other.notes);
        self.notes.sort_by_key(|(lsn, _)| *lsn);
    }
}

/// All transactions that go on.
#[derive(Debug, Default)]
pub(super) struct OpenTransactions {
    by_xid: HashMap<u32, usize, BuildHasherDefault<XidHasher>>,
    places: Vec<Open>,
    free: Vec<usize>,
    /// The last one asked for.
    last: Option<(u32, usize)>,
}

impl OpenTransactions {
    /// The transaction, which begins if it hasn't yet; `None` when there are too many.
    #[inline]
    pub(super) fn get(&mut self, xid: u32) -> Option<&mut Open> {
        let at = match self.last {
            Some((last, at)) if last == xid => at,
            _ => self.find(xid)?,
        };
        self.places.get_mut(at)
    }

    fn find(&mut self, xid: u32) -> Option<usize> {
        let at = match self.by_xid.get(&xid) {
            Some(at) => *at,
            None if self.by_xid.len() >= OPEN_MAX => return None,
            None => {
                let at = self.free.pop().unwrap_or_else(|| {
                    self.places.push(Open::default());
                    self.places.len() - 1
                });
                self.by_xid.insert(xid, at);
                at
            }
        };
        self.last = Some((xid, at));
        Some(at)
    }

    pub(super) fn contains(&self, xid: u32) -> bool {
        self.by_xid.contains_key(&xid)
    }

    /// Ends a transaction, and says what it did.
    pub(super) fn take(&mut self, xid: u32) -> Option<Open> {
        let at = self.by_xid.remove(&xid)?;
        self.last = None;
        self.free.push(at);
        self.places.get_mut(at).map(std::mem::take)
    }
}

/// Transaction numbers count up: spread them by one multiplication.
#[derive(Debug, Default)]
pub(super) struct XidHasher(u64);

impl Hasher for XidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The golden ratio's fraction; the map takes bits from both ends.
        let product = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }
}
