//! The files of a backup, in few bytes each: a million of them take less than 64 MiB.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::checksum::Fork;
use crate::manifest::ChecksumAlgorithm;

use super::rules;

/// Most directories: more than a cluster could have databases and tablespaces.
const DIRECTORIES_MAX: usize = 4 << 20;
/// Most bytes of all names and paths together.
const NAME_BYTES_MAX: usize = 1 << 30;
/// Most bytes of all files together: an agent that tells of more lies, and no number overflows below.
pub(super) const TOTAL_BYTES_MAX: u64 = 1 << 50;

/// A directory of the backup.
#[derive(Debug)]
pub(super) struct Directory {
    /// Which tree it is in: 0 for the data directory, then the tablespaces.
    pub(super) tree: u16,
    /// Relative to its tree; empty for the tree itself.
    pub(super) path: PathBuf,
    /// Its permission bits.
    pub(super) mode: u32,
}

/// A file of the backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) size: u64,
    pub(super) modified_ns: i64,
    directory: u32,
    name_start: u32,
    pub(super) mode: u16,
    name_bytes: u8,
    pub(super) state: State,
}

/// How far a file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be copied.
    Listed,
    /// Copied, with its checksum.
    Copied,
    /// Not there any more, or not wanted.
    Gone,
}

/// More than can be kept, or a name that no file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server has more or larger files than a backup can hold, or files with impossible names")]
pub(super) struct Overflow;

/// All files, in the order in which they were found: those of a directory together.
#[derive(Debug)]
pub(super) struct FileList {
    pub(super) directories: Vec<Directory>,
    pub(super) rows: Vec<Row>,
    names: Vec<u8>,
    /// The bytes of the directories' paths.
    path_bytes: usize,
    /// The bytes of all files together.
    bytes: u64,
    checksums: Vec<u8>,
    algorithm: ChecksumAlgorithm,
}

impl FileList {
    pub(super) const fn new(algorithm: ChecksumAlgorithm) -> Self {
        FileList {
            directories: Vec::new(),
            rows: Vec::new(),
            names: Vec::new(),
            path_bytes: 0,
            bytes: 0,
            checksums: Vec::new(),
            algorithm,
        }
    }

    /// Adds a directory; those within it come later.
    pub(super) fn add_directory(&mut self, tree: u16, path: &Path, mode: u32) -> Result<(), Overflow> {
        self.path_bytes += path.as_os_str().len();
        if self.directories.len() >= DIRECTORIES_MAX || self.path_bytes + self.names.len() > NAME_BYTES_MAX {
            return Err(Overflow);
        }
        self.directories.push(Directory { tree, path: path.to_owned(), mode });
        Ok(())
    }

    /// Adds a file of the directory with this index.
    pub(super) fn add_file(
        &mut self,
        directory: usize,
        name: &OsStr,
        size: u64,
        modified_ns: i64,
        mode: u32,
    ) -> Result<(), Overflow> {
        let bytes = self.bytes.checked_add(size).filter(|bytes| *bytes <= TOTAL_BYTES_MAX);
        self.bytes = bytes.ok_or(Overflow)?;
        let name_bytes = self.path_bytes + self.names.len() + name.len();
        if self.rows.len() >= crate::manifest::MAX_FILES || name_bytes > NAME_BYTES_MAX {
            return Err(Overflow);
        }
        let row = Row {
            size,
            modified_ns,
            directory: u32::try_from(directory).map_err(|_| Overflow)?,
            name_start: u32::try_from(self.names.len()).map_err(|_| Overflow)?,
            mode: (mode & 0o777) as u16,
            name_bytes: u8::try_from(name.len()).map_err(|_| Overflow)?,
            state: State::Listed,
        };
        self.names.extend_from_slice(name.as_bytes());
        self.rows.push(row);
        Ok(())
    }

    pub(super) fn name(&self, row: &Row) -> &OsStr {
        let start = row.name_start as usize;
        OsStr::from_bytes(&self.names[start..start + usize::from(row.name_bytes)])
    }

    pub(super) fn directory(&self, row: &Row) -> &Directory {
        &self.directories[row.directory as usize]
    }

    pub(super) const fn directory_index(row: &Row) -> u32 {
        row.directory
    }

    /// Relative to the file's tree.
    pub(super) fn path(&self, row: &Row) -> PathBuf {
        self.directory(row).path.join(self.name(row))
    }

    /// Drops the data of unlogged relations: a server makes them anew from their init forks.
    pub(super) fn drop_unlogged(&mut self) {
        let mut start = 0;
        while start < self.rows.len() {
            let directory = self.rows[start].directory;
            let length = self.rows[start..].iter().take_while(|row| row.directory == directory).count();
            let range = start..start + length;
            start += length;
            let place = &self.directories[directory as usize];
            let path = place.path.as_os_str().as_bytes();
            if place.tree == 0 && !path.starts_with(b"base/") {
                continue;
            }
            let relation =
                |list: &FileList, row: &Row| rules::relation(path, list.name(row).as_bytes(), place.tree > 0);
            let mut unlogged: Vec<u32> = self.rows[range.clone()]
                .iter()
                .filter_map(|row| relation(self, row).filter(|file| file.fork == Fork::Init))
                .map(|file| file.number)
                .collect();
            if unlogged.is_empty() {
                continue;
            }
            unlogged.sort_unstable();
            let gone: Vec<usize> = range
                .filter(|index| {
                    relation(self, &self.rows[*index]).is_some_and(|file| {
                        file.fork != Fork::Init && unlogged.binary_search(&file.number).is_ok()
                    })
                })
                .collect();
            gone.into_iter().for_each(|index| self.rows[index].state = State::Gone);
        }
    }

