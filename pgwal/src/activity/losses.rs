//! What a transaction destroyed, from what is noted of it and the names of just before its commit.

use std::collections::{BTreeMap, BTreeSet};

use super::open::{Counts, Note};
use super::{Loss, LossKind, Object, TableChange};
use crate::names::{Catalog, ClassRow, DEFAULT_ENCODING, Name, Names, Row, TRANSIENT_PREFIX, What};
use crate::rmgr::inval::Invalidation;
use crate::rmgr::xact::Completion;
use crate::{Lsn, RelFile};

/// The first OID that is not PostgreSQL's own (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16384;
/// The schema of TOAST tables and their indexes (`PG_TOAST_NAMESPACE`).
const TOAST_SCHEMA: u32 = 99;
/// How names end, but for a number, of indexes that `REINDEX CONCURRENTLY` puts in each other's place.
const CONCURRENT_SUFFIXES: [&[u8]; 2] = [b"_ccold", b"_ccnew"];

/// A transaction that ends.
pub(super) struct Ended<'n> {
    names: &'n Names,
    notes: &'n [(Lsn, Note)],
    /// Relations that are made or changed, by database and OID: what they are in the end.
    set: BTreeMap<(u32, u32), &'n ClassRow>,
    /// Relations that are gone in the end, with their row.
    gone: BTreeMap<(u32, u32), &'n ClassRow>,
    made_schemas: BTreeMap<(u32, u32), &'n Name>,
    made_files: BTreeSet<RelFile>,
    /// Relations in `set` and `gone` by database and file, also files they had in between.
    by_file: BTreeMap<(u32, u32), &'n ClassRow>,
    /// Relations that are rewritten, by database and OID.
    rewritten: BTreeSet<(u32, u32)>,
    dropped: Vec<RelFile>,
    dropped_databases: BTreeSet<u32>,
    /// Relations that others are told to look at anew, by database and OID; where columns are dropped.
    touched: BTreeSet<(u32, u32)>,
    /// The hashes of cache entries that others are told to forget; where columns are dropped.
    forgotten: BTreeSet<u32>,
}

impl<'n> Ended<'n> {
    pub(super) fn new(names: &'n Names, notes: &'n [(Lsn, Note)], end: &Completion<'_>) -> Self {
        let mut ended = Ended {
            names,
            notes,
            set: BTreeMap::new(),
            gone: BTreeMap::new(),
            made_schemas: BTreeMap::new(),
            made_files: BTreeSet::new(),
            by_file: BTreeMap::new(),
            rewritten: BTreeSet::new(),
            dropped: end.dropped.iter().collect(),
            dropped_databases: BTreeSet::new(),
            touched: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        };
        if notes.iter().any(|(_, note)| matches!(note, Note::ColumnDropped { .. })) {
            for message in end.invalidations.iter() {
                match message {
                    Invalidation::Relcache { relation, database } => {
                        ended.touched.insert((database, relation));
                    }
                    Invalidation::CatCache { hash, .. } => drop(ended.forgotten.insert(hash)),
                    _ => {}
                }
            }
        }
        for (_, note) in notes {
            match note {
                Note::FileMade(file) => drop(ended.made_files.insert(*file)),
                Note::Name(change) => match &change.what {
                    What::Set(row) => match &**row {
                        Row::Class(class) => {
                            ended.set.insert((change.database, class.oid), class);
                            ended.by_file.insert((change.database, class.file), class);
                            if let Some(oid) = rewritten_by(class) {
                                ended.rewritten.insert((change.database, oid));
                            }
                        }
                        Row::Namespace(schema) => {
                            ended.made_schemas.insert((change.database, schema.oid), &schema.name);
                        }
                        Row::Database(_) => {}
                    },
                    What::Gone(row) => {
                        if let Row::Class(class) = &**row {
                            ended.gone.insert((change.database, class.oid), class);
                            ended.by_file.insert((change.database, class.file), class);
                        }
                    }
                    What::Lost(_) => {}
                },
                _ => {}
            }
        }
        ended
    }

