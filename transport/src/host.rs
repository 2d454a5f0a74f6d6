//! The files of a machine: this one, or another one through an [agent](crate::agent).
//!
//! A [`Host`] opens directories and works beneath them: it lists trees, reads and hashes ranges of files, and changes
//! files in batches. Every path is relative to an open directory and is judged by the side that owns the files, so that
//! a wrong or hostile peer can at worst fail. All methods may be called by many threads at once.
//!
//! A trouble with one file is that file's own ([`io::Error`] in its place); a [`HostError`] ends the whole call.

mod beneath;
mod change;
mod files;
mod inspect;
mod local;
mod read;
mod walk;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

pub use inspect::{Inspection, Inspector, Inspectors, Reread};
pub use local::LocalHost;
pub use read::block_digest;

pub(crate) use beneath::check_relative;
pub(crate) use files::Files;
pub(crate) use read::Piece;

/// Most directories that may be open at a time.
pub const ROOTS_MAX: usize = 4096;
/// Longest path, in bytes: Linux's own limit.
pub const PATH_BYTES_MAX: usize = 4096;
/// Size of the pieces that a file is read in, in bytes. Every piece but the last of a range has this size.
pub const PIECE_BYTES: usize = 1 << 20;
/// Size of a block's digest, in bytes: SHA-256 cut in half, which nobody can make two different blocks agree on.
pub const DIGEST_BYTES: usize = 16;
/// Smallest and largest block that is hashed, in bytes.
pub const HASH_BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=PIECE_BYTES as u32;

/// Most blocks that one job may hash.
pub const HASH_BLOCKS_MAX: u64 = 32_768;

/// The digest of a block of a file.
pub type Digest = [u8; DIGEST_BYTES];

/// A directory that a [`Host`] has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub(crate) u32);

/// What a directory is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Listing and reading, links followed: they are the owner's own.
    Read,
    /// Reading and changing, no link followed.
    Change,
}

/// What a name in a tree stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that was not followed.
    Link,
    /// A socket, pipe or device.
    Other,
}

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the directory that is walked.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: Owner,
    /// How many names it has.
    pub links: u32,
    /// Where a link points; empty for anything else.
    pub target: PathBuf,
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

/// A range of a file to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadJob {
    /// The directory.
    pub root: Root,
    /// The file, relative to it.
    pub path: PathBuf,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long it is at most, in bytes; the file may end earlier.
    pub length: u64,
    /// What the caller has of this range already, when that is anything: blocks that are the same are not sent.
    pub known: Option<Known>,
}

/// Digests of what the caller has of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The size of a block in bytes, within [`HASH_BLOCK_BYTES`] and dividing [`PIECE_BYTES`].
    pub block_bytes: u32,
    /// One digest a block, from the beginning of the range; the last block may be shorter.
    pub digests: Vec<Digest>,
}

/// How files are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// An [`Inspector`] that looks at what is read, by its name, and what it is told.
    pub inspector: Option<(String, Vec<u8>)>,
}

/// What became of reading a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEnd {
    /// How many bytes were read: fewer than asked for when the file has ended.
    pub bytes: u64,
    /// When the file was changed last, in nanoseconds since 1970, as of opening it.
    pub modified_ns: i64,
    /// What the inspector found, in its own words; empty without one.
    pub findings: Vec<u8>,
}

/// Gets what is read, job by job and in order.
pub trait ReadSink {
    /// The next bytes of a job.
    ///
    /// # Errors
    /// What the caller can't go on after; it ends the reading of all jobs.
    fn data(&mut self, job: usize, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The next bytes of a job are what the caller said it [has](ReadJob::known).
    ///
    /// # Errors
    /// As for [`data`](Self::data).
    fn same(&mut self, job: usize, offset: u64, length: u64) -> io::Result<()> {
        let _ = (job, offset, length);
        Err(io::Error::other("nothing was said to be known"))
    }

    /// A job is done, or its file has an error of its own.
    ///
    /// # Errors
    /// As for [`data`](Self::data).
    fn end(&mut self, job: usize, outcome: io::Result<FileEnd>) -> io::Result<()>;
}

/// A range of a file to be hashed block by block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashJob {
    /// The directory.
    pub root: Root,
    /// The file, relative to it.
    pub path: PathBuf,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long it is at most, in bytes: no more than [`HASH_BLOCKS_MAX`] blocks.
    pub length: u64,
    /// The size of a block in bytes, within [`HASH_BLOCK_BYTES`].
    pub block_bytes: u32,
}

/// What a hashed range is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// How many bytes were there.
    pub bytes: u64,
    /// One digest a block, the last one of what there was of it.
    pub digests: Vec<Digest>,
}

