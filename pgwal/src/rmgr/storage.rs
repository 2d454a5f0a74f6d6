//! Files, databases, tablespaces, the map of catalogue files, sequences (`catalog/storage_xlog.h`,
//! `commands/dbcommands_xlog.h`, `commands/tablespace.h`, `utils/relmapper.h`, `commands/sequence.h`).

use super::Rmgr;
use super::describe::{Description, Subject};
use super::payload::Payload;
use crate::{Fork, RelFile, WalVersion};

const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;

/// A record of relation files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smgr {
    /// A file is created.
    Create {
        /// The relation's file.
        relation: RelFile,
        /// Which of its files.
        fork: Fork,
    },
    /// A relation is truncated.
    Truncate {
        /// The relation's file.
        relation: RelFile,
        /// How many blocks of the main fork are left.
        blocks: u32,
        /// Which forks: 1 main, 2 visibility map, 4 free space map.
        forks: i32,
    },
}

/// A record of databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dbase<'a> {
    /// A database is created as a copy of files.
    CreateFileCopy {
        /// The database and its tablespace.
        to: (u32, u32),
        /// The database and tablespace copied.
        from: (u32, u32),
    },
    /// A database is created, its contents following in the WAL (PostgreSQL 15 and later).
    CreateWalLog {
        /// The database and its tablespace.
        to: (u32, u32),
    },
    /// A database is dropped.
    Drop {
        /// The database.
        database: u32,
        /// Its tablespaces' OIDs, four bytes each.
        tablespaces: Oids<'a>,
    },
}

/// A record of tablespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tablespace<'a> {
    /// One is created.
    Create {
        /// Its OID.
        oid: u32,
        /// Its directory.
        location: &'a [u8],
    },
    /// One is dropped.
    Drop {
        /// Its OID.
        oid: u32,
    },
}

/// A new map of catalogue files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelMapUpdate<'a> {
    /// The database; 0 for the shared map.
    pub database: u32,
    /// Its tablespace.
    pub tablespace: u32,
    /// The map's file.
    pub map: &'a [u8],
}

/// OIDs in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oids<'a>(pub(crate) &'a [u8]);

impl<'a> Oids<'a> {
    /// The OIDs in order.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four))
    }
}

impl Smgr {
    /// Reads the main data; `None` for an unknown operation or data that ends early.
    pub fn read(operation: u8, main: &[u8]) -> Option<Self> {
        let data = Payload(main);
        match operation {
            // Fork numbers are below 4.
            0x10 => Some(Smgr::Create { relation: data.relation(0)?, fork: Fork(data.u8(12)?) }),
            0x20 => Some(Smgr::Truncate {
                relation: data.relation(4)?,
                blocks: data.u32(0)?,
                forks: data.i32(16)?,
            }),
            _ => None,
        }
    }
}

impl<'a> Dbase<'a> {
    /// Reads the main data; `None` for an unknown operation or data that ends early.
    pub fn read(operation: u8, main: &'a [u8], version: WalVersion) -> Option<Self> {
        let data = Payload(main);
        let pair = |at: usize| Some((data.u32(at)?, data.u32(at + 4)?));
        let drop = if version >= WalVersion::V15 { 0x20 } else { 0x10 };
        match operation {
            0x00 => Some(Dbase::CreateFileCopy { to: pair(0)?, from: pair(8)? }),
            _ if operation == drop => {
                let count = usize::try_from(data.i32(4)?).ok()?;
                Some(Dbase::Drop { database: data.u32(0)?, tablespaces: Oids(data.array(8, count, 4)?) })
            }
            0x10 => Some(Dbase::CreateWalLog { to: pair(0)? }),
            _ => None,
        }
    }
}

impl<'a> Tablespace<'a> {
    /// Reads the main data; `None` for an unknown operation or data that ends early.
    pub fn read(operation: u8, main: &'a [u8]) -> Option<Self> {
        let data = Payload(main);
        match operation {
            0x00 => Some(Tablespace::Create { oid: data.u32(0)?, location: data.text(4)? }),
            0x10 => Some(Tablespace::Drop { oid: data.u32(0)? }),
            _ => None,
        }
    }
}

