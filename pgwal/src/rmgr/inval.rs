//! Cache invalidation messages, as commits and some others carry them (`storage/sinval.h`).

use super::describe::{Description, Value};
use super::payload::Payload;

/// A message's size in bytes.
pub(crate) const MESSAGE_BYTES: usize = 16;

/// One invalidation message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation {
    /// One entry of a catalogue cache.
    CatCache {
        /// The cache's number.
        cache: i8,
        /// The database; 0 for shared catalogues.
        database: u32,
        /// The entry's hash.
        hash: u32,
    },
    /// All entries of a catalogue.
    Catalog {
        /// The catalogue's OID.
        catalog: u32,
        /// The database; 0 for shared catalogues.
        database: u32,
    },
    /// A relation, or all where it is 0.
    Relcache {
        /// The relation's OID.
        relation: u32,
        /// The database; 0 for shared relations.
        database: u32,
    },
    /// A relation's open files.
    Smgr,
    /// A database's map of catalogue files.
    RelMap {
        /// The database; 0 for the shared map.
        database: u32,
    },
    /// Snapshots that scan a catalogue.
    Snapshot {
        /// The catalogue's OID.
        relation: u32,
        /// The database.
        database: u32,
    },
    /// A relation's publication state (PostgreSQL 18).
    RelSync {
        /// The relation's OID.
        relation: u32,
        /// The database.
        database: u32,
    },
    /// A number unknown here.
    Unknown(i8),
}

/// Invalidation messages in a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Invalidations<'a>(pub(crate) &'a [u8]);

impl Invalidations<'_> {
    /// The messages in order.
    pub fn iter(&self) -> impl Iterator<Item = Invalidation> {
        self.0.as_chunks::<MESSAGE_BYTES>().0.iter().map(read)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len() / MESSAGE_BYTES
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn read(message: &[u8; MESSAGE_BYTES]) -> Invalidation {
    let id = i8::from_le_bytes([message[0]]);
    let database = u32::from_le_bytes([message[4], message[5], message[6], message[7]]);
    let third = u32::from_le_bytes([message[8], message[9], message[10], message[11]]);
    match id {
        0.. => Invalidation::CatCache { cache: id, database, hash: third },
        -1 => Invalidation::Catalog { catalog: third, database },
        -2 => Invalidation::Relcache { relation: third, database },
        -3 => Invalidation::Smgr,
        -4 => Invalidation::RelMap { database },
        -5 => Invalidation::Snapshot { relation: third, database },
        -6 => Invalidation::RelSync { relation: third, database },
        other => Invalidation::Unknown(other),
    }
}

/// Reads `count` messages from `at` on.
pub(crate) fn invalidations(payload: Payload<'_>, at: usize, count: i32) -> Option<Invalidations<'_>> {
    payload.array(at, usize::try_from(count).ok()?, MESSAGE_BYTES).map(Invalidations)
}

/// Describes messages, with the database and tablespace whose relation cache file goes, if one does.
pub(crate) fn describe(d: &mut Description, messages: Invalidations<'_>, init_file: Option<(u32, u32)>) {
    if messages.is_empty() {
        return;
    }
    if let Some((database, tablespace)) = init_file {
        d.say("; relcache init file inval dbid ", "init_file_database", database);
        d.say(" tsid ", "init_file_tablespace", tablespace);
    }
    d.push("; inval msgs:");
    let words = messages.iter().map(|message| {
        Value::Text(match message {
            Invalidation::CatCache { cache, .. } => format!("catcache {cache}"),
            Invalidation::Catalog { catalog, .. } => format!("catalog {catalog}"),
            Invalidation::Relcache { relation, .. } => format!("relcache {relation}"),
            Invalidation::Smgr => "smgr".to_owned(),
            Invalidation::RelMap { database } => format!("relmap db {database}"),
            Invalidation::Snapshot { relation, .. } => format!("snapshot {relation}"),
            Invalidation::RelSync { relation, .. } => format!("relsync {relation}"),
            Invalidation::Unknown(id) => format!("unrecognized id {id}"),
        })
    });
    d.say_each(" ", "invalidations", words);
}
