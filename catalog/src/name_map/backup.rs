//! Names from the files of a base backup: the pages of `pg_class`, `pg_namespace` and `pg_database`, and `pg_xact` for what
//! had committed.
//!
//! The files were copied while the server wrote to them. With the WAL from the backup's start on, which has the image of
//! every page that changed, they become right.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use pgwal::names::{Catalog, Change, Fate, Names};
use pgwal::rmgr::storage::tablespace_directory;
use pgwal::{BLOCK_BYTES, WalVersion};

/// Largest file of those that are read, in bytes: a file of a relation ends at 1 GiB.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most files of one catalogue.
const FILES_MAX: u32 = 16;
/// Transactions in a file of `pg_xact`: 32 pages, four in a byte.
const XACTS_PER_FILE: u32 = BLOCK_BYTES as u32 * 4 * 32;
/// How much is read at once, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Names, and what transactions that went on had done to them.
#[derive(Debug, Default)]
pub struct BackupNames {
    /// The names.
    pub names: Names,
    /// What is to be done when these transactions commit.
    pub open: Vec<(u32, Change)>,
}

/// Reads the names from a backup's data directory. What isn't there, or can't be read, is left out.
///
/// # Errors
/// When the directory is no data directory that can be read, or an incremental one.
pub fn names_of_backup(data: &Path, version: WalVersion) -> io::Result<BackupNames> {
    let status = TransactionStatus { data, files: HashMap::new() };
    let mut reader = Reader { status, version, found: BackupNames::default() };
    let shared_map = fs::read(data.join("global/pg_filenode.map"))?;
    reader.found.names.place_catalogs(0, &shared_map);
    let file = mapped(&reader.found.names, 0, Catalog::Database, &shared_map);
    reader.catalog(&data.join("global"), 0, Catalog::Database, file)?;
    for directory in database_directories(data, version)? {
        let Some(oid) = directory.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(map) = fs::read(directory.join("pg_filenode.map")) else { continue };
        reader.found.names.place_catalogs(oid, &map);
        let class_file = mapped(&reader.found.names, oid, Catalog::Class, &map);
        reader.catalog(&directory, oid, Catalog::Class, class_file)?;
        let own = reader.found.names.relation(oid, Catalog::Namespace.oid());
        let schema_file = own.map_or(Catalog::Namespace.oid(), |row| row.file);
        reader.catalog(&directory, oid, Catalog::Namespace, schema_file)?;
    }
    Ok(reader.found)
}

/// The directories of databases, also of those in tablespaces.
fn database_directories(data: &Path, version: WalVersion) -> io::Result<Vec<PathBuf>> {
    let list = |directory: &Path| -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut directories = list(&data.join("base"))?;
    for space in list(&data.join("pg_tblspc")).unwrap_or_default() {
        directories.extend(list(&space.join(tablespace_directory(version))).unwrap_or_default());
    }
    Ok(directories)
}

/// The file that a map gives to a catalogue.
fn mapped(names: &Names, database: u32, catalog: Catalog, map: &[u8]) -> u32 {
    let tablespace = 0;
    let numbers = map.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
    // Pairs of OID and file; the file is known to the names by now.
    let mut numbers = numbers.skip_while(|number| *number != catalog.oid());
    let file = numbers.nth(1).unwrap_or(catalog.oid());
    let is_known = names.catalog_in(pgwal::RelFile { tablespace, database, number: file }) == Some(catalog);
    if is_known { file } else { catalog.oid() }
}

struct Reader<'d> {
    status: TransactionStatus<'d>,
    version: WalVersion,
    found: BackupNames,
}

impl Reader<'_> {
    fn catalog(&mut self, directory: &Path, database: u32, catalog: Catalog, file: u32) -> io::Result<()> {
        if directory.join(format!("INCREMENTAL.{file}")).exists() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the backup is incremental"));
        }
        let mut block = 0;
        for part in 0..FILES_MAX {
            let suffix = if part == 0 { String::new() } else { format!(".{part}") };
            let Ok(pages) = File::open(directory.join(format!("{file}{suffix}"))) else { break };
            let mut pages = BufReader::with_capacity(BUFFER_BYTES, pages.take(FILE_BYTES_MAX));
            let mut page = [0; BLOCK_BYTES as usize];
            while read_page(&mut pages, &mut page)? {
                let (names, status) = (&mut self.found.names, &mut self.status);
                let open =
                    names.learn_page((database, catalog, block), &page, self.version, |xid| status.fate(xid));
                self.found.open.extend(open);
                block += 1;
            }
        }
        Ok(())
    }
}

/// The next page; not one that is cut off.
fn read_page(pages: &mut impl Read, page: &mut [u8]) -> io::Result<bool> {
    match pages.read_exact(page) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// `pg_xact`: two bits for each transaction, the lowest first (`access/transam/clog.c`).
struct TransactionStatus<'d> {
    data: &'d Path,
    /// The files read so far; empty where there is none.
    files: HashMap<u32, Vec<u8>>,
}

impl TransactionStatus<'_> {
    fn fate(&mut self, xid: u32) -> Fate {
        let (file, within) = (xid / XACTS_PER_FILE, xid % XACTS_PER_FILE);
        let data = self.data;
        let bytes = self.files.entry(file).or_insert_with(|| {
            let mut bytes = Vec::new();
            let path = data.join(format!("pg_xact/{file:04X}"));
            match File::open(path)
                .map(|open| open.take(u64::from(XACTS_PER_FILE / 4)).read_to_end(&mut bytes))
            {
                Ok(Ok(_)) => bytes,
                _ => Vec::new(),
            }
        });
        match bytes.get(within as usize / 4).map(|byte| byte >> (within % 4 * 2) & 3) {
            Some(0) => Fate::Open,
            Some(1) => Fate::Committed,
            Some(2) => Fate::Aborted,
            // A subtransaction whose parent's fate counts, or nothing known.
            _ => Fate::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_two_bits_each() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_xact")).unwrap();
        fs::write(data.path().join("pg_xact/0000"), [0b11_10_01_00]).unwrap();
        let mut status = TransactionStatus { data: data.path(), files: HashMap::new() };
        let fates = [0, 1, 2, 3, 4, u32::MAX].map(|xid| status.fate(xid));
        let unknown = Fate::Unknown;
        assert_eq!(fates, [Fate::Open, Fate::Committed, Fate::Aborted, unknown, unknown, unknown]);
    }
}
