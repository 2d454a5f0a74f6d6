//! The pages of a whole cluster at rest, against their checksums.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use pgwal::Lsn;

use super::{BadPage, PageGeometry, RelationFile, check_page};
use crate::pool;

/// How much of a file is read at a time, in bytes: it stays in the processor's cache until it is checked.
const READ_BYTES: usize = 256 << 10;
/// How much of a file one thread checks before another may go on with the rest, in bytes: a table can be most of a cluster.
const RANGE_BYTES: u64 = 32 << 20;

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckedCluster {
    /// Files of relations.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A part of a file.
struct Range {
    path: PathBuf,
    relation: RelationFile,
    start: u64,
    bytes: u64,
}

/// Checks every page of a cluster that no server runs on, tablespaces included, by at most `threads` threads, and tells
/// `report` of wrong ones, with the file's path below the data directory. For clusters with data checksums.
///
/// # Errors
/// When a file or directory can't be read.
pub fn check_cluster(
    data: &Path,
    geometry: PageGeometry,
    threads: usize,
    report: impl FnMut(&Path, BadPage) + Send,
) -> io::Result<CheckedCluster> {
    let mut checked = CheckedCluster::default();
    let mut ranges = Vec::new();
    for (path, relation) in relation_files(data)? {
        let bytes = path.metadata()?.len();
        checked.files += 1;
        checked.bytes += bytes;
        for start in (0..bytes).step_by(RANGE_BYTES as usize) {
            let bytes = RANGE_BYTES.min(bytes - start);
            ranges.push(Range { path: path.clone(), relation, start, bytes });
        }
    }
    let report = Mutex::new(report);
    let tell = |path: &Path, page: BadPage| {
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report(path.strip_prefix(data).unwrap_or(path), page);
    };
    // A multiple of every page size.
    let buffer = || vec![0; READ_BYTES];
    pool::run(&ranges, threads, buffer, |buffer, range, stop| {
        check_range(range, geometry, buffer, stop, |page| tell(&range.path, page))
    })?;
    Ok(checked)
}

/// All files with pages, in order of their directories.
fn relation_files(data: &Path) -> io::Result<Vec<(PathBuf, RelationFile)>> {
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
    let mut files = Vec::new();
    for (directory, within, in_tablespace) in directories {
        for name in names(&directory)? {
            let relation = RelationFile::parse(within.join(&name).as_os_str().as_bytes(), in_tablespace);
            files.extend(relation.map(|relation| (directory.join(&name), relation)));
        }
    }
    Ok(files)
}

fn check_range(
    range: &Range,
    geometry: PageGeometry,
    buffer: &mut [u8],
    stop: &AtomicBool,
    mut report: impl FnMut(BadPage),
) -> io::Result<()> {
    let file = File::open(&range.path)?;
    let page_bytes = geometry.block_bytes();
    let first = range.relation.segment.wrapping_mul(geometry.blocks_per_segment());
    let mut done = 0;
    while done < range.bytes && !stop.load(Ordering::Relaxed) {
        let take = usize::try_from(range.bytes - done).map_or(buffer.len(), |left| left.min(buffer.len()));
        let piece = &mut buffer[..take];
        file.read_exact_at(piece, range.start + done)?;
        let block = (range.start + done) / page_bytes as u64;
        // A page that is not whole is none.
        for (index, page) in piece.chunks_exact(page_bytes).enumerate() {
            let block = first.wrapping_add((block + index as u64) as u32);
            // All that was written since the backup counts as well.
            if let Some(bad) = check_page(page, block, Lsn::MAX) {
                report(bad);
            }
        }
        done += take as u64;
    }
    Ok(())
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
            let checked = check_cluster(data.path(), PageGeometry::DEFAULT, 3, |path, bad| {
                found.push((path.to_owned(), bad.block));
            });
            found.sort();
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
        let mut dirs = dirs.to_vec();
        dirs.sort_unstable();
        let dirs = dirs.into_iter();
        assert_eq!(found, dirs.map(|directory| (Path::new(directory).join("16384"), 1)).collect::<Vec<_>>());
    }

    #[test]
    fn pages_are_numbered_on_across_ranges_files_and_page_sizes() {
        for page_bytes in [1024, 8192, 32_768] {
            let geometry = PageGeometry::new(page_bytes, 5000).unwrap();
            let data = tempfile::tempdir().unwrap();
            let directory = data.path().join("base/5");
            for directory in ["global", "pg_tblspc", "base/5"] {
                fs::create_dir_all(data.path().join(directory)).unwrap();
            }
            // The second file of its relation, sparse but for the page at the end of the first range and those after.
            let per_range = (RANGE_BYTES / page_bytes as u64) as u32;
            let file = File::create(directory.join("16384.1")).unwrap();
            for (index, good) in [(per_range - 1, false), (per_range, true), (per_range + 1, false)] {
                let mut page = page(0);
                page.resize(page_bytes, 0);
                let checksum = page_checksum(&page, 5000 + index + u32::from(!good));
                page[8..10].copy_from_slice(&checksum.to_le_bytes());
                file.write_all_at(&page, u64::from(index) * page_bytes as u64).unwrap();
            }
            // Half a page is none.
            let end = u64::from(per_range + 2) * page_bytes as u64;
            file.write_all_at(&vec![7; page_bytes / 2], end).unwrap();
            let mut found = Vec::new();
            let checked = check_cluster(data.path(), geometry, 2, |_, bad| found.push(bad.block)).unwrap();
            found.sort_unstable();
            assert_eq!(found, [5000 + per_range - 1, 5000 + per_range + 1]);
            assert_eq!(checked, CheckedCluster { files: 1, bytes: end + page_bytes as u64 / 2 });
        }
    }
}
