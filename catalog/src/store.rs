//! A server's catalogue: its backups' records and marks, read and changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use barkeep_transport::durable::{self, DurableError};
use jiff::Zoned;

use crate::backup_info::{self, BackupInfoError, FILE_BYTES_MAX, Parsed, Unrepresentable};
use crate::lock::LockError;
use crate::names::{self, NameError};
use crate::{BackupId, BackupInfo, Layout, Status, xlogdb};

/// Something wrong in the catalogue, or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file or directory can't be read.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record makes no sense.
    #[error("'{}' is damaged: {source}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong in it.
        source: BackupInfoError,
    },
    /// No such backup.
    #[error("Unknown backup '{id}' for server '{server}'")]
    Unknown {
        /// The backup.
        id: BackupId,
        /// The server.
        server: String,
    },
    /// A backup can't go from one status to the other.
    #[error("backup {id} is {from} and cannot become {to}")]
    Transition {
        /// The backup.
        id: BackupId,
        /// What it is.
        from: Status,
        /// What it was to be.
        to: Status,
    },
    /// No free identifier near this moment: the clock or the directory is not what it seems.
    #[error("no free backup id from {now} on")]
    NoFreeId {
        /// The moment.
        now: BackupId,
    },
    /// A record can't be written down.
    #[error(transparent)]
    Unrepresentable(#[from] Unrepresentable),
    /// Storage failed.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// Another process is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Nothing is meant by a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The list of archived files can't be used.
    #[error(transparent)]
    XlogDb(#[from] xlogdb::XlogDbError),
    /// A WAL file can't be read.
    #[error(transparent)]
    Wal(#[from] crate::wal::WalError),
    /// The index store can't be read.
    #[error(transparent)]
    Index(#[from] Box<crate::index_store::IndexStoreError>),
    /// A hook stopped a deletion.
    #[error(transparent)]
    Stopped(#[from] crate::delete::Stopped),
}

/// The backups of a server.
#[derive(Debug, Default)]
pub struct Backups {
    /// By identifier, in order.
    pub by_id: BTreeMap<BackupId, BackupInfo>,
    /// Records that could not be read; the other backups are there all the same.
    pub faults: Vec<CatalogError>,
    /// Keys that are not Barman 3.20's, by the records that have them. Barman stops at such a record; here it is read
    /// without them.
    pub unknown_keys: BTreeMap<BackupId, Vec<String>>,
}

impl Backups {
    /// In ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &BackupInfo> + Clone {
        self.by_id.values()
    }

    /// One of them.
    pub fn get(&self, id: BackupId) -> Option<&BackupInfo> {
        self.by_id.get(&id)
    }

    /// The nearest usable backup before `id`.
    pub fn usable_before(&self, id: BackupId) -> Option<&BackupInfo> {
        self.by_id.range(..id).rev().map(|(_, backup)| backup).find(|backup| backup.status.is_usable())
    }

    /// The nearest usable backup after `id`.
    pub fn usable_after(&self, id: BackupId) -> Option<&BackupInfo> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.by_id.range((Excluded(id), Unbounded));
        after.map(|(_, backup)| backup).find(|backup| backup.status.is_usable())
    }

    /// A backup's increments and theirs, those without children first: the order in which they can go.
    pub fn descendants(&self, id: BackupId) -> Vec<BackupId> {
        let mut found = Vec::new();
        let mut next = vec![id];
        while let Some(parent) = next.pop() {
            let children = self.iter().filter(|backup| backup.parent_backup_id == Some(parent));
            for child in children {
                // A record that names itself or a descendant as its parent is damaged; it must not loop here.
                if child.id != id && !found.contains(&child.id) {
                    found.push(child.id);
                    next.push(child.id);
                }
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }
}

/// A server's catalogue.
///
/// ```
/// use barkeep_catalog::{Catalog, Layout, Status};
/// # let home = tempfile::tempdir()?;
/// # let home = home.path();
/// let catalog = Catalog::new(Layout::new("pg15", &home.join("pg15"), home));
/// catalog.create_directories()?;
///
/// let mut backup = catalog.start_backup(&jiff::Zoned::now())?;
/// backup.status = Status::Started;
/// catalog.save(&backup)?;
/// backup.set_failed("copying files", "the connection was closed");
/// catalog.save(&backup)?;
///
/// let backups = catalog.backups()?;
/// assert_eq!(catalog.resolve(&backups, "last-failed")?, backup.id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Catalog {
    layout: Layout,
}

/// How far ahead of the clock an identifier may be for the next one to follow it, in seconds: backups in quick succession
/// take seconds that are still to come.
const ORDERED_WITHIN_SECONDS: i64 = 60;

impl Catalog {
    /// The catalogue in these directories; touches nothing.
    pub const fn new(layout: Layout) -> Self {
        Catalog { layout }
    }

    /// Where everything is.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Creates the directories that are missing.
    ///
    /// # Errors
    /// When one can't be created.
    pub fn create_directories(&self) -> Result<(), CatalogError> {
        for directory in self.layout.directories() {
            durable::create_dir_all(&directory)?;
        }
        Ok(())
    }

    /// All backups, as recorded. See [`current`](Self::current) for what lists should show.
    ///
    /// # Errors
    /// When a directory can't be read; a single wrong record is one of the [faults](Backups::faults).
    pub fn backups(&self) -> Result<Backups, CatalogError> {
        let mut backups = Backups::default();
        for id in self.ids()? {
            match self.read_record(id) {
                Ok(parsed) => {
                    backups.by_id.insert(id, parsed.info);
                    if !parsed.unknown_keys.is_empty() {
                        backups.unknown_keys.insert(id, parsed.unknown_keys);
                    }
                }
                // Deleted meanwhile.
                Err(CatalogError::Unknown { .. }) => {}
                Err(fault) => backups.faults.push(fault),
            }
        }
        Ok(backups)
    }

    /// Reads one backup's record, from its old place when it is not in the new one.
    ///
    /// # Errors
    /// When there is none, or it can't be read.
    pub fn read(&self, id: BackupId) -> Result<BackupInfo, CatalogError> {
        self.read_record(id).map(|parsed| parsed.info)
    }

    fn read_record(&self, id: BackupId) -> Result<Parsed, CatalogError> {
        for path in [self.layout.backup_info(id), self.layout.old_backup_info(id)] {
            if let Some(text) = read_bounded(&path, FILE_BYTES_MAX as u64)? {
                return match backup_info::parse(id, &text) {
                    Ok(parsed) => Ok(parsed),
                    Err(source) => Err(CatalogError::Damaged { path, source }),
                };
            }
        }
        Err(CatalogError::Unknown { id, server: self.layout.server.clone() })
    }

    /// Claims an identifier for a backup over the replication protocol that starts at `now`, and writes its first record.
    /// Two processes never get the same one. Nor does a backup come before one that is there already, unless the clock
    /// was set back by more than a minute: Barman, and `latest`, go by identifiers.
    ///
    /// # Errors
    /// When the catalogue can't be read or written.
    pub fn start_backup(&self, now: &Zoned) -> Result<BackupInfo, CatalogError> {
        let horizon = now.checked_add(jiff::Span::new().seconds(ORDERED_WITHIN_SECONDS));
        let horizon = BackupId::at(horizon.as_ref().unwrap_or(now));
        let newest = self.ids()?.into_iter().filter(|id| *id <= horizon).max();
        let taken = |id| {
            newest.is_some_and(|newest| id <= newest)
                || self.layout.backup(id).exists()
                || self.layout.old_backup_info(id).exists()
        };
        let mut moment = now.clone();
        loop {
            let none = CatalogError::NoFreeId { now: BackupId::at(now) };
            let Some(id) = BackupId::first_free(&moment, taken) else { return Err(none) };
            let mut info = BackupInfo::new(id, &self.layout.server);
            // Every Barman command stops at a record without a mode, whichever backup it is about.
            info.mode = Some("postgres".to_owned());
            match durable::write_new(&self.layout.backup_info(id), backup_info::render(&info)?.as_bytes()) {
                Ok(()) => return Ok(info),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let Ok(next) = moment.checked_add(jiff::Span::new().seconds(1)) else { return Err(none) };
                    moment = next;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes a backup's record.
    ///
    /// # Errors
    /// When its status can't follow the recorded one, a text can't be written down, or storage fails.
    pub fn save(&self, info: &BackupInfo) -> Result<(), CatalogError> {
        match self.read(info.id) {
            Ok(recorded) if !recorded.status.may_become(info.status) => {
                return Err(CatalogError::Transition { id: info.id, from: recorded.status, to: info.status });
            }
            // A record that can't be read any more is replaced by one that can.
            Ok(_) | Err(CatalogError::Unknown { .. } | CatalogError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        self.write_meta(&self.layout.backup_info(info.id), backup_info::render(info)?.as_bytes())
    }

    /// Writes a file of the metadata, whose directory a home of Barman before 3.13.2 does not have.
    pub(crate) fn write_meta(&self, path: &Path, content: &[u8]) -> Result<(), CatalogError> {
        durable::create_dir_all(&self.layout.meta())?;
        durable::write(path, content)?;
        Ok(())
    }

    /// Finds the backup that a person means.
    ///
    /// # Errors
    /// When nothing is meant; when it is a backup whose record is damaged, that is the error.
    pub fn resolve(&self, backups: &Backups, text: &str) -> Result<BackupId, CatalogError> {
        match text.parse::<BackupId>() {
            // Unknown, or known with a record that can't be read: reading tells which.
            Ok(id) if backups.get(id).is_none() => self.read(id).map(|info| info.id),
            _ => Ok(names::resolve(&self.layout.server, backups.iter(), text)?),
        }
    }

    /// The identifiers of all records, in order.
    fn ids(&self) -> Result<Vec<BackupId>, CatalogError> {
        let mut ids = Vec::new();
        for name in names_in(&self.layout.meta())? {
            if let Some(id) = name.strip_suffix("-backup.info").and_then(|id| id.parse().ok()) {
                ids.push(id);
            }
        }
        for name in names_in(&self.layout.base)? {
            if let Ok(id) = name.parse()
                && self.layout.old_backup_info(id).exists()
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// The names in a directory that are text; none when it does not exist.
pub(crate) fn names_in(directory: &Path) -> Result<Vec<String>, CatalogError> {
    let failed = |source| CatalogError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// A file's content; `None` when it does not exist. One byte more than `limit` is read at most, so that the parser
/// sees that it is too large.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, CatalogError> {
    let failed = |source| CatalogError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests;
