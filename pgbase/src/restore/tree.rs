//! What is in a backup, and what of it belongs into a restored cluster.

use std::io;
use std::path::{Path, PathBuf};

use barkeep_transport::codec::Compression;

use super::RestoreError;
use super::destination::INCOMPLETE_MARKER;
use crate::copy::{Directory, Kind};
use crate::packed::{PackedFile, StoredFile, original_path, stored_name};

/// The file that makes a data directory startable.
pub(super) const PG_CONTROL: &str = "global/pg_control";

/// Directories whose content stays behind: server logs, and WAL, which comes from the archive.
const EMPTIED: [&str; 4] = ["pg_wal", "pg_xlog", "log", "pg_log"];

/// Files of the data directory that stay behind: another process's state, another recovery's requests (a backup taken
/// from a standby has its `standby.signal`), and a map that would lead tablespaces back to where they were.
const LEFT_BEHIND: [&str; 8] = [
    "postmaster.pid",
    "postmaster.opts",
    "recovery.conf",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    ".barman-recover.info",
    INCOMPLETE_MARKER,
];

/// A file to copy.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) tree: usize,
    /// Where it goes.
    pub(super) path: PathBuf,
    /// Its own size in bytes, however it is stored.
    pub(super) size: u64,
    pub(super) mode: u32,
    /// How it is compressed where it is stored, with the suffix that this means.
    pub(super) packed: Option<Compression>,
}

impl FileJob {
    /// Opens it where it is stored.
    pub(super) fn open(&self, source: &Directory) -> io::Result<StoredFile> {
        match self.packed {
            None => source.read(&self.path).map(StoredFile::Plain),
            Some(compression) => open_packed(source, &self.path, compression),
        }
    }
}

fn open_packed(source: &Directory, path: &Path, compression: Compression) -> io::Result<StoredFile> {
    let name = stored_name(path.file_name().unwrap_or_default(), compression);
    let file = PackedFile::new(source.read(&path.with_file_name(name))?, compression)?;
    Ok(StoredFile::Packed(Box::new(file)))
}

/// A directory to make; parents come before what is in them.
#[derive(Debug)]
pub(super) struct DirectoryJob {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
}

/// A tree, listed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<FileJob>,
    pub(super) directories: Vec<DirectoryJob>,
    /// Links and special files, which no base backup should have; they are not copied.
    pub(super) strangers: Vec<PathBuf>,
    /// The mode of `global/pg_control`, which is left to the end.
    pub(super) control: Option<u32>,
}

/// What to leave out of the data directory, besides what is always left out.
#[derive(Debug)]
pub(super) struct DataRules<'a> {
    /// Files that are written anew.
    pub(super) rewritten: &'a [&'a str],
    /// The directory that gets staged WAL, if any: an old one would mix its files in.
    pub(super) staged: Option<&'a str>,
    /// Oids of tablespaces with trees of their own.
    pub(super) tablespaces: &'a [u32],
}

/// Lists a tree of the backup; `rules` for the data directory, none for a tablespace; `packed` if files may be compressed.
pub(super) fn list(
    tree: usize,
    root: &Directory,
    from: &Path,
    rules: Option<&DataRules<'_>>,
    packed: bool,
) -> Result<Listing, RestoreError> {
    let mut listing = Listing::default();
    let mut pending = vec![PathBuf::new()];
    while let Some(parent) = pending.pop() {
        let read = || {
            if parent.as_os_str().is_empty() { root.entries() } else { root.directory(&parent)?.entries() }
        };
        for entry in read().map_err(|source| RestoreError::read(&from.join(&parent), source))? {
            let path = parent.join(&entry.name);
            if rules.is_some_and(|rules| rules.leave_out(&path, entry.kind)) {
                continue;
            }
            match entry.kind {
                Kind::Directory => {
                    pending.push(path.clone());
                    listing.directories.push(DirectoryJob { path, mode: directory_mode(entry.mode) });
                }
                Kind::File if rules.is_some() && path == Path::new(PG_CONTROL) => {
                    listing.control = Some(file_mode(entry.mode));
                }
                Kind::File => {
                    let mode = file_mode(entry.mode);
                    let job = match original_path(&path).filter(|_| packed) {
                        None => FileJob { tree, path, size: entry.size, mode, packed: None },
                        Some((own, compression)) => {
                            let size = open_packed(root, &own, compression).and_then(|file| file.size());
                            let size =
                                size.map_err(|source| RestoreError::read(&from.join(&path), source))?;
                            FileJob { tree, path: own, size, mode, packed: Some(compression) }
                        }
                    };
                    listing.files.push(job);
                }
                Kind::Link if rules.is_some() && path.starts_with("pg_tblspc") => {
                    return Err(RestoreError::UnknownTablespace { path: from.join(path) });
                }
                Kind::Link | Kind::Other => listing.strangers.push(from.join(path)),
            }
        }
    }
    Ok(listing)
}

impl DataRules<'_> {
    pub(super) fn leave_out(&self, path: &Path, kind: Kind) -> bool {
        let Some(text) = path.to_str() else { return false };
        let top = text.split('/').next().unwrap_or_default();
        let inside = top.len() < text.len();
        if inside && EMPTIED.contains(&top) {
            return true;
        }
        if let Some(oid) = text.strip_prefix("pg_tblspc/") {
            return self.tablespaces.iter().any(|known| known.to_string() == oid);
        }
        if inside {
            return false;
        }
        // A linked pg_wal (or log directory) becomes an ordinary one.
        let linked = kind == Kind::Link && EMPTIED.contains(&top);
        linked
            || LEFT_BEHIND.contains(&top)
            || self.rewritten.contains(&top)
            || self.staged.is_some_and(|staged| staged == top)
    }
}

/// PostgreSQL starts with 0700 and with 0750, the sign of a cluster made with `initdb -g`; anything else is no wish of
/// the original.
pub(super) const fn directory_mode(mode: u32) -> u32 {
    if mode == 0o750 { 0o750 } else { 0o700 }
}

pub(super) const fn file_mode(mode: u32) -> u32 {
    (mode & 0o777) | 0o600
}