/// One step of changing files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The directory, opened for [`Access::Change`].
    pub root: Root,
    /// What is changed, relative to it; `.` is the directory itself, for metadata and syncing.
    pub path: PathBuf,
    /// How.
    pub action: Action,
}

/// What is done to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Makes a directory that must not be there yet.
    CreateDirectory {
        /// Its permission bits.
        mode: u32,
    },
    /// Makes a file that must not be there yet.
    CreateFile {
        /// Its permission bits.
        mode: u32,
    },
    /// Writes into a file that is there.
    Write {
        /// From which byte on.
        offset: u64,
        /// The bytes, at most [`PIECE_BYTES`].
        data: Vec<u8>,
    },
    /// Cuts a file, or makes it longer with zeros.
    Truncate {
        /// Its size from now on, in bytes.
        size: u64,
    },
    /// Makes a symbolic link that must not be there yet.
    SymbolicLink {
        /// Where it points.
        target: PathBuf,
    },
    /// Makes another name for a file in the same directory tree.
    HardLink {
        /// The new name, which must not be there yet.
        to: PathBuf,
    },
    /// Moves it within the same directory tree, replacing a file of the new name.
    Rename {
        /// The new name.
        to: PathBuf,
    },
    /// Removes a file or a link.
    RemoveFile,
    /// Removes an empty directory.
    RemoveDirectory,
    /// Sets what is given.
    SetMetadata {
        /// The permission bits.
        mode: Option<u32>,
        /// The owner.
        owner: Option<Owner>,
        /// When it was changed last, in nanoseconds since 1970.
        modified_ns: Option<i64>,
    },
    /// Brings a file, or the names in a directory, to stable storage.
    Sync,
    /// Locks a file against everyone else who locks it, until this host is gone; `WouldBlock` if it is locked.
    Lock,
}

/// Trouble that ends a whole call.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The connection to the agent is gone, or nothing comes any more.
    #[error("the connection to the agent is lost: {0}")]
    Lost(String),
    /// The other side does not keep to the protocol.
    #[error("the other side breaks the agent's protocol: {0}")]
    Protocol(String),
    /// The host does not do this.
    #[error("refused: {0}")]
    Refused(String),
    /// A directory can't be opened or listed.
    #[error("can't {action} '{}': {source}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The caller did not take what it was given.
    #[error(transparent)]
    Sink(io::Error),
}

impl HostError {
    /// Whether the host itself is fine, but the way to it is not: another connection may do better.
    pub const fn is_lost(&self) -> bool {
        matches!(self, HostError::Lost(_))
    }
}

/// The files of a machine. See the [module](self).
pub trait Host: Debug + Send + Sync {
    /// Opens a directory to work beneath.
    ///
    /// # Errors
    /// When it can't be opened, or the host was not started for it.
    fn open(&self, path: &Path, access: Access) -> Result<Root, HostError>;

    /// Lists everything beneath `root`, directories before what is in them, the names of each in ascending order and
    /// once; what is in the directories `closed` is left out. A name that vanishes meanwhile is left out. In a directory
    /// opened for reading, links are followed and told as what they lead to; one that leads nowhere is told as a link.
    ///
    /// # Errors
    /// When a directory can't be listed, or `found` has an error.
    fn walk(
        &self,
        root: Root,
        closed: &[PathBuf],
        found: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), HostError>;

    /// Reads ranges of files, in order.
    ///
    /// # Errors
    /// When the connection or the sink fails. What fails for one file is told to the sink.
    fn read(&self, jobs: &[ReadJob], options: &ReadOptions, sink: &mut dyn ReadSink)
    -> Result<(), HostError>;

    /// Hashes ranges of files; one outcome a job.
    ///
    /// # Errors
    /// When the connection fails.
    fn hash(&self, jobs: &[HashJob]) -> Result<Vec<io::Result<Hashed>>, HostError>;

    /// Changes files, in order; one outcome a change. What fails keeps none of the others from being tried.
    ///
    /// # Errors
    /// When the connection fails. Then nobody knows how many of the changes were made.
    fn change(&self, changes: &[Change]) -> Result<Vec<io::Result<()>>, HostError>;

    /// Brings all that was written to the file system of `root` to stable storage.
    ///
    /// # Errors
    /// When the system reports that anything could not be written.
    fn sync(&self, root: Root) -> Result<(), HostError>;

    /// Bytes that may still be written to the file system of `root`.
    ///
    /// # Errors
    /// When the system can't tell.
    fn free_bytes(&self, root: Root) -> Result<u64, HostError>;
}