    /// What was destroyed, in order: schemas and databases, then relations by name.
    pub(super) fn losses(&mut self) -> Vec<Loss> {
        let mut losses = self.as_a_whole();
        let mut relations = self.relations();
        relations.sort_by(|one, other| {
            let key = |loss: &Loss| (loss.object.schema.clone(), loss.object.name.clone(), loss.object.oid);
            key(one).cmp(&key(other))
        });
        losses.extend(relations);
        losses
    }

    /// The last position at which nothing has taken effect yet. What a database's drop does is done at once: first its row
    /// is marked, then its files are removed.
    pub(super) fn before(&self, commit: Lsn, being_dropped: &BTreeMap<u32, Lsn>) -> Lsn {
        let at_once = self.notes.iter().filter(|(_, note)| match note {
            Note::DatabaseRemoved(oid) => self.dropped_databases.contains(oid),
            Note::TablespaceRemoved(_) => true,
            _ => false,
        });
        let marked = self.dropped_databases.iter().filter_map(|oid| being_dropped.get(oid));
        at_once.map(|(lsn, _)| lsn).chain(marked).copied().chain([commit]).min().unwrap_or(commit)
    }

    /// The databases that are dropped, once [`losses`](Self::losses) are known.
    pub(super) fn dropped_databases(&self) -> BTreeSet<u32> {
        self.dropped_databases.clone()
    }

    /// Schemas, databases and tablespaces.
    fn as_a_whole(&mut self) -> Vec<Loss> {
        let mut losses = Vec::new();
        let (mut removed, mut made) = (BTreeSet::new(), BTreeSet::new());
        for (_, note) in self.notes {
            match note {
                Note::Name(change) => match &change.what {
                    What::Gone(row) => match &**row {
                        Row::Namespace(schema) if !schema.name.as_bytes().starts_with(b"pg_temp_") => {
                            let object = self.schema(change.database, schema.oid, &schema.name);
                            losses.push(Loss { kind: LossKind::DropSchema, object });
                        }
                        Row::Database(database) => {
                            let name = Some(database.name.text(database.encoding));
                            let (database_oid, oid) = (database.oid, Some(database.oid));
                            let object = Object { database_oid, database: name, oid, ..Object::default() };
                            losses.push(Loss { kind: LossKind::DropDatabase, object });
                            self.dropped_databases.insert(database.oid);
                        }
                        _ => {}
                    },
                    What::Lost(Catalog::Namespace) => {
                        let object = self.in_database(change.database);
                        losses.push(Loss { kind: LossKind::DropSchema, object });
                    }
                    _ => {}
                },
                Note::DatabaseMade(oid) => drop(made.insert(*oid)),
                Note::DatabaseRemoved(oid) => drop(removed.insert(*oid)),
                Note::TablespaceRemoved(oid) => {
                    let object = Object { oid: Some(*oid), ..Object::default() };
                    losses.push(Loss { kind: LossKind::DropTablespace, object });
                }
                _ => {}
            }
        }
        // A database that moves to another tablespace is made there in the same transaction.
        for oid in removed.difference(&made) {
            if self.dropped_databases.insert(*oid) {
                let object = Object { oid: Some(*oid), ..self.in_database(*oid) };
                losses.push(Loss { kind: LossKind::DropDatabase, object });
            }
        }
        losses
    }

