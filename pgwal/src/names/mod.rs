//! Names of relations, schemas and databases, followed through the WAL.
//!
//! WAL speaks of files by number. Which table a number was at some moment is told by the rows of `pg_class`,
//! `pg_namespace` and `pg_database`, and every change of these is in the WAL too: new rows, or with `wal_level = replica`
//! often only how they differ from the row they replace, which therefore has to be known by its place. [`Names`] holds
//! both: what has which name as far as committed, and which row is where. It begins with what is known from elsewhere
//! (rows read by SQL, or the pages of a base backup) or with nothing: page images fill it as they come by.
//!
//! Not followed: the places of rows while `VACUUM FULL pg_class` moves them. What is known by OID stays known.

mod change;
mod column;
mod page;
mod row;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::image::Page;
use crate::record::{BLOCK_BYTES, Parts, Record};
use crate::rmgr::Rmgr;
use crate::rmgr::payload::Payload;
use crate::{Fork, RelFile, WalVersion};

pub use change::RowPlace;
pub(crate) use change::counts;
use change::{NewData, RowEvent};
pub(crate) use column::DroppedColumn;
use page::Hint;
pub(crate) use row::DEFAULT_ENCODING;
pub use row::{Catalog, ClassRow, DatabaseRow, Name, NamespaceRow, Row};

/// Most rows that are kept: what comes beyond stays without a name.
pub const MAX_ROWS: usize = 4_000_000;
/// The database of what all databases share.
const SHARED: u32 = 0;
/// The magic number of a map of files (`utils/cache/relmapper.c`).
const MAP_MAGIC: u32 = 0x0059_2717;
/// `datconnlimit` of a database that is being dropped (`DATCONNLIMIT_INVALID_DB`).
const DROPPED_CONNECTION_LIMIT: i32 = -2;
/// The name of the relation that takes a rewritten one's new file on: this, and the rewritten one's OID.
pub(crate) const TRANSIENT_PREFIX: &str = "pg_temp_";

/// What has become of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has committed.
    Committed,
    /// It has aborted.
    Aborted,
    /// It goes on.
    Open,
    /// Nobody knows.
    Unknown,
}

/// What a transaction does to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The database; 0 for a change of `pg_database`.
    pub database: u32,
    /// What is changed.
    pub what: What,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A row that is new, or takes the place of the one with the same OID.
    Set(Arc<Row>),
    /// A row is removed.
    Gone(Arc<Row>),
    /// A row is removed that isn't known.
    Lost(Catalog),
}

/// Names as of a moment.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Rows by database, catalogue and place.
    placed: HashMap<(u32, Catalog, RowPlace), Placed>,
    relations: BTreeMap<(u32, u32), Arc<Row>>,
    /// Database, file and OID of relations that have a file.
    files: BTreeSet<(u32, u32, u32)>,
    schemas: BTreeMap<(u32, u32), Arc<Row>>,
    databases: BTreeMap<u32, Arc<Row>>,
    /// Files of catalogues, besides those that they begin with.
    catalog_files: HashMap<(u32, u32), Catalog>,
    /// The catalogues, by OID, whose files by database are in a map, or once were.
    mapped: HashMap<(u32, u32), u32>,
}

#[derive(Debug, Clone)]
struct Placed {
    row: Arc<Row>,
    /// The length of its data in bytes, where that is known.
    length: Option<usize>,
}

