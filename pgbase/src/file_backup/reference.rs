//! Earlier copies of the same cluster: what has not changed since need not be read, or sent, again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::copy::Directory;
use crate::manifest::{self, ChecksumAlgorithm, MANIFEST_FILE};
use crate::packed::StoredFile;

use super::list::FileList;

/// How a file of an earlier copy gets into the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// As a copy: sharing blocks where the file system can.
    Copy,
    /// As another name of the same file; as a copy where that is not possible.
    Link,
    /// Not at all without looking at the server's file: only what differs is sent.
    Compare,
}

/// An earlier copy.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Its copy of the data directory.
    pub data: PathBuf,
    /// Its copies of the tablespaces, by object id.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Files that were changed last before this moment, in nanoseconds since 1970, and are as large and as old as
    /// the server's, are the same. Younger ones may have been changed again within the same tick of the clock, or while
    /// they were copied. That is when that copy began.
    pub horizon_ns: i64,
    /// How its files are used.
    pub reuse: Reuse,
    /// Whether its files may be compressed one by one.
    pub packed: bool,
}

/// An earlier copy, opened.
#[derive(Debug)]
pub(super) struct OpenReference {
    /// By the number of the tree; `None` when it has none.
    pub(super) trees: Vec<Option<Directory>>,
    pub(super) horizon_ns: i64,
    pub(super) reuse: Reuse,
    packed: bool,
    manifest: PathBuf,
}

/// What an earlier copy has of a file.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) file: StoredFile,
    /// Its own size in bytes, however it is stored.
    pub(super) size: u64,
    pub(super) sameness: Sameness,
}

/// Whether a file of an earlier copy is the server's, by its size and age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sameness {
    /// It is: nobody needs to look at the server's.
    Sure,
    /// It seems so, but may have changed within the same tick of the clock: its content tells.
    Likely,
    /// It is not.
    No,
}

impl OpenReference {
    /// Opens what there is of a reference; `oids` are the tablespaces of the trees after the first.
    pub(super) fn open(reference: &Reference, oids: &[u32]) -> Self {
        let mut trees = vec![Directory::open(&reference.data).ok()];
        for oid in oids {
            let known = reference.tablespaces.iter().find(|(known, _)| known == oid);
            trees.push(known.and_then(|(_, path)| Directory::open(path).ok()));
        }
        OpenReference {
            trees,
            horizon_ns: reference.horizon_ns,
            reuse: reference.reuse,
            packed: reference.packed,
            manifest: reference.data.join(MANIFEST_FILE),
        }
    }

    /// The directory of a tree, `None` when there is none.
    pub(super) fn directory(&self, tree: u16, path: &Path) -> Option<Directory> {
        let tree = self.trees.get(usize::from(tree))?.as_ref()?;
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        if here == Path::new(".") { tree.again().ok() } else { tree.directory(here).ok() }
    }

    /// What there is of a file, by its size and age on the server.
    pub(super) fn look(
        &self,
        directory: &Directory,
        name: &OsStr,
        size: u64,
        modified_ns: i64,
    ) -> Option<Earlier> {
        let file = match self.packed {
            true => StoredFile::open(directory, Path::new(name)).ok()?,
            false => StoredFile::Plain(directory.read(Path::new(name)).ok()?),
        };
        let stat = file.file().metadata().ok()?;
        let own_size = file.size().ok()?;
        let theirs = stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec());
        // Some tools keep whole seconds only.
        let second = 1_000_000_000;
        let as_old = theirs == modified_ns
            || (theirs % second == 0 && theirs.div_euclid(second) == modified_ns.div_euclid(second));
        let is_old = self.reuse != Reuse::Compare && modified_ns < self.horizon_ns.saturating_sub(second);
        let sameness = match own_size == size && as_old {
            true if is_old => Sameness::Sure,
            true => Sameness::Likely,
            false => Sameness::No,
        };
        Some(Earlier { file, size: own_size, sameness })
    }

    /// Takes checksums of files that are as large as the server's from the earlier copy's manifest. One that is
    /// missing or damaged gives none.
    pub(super) fn checksums(
        &self,
        list: &FileList,
        algorithm: ChecksumAlgorithm,
        prefixes: &[String],
    ) -> Known {
        let bytes = algorithm.checksum_bytes();
        let mut known = Known { bytes, present: Vec::new(), checksums: Vec::new() };
        if algorithm == ChecksumAlgorithm::None || self.reuse == Reuse::Compare {
            return known;
        }
        let Ok(file) = File::open(&self.manifest) else { return known };
        let mut directories: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
        let mut start = 0;
        while let Some(row) = list.rows.get(start) {
            let index = FileList::directory_index(row);
            let length =
                list.rows[start..].iter().take_while(|row| FileList::directory_index(row) == index).count();
            let directory = list.directory(row);
            let prefix = prefixes.get(usize::from(directory.tree)).map_or("", String::as_str);
            let mut path = prefix.as_bytes().to_vec();
            path.extend_from_slice(directory.path.as_os_str().as_bytes());
            while path.ends_with(b"/") {
                path.pop();
            }
            directories.insert(path, (start, length));
            start += length;
        }
        let mut present = vec![false; list.rows.len()];
        let mut checksums = vec![0; list.rows.len() * bytes];
        let read = manifest::read(io::BufReader::new(file), |listed| {
            let (directory, name) = match listed.path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => (&listed.path[..slash], &listed.path[slash + 1..]),
                None => (&b""[..], &listed.path[..]),
            };
            let Some((start, length)) = directories.get(directory).copied() else { return };
            let rows_here = &list.rows[start..start + length];
            let found = rows_here.binary_search_by(|row| list.name(row).as_bytes().cmp(name));
            if let (Ok(at), Some(checksum)) = (found, listed.checksum)
                && rows_here[at].size == listed.bytes
                && checksum.algorithm == algorithm
                && checksum.bytes.len() == bytes
            {
                present[start + at] = true;
                checksums[(start + at) * bytes..][..bytes].copy_from_slice(&checksum.bytes);
            }
        });
        // A manifest is to be believed only when all of it was read.
        if read.is_ok() {
            (known.present, known.checksums) = (present, checksums);
        }
        known
    }
}

/// Checksums that an earlier copy's manifest has, by the numbers of rows.
#[derive(Debug)]
pub(super) struct Known {
    bytes: usize,
    present: Vec<bool>,
    checksums: Vec<u8>,
}

impl Known {
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        self.present.get(row).filter(|present| **present)?;
        self.checksums.get(row * self.bytes..(row + 1) * self.bytes)
    }
}

/// Gives a file of an earlier copy another name; false where that is not possible.
pub(super) fn link(from: &Directory, to: &Directory, name: &OsStr) -> bool {
    rustix::fs::linkat(from.as_fd(), name, to.as_fd(), name, rustix::fs::AtFlags::empty()).is_ok()
}
