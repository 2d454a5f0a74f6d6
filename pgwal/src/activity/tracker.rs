//! Follows transactions from record to record.

use std::collections::BTreeMap;

use super::losses::Ended;
use super::open::{Counts, Note, OpenTransactions};
use super::{Commit, Object};
use crate::names::{Catalog, Change, Fate, Names, counts};
use crate::record::{Parts, RecordHeader};
use crate::rmgr::storage::{Dbase, RelMapUpdate, Smgr, Tablespace};
use crate::rmgr::xact::{Completion, Xact};
use crate::rmgr::{Operation, Rmgr, heap};
use crate::{Fork, Lsn, Record, RelFile};

/// Records longer than this are not read, in bytes.
const RECORD_BYTES_MAX: u32 = 16 << 20;
/// A page image, as a record of its own, and the same for a hint (`XLOG_FPI`, `XLOG_FPI_FOR_HINT`).
const PAGE_IMAGES: [u8; 2] = [0xB0, 0xA0];

/// Follows transactions, and the names of what they change.
#[derive(Debug)]
pub struct Tracker {
    names: Names,
    open: OpenTransactions,
    /// Databases that are being dropped, and since when nobody can connect to them.
    being_dropped: BTreeMap<u32, Lsn>,
    parts: Parts,
}

impl Tracker {
    /// Begins with what is known at the first record that will be shown.
    pub fn new(names: Names) -> Self {
        let (open, being_dropped) = (OpenTransactions::default(), BTreeMap::new());
        Tracker { names, open, being_dropped, parts: Parts::new() }
    }

    /// Takes in what a transaction that goes on has done to names already.
    pub fn resume(&mut self, xid: u32, change: Change) {
        if let Some(open) = self.open.get(xid) {
            open.note(Lsn::INVALID, Note::Name(change));
        }
    }

    /// The names as of the last record.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The records that have to be whole, for [`Keep::Some`](crate::Keep::Some).
    pub fn needs(header: &RecordHeader) -> bool {
        let reads = match Rmgr::from_id(header.rmid) {
            Rmgr::Transaction
            | Rmgr::Storage
            | Rmgr::Database
            | Rmgr::Tablespace
            | Rmgr::RelMap
            | Rmgr::Heap
            | Rmgr::Heap2 => true,
            Rmgr::Xlog => PAGE_IMAGES.contains(&header.operation()),
            _ => false,
        };
        reads && header.total_bytes <= RECORD_BYTES_MAX
    }

    /// Takes in the next record; a commit is answered with what its transaction did.
    #[inline]
    pub fn record(&mut self, record: &Record<'_>) -> Option<Commit> {
        let xid = record.header.xid;
        if xid != 0
            && let Some(open) = self.open.get(xid)
        {
            open.bytes += u64::from(record.header.total_bytes);
        }
        match record.rmgr() {
            Rmgr::Heap | Rmgr::Heap2 => self.table(record),
            Rmgr::Xlog if PAGE_IMAGES.contains(&record.header.operation()) => self.image(record),
            Rmgr::Transaction | Rmgr::Storage | Rmgr::Database | Rmgr::Tablespace | Rmgr::RelMap => {
                return self.operation(record);
            }
            _ => {}
        }
        None
    }

    /// Rows of a table change.
    #[inline]
    fn table(&mut self, record: &Record<'_>) {
        let operation = record.header.operation() & heap::OPERATION_MASK;
        if (record.rmgr(), operation) == (Rmgr::Heap, heap::TRUNCATE) {
            drop(self.operation(record));
            return;
        }
        let Some(first) = record.first_block() else { return };
        let file = first.relation;
        let catalog = if first.fork == Fork::MAIN { self.names.catalog_in(file) } else { None };
        let is_multi = (record.rmgr(), operation) == (Rmgr::Heap2, heap::MULTI_INSERT);
        let is_column = first.fork == Fork::MAIN
            && self.names.is_attribute(file)
            && matches!(operation, heap::UPDATE | heap::HOT_UPDATE)
            && record.rmgr() == Rmgr::Heap;
        if catalog.is_some() || is_multi || is_column {
            if self.parts.read(record).is_err() {
                return;
            }
        } else if record.rmgr() == Rmgr::Heap2 {
            return;
        }
        let (inserted, updated, deleted) = counts(record, &self.parts);
        if inserted + updated + deleted > 0
            && let Some(open) = self.open.get(record.header.xid)
        {
            open.count(file, Counts { inserted, updated, deleted });
        }
        if is_column
            && let Some(column) = Names::column_dropped(record, &self.parts)
            && let Some(open) = self.open.get(record.header.xid)
        {
            open.note(record.lsn, Note::ColumnDropped { database: file.database, column });
        }
        if let Some(catalog) = catalog {
            self.change_names(record);
            let overwrites =
                (record.rmgr(), operation, catalog) == (Rmgr::Heap, heap::INPLACE, Catalog::Database);
            if overwrites && let Some(oid) = self.names.database_being_dropped(record, &self.parts) {
                // It may be tried again: what counts is the first time.
                self.being_dropped.entry(oid).or_insert(record.lsn);
            }
        }
    }