impl Names {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Names::default()
    }

    /// Says that a catalogue of this database is in this file; 0 for the shared ones.
    pub fn place_catalog(&mut self, database: u32, file: u32, catalog: Catalog) {
        if file != catalog.oid() && self.catalog_files.len() < MAX_ROWS {
            self.catalog_files.insert((database, file), catalog);
        }
    }

    /// Takes in a map of catalogue files: the content of `pg_filenode.map`, or that of a record.
    pub fn place_catalogs(&mut self, database: u32, map: &[u8]) {
        for (oid, file) in mapped_files(map) {
            if self.mapped.len() < MAX_ROWS {
                self.mapped.insert((database, file), oid);
            }
            let known = [Catalog::Class, Catalog::Database].into_iter().find(|catalog| catalog.oid() == oid);
            if let Some(catalog) = known {
                self.place_catalog(database, file, catalog);
            }
        }
    }

    /// The catalogue that is in this file, if one is.
    pub fn catalog_in(&self, file: RelFile) -> Option<Catalog> {
        match (file.database, file.number) {
            (SHARED, number) if number == Catalog::Database.oid() => Some(Catalog::Database),
            (SHARED, _) if self.catalog_files.is_empty() => None,
            (1.., number) if number == Catalog::Class.oid() => Some(Catalog::Class),
            (1.., number) if number == Catalog::Namespace.oid() => Some(Catalog::Namespace),
            _ if self.catalog_files.is_empty() => None,
            key => self.catalog_files.get(&key).copied(),
        }
    }

    /// Whether this is a database's `pg_attribute`.
    pub(crate) fn is_attribute(&self, file: RelFile) -> bool {
        file.database != SHARED
            && (file.number == column::ATTRIBUTE
                || self.mapped.get(&(file.database, file.number)) == Some(&column::ATTRIBUTE))
    }

    /// Whether a file is, or once was, that of a catalogue in a map of files.
    pub(crate) fn is_mapped(&self, file: RelFile) -> bool {
        self.mapped.contains_key(&(file.database, file.number))
    }

    /// The column that an update of `pg_attribute` drops, if it drops one.
    pub(crate) fn column_dropped(record: &Record<'_>, parts: &Parts) -> Option<DroppedColumn> {
        DroppedColumn::read(record, parts)
    }

    /// Takes in a committed row that was read from this place.
    pub fn learn(&mut self, database: u32, place: RowPlace, row: Row) {
        let row = Arc::new(row);
        self.put(database, place, Arc::clone(&row), None);
        self.apply(&Change { database, what: What::Set(row) });
    }

    /// Takes in a page of a catalogue: rows of transactions that have committed get their names, those of open ones are
    /// returned with the transaction.
    pub fn learn_page(
        &mut self,
        (database, catalog, block): (u32, Catalog, u32),
        page: &[u8],
        version: WalVersion,
        mut fate: impl FnMut(u32) -> Fate,
    ) -> Vec<(u32, Change)> {
        let mut open = Vec::new();
        let mut judge = |hint: Hint| match hint {
            Hint::Committed => Fate::Committed,
            Hint::Void => Fate::Aborted,
            Hint::Open(xid) => fate(xid),
        };
        for found in page::rows(page) {
            let Some(row) = Row::read(catalog, found.data, version) else { continue };
            let (row, place) = (Arc::new(row), RowPlace { block, offset: found.offset });
            self.put(database, place, Arc::clone(&row), Some(found.data.len()));
            let change = Change { database, what: What::Set(Arc::clone(&row)) };
            match (judge(found.created), found.created, judge(found.removed)) {
                (Fate::Aborted, ..) | (_, _, Fate::Committed) => {}
                (Fate::Open, Hint::Open(xid), _) => open.push((xid, change)),
                // A newer version would be known already.
                (Fate::Unknown, ..) | (_, _, Fate::Unknown) if self.knows(database, &row) => {}
                _ => self.apply(&change),
            }
        }
        open
    }

    /// Takes in what a record tells, of which `parts` was read, and says what its transaction does to names.
    ///
    /// Names change when the transaction commits, by [`apply`](Self::apply).
    pub fn record(&mut self, record: &Record<'_>, parts: &Parts, fate: impl Fn(u32) -> Fate) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut page: Page = [0; BLOCK_BYTES as usize];
        // The first block's page, where the record has its image.
        let mut first_page = None;
        for block in parts.blocks.iter().filter(|block| block.fork == Fork::MAIN) {
            let (Some(catalog), Some(image)) = (self.catalog_in(block.relation), &block.image) else {
                continue;
            };
            if image.restore(record, &mut page).is_err() {
                continue;
            }
            let at = (block.relation.database, catalog, block.block);
            let open = self.learn_page(at, &page, record.version, |xid| {
                if xid == record.header.xid { Fate::Open } else { fate(xid) }
            });
            // Those of other transactions were noted when they were made.
            if matches!(record.rmgr(), Rmgr::Xlog) {
                let own = open.into_iter().filter(|(xid, _)| *xid == record.header.xid);
                changes.extend(own.map(|(_, change)| change));
            }
            if block.id == 0 {
                first_page = Some(page);
            }
        }
        let table = parts
            .block(0)
            .and_then(|block| Some((block.relation.database, self.catalog_in(block.relation)?)));
        if let Some((database, catalog)) = table {
            let at = Where { database, catalog, version: record.version, page: first_page.as_ref() };
            change::events(record, parts, |event| changes.extend(self.event(&at, event)));
        }
        changes
    }

    /// The database whose row of `pg_database` a record overwrites in place to say that it is being dropped: from then on
    /// nobody can connect to it, whether the drop commits or not. In WAL of servers from August 2023 on.
    pub(crate) fn database_being_dropped(&self, record: &Record<'_>, parts: &Parts) -> Option<u32> {
        let block = parts.block(0)?;
        let stored = Payload(record.slice(&block.data));
        let mut page: Page = [0; BLOCK_BYTES as usize];
        let data = if stored.0.is_empty() {
            block.image.as_ref()?.restore(record, &mut page).ok()?;
            let offset = Payload(record.slice(&parts.main)).u16(0)?;
            Payload(page::row(Payload(&page), offset)?.data)
        } else {
            stored
        };
        (row::connection_limit(data, record.version)? == DROPPED_CONNECTION_LIMIT)
            .then(|| data.u32(0))
            .flatten()
    }

    /// Makes a change count: its transaction has committed.
    pub fn apply(&mut self, change: &Change) {
        let database = change.database;
        match &change.what {
            What::Set(row) => match &**row {
                Row::Class(class) => {
                    let key = (database, class.oid);
                    if self.relations.len() >= MAX_ROWS && !self.relations.contains_key(&key) {
                        return;
                    }
                    if let Some(before) = self.relations.insert(key, Arc::clone(row))
                        && let Row::Class(before) = &*before
                    {
                        self.files.remove(&(database, before.file, before.oid));
                    }
                    if class.file != 0 {
                        self.files.insert((database, class.file, class.oid));
                    }
                }
                Row::Namespace(schema) if self.schemas.len() < MAX_ROWS => {
                    self.schemas.insert((database, schema.oid), Arc::clone(row));
                }
                Row::Database(known) if self.databases.len() < MAX_ROWS => {
                    self.databases.insert(known.oid, Arc::clone(row));
                }
                _ => {}
            },
            What::Gone(row) => match &**row {
                Row::Class(class) => {
                    if let Some(before) = self.relations.remove(&(database, class.oid))
                        && let Row::Class(before) = &*before
                    {
                        self.files.remove(&(database, before.file, before.oid));
                    }
                }
                Row::Namespace(schema) => drop(self.schemas.remove(&(database, schema.oid))),
                Row::Database(gone) => self.forget_database(gone.oid),
            },
            What::Lost(_) => {}
        }
    }

    /// A database begins as a copy of another one's files.
    pub fn copy_database(&mut self, from: u32, to: u32) {
        let placed: Vec<_> = self
            .placed
            .iter()
            .filter(|((database, ..), _)| *database == from)
            .map(|((_, catalog, place), placed)| ((to, *catalog, *place), placed.clone()))
            .collect();
        let free = MAX_ROWS.saturating_sub(self.placed.len());
        self.placed.extend(placed.into_iter().take(free));
        let rows = |rows: &BTreeMap<(u32, u32), Arc<Row>>| -> Vec<Arc<Row>> {
            rows.range((from, 0)..=(from, u32::MAX)).map(|(_, row)| Arc::clone(row)).collect()
        };
        for row in rows(&self.schemas).into_iter().chain(rows(&self.relations)) {
            self.apply(&Change { database: to, what: What::Set(row) });
        }
        let files: Vec<_> = self
            .catalog_files
            .iter()
            .filter(|((database, _), _)| *database == from)
            .map(|((_, file), catalog)| ((to, *file), *catalog))
            .collect();
        self.catalog_files.extend(files);
        let mapped = self.mapped.iter().filter(|((database, _), _)| *database == from);
        let mapped: Vec<_> = mapped.map(|((_, file), oid)| ((to, *file), *oid)).collect();
        self.mapped.extend(mapped);
    }

    /// The relation with this OID.
    pub fn relation(&self, database: u32, oid: u32) -> Option<&ClassRow> {
        match self.relations.get(&(database, oid)).map(|row| &**row) {
            Some(Row::Class(class)) => Some(class),
            _ => None,
        }
    }

    /// The relation that has this file.
    pub fn relation_in(&self, file: RelFile) -> Option<&ClassRow> {
        let key = (file.database, file.number);
        let candidates = self.files.range((key.0, key.1, 0)..=(key.0, key.1, u32::MAX));
        let mut rows = candidates.filter_map(|(database, _, oid)| self.relation(*database, *oid));
        // A number is unique within a tablespace only; 0 is the database's own.
        let first = rows.next()?;
        if first.tablespace == file.tablespace {
            return Some(first);
        }
        Some(rows.find(|row| row.tablespace == file.tablespace).unwrap_or(first))
    }

    /// The schema with this OID.
    pub fn schema(&self, database: u32, oid: u32) -> Option<&Name> {
        self.schemas.get(&(database, oid)).map(|row| row.name())
    }

    /// The database with this OID.
    pub fn database(&self, oid: u32) -> Option<&DatabaseRow> {
        match self.databases.get(&oid).map(|row| &**row) {
            Some(Row::Database(database)) => Some(database),
            _ => None,
        }
    }

    /// How many relations are known.
    pub fn len(&self) -> usize {
        self.relations.len()
    }

    /// Whether no relation is known.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    fn knows(&self, database: u32, row: &Row) -> bool {
        let key = (database, row.oid());
        match row {
            Row::Class(_) => self.relations.contains_key(&key),
            Row::Namespace(_) => self.schemas.contains_key(&key),
            Row::Database(_) => self.databases.contains_key(&row.oid()),
        }
    }

    /// Notes which row is where, and where a catalogue's own row says that its file is.
    fn put(&mut self, database: u32, place: RowPlace, row: Arc<Row>, length: Option<usize>) {
        if let Row::Class(class) = &*row
            && class.file != 0
        {
            let transient = class.name.as_bytes().strip_prefix(TRANSIENT_PREFIX.as_bytes());
            for catalog in [Catalog::Class, Catalog::Namespace] {
                let is_it = class.oid == catalog.oid()
                    || transient.is_some_and(|oid| oid == catalog.oid().to_string().as_bytes());
                if is_it {
                    self.place_catalog(database, class.file, catalog);
                }
            }
        }
        let key = (database, row.catalog(), place);
        if self.placed.len() < MAX_ROWS || self.placed.contains_key(&key) {
            self.placed.insert(key, Placed { row, length });
        }
    }

    fn event(&mut self, at: &Where<'_>, event: RowEvent<'_>) -> Option<Change> {
        let &Where { database, catalog, version, page } = at;
        let change = |what| Some(Change { database, what });
        let on_page = |place: RowPlace| page.and_then(|page| page::row(Payload(page), place.offset));
        let set = match event {
            RowEvent::Deleted(place) => {
                return match self.placed.get(&(database, catalog, place)) {
                    Some(placed) => change(What::Gone(Arc::clone(&placed.row))),
                    None => change(What::Lost(catalog)),
                };
            }
            RowEvent::Inserted(place, NewData::Whole(data)) => {
                Row::read(catalog, data, version).map(|row| (place, row, Some(data.len())))
            }
            RowEvent::Updated { to, data: NewData::Whole(data), .. } => {
                Row::read(catalog, data, version).map(|row| (to, row, Some(data.len())))
            }
            RowEvent::Updated { from, to, data: NewData::Between { prefix, middle, suffix } } => {
                let length = prefix + middle.len() + suffix;
                self.placed.get(&(database, catalog, from)).and_then(|old| {
                    let data = put_together(old, version, prefix, middle, suffix)?;
                    Some((to, Row::read(catalog, &data, version)?, Some(length)))
                })
            }
            RowEvent::Inserted(place, _) | RowEvent::Updated { to: place, .. } => {
                on_page(place).and_then(|found| {
                    Some((place, Row::read(catalog, found.data, version)?, Some(found.data.len())))
                })
            }
        };
        if let Some((place, row, length)) = set {
            let row = Arc::new(row);
            self.put(database, place, Arc::clone(&row), length);
            return change(What::Set(row));
        }
        // The row that it becomes may be known from a later moment.
        match event {
            RowEvent::Updated { to, .. } => {
                let placed = self.placed.get(&(database, catalog, to))?;
                change(What::Set(Arc::clone(&placed.row)))
            }
            _ => None,
        }
    }

    fn forget_database(&mut self, oid: u32) {
        self.databases.remove(&oid);
        self.placed.retain(|(database, ..), _| *database != oid);
        self.relations.retain(|(database, _), _| *database != oid);
        self.schemas.retain(|(database, _), _| *database != oid);
        self.files.retain(|(database, ..)| *database != oid);
        self.catalog_files.retain(|(database, _), _| *database != oid);
        self.mapped.retain(|(database, _), _| *database != oid);
    }
}

