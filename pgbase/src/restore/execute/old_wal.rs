//! The WAL of a cluster that is restored over: none of it may be replayed by the new one, and none that exists nowhere
//! else may be lost.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use pgwal::WalFile;

use super::ground::Root;
use super::{PRIVATE_DIRECTORY, RestoreError};
use crate::copy::{Kind, Owner};

/// Where WAL that was not archived goes, in `pg_wal`; a number follows.
pub(super) const SHELF: &str = "kept-by-restore-";
/// How many such directories there may be.
pub(super) const SHELVES_MAX: u32 = 10_000;
/// PostgreSQL's own directories in `pg_wal`.
pub(super) const STATUS: &str = "archive_status";
const SUMMARIES: &str = "summaries";

/// WAL that was moved out of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShelvedWal {
    /// The directory that it is in now.
    pub path: PathBuf,
    /// How many files there are.
    pub files: u64,
}

/// Empties `pg_wal`: what the old server had marked as archived is removed, other WAL is moved to a directory of its
/// own, which no server looks into.
pub(super) fn shelve(wal: &Root, owner: Option<Owner>) -> Result<Option<ShelvedWal>, RestoreError> {
    let failed = |path: &Path, source| RestoreError::write(&wal.path.join(path), source);
    let archived = archived(wal).map_err(|error| failed(Path::new(STATUS), error))?;
    let entries = wal.directory.entries().map_err(|error| failed(Path::new(""), error))?;
    let mut shelved: Option<(PathBuf, u64)> = None;
    for entry in entries {
        let name = entry.name.to_string_lossy().into_owned();
        let path = Path::new(&entry.name);
        match fate(&name, entry.kind, &archived) {
            Fate::Stays => {}
            Fate::IsEmptied => {
                let emptied = wal.directory.directory(path).and_then(|status| status.remove_contents(0));
                emptied.map_err(|error| failed(path, error))?;
            }
            Fate::IsShelved => {
                let shelf = match &mut shelved {
                    Some((shelf, files)) => {
                        *files += 1;
                        shelf.clone()
                    }
                    None => shelved.insert((new_shelf(wal, owner)?, 1)).0.clone(),
                };
                wal.directory.rename(path, &shelf.join(path)).map_err(|error| failed(path, error))?;
            }
            Fate::Goes => wal.directory.remove(path).map_err(|error| failed(path, error))?,
        }
    }
    Ok(shelved.map(|(shelf, files)| ShelvedWal { path: wal.path.join(shelf), files }))
}

/// What becomes of something in `pg_wal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Somebody's own.
    Stays,
    /// A directory of PostgreSQL's.
    IsEmptied,
    /// WAL that exists nowhere else, for all that is known.
    IsShelved,
    Goes,
}

pub(super) fn fate(name: &str, kind: Kind, archived: &HashSet<String>) -> Fate {
    let is_wal =
        || matches!(name.parse(), Ok(WalFile::Segment(_) | WalFile::Partial(_) | WalFile::History(_)));
    match kind {
        Kind::Directory if name == STATUS || name == SUMMARIES => Fate::IsEmptied,
        Kind::Directory => Fate::Stays,
        Kind::File if is_wal() && !archived.contains(name) => Fate::IsShelved,
        _ => Fate::Goes,
    }
}

/// The name of a WAL file that a file of the old server's says to be archived.
pub(super) fn archived_name(status_file: &str) -> Option<&str> {
    status_file.strip_suffix(".done")
}

/// Names of WAL files that the old server knew to be archived.
fn archived(wal: &Root) -> io::Result<HashSet<String>> {
    let status = match wal.directory.directory(Path::new(STATUS)) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(error),
    };
    let names = status.entries()?.into_iter();
    Ok(names.filter_map(|entry| Some(archived_name(entry.name.to_str()?)?.to_owned())).collect())
}

fn new_shelf(wal: &Root, owner: Option<Owner>) -> Result<PathBuf, RestoreError> {
    let mut number = 1;
    loop {
        let shelf = PathBuf::from(format!("{SHELF}{number}"));
        match wal.directory.create_directory(&shelf, PRIVATE_DIRECTORY, owner) {
            Ok(()) => return Ok(shelf),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < SHELVES_MAX => number += 1,
            Err(error) => return Err(RestoreError::write(&wal.path.join(shelf), error)),
        }
    }
}