    /// Files that are there to be copied, and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        let wanted = self.rows.iter().filter(|row| row.state != State::Gone);
        wanted.fold((0, 0), |(files, bytes), row| (files + 1, bytes + row.size))
    }

    /// Somewhere to note what becomes of the files while they are copied.
    pub(super) fn begin_copy(&self) -> Outcomes {
        let checksum_bytes = self.algorithm.checksum_bytes();
        Outcomes {
            checksum_bytes,
            checksums: vec![0; self.rows.len() * checksum_bytes],
            states: self.rows.iter().map(|row| row.state).collect(),
            changed: Vec::new(),
        }
    }

    /// Takes over what became of them.
    pub(super) fn end_copy(&mut self, outcomes: Outcomes) {
        for (row, state) in self.rows.iter_mut().zip(outcomes.states) {
            row.state = state;
        }
        for (row, size, modified_ns) in outcomes.changed {
            if let Some(row) = self.rows.get_mut(row) {
                (row.size, row.modified_ns) = (size, modified_ns);
            }
        }
        self.checksums = outcomes.checksums;
    }

    /// Adds a file of the data directory that was copied after all others.
    pub(super) fn add_late(
        &mut self,
        directory: &Path,
        name: &OsStr,
        (size, modified_ns): (u64, i64),
        checksum: &[u8],
    ) -> Result<(), Overflow> {
        let known = self.directories.iter().position(|one| one.tree == 0 && one.path == directory);
        self.add_file(known.ok_or(Overflow)?, name, size, modified_ns, 0o600)?;
        if let Some(row) = self.rows.last_mut() {
            row.state = State::Copied;
        }
        self.checksums.extend_from_slice(checksum);
        Ok(())
    }

    /// A copied file's checksum.
    pub(super) fn checksum(&self, index: usize) -> &[u8] {
        let bytes = self.algorithm.checksum_bytes();
        &self.checksums[index * bytes..][..bytes]
    }
}

/// What became of each file, apart from the list, which many threads read meanwhile.
#[derive(Debug)]
pub(super) struct Outcomes {
    checksum_bytes: usize,
    checksums: Vec<u8>,
    states: Vec<State>,
    /// Files that are no longer as they were listed: their rows, sizes, and times.
    changed: Vec<(usize, u64, i64)>,
}

impl Outcomes {
    /// Notes what became of a file: its size, when it was changed last, and its checksum; `None` when it has vanished.
    pub(super) fn note(&mut self, list: &FileList, row: usize, outcome: Option<(u64, i64, &[u8])>) {
        let (Some(state), Some(listed)) = (self.states.get_mut(row), list.rows.get(row)) else { return };
        let Some((size, modified_ns, checksum)) = outcome else {
            *state = State::Gone;
            return;
        };
        *state = State::Copied;
        if (size, modified_ns) != (listed.size, listed.modified_ns) {
            self.changed.push((row, size, modified_ns));
        }
        let bytes = self.checksum_bytes;
        if checksum.len() == bytes {
            self.checksums[row * bytes..][..bytes].copy_from_slice(checksum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(directory: &str, tree: u16, names: &[&str]) -> FileList {
        let mut list = FileList::new(ChecksumAlgorithm::Crc32c);
        list.add_directory(tree, Path::new(directory), 0o700).unwrap();
        for name in names {
            list.add_file(0, OsStr::new(name), 1, 0, 0o600).unwrap();
        }
        list.drop_unlogged();
        list
    }

    fn kept(list: &FileList) -> Vec<&str> {
        let kept = list.rows.iter().filter(|row| row.state != State::Gone);
        kept.map(|row| list.name(row).to_str().unwrap()).collect()
    }

    #[test]
    fn unlogged_relations_are_reduced_to_their_init_forks() {
        let names = ["16384", "16384.1", "16384_fsm", "16384_init", "16385", "16386_vm", "PG_VERSION"];
        let rest = ["16384_init", "16385", "16386_vm", "PG_VERSION"];
        assert_eq!(kept(&list("base/5", 0, &names)), rest);
        assert_eq!(kept(&list("PG_15_202209061/5", 1, &names)), rest);
        assert_eq!(kept(&list("somewhere", 0, &names)).len(), names.len());
    }

    #[test]
    fn more_than_any_server_has_is_refused() {
        let mut list = list("base/5", 0, &[]);
        let mut add = |name: &str, size| list.add_file(0, OsStr::new(name), size, 0, 0o600);
        assert_eq!(add("1", TOTAL_BYTES_MAX), Ok(()));
        assert_eq!(add("2", 1), Err(Overflow));
        assert_eq!(add("3", u64::MAX), Err(Overflow));
        assert_eq!(add(&"x".repeat(256), 0), Err(Overflow));
        assert_eq!(list.totals(), (1, TOTAL_BYTES_MAX));
        let long = "x".repeat(4000);
        let added = (0..).take_while(|_| list.add_directory(0, Path::new(&long), 0o700).is_ok()).count();
        assert_eq!(added, (NAME_BYTES_MAX - "base/5".len() - 1) / long.len());
    }

    #[test]
    fn a_million_files_take_less_than_64_mib() {
        assert!(size_of::<Row>() <= 32);
        // Row, checksum, name as relations have them.
        let each = size_of::<Row>() + ChecksumAlgorithm::Crc32c.checksum_bytes() + "1234567_fsm".len();
        assert!(each * 1_000_000 < 48 << 20);
    }
}