/// Where a record's rows are.
struct Where<'p> {
    database: u32,
    catalog: Catalog,
    version: WalVersion,
    /// The page of the record's first block.
    page: Option<&'p Page>,
}

/// The start of a row, from the row that it replaces and what is between the parts that stay.
fn put_together(
    old: &Placed,
    version: WalVersion,
    prefix: usize,
    middle: &[u8],
    suffix: usize,
) -> Option<Vec<u8>> {
    let mut data = old.row.start(version);
    let wanted = data.len();
    let length = prefix + middle.len() + suffix;
    // Where the old row's length isn't known, it is that of the new one: the columns that are read have fixed widths, so
    // the end reaches into them only where nothing beyond them has changed.
    let old_length = old.length.unwrap_or(length);
    let start = data.clone();
    for (at, byte) in data.iter_mut().enumerate().take(length).skip(prefix) {
        let from_middle = at - prefix;
        *byte = match middle.get(from_middle) {
            Some(byte) => *byte,
            None => {
                let old_at = old_length.checked_sub(suffix)?.checked_add(from_middle - middle.len())?;
                *start.get(old_at)?
            }
        };
    }
    (length >= wanted).then_some(data)
}

/// Relations' OIDs and files in a map of catalogue files; none when it is not one.
fn mapped_files(map: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let map = Payload(map);
    let count = if map.u32(0) == Some(MAP_MAGIC) { map.u32(4).unwrap_or(0) } else { 0 };
    let pairs = usize::try_from(count).ok().and_then(|count| map.array(8, count, 8)).unwrap_or_default();
    pairs.as_chunks::<8>().0.iter().filter_map(|pair| Some((Payload(pair).u32(0)?, Payload(pair).u32(4)?)))
}
