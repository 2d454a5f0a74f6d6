//! What fails on the way to stable storage.

use std::path::PathBuf;
use std::{fmt, io};

/// What was being done when storage failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Creating a file.
    Create,
    /// Writing into it.
    Write,
    /// Setting its mode or times.
    Metadata,
    /// Bringing its content to stable storage.
    Sync,
    /// Giving it its final name.
    Rename,
    /// Giving it a second name.
    Link,
    /// Removing a name.
    Remove,
    /// Creating a directory.
    CreateDirectory,
    /// Removing a directory.
    RemoveDirectory,
    /// Bringing a directory's names to stable storage.
    SyncDirectory,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Create => "create",
            Step::Write => "write",
            Step::Metadata => "set the mode and times of",
            Step::Sync => "fsync",
            Step::Rename => "rename",
            Step::Link => "link",
            Step::Remove => "remove",
            Step::CreateDirectory => "create the directory",
            Step::RemoveDirectory => "remove the directory",
            Step::SyncDirectory => "fsync the directory",
        })
    }
}

/// A failed step on the way to stable storage.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} '{}': {source}", path.display())]
pub struct DurableError {
    /// What was being done.
    pub step: Step,
    /// To which file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl DurableError {
    /// The kind of the underlying error: `AlreadyExists` and `NotFound` are the ones worth a branch.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// The result of a durable operation.
pub type Result<T> = std::result::Result<T, DurableError>;
