//! Maps of names: what every relation, schema and database of a server was called at some moment, and which file it had.
//!
//! WAL speaks of files by number. With a map and the WAL after it, [`pgwal::activity`] tells what was dropped by name, also
//! where it was made and dropped between two backups. Maps are saved by whoever can ask the server by SQL, in
//! `.barkeep/names/`; without one, [`names_of_backup`] reads the same from the files of a base backup.
//!
//! Ours, derived and expendable: without any, names come from what the WAL itself tells.

mod backup;
mod format;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use barkeep_transport::durable;
use jiff::Timestamp;
use pgwal::names::{Catalog as NamingCatalog, ClassRow, DatabaseRow, Names, NamespaceRow, Row, RowPlace};
use pgwal::{Lsn, TimelineId, WalVersion};

use crate::Catalog;
use crate::store::{CatalogError, names_in, read_bounded};
pub use backup::{BackupNames, names_of_backup};

/// Most maps that are kept of a server.
pub const MAPS_MAX: usize = 128;
/// Largest map written or read, in bytes as stored.
pub const MAP_BYTES_MAX: u64 = 64 << 20;
/// What the files' names end in.
const SUFFIX: &str = ".map";

/// Names as of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameMap {
    /// When they were asked for.
    pub at: Timestamp,
    /// Where the server's WAL was just before that: what is written from there on may be in the map already, or not.
    pub lsn: Lsn,
    /// The timeline that it was on.
    pub timeline: TimelineId,
    /// The server's major version.
    pub version: WalVersion,
    /// The cluster.
    pub system_id: u64,
    /// The file of `pg_database`.
    pub database_file: u32,
    /// The databases; of those that could not be entered only the name.
    pub databases: Vec<DatabaseNames>,
}

/// The names in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseNames {
    /// Where the database's own row is.
    pub place: RowPlace,
    /// The row.
    pub row: DatabaseRow,
    /// The files of `pg_class` and `pg_namespace`.
    pub files: (u32, u32),
    /// Its schemas, and where their rows are.
    pub schemas: Vec<(RowPlace, NamespaceRow)>,
    /// Its relations, and where their rows are.
    pub relations: Vec<(RowPlace, ClassRow)>,
}

/// A map that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMap {
    /// The timeline it was made on.
    pub timeline: TimelineId,
    /// Its position.
    pub lsn: Lsn,
    path: PathBuf,
}

impl KeptMap {
    /// How long ago it was kept; `None` when that can't be told.
    pub fn age(&self) -> Option<Duration> {
        fs::metadata(&self.path).ok()?.modified().ok()?.elapsed().ok()
    }
}

impl NameMap {
    /// The names, to be followed through the WAL from [`lsn`](Self::lsn) on.
    pub fn names(&self) -> Names {
        let mut names = Names::new();
        names.place_catalog(0, self.database_file, NamingCatalog::Database);
        for database in &self.databases {
            let oid = database.row.oid;
            names.place_catalog(oid, database.files.0, NamingCatalog::Class);
            names.place_catalog(oid, database.files.1, NamingCatalog::Namespace);
            names.learn(0, database.place, Row::Database(database.row.clone()));
            for (place, schema) in &database.schemas {
                names.learn(oid, *place, Row::Namespace(schema.clone()));
            }
            for (place, relation) in &database.relations {
                names.learn(oid, *place, Row::Class(relation.clone()));
            }
        }
        names
    }
}

impl Catalog {
    /// The maps that are kept, by position.
    ///
    /// # Errors
    /// When their directory can't be read.
    pub fn name_maps(&self) -> Result<Vec<KeptMap>, CatalogError> {
        let directory = self.name_map_directory();
        let mut maps: Vec<KeptMap> = names_in(&directory)?
            .into_iter()
            .filter_map(|name| {
                let (timeline, lsn) = name.strip_suffix(SUFFIX)?.split_once('-')?;
                let number = |text: &str, digits: usize| {
                    (text.len() == digits).then(|| u64::from_str_radix(text, 16).ok()).flatten()
                };
                Some(KeptMap {
                    timeline: TimelineId::new(u32::try_from(number(timeline, 8)?).ok()?)?,
                    lsn: Lsn::from_u64(number(lsn, 16)?),
                    path: directory.join(name),
                })
            })
            .collect();
        maps.sort_by_key(|map| (map.lsn, map.timeline));
        Ok(maps)
    }

    /// Reads a map; `None` when it is gone, damaged, or of another version.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn name_map(&self, map: &KeptMap) -> Result<Option<NameMap>, CatalogError> {
        let bytes = read_bounded(&map.path, MAP_BYTES_MAX)?;
        Ok(bytes.and_then(|bytes| format::from_bytes(&bytes)).filter(|read| read.lsn == map.lsn))
    }

    /// Keeps a map. Of more than [`MAPS_MAX`], those go whose neighbours are nearest.
    ///
    /// # Errors
    /// When storage fails, or the map is too large.
    pub fn keep_name_map(&self, map: &NameMap) -> Result<(), CatalogError> {
        let directory = self.name_map_directory();
        let path = directory.join(format!("{:08X}-{:016X}{SUFFIX}", map.timeline.as_u32(), map.lsn.as_u64()));
        let bytes =
            format::to_bytes(map).map_err(|source| CatalogError::Read { path: path.clone(), source })?;
        durable::create_dir_all(&directory)?;
        // Of whoever was killed at it. That it can't be removed keeps no map from being kept.
        let _ = durable::remove_abandoned_files(&directory);
        durable::write(&path, &bytes)?;
        self.thin_name_maps()
    }

    /// Removes what is too much, and maps from before all that can be restored.
    fn thin_name_maps(&self) -> Result<(), CatalogError> {
        let first_needed = self.backups()?.iter().filter_map(|info| info.begin_xlog).min();
        let mut maps = self.name_maps()?;
        // The last one before the first backup still serves what comes after.
        let useless = first_needed
            .map_or(0, |first| maps.iter().take_while(|map| map.lsn <= first).count().saturating_sub(1));
        for map in maps.drain(..useless) {
            durable::remove(&map.path)?;
        }
        while maps.len() > MAPS_MAX {
            let gap = |at: usize| maps[at + 1].lsn.as_u64() - maps[at - 1].lsn.as_u64();
            let Some(nearest) = (1..maps.len() - 1).min_by_key(|at| gap(*at)) else { break };
            durable::remove(&maps.remove(nearest).path)?;
        }
        Ok(())
    }

    fn name_map_directory(&self) -> PathBuf {
        self.layout().private().join("names")
    }
}

#[cfg(test)]
mod tests;
