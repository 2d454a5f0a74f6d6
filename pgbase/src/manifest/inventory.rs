//! What arrived, kept compactly until the manifest, which comes last, says what should have.

use std::fmt;
use std::io::Read;

use super::{Checksum, ChecksumAlgorithm, FileHasher, ManifestError, ManifestFacts, ManifestFile, read};

/// Most files in one backup. Each takes a few dozen bytes of memory besides its path.
pub const MAX_FILES: usize = 64 << 20;

/// Most faults listed one by one; the rest are only counted.
pub const MAX_FAULTS: usize = 100;

/// Paths, sizes and checksums of the files received.
///
/// ```
/// use pgbase::manifest::{ChecksumAlgorithm, Inventory};
///
/// let mut inventory = Inventory::new(ChecksumAlgorithm::Crc32c);
/// inventory.add([&b"PG_VERSION"[..]], 3, ChecksumAlgorithm::Crc32c.hasher())?;
/// assert_eq!(inventory.len(), 1);
/// # Ok::<(), pgbase::manifest::TooManyFiles>(())
/// ```
#[derive(Debug)]
pub struct Inventory {
    algorithm: ChecksumAlgorithm,
    /// For each file its path, directly followed by its checksum.
    texts: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    /// Where in `texts` the path starts.
    start: usize,
    path_bytes: u32,
    seen: bool,
    file_bytes: u64,
}

/// More than [`MAX_FILES`] files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent more than {MAX_FILES} files")]
pub struct TooManyFiles;

/// The outcome of comparing what arrived with the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What the manifest says besides its files.
    pub facts: ManifestFacts,
    /// The first differences, at most [`MAX_FAULTS`].
    pub faults: Vec<FileFault>,
    /// How many differences there are.
    pub fault_count: u64,
}

/// A difference between what arrived and the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFault {
    /// Listed, but not received.
    Missing {
        /// Its path.
        path: String,
    },
    /// Received, but not listed.
    Unlisted {
        /// Its path.
        path: String,
    },
    /// Of another size.
    Size {
        /// Its path.
        path: String,
        /// Bytes received.
        received: u64,
        /// Bytes by the manifest.
        listed: u64,
    },
    /// Of other contents.
    Contents {
        /// Its path.
        path: String,
    },
    /// Listed twice.
    Duplicate {
        /// Its path.
        path: String,
    },
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::Missing { path } => write!(f, "'{path}' is in the manifest but was not received"),
            FileFault::Unlisted { path } => write!(f, "'{path}' was received but is not in the manifest"),
            FileFault::Size { path, received, listed } => {
                write!(f, "'{path}' has {received} bytes, {listed} by the manifest")
            }
            FileFault::Contents { path } => write!(f, "'{path}' has another checksum than in the manifest"),
            FileFault::Duplicate { path } => write!(f, "'{path}' is listed twice in the manifest"),
        }
    }
}

impl Inventory {
    /// An empty inventory of files hashed by `algorithm`.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Inventory { algorithm, texts: Vec::new(), rows: Vec::new() }
    }

    /// Adds a file that was received whole; its path is the concatenation of `path`.
    ///
    /// # Errors
    /// When there are more than [`MAX_FILES`].
    pub fn add<'a>(
        &mut self,
        path: impl IntoIterator<Item = &'a [u8]>,
        file_bytes: u64,
        hasher: FileHasher,
    ) -> Result<(), TooManyFiles> {
        if self.rows.len() == MAX_FILES {
            return Err(TooManyFiles);
        }
        let start = self.texts.len();
        path.into_iter().for_each(|part| self.texts.extend_from_slice(part));
        let path_bytes = u32::try_from(self.texts.len() - start).map_err(|_| TooManyFiles)?;
        hasher.finish_into(&mut self.texts);
        self.rows.push(Row { start, path_bytes, seen: false, file_bytes });
        Ok(())
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Compares with the manifest read from `source`: every file both ways, sizes and checksums.
    ///
    /// WAL is left out, as `pg_verifybackup` does: it isn't part of a manifest.
    ///
    /// # Errors
    /// When the manifest itself can't be used. Differences are no error but the result.
    pub fn compare(mut self, source: impl Read) -> Result<Comparison, ManifestError> {
        let (texts, rows) = (&self.texts, &mut self.rows);
        let path = |row: &Row| &texts[row.start..row.start + row.path_bytes as usize];
        let mut order: Option<Vec<u32>> = None;
        let mut faults = Faults::default();
        let mut next = 0;
        let algorithm = self.algorithm;
        let facts = read(source, |listed| {
            // The server lists files in the order in which it sent them: usually there is nothing to search.
            let found = match rows.get(next) {
                Some(row) if path(row) == listed.path => Some(next),
                _ => {
                    let order = order
                        .get_or_insert_with(|| sorted(rows.len(), |a, b| path(&rows[a]).cmp(path(&rows[b]))));
                    order
                        .binary_search_by(|index| path(&rows[*index as usize]).cmp(&listed.path))
                        .ok()
                        .map(|at| order[at] as usize)
                }
            };
            let Some(index) = found else {
                return faults.add(FileFault::Missing { path: printable(&listed.path) });
            };
            next = index + 1;
            let row = &mut rows[index];
            if std::mem::replace(&mut row.seen, true) {
                return faults.add(FileFault::Duplicate { path: printable(&listed.path) });
            }
            let checksum_start = row.start + row.path_bytes as usize;
            let received = &texts[checksum_start..checksum_start + algorithm.checksum_bytes()];
            if let Some(fault) = difference(&listed, row.file_bytes, algorithm, received) {
                faults.add(fault);
            }
        })?;
        for row in rows.iter().filter(|row| !row.seen && !path(row).starts_with(b"pg_wal/")) {
            faults.add(FileFault::Unlisted { path: printable(path(row)) });
        }
        Ok(Comparison { facts, faults: faults.first, fault_count: faults.count })
    }
}

fn difference(
    listed: &ManifestFile,
    received_bytes: u64,
    algorithm: ChecksumAlgorithm,
    received: &[u8],
) -> Option<FileFault> {
    if received_bytes != listed.bytes {
        let path = printable(&listed.path);
        return Some(FileFault::Size { path, received: received_bytes, listed: listed.bytes });
    }
    // A file without the checksum that was asked for can't be told from a changed one.
    let same = match &listed.checksum {
        Some(Checksum { algorithm: by, bytes }) => *by == algorithm && bytes == received,
        None => algorithm == ChecksumAlgorithm::None,
    };
    (!same).then(|| FileFault::Contents { path: printable(&listed.path) })
}

/// Indices from 0 to `count`, which is below 2^32, in the order that `compare` gives.
fn sorted(count: usize, compare: impl Fn(usize, usize) -> std::cmp::Ordering) -> Vec<u32> {
    const _: () = assert!(MAX_FILES <= u32::MAX as usize);
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.sort_unstable_by(|a, b| compare(*a as usize, *b as usize));
    order
}

#[derive(Default)]
struct Faults {
    first: Vec<FileFault>,
    count: u64,
}

impl Faults {
    fn add(&mut self, fault: FileFault) {
        self.count += 1;
        if self.first.len() < MAX_FAULTS {
            self.first.push(fault);
        }
    }
}

fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
