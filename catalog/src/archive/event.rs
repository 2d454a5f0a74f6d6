//! What a run is told, and what it tells.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use barkeep_transport::durable::DurableError;
use pgwal::WalFile;

use super::Origin;
use super::found::Change;
use super::hooks::HookStop;
use crate::inspect::Soundness;
use crate::lock::LockError;
use crate::xlogdb::{WalEntry, XlogDbError};

/// What is done with segments that are not sound (`wal_verify`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Everything is archived; segments are indexed, and not judged.
    Off,
    /// What PostgreSQL would replay is archived, with a warning if it is not sound; the rest goes to `errors/`.
    #[default]
    Warn,
    /// What is not sound goes to `errors/`.
    Reject,
}

impl Verify {
    /// Reads a configuration value.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Verify::Off),
            "warn" => Some(Verify::Warn),
            "reject" => Some(Verify::Reject),
            _ => None,
        }
    }

    /// Whether a segment is let into the archive.
    pub const fn admits(self, soundness: Soundness) -> bool {
        match self {
            Verify::Off => true,
            Verify::Warn => soundness.replays(),
            Verify::Reject => soundness.is_fine(),
        }
    }
}

/// Something that happened on the way, in order.
#[derive(Debug)]
pub enum ArchiveEvent {
    /// Files of this origin come next.
    Origin(Origin),
    /// A file is in the archive and in the list, for good.
    Archived(WalEntry),
    /// A segment that was archived just now is not sound, though PostgreSQL would replay it.
    Doubtful {
        /// The segment.
        file: WalFile,
        /// How sound it is.
        soundness: Soundness,
        /// What is wrong with it.
        note: String,
    },
    /// A damaged segment of the archive was replaced by the sound one that was archived just now.
    Healed {
        /// The segment.
        file: WalFile,
        /// Where the damaged one is now.
        moved_to: PathBuf,
    },
    /// The store of indexes can't be written. The archive is none the worse for it.
    NotIndexed(String),
    /// The archive had the file already, with the same content; the source is removed.
    AlreadyArchived(WalFile),
    /// A file that can't be archived was moved to `errors/`.
    Rejected {
        /// Its name.
        name: OsString,
        /// Where it is now.
        moved_to: PathBuf,
        /// Why.
        reason: Rejection,
    },
    /// A file was left where it is: it is no whole segment, or can't be read.
    Left {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process was at work on a file, or on the archive's file of that name, while it was read. Nothing was done
    /// with it: what is there of it is for the next run.
    Overtaken {
        /// The file.
        file: WalFile,
        /// What the other process did.
        change: Change,
    },
}

/// Why a file can't be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The archive has another file of that name. What the difference is.
    Duplicate(String),
    /// It is no WAL file.
    Unknown,
    /// It is damaged, or not sound where only sound WAL is wanted. What is wrong with it.
    Damaged(String),
    /// It is WAL of another cluster.
    Foreign(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::Duplicate(difference) => {
                write!(f, "the archive has another file of that name: {difference}")
            }
            Rejection::Unknown => f.write_str("it is no WAL file"),
            Rejection::Damaged(note) | Rejection::Foreign(note) => f.write_str(note),
        }
    }
}

impl Rejection {
    /// The end of the file's name in `errors/`. Barman's `check` counts what it doesn't know among these as failures.
    pub(super) const fn suffix(&self) -> &'static str {
        match self {
            Rejection::Duplicate(_) => "duplicate",
            Rejection::Unknown => "unknown",
            Rejection::Damaged(_) => "damaged",
            Rejection::Foreign(_) => "foreign",
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchiveReport {
    /// Files archived.
    pub archived: usize,
    /// Files that the archive had already.
    pub already_archived: usize,
    /// Files moved to `errors/`.
    pub rejected: usize,
    /// Files left where they are.
    pub left: usize,
    /// Files that another process was at work on, with which nothing was done.
    pub overtaken: usize,
    /// Of the archived files, those that are not sound.
    pub doubtful: usize,
}

impl ArchiveReport {
    /// Whether somebody has to look at something.
    pub const fn needs_attention(&self) -> bool {
        self.rejected > 0 || self.left > 0
    }
}

/// Why a run ended early. What was archived until then stays archived; the rest is where it was.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Another process is archiving.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A directory can't be read.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive can't be written.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// The list can't be written.
    #[error(transparent)]
    List(#[from] XlogDbError),
    /// A hook lets nothing more be archived.
    #[error("a hook stopped archiving at {file}: {stop}")]
    Stopped {
        /// The first file that was not archived.
        file: WalFile,
        /// What the hook said.
        stop: HookStop,
    },
    /// A name for a file in `errors/` could not be found.
    #[error("cannot move '{}' to '{}': too many files of that name", path.display(), errors.display())]
    NoName {
        /// The file.
        path: PathBuf,
        /// The directory.
        errors: PathBuf,
    },
}