    /// The image of a page, or of several.
    fn image(&mut self, record: &Record<'_>) {
        let is_catalogs = |file: RelFile| self.names.catalog_in(file).is_some();
        if record.first_block().is_some_and(|block| is_catalogs(block.relation))
            && self.parts.read(record).is_ok()
        {
            self.change_names(record);
        }
    }

    /// A record of a catalogue, whose parts have been read.
    fn change_names(&mut self, record: &Record<'_>) {
        let open = &self.open;
        let fate = |xid| if open.contains(xid) { Fate::Open } else { Fate::Unknown };
        for change in self.names.record(record, &self.parts, fate) {
            if let Some(open) = self.open.get(record.header.xid) {
                open.note(record.lsn, Note::Name(change));
            }
        }
    }

    fn operation(&mut self, record: &Record<'_>) -> Option<Commit> {
        self.parts.read(record).ok()?;
        let xid = record.header.xid;
        let note = match Operation::read(record, &self.parts)? {
            Operation::Transaction(Xact::Commit(commit)) => return Some(self.commit(record, &commit)),
            Operation::Transaction(Xact::Abort(abort)) => {
                drop(self.take(record, &abort));
                return None;
            }
            Operation::Storage(Smgr::Create { relation, fork: Fork::MAIN }) => Note::FileMade(relation),
            Operation::Database(Dbase::CreateFileCopy { to: (to, _), from: (from, _) }) => {
                if from != to {
                    self.names.copy_database(from, to);
                }
                Note::DatabaseMade(to)
            }
            Operation::Database(Dbase::CreateWalLog { to: (to, _) }) => Note::DatabaseMade(to),
            Operation::Database(Dbase::Drop { database, .. }) => Note::DatabaseRemoved(database),
            Operation::Tablespace(Tablespace::Drop { oid }) => Note::TablespaceRemoved(oid),
            Operation::RelMap(RelMapUpdate { database, map, .. }) => {
                self.names.place_catalogs(database, map);
                return None;
            }
            Operation::Truncate(truncate) => {
                let open = self.open.get(xid)?;
                for relation in truncate.relations.iter() {
                    open.note(record.lsn, Note::Truncated { database: truncate.database, relation });
                }
                return None;
            }
            _ => return None,
        };
        if xid != 0 {
            self.open.get(xid)?.note(record.lsn, note);
        }
        None
    }

    /// Ends a transaction and its subtransactions.
    fn take(&mut self, record: &Record<'_>, end: &Completion<'_>) -> Option<super::open::Open> {
        let mut all = self.open.take(end.prepared_xid.unwrap_or(record.header.xid));
        for xid in end.subxacts.iter() {
            let Some(open) = self.open.take(xid) else { continue };
            match &mut all {
                Some(all) => all.merge(open),
                None => all = Some(open),
            }
        }
        all
    }

    fn commit(&mut self, record: &Record<'_>, end: &Completion<'_>) -> Commit {
        let mut open = self.take(record, end).unwrap_or_default();
        open.settle();
        let mut ended = Ended::new(&self.names, &open.notes, end);
        let losses = ended.losses();
        let tables = ended.tables(&open.tables);
        let database = end.database.map(|(database, _)| database).or_else(|| {
            let changed = tables.first().map(|change| &change.table);
            changed.or(losses.first().map(|loss| &loss.object)).map(|object: &Object| object.database_oid)
        });
        let before = ended.before(record.lsn, &self.being_dropped);
        for oid in ended.dropped_databases() {
            self.being_dropped.remove(&oid);
        }
        for (_, note) in &open.notes {
            if let Note::Name(change) = note {
                self.names.apply(change);
            }
        }
        Commit {
            lsn: record.lsn,
            end: record.end,
            before,
            time: end.time,
            xid: end.prepared_xid.unwrap_or(record.header.xid),
            bytes: open.bytes,
            database: database.filter(|oid| *oid != 0),
            tables,
            losses,
        }
    }
}
