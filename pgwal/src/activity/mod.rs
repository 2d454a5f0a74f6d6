//! What transactions did: for each commit its time, its size, the tables it changed and what it destroyed, by name.
//!
//! [`Tracker`] is shown every record in order and answers with the commits. Names are those of just before the commit, as
//! [`Names`](crate::names::Names) follows them.
//!
//! ```no_run
//! use pgwal::activity::Tracker;
//! use pgwal::names::Names;
//! use pgwal::{Decoder, Keep, Lsn, SegmentSize};
//! let segment = std::fs::read("000000010000000000000002")?;
//! let keep = Keep::Some(Tracker::needs);
//! let mut decoder = Decoder::new(Lsn::from_u64(0x200_0000), SegmentSize::DEFAULT).with_keep(keep);
//! let mut tracker = Tracker::new(Names::new());
//! let mut input = &segment[..];
//! while let Some(record) = decoder.next(&mut input)? {
//!     for loss in tracker.record(&record).into_iter().flat_map(|commit| commit.losses) {
//!         println!("{} {:?}", loss.kind.words(), loss.object.name);
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod losses;
mod open;
mod tracker;

pub use tracker::Tracker;

use crate::{Lsn, PgTimestamp, RelFile};

/// A transaction that has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its commit record.
    pub lsn: Lsn,
    /// The end of that record: recovery that includes the transaction reads up to here.
    pub end: Lsn,
    /// The last position where recovery can stop with nothing of the transaction done. Usually that of the commit record;
    /// dropping a database takes effect before.
    pub before: Lsn,
    /// When it committed, by the server's clock.
    pub time: PgTimestamp,
    /// The transaction.
    pub xid: u32,
    /// How many bytes of records it wrote, those of subtransactions that were rolled back excluded.
    pub bytes: u64,
    /// The database, where a commit says so, or the one it changed.
    pub database: Option<u32>,
    /// The tables whose rows it changed; catalogues, indexes and TOAST tables excluded.
    pub tables: Vec<TableChange>,
    /// What it destroyed besides rows.
    pub losses: Vec<Loss>,
}

/// Rows of a table that a transaction changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableChange {
    /// The table.
    pub table: Object,
    /// Rows added.
    pub inserted: u64,
    /// Rows replaced.
    pub updated: u64,
    /// Rows removed.
    pub deleted: u64,
    /// Whether the table was made by this transaction.
    pub is_new: bool,
}

/// Something that a transaction destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// How.
    pub kind: LossKind,
    /// What.
    pub object: Object,
}

impl Loss {
    /// Whether the object is destroyed as a whole, with all its rows.
    pub const fn is_whole(&self) -> bool {
        !matches!(self.kind, LossKind::DropColumn { .. })
    }
}

/// How something is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// A relation is dropped: a table, view, sequence and so on; an index where no table goes with it.
    DropRelation,
    /// A schema is dropped.
    DropSchema,
    /// A database is dropped.
    DropDatabase,
    /// A tablespace is dropped.
    DropTablespace,
    /// A column is dropped; the object is its table.
    DropColumn {
        /// Its number (`pg_attribute.attnum`): the name is not in the WAL any more.
        number: u16,
    },
    /// A table is emptied by `TRUNCATE`.
    Truncate,
    /// A file is removed, and nothing is known that tells a drop from a rewrite.
    RemoveFile,
}

impl LossKind {
    /// The word or words of SQL, in capitals.
    pub const fn words(self) -> &'static str {
        match self {
            LossKind::DropRelation => "DROP",
            LossKind::DropSchema => "DROP SCHEMA",
            LossKind::DropDatabase => "DROP DATABASE",
            LossKind::DropTablespace => "DROP TABLESPACE",
            LossKind::DropColumn { .. } => "DROP COLUMN",
            LossKind::Truncate => "TRUNCATE",
            LossKind::RemoveFile => "DROP or rewrite",
        }
    }
}

/// Something with a name, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// The database's OID.
    pub database_oid: u32,
    /// The database's name.
    pub database: Option<String>,
    /// The schema's name.
    pub schema: Option<String>,
    /// The relation's name.
    pub name: Option<String>,
    /// The relation's, schema's, database's or tablespace's OID.
    pub oid: Option<u32>,
    /// The relation's file.
    pub file: Option<RelFile>,
    /// The relation's kind, as in `pg_class.relkind`.
    pub relation_kind: Option<u8>,
}

impl Object {
    /// The kind in words; `relation` where it isn't known.
    pub const fn kind_words(&self) -> &'static str {
        match self.relation_kind {
            Some(b'r' | b'p') => "TABLE",
            Some(b'v') => "VIEW",
            Some(b'm') => "MATERIALIZED VIEW",
            Some(b'S') => "SEQUENCE",
            Some(b'f') => "FOREIGN TABLE",
            Some(b'c') => "TYPE",
            Some(b'i' | b'I') => "INDEX",
            Some(b't') => "TOAST TABLE",
            _ => "RELATION",
        }
    }
}