impl<'a> RelMapUpdate<'a> {
    /// Reads the main data; `None` when it ends early.
    pub fn read(main: &'a [u8]) -> Option<Self> {
        let data = Payload(main);
        let bytes = usize::try_from(data.i32(8)?).ok()?;
        Some(RelMapUpdate {
            database: data.u32(0)?,
            tablespace: data.u32(4)?,
            map: data.array(12, bytes, 1)?,
        })
    }
}

/// A relation file's path below the data directory (`common/relpath.c`).
pub fn relation_path(file: RelFile, fork: Fork, version: WalVersion) -> String {
    let suffix = if fork == Fork::MAIN { String::new() } else { format!("_{}", fork.name()) };
    let RelFile { tablespace, database, number } = file;
    match tablespace {
        GLOBAL_TABLESPACE => format!("global/{number}{suffix}"),
        DEFAULT_TABLESPACE => format!("base/{database}/{number}{suffix}"),
        _ => {
            let directory = tablespace_directory(version);
            format!("pg_tblspc/{tablespace}/{directory}/{database}/{number}{suffix}")
        }
    }
}

/// The directory that a major version makes in a tablespace, like `PG_15_202209061`.
pub const fn tablespace_directory(version: WalVersion) -> &'static str {
    match version {
        WalVersion::V13 => "PG_13_202007201",
        WalVersion::V14 => "PG_14_202107181",
        WalVersion::V15 => "PG_15_202209061",
        WalVersion::V16 => "PG_16_202307071",
        WalVersion::V17 => "PG_17_202406281",
        WalVersion::V18 => "PG_18_202506291",
    }
}

pub(crate) fn describe(d: &mut Description, subject: &Subject<'_>) -> Option<()> {
    let (operation, main) = (subject.operation(), subject.main());
    match subject.record.rmgr() {
        Rmgr::Storage => match Smgr::read(operation, main.0)? {
            Smgr::Create { relation, fork } => {
                d.say("", "path", relation_path(relation, fork, subject.version()))
            }
            Smgr::Truncate { relation, blocks, forks } => {
                d.say("", "path", relation_path(relation, Fork::MAIN, subject.version()));
                d.say(" to ", "blocks", blocks);
                d.say(" blocks flags ", "flags", forks);
            }
        },
        Rmgr::Database => describe_database(d, &Dbase::read(operation, main.0, subject.version())?),
        Rmgr::Tablespace => match Tablespace::read(operation, main.0)? {
            Tablespace::Create { oid, location } => {
                d.say("", "oid", oid);
                d.say(" \"", "location", String::from_utf8_lossy(location).into_owned());
                d.push("\"");
            }
            Tablespace::Drop { oid } => d.say("", "oid", oid),
        },
        Rmgr::RelMap if operation == 0 => {
            let update = RelMapUpdate::read(main.0)?;
            d.say("database ", "database", update.database);
            d.say(" tablespace ", "tablespace", update.tablespace);
            d.say(" size ", "size", update.map.len() as u64);
        }
        Rmgr::Sequence if operation == 0 => d.say("rel ", "rel", main.relation(0)?),
        _ => {}
    }
    Some(())
}

/// Databases are printed as `tablespace/database`.
fn describe_database(d: &mut Description, record: &Dbase<'_>) {
    let path = |(database, tablespace): (u32, u32)| format!("{tablespace}/{database}");
    match *record {
        Dbase::CreateFileCopy { to, from } => {
            d.say("copy dir ", "from", path(from));
            d.say(" to ", "to", path(to));
        }
        Dbase::CreateWalLog { to } => d.say("create dir ", "to", path(to)),
        Dbase::Drop { database, tablespaces } => {
            d.push("dir");
            d.say_each(" ", "dirs", tablespaces.iter().map(|tablespace| path((database, tablespace))));
        }
    }
}
