//! What can be wrong with a backup's files, in `pg_verifybackup`'s words.

use std::fmt;
use std::io;

/// Most faults kept one by one; the rest are only counted.
pub const MAX_FAULTS: usize = 10_000;

/// Something wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, relative to the data directory; what is not UTF-8 in it is replaced.
    pub path: String,
    /// What.
    pub kind: FaultKind,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Listed, but not there.
    Missing,
    /// There, but not listed.
    Unlisted,
    /// Neither file nor directory.
    NotAFile,
    /// Of another size.
    Size {
        /// Bytes on disk.
        found: u64,
        /// Bytes by the manifest.
        listed: u64,
    },
    /// Of other contents.
    Checksum,
    /// Listed more than once.
    Duplicate,
    /// It can't be read.
    Unreadable {
        /// Why not.
        why: String,
    },
    /// The control file of another cluster.
    SystemId {
        /// What the file says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
}

impl Fault {
    pub(super) fn new(path: &[u8], kind: FaultKind) -> Self {
        Fault { path: String::from_utf8_lossy(path).into_owned(), kind }
    }
}

impl FaultKind {
    pub(super) fn unreadable(error: &io::Error) -> Self {
        FaultKind::Unreadable { why: error.to_string() }
    }

    /// A name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            FaultKind::Missing => "missing",
            FaultKind::Unlisted => "unlisted",
            FaultKind::NotAFile => "not_a_file",
            FaultKind::Size { .. } => "size",
            FaultKind::Checksum => "checksum",
            FaultKind::Duplicate => "duplicate",
            FaultKind::Unreadable { .. } => "unreadable",
            FaultKind::SystemId { .. } => "system_id",
        }
    }
}

impl fmt::Display for Fault {
    /// Line breaks and the like in a name are escaped: a fault is one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.kind {
            FaultKind::Missing => write!(f, "{path:?} is present in the manifest but not on disk"),
            FaultKind::Unlisted => write!(f, "{path:?} is present on disk but not in the manifest"),
            FaultKind::NotAFile => write!(f, "{path:?} is not a regular file or directory"),
            FaultKind::Size { found, listed } => {
                write!(f, "{path:?} has size {found} on disk but size {listed} in the manifest")
            }
            FaultKind::Checksum => write!(f, "checksum mismatch for file {path:?}"),
            FaultKind::Duplicate => write!(f, "duplicate path name in backup manifest: {path:?}"),
            FaultKind::Unreadable { why } => write!(f, "{path:?} can't be read: {why}"),
            FaultKind::SystemId { found, expected } => write!(
                f,
                "system identifier {expected} was expected, but the control file {path:?} has {found}"
            ),
        }
    }
}

/// All that is wrong, in the order of paths once it is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    kept: Vec<Fault>,
    more: u64,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        if self.kept.len() < MAX_FAULTS {
            self.kept.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn sort(&mut self) {
        self.kept.sort();
    }

    /// At most [`MAX_FAULTS`] of them.
    pub fn kept(&self) -> &[Fault] {
        &self.kept
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.kept.len() as u64 + self.more
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
