//! The files of a stored backup: found in its trees, and hashed by several threads.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::copy::{Directory, Kind};
use crate::manifest::{ChecksumAlgorithm, MANIFEST_FILE};
use crate::packed::{StoredFile, original_path};
use crate::pool;

/// How much of a file is read at a time, in bytes.
const READ_BYTES: usize = 512 << 10;
/// The deepest directory that is looked into; PostgreSQL's own trees are five deep.
const DEPTH_MAX: usize = 32;

/// What is on disk beside what a manifest lists, as `pg_verifybackup` has it: the manifest itself, WAL, and what a
/// restore changes.
pub(crate) const NOT_LISTED: [&str; 5] =
    [MANIFEST_FILE, "pg_wal", "postgresql.auto.conf", "recovery.signal", "standby.signal"];

/// Where the files of a stored backup are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupTrees {
    /// The copy of the data directory.
    pub data: PathBuf,
    /// The copies of tablespaces, by object id.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Whether files may be compressed one by one (`docs/formats.md`, "Compressed files"): names and sizes are then what
    /// they are without.
    pub packed: bool,
}

/// Who is told how far a scan is, from several threads at a time.
pub trait ScanObserver: Sync {
    /// How much there is to read.
    fn total(&self, files: u64, bytes: u64);

    /// Some more of it was read.
    fn read(&self, bytes: u64);

    /// Whether to give up.
    fn cancelled(&self) -> bool {
        false
    }
}

/// For those who don't want to know.
impl ScanObserver for () {
    fn total(&self, _: u64, _: u64) {}
    fn read(&self, _: u64) {}
}