    /// Relations that are dropped or truncated, or lose a column.
    fn relations(&self) -> Vec<Loss> {
        let mut losses = Vec::new();
        // Relations whose fate is clear, lost or not.
        let mut judged: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut lost = |kind: LossKind, object: Object| losses.push(Loss { kind, object });
        let (losing_tables, names_made) = (self.losing_tables(), self.names_made());
        for (&(database, oid), row) in &self.gone {
            judged.insert((database, oid));
            let known = self.names.relation(database, oid);
            // What the transaction made itself is nobody's loss.
            if known.is_none() && self.set.contains_key(&(database, oid)) {
                continue;
            }
            let row = known.unwrap_or(row);
            // An index that goes with its table, or is made again, is no loss of its own.
            let is_lost_index = is_users_index(row)
                && !losing_tables.contains(&database)
                && !names_made.contains(&(database, row.namespace, &row.name));
            if is_lost_index || self.is_of_interest(database, row) {
                lost(LossKind::DropRelation, self.relation(database, row));
            }
        }
        for (number, database, oid) in self.columns() {
            let object = match self.names.relation(database, oid) {
                Some(row) if self.is_of_interest(database, row) => self.relation(database, row),
                None if oid >= FIRST_USER_OID => Object { oid: Some(oid), ..self.in_database(database) },
                _ => continue,
            };
            lost(LossKind::DropColumn { number }, object);
        }
        for (&(database, oid), now) in &self.set {
            judged.insert((database, oid));
            let Some(before) = self.names.relation(database, oid) else { continue };
            let refiled = before.file != 0 && now.file != 0 && before.file != now.file;
            // A rewrite goes by way of a relation of its own, a move to another tablespace keeps the rows.
            let is_rewritten = self.rewritten.contains(&(database, oid));
            let emptied = refiled && before.tablespace == now.tablespace && !is_rewritten;
            let is_table = matches!(before.kind, b'r' | b'm');
            let is_gone = self.gone.contains_key(&(database, oid));
            if emptied && is_table && !is_gone && self.is_of_interest(database, before) {
                lost(LossKind::Truncate, self.relation(database, before));
            }
        }
        for (_, note) in self.notes {
            match *note {
                Note::Truncated { database, relation } if judged.insert((database, relation)) => {
                    let object = match self.names.relation(database, relation) {
                        Some(row) => self.relation(database, row),
                        None => Object { oid: Some(relation), ..self.in_database(database) },
                    };
                    lost(LossKind::Truncate, object);
                }
                _ => {}
            }
        }
        for file in &self.dropped {
            let known = self.names.relation_in(*file);
            let is_judged = known.is_some_and(|row| judged.contains(&(file.database, row.oid)));
            let changed_here = self.by_file.contains_key(&(file.database, file.number));
            if is_judged || changed_here || self.made_files.contains(file) {
                continue;
            }
            match known {
                Some(row) if self.is_of_interest(file.database, row) => {
                    lost(LossKind::RemoveFile, self.relation(file.database, row));
                }
                Some(_) => {}
                None if self.is_systems(*file) => {}
                None => lost(LossKind::RemoveFile, self.unknown(*file)),
            }
        }
        losses
    }

    /// Columns that are dropped of tables that stay and were there before: number, database and table.
    fn columns(&self) -> BTreeSet<(u16, u32, u32)> {
        let (mut columns, mut untold) = (BTreeSet::new(), BTreeSet::new());
        for (_, note) in self.notes {
            let Note::ColumnDropped { database, column } = *note else { continue };
            match column.relation {
                Some(oid) => drop(columns.insert((column.number, database, oid))),
                None => drop(untold.insert((database, column))),
            }
        }
        for (database, column) in untold {
            let touched = self.touched.range((database, 0)..=(database, u32::MAX)).map(|(_, oid)| *oid);
            let tables = touched.filter(|oid| column.is_among(*oid, &self.forgotten));
            columns.extend(tables.map(|oid| (column.number, database, oid)));
        }
        columns.retain(|(_, database, oid)| {
            let key = (*database, *oid);
            let is_made_here = self.set.contains_key(&key) && self.names.relation(key.0, key.1).is_none();
            !self.gone.contains_key(&key) && !is_made_here
        });
        columns
    }

    /// Databases in which a table that can have indexes is dropped, as far as is known: which indexes go with it, the rows
    /// of `pg_class` don't tell.
    fn losing_tables(&self) -> BTreeSet<u32> {
        let has_indexes = |row: &ClassRow| matches!(row.kind, b'r' | b'p' | b'm');
        let gone = self.gone.iter().map(|((database, _), row)| (*database, *row));
        let gone = gone.filter(|(database, row)| has_indexes(row) && self.is_of_interest(*database, row));
        let lost = self.notes.iter().filter_map(|(_, note)| match note {
            Note::Name(change) if change.what == What::Lost(Catalog::Class) => Some(change.database),
            _ => None,
        });
        gone.map(|(database, _)| database).chain(lost).collect()
    }

