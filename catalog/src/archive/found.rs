//! Whether a file is still what it was when it was read.
//!
//! Files are read without Barman's lock. Meanwhile Barman may archive them, move them to `errors/`, or bring another file
//! into the archive; who delivers to `incoming/` may replace one. So what a file was is noted before it is read, and
//! compared under the lock before anything is done: then all that was read in between was that file.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::place::Job;
use crate::Layout;

/// A file at one moment. Two of them are equal when it was neither replaced, nor written, nor moved in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// When it was last written, renamed or linked: this can't be set back, as the former can.
    changed: (i64, i64),
}

impl FileState {
    /// The file as it is now; `None` when it can't be looked at, which is most often because it is gone.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(FileState {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether `path` still names this file with this content, whatever other names it has got.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        FileState::of(path).is_some_and(|now| FileState { changed: self.changed, ..now } == *self)
    }
}

/// What there was before a file was read: the file itself, and the archive's file of that name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) source: Option<FileState>,
    pub(super) archived: Option<FileState>,
}

impl Found {
    pub(super) fn of(job: &Job, layout: &Layout) -> Self {
        Found { source: FileState::of(&job.source), archived: FileState::of(&layout.wal(&job.file)) }
    }

    /// What has become different since; `None` for nothing.
    pub(super) fn change(&self, job: &Job, layout: &Layout) -> Option<Change> {
        let now = Found::of(job, layout);
        if now.source != self.source {
            return Some(if now.source.is_none() { Change::Gone } else { Change::Rewritten });
        }
        (now.archived != self.archived).then_some(Change::Archive)
    }
}

/// What another process did with a file while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It took the file away. Most often it has archived it.
    Gone,
    /// It replaced the file, or wrote into it.
    Rewritten,
    /// It changed what the archive has under that name.
    Archive,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Gone => "another process took it away while it was read",
            Change::Rewritten => "another process wrote or replaced it while it was read",
            Change::Archive => "another process changed what the archive has of it while it was read",
        })
    }
}