/// Whether a path is left out of manifests.
pub(crate) fn is_not_listed(path: &[u8]) -> bool {
    NOT_LISTED.iter().any(|name| {
        path.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// The trees of a backup, open.
#[derive(Debug)]
pub(crate) struct Trees {
    trees: Vec<Tree>,
    packed: bool,
}

#[derive(Debug)]
struct Tree {
    directory: Directory,
    /// What manifests put before the paths of this tree.
    prefix: Vec<u8>,
}

/// A name found in a tree that is no directory.
#[derive(Debug)]
pub(crate) struct Found {
    /// As in a manifest: relative to the data directory.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    /// When it was last modified, in seconds since 1970.
    pub(crate) modified: i64,
}

/// A file to hash.
#[derive(Debug)]
pub(crate) struct HashJob {
    /// As in a manifest.
    pub(crate) path: Vec<u8>,
    pub(crate) bytes: u64,
    pub(crate) algorithm: ChecksumAlgorithm,
    /// For the caller to know it by.
    pub(crate) tag: usize,
}

/// What came of hashing a file: how long it is and its checksum, or why it can't be read.
pub(crate) type Hashed = io::Result<(u64, Vec<u8>)>;

impl Trees {
    /// Opens all trees.
    ///
    /// # Errors
    /// The path that can't be opened, and why.
    pub(crate) fn open(trees: &BackupTrees) -> Result<Self, (PathBuf, io::Error)> {
        let open = |path: &Path| Directory::open(path).map_err(|error| (path.to_owned(), error));
        let mut opened = vec![Tree { directory: open(&trees.data)?, prefix: Vec::new() }];
        for (oid, path) in &trees.tablespaces {
            let prefix = format!("pg_tblspc/{oid}/").into_bytes();
            opened.push(Tree { directory: open(path)?, prefix });
        }
        Ok(Trees { trees: opened, packed: trees.packed })
    }

    /// The tree that a manifest's path is in, and its path there.
    pub(crate) fn place<'a>(&self, path: &'a [u8]) -> Option<(&Directory, &'a Path)> {
        // The data directory has the empty prefix and comes first: the last match is the right one.
        let tree = self.trees.iter().rev().find(|tree| path.starts_with(&tree.prefix))?;
        Some((&tree.directory, Path::new(OsStr::from_bytes(&path[tree.prefix.len()..]))))
    }

    /// Opens an ordinary file by a manifest's path.
    pub(crate) fn read(&self, path: &[u8]) -> io::Result<StoredFile> {
        let (directory, path) = self.place(path).ok_or(io::ErrorKind::NotFound)?;
        match self.packed {
            true => StoredFile::open(directory, path),
            false => directory.read(path).map(StoredFile::Plain),
        }
    }

    /// Tells `each` of everything in all trees that is no directory and not left out of manifests, and `unreadable` of
    /// directories and compressed files that can't be read.
    pub(crate) fn walk(&self, mut each: impl FnMut(Found), mut unreadable: impl FnMut(Vec<u8>, io::Error)) {
        let links: Vec<&[u8]> = self.trees.iter().filter_map(|tree| tree.prefix.strip_suffix(b"/")).collect();
        for tree in &self.trees {
            let mut pending = vec![(PathBuf::new(), 0_usize)];
            while let Some((parent, depth)) = pending.pop() {
                let full = |name: &Path| [&tree.prefix, name.as_os_str().as_bytes()].concat();
                let entries = if depth == 0 {
                    tree.directory.entries()
                } else if depth > DEPTH_MAX {
                    Err(io::Error::other("nested too deeply"))
                } else {
                    tree.directory.directory(&parent).and_then(|directory| directory.entries())
                };
                let entries = match entries {
                    Ok(entries) => entries,
                    Err(error) => {
                        unreadable(full(&parent), error);
                        continue;
                    }
                };
                for entry in entries {
                    let name = parent.join(&entry.name);
                    let path = full(&name);
                    if is_not_listed(&path) || links.contains(&&path[..]) {
                        continue;
                    }
                    let (kind, modified) = (entry.kind, entry.modified);
                    match original_path(&name).filter(|_| self.packed && kind == Kind::File) {
                        _ if kind == Kind::Directory => pending.push((name, depth + 1)),
                        None => each(Found { path, kind, bytes: entry.size, modified }),
                        Some((own, _)) => {
                            let path = full(&own);
                            match self.read(&path).and_then(|file| file.size()) {
                                Ok(bytes) => each(Found { path, kind, bytes, modified }),
                                Err(error) => unreadable(path, error),
                            }
                        }
                    }
                }
            }
        }
    }

    /// Hashes files by several threads, the largest first, and gives each result to `done` from the thread that has it.
    ///
    /// # Errors
    /// Only when the observer cancels: what can't be read is a result.
    pub(crate) fn hash(
        &self,
        mut jobs: Vec<HashJob>,
        threads: usize,
        observer: &dyn ScanObserver,
        done: impl Fn(&HashJob, Hashed) + Sync,
    ) -> Result<(), Cancelled> {
        observer.total(jobs.len() as u64, jobs.iter().map(|job| job.bytes).sum());
        jobs.sort_by_key(|job| std::cmp::Reverse(job.bytes));
        pool::run(
            &jobs,
            threads,
            || vec![0; READ_BYTES],
            |buffer, job, stop| {
                let hashed = self.hash_one(job, buffer, observer, stop);
                if observer.cancelled() {
                    return Err(Cancelled);
                }
                done(job, hashed);
                Ok(())
            },
        )
    }

    fn hash_one(
        &self,
        job: &HashJob,
        buffer: &mut [u8],
        observer: &dyn ScanObserver,
        stop: &AtomicBool,
    ) -> Hashed {
        let mut file = self.read(&job.path)?;
        let (mut hasher, mut bytes) = (job.algorithm.hasher(), 0);
        // One that is longer than it was has been told from the right one by then.
        while bytes <= job.bytes {
            let read = match file.read(buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&buffer[..read]);
            bytes += read as u64;
            observer.read(read as u64);
            if stop.load(Ordering::Relaxed) || observer.cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        let mut checksum = Vec::with_capacity(job.algorithm.checksum_bytes());
        hasher.finish_into(&mut checksum);
        Ok((bytes, checksum))
    }
}

/// The observer asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cancelled;