    /// The names that relations have in the end, by database and schema.
    fn names_made(&self) -> BTreeSet<(u32, u32, &Name)> {
        let stay = self.set.iter().filter(|(key, _)| !self.gone.contains_key(key));
        stay.map(|((database, _), row)| (*database, row.namespace, &row.name)).collect()
    }

    /// The tables whose rows were changed.
    pub(super) fn tables(&self, counts: &BTreeMap<RelFile, Counts>) -> Vec<TableChange> {
        let mut tables = Vec::new();
        for (file, counts) in counts {
            let database = file.database;
            let made = || self.by_file.get(&(database, file.number)).copied();
            let known = self.names.relation_in(*file).or_else(made);
            let table = match known {
                Some(row) if !self.is_of_interest(database, row) => continue,
                Some(row) => self.relation(database, row),
                None if self.is_systems(*file) => continue,
                None => self.unknown(*file),
            };
            tables.push(TableChange {
                is_new: known.is_some_and(|row| self.names.relation(database, row.oid).is_none()),
                table,
                inserted: counts.inserted,
                updated: counts.updated,
                deleted: counts.deleted,
            });
        }
        tables
    }

    /// Whether it holds something of the user's: no index, no TOAST table, nothing of PostgreSQL's own, nothing temporary.
    fn is_of_interest(&self, database: u32, row: &ClassRow) -> bool {
        let is_transient = row.name.as_bytes().starts_with(TRANSIENT_PREFIX.as_bytes())
            && self.names.relation(database, row.oid).is_none();
        !matches!(row.kind, b'i' | b'I' | b't')
            && row.persistence != b't'
            && row.oid >= FIRST_USER_OID
            && !is_transient
    }

    /// Whether a file whose relation isn't known is one of PostgreSQL's own.
    fn is_systems(&self, file: RelFile) -> bool {
        file.number < FIRST_USER_OID || self.names.catalog_in(file).is_some() || self.names.is_mapped(file)
    }

    fn encoding(&self, database: u32) -> i32 {
        self.names.database(database).map_or(DEFAULT_ENCODING, |row| row.encoding)
    }

    fn in_database(&self, database: u32) -> Object {
        let name = self.names.database(database).map(|row| row.name.text(row.encoding));
        Object { database_oid: database, database: name, ..Object::default() }
    }

    fn schema(&self, database: u32, oid: u32, name: &Name) -> Object {
        let schema = Some(name.text(self.encoding(database)));
        Object { schema, oid: Some(oid), ..self.in_database(database) }
    }

    fn relation(&self, database: u32, row: &ClassRow) -> Object {
        let encoding = self.encoding(database);
        let made = || self.made_schemas.get(&(database, row.namespace)).copied();
        let schema = self.names.schema(database, row.namespace).or_else(made);
        let file = RelFile { tablespace: row.tablespace, database, number: row.file };
        Object {
            schema: schema.map(|name| name.text(encoding)),
            name: Some(row.name.text(encoding)),
            oid: Some(row.oid),
            file: Some(file).filter(|file| file.number != 0),
            relation_kind: Some(row.kind),
            ..self.in_database(database)
        }
    }

    fn unknown(&self, file: RelFile) -> Object {
        Object { file: Some(file), ..self.in_database(file.database) }
    }
}

/// Whether it is an index that somebody made: not of a TOAST table, nor of a temporary one, nor in place of another for as
/// long as that is built again.
fn is_users_index(row: &ClassRow) -> bool {
    let name = row.name.as_bytes();
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let stem = &name[..name.len() - digits];
    matches!(row.kind, b'i' | b'I')
        && row.persistence != b't'
        && row.oid >= FIRST_USER_OID
        && row.namespace != TOAST_SCHEMA
        && !CONCURRENT_SUFFIXES.iter().any(|suffix| stem.ends_with(suffix))
}

/// The OID of the relation that this one, which is there for a moment only, takes on the rows of.
fn rewritten_by(row: &ClassRow) -> Option<u32> {
    let oid = row.name.as_bytes().strip_prefix(TRANSIENT_PREFIX.as_bytes())?;
    std::str::from_utf8(oid).ok()?.parse().ok()
}
