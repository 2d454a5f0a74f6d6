//! The pages of a whole cluster at rest, against their checksums.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgwal::Lsn;

use super::{BadPage, FileChecker, PageGeometry, RelationFile};

/// How much of a file is read at a time, in bytes.
const READ_BYTES: usize = 512 << 10;

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckedCluster {
    /// Files of relations.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Checks every page of a cluster that no server runs on, tablespaces included, and tells `report` of wrong ones, with the
/// file's path below the data directory. For clusters with data checksums.
///
/// # Errors
/// When a file or directory can't be read.
pub fn check_cluster(
    data: &Path,
    geometry: PageGeometry,
    mut report: impl FnMut(&Path, BadPage),
) -> io::Result<CheckedCluster> {
    let mut checked = CheckedCluster::default();
    let mut directories: Vec<(PathBuf, PathBuf, bool)> =
        vec![(data.join("global"), PathBuf::from("global"), false)];
    for name in names(&data.join("base"))? {
        let within = Path::new("base").join(&name);
        directories.push((data.join(&within), within, false));
    }
    for space in names(&data.join("pg_tblspc"))? {
        let root = data.join("pg_tblspc").join(&space);
        for version in names(&root)? {
            for database in names(&root.join(&version))? {
                let within = Path::new(&version).join(&database);
                directories.push((root.join(&within), within, true));
            }
        }
    }
    for (directory, within, in_tablespace) in directories {
        for name in names(&directory)? {
            let Some(relation) =
                RelationFile::parse(within.join(&name).as_os_str().as_bytes(), in_tablespace)
            else {
                continue;
            };
            let path = directory.join(&name);
            let shown = path.strip_prefix(data).unwrap_or(&path).to_owned();
            // All that was written since the backup counts as well.
            let mut checker = FileChecker::new(geometry, relation, Lsn::from_u64(u64::MAX));
            checked.files += 1;
            checked.bytes += check_file(&path, &mut checker, |page| report(&shown, page))?;
        }
    }
    Ok(checked)
}

fn check_file(path: &Path, checker: &mut FileChecker, mut report: impl FnMut(BadPage)) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut total = 0;
    loop {
        let mut piece = vec![0; READ_BYTES];
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(total);
        }
        piece.truncate(count);
        total += count as u64;
        checker.update(&Bytes::from(piece), &mut report);
    }
}

/// The names in a directory; none where it is something else.
fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::page_checksum;
    use super::*;

    fn page(block: u32) -> Vec<u8> {
        let mut page = vec![0; 8192];
        page[..8].copy_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0]);
        page[12..20].copy_from_slice(&[40, 0, 0, 32, 0, 32, 4, 32]);
        page[100] = 7;
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn wrong_pages_are_found_wherever_they_are() {
        let data = tempfile::tempdir().unwrap();
        let dirs = ["global", "base/5", "pg_tblspc/16400/PG_15_202209061/5"];
        for directory in dirs {
            fs::create_dir_all(data.path().join(directory)).unwrap();
            let pages = [page(0), page(1)].concat();
            fs::write(data.path().join(directory).join("16384"), pages).unwrap();
        }
        fs::write(data.path().join("base/5/PG_VERSION"), "15\n").unwrap();
        let check = || {
            let mut found = Vec::new();
            let checked = check_cluster(data.path(), PageGeometry::DEFAULT, |path, bad| {
                found.push((path.to_owned(), bad.block));
            });
            (checked.unwrap(), found)
        };
        assert_eq!(check(), (CheckedCluster { files: 3, bytes: 3 * 16384 }, Vec::new()));
        for directory in dirs {
            let path = data.path().join(directory).join("16384");
            let mut bytes = fs::read(&path).unwrap();
            bytes[8192 + 5000] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        let (_, found) = check();
        assert_eq!(found, dirs.map(|directory| (Path::new(directory).join("16384"), 1)).to_vec());
    }
}
