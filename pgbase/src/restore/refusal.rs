//! Why a restore is refused before anything was touched.

use std::io;
use std::path::PathBuf;

use pgwal::{Lsn, PgTimestamp, SegmentName};

use super::wal::TimelineError;
use crate::recovery::{QuoteError, SettingsError, UnsupportedMajor};

/// The first transaction id that ordinary transactions get (`FirstNormalTransactionId`).
pub(super) const FIRST_NORMAL_XID: u32 = 3;

/// Why a restore can't be done as wished. Nothing has been touched.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A server too old.
    #[error(transparent)]
    Major(#[from] UnsupportedMajor),
    /// Recovery settings that no server could follow.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A path that can't be written into a command.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// A timeline that can't be followed.
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    /// A path that depends on the current directory.
    #[error("{path:?} is not an absolute path")]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// A tablespace that the backup doesn't have.
    #[error("the backup has no tablespace {name:?}; it has {}", list_or_none(known))]
    UnknownTablespace {
        /// The name given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A tablespace with two new locations.
    #[error("tablespace {name:?} is given two locations")]
    TwoLocations {
        /// Its name.
        name: String,
    },
    /// Two trees in one place.
    #[error("{first:?} and {second:?} would be restored into each other")]
    Overlap {
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A destination with something in it.
    #[error("the {what} {path:?} is not empty: it has {}", list_or_none(found))]
    NotEmpty {
        /// What was to go there.
        what: String,
        /// The directory.
        path: PathBuf,
        /// Some of what is in it, hidden files included.
        found: Vec<String>,
        /// Whether it was left by a restore that never ended.
        interrupted: bool,
    },
    /// A delta restore into a directory that has nothing to do with PostgreSQL.
    #[error(
        "the {what} {path:?} is not empty and nothing of PostgreSQL's, so it is not restored over: it has {}",
        list_or_none(found)
    )]
    NotPostgres {
        /// What was to go there.
        what: String,
        /// The directory.
        path: PathBuf,
        /// Some of what is in it, hidden files included.
        found: Vec<String>,
    },
    /// A destination that is no directory.
    #[error("the {what} {path:?} exists and is not a directory")]
    NotADirectory {
        /// What was to go there.
        what: String,
        /// The path.
        path: PathBuf,
    },
    /// A destination that can't be looked at.
    #[error("the {what} {path:?} can't be read")]
    Unreadable {
        /// What was to go there.
        what: String,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A time before the backup's end: the cluster isn't consistent yet then.
    #[error(
        "the target time {target} is earlier than the end of backup {id} ({end}), the first moment it can be \
         restored to"
    )]
    TimeBeforeEnd {
        /// The backup.
        id: String,
        /// The wish.
        target: PgTimestamp,
        /// When the backup ended.
        end: PgTimestamp,
    },
    /// A position before the backup's end.
    #[error(
        "the target LSN {target} is before the end of backup {id} ({end}), the first position it can be restored to"
    )]
    LsnBeforeEnd {
        /// The backup.
        id: String,
        /// The wish.
        target: Lsn,
        /// Where the backup ended.
        end: Lsn,
    },
    /// A transaction id that no transaction can have.
    #[error("transaction {xid} can't be a target: ids below {FIRST_NORMAL_XID} are PostgreSQL's own")]
    ReservedXid {
        /// The id.
        xid: u32,
    },
    /// WAL without which the backup can't become consistent.
    #[error(
        "WAL segment {missing} is not in the archive; backup {id} needs everything up to {last} to become consistent"
    )]
    MissingWal {
        /// The backup.
        id: String,
        /// The first missing segment.
        missing: SegmentName,
        /// The last one needed.
        last: SegmentName,
    },
    /// A settings file that isn't a plain name.
    #[error("{name:?} can't be a file of the data directory: expected a plain file name")]
    FileName {
        /// The name.
        name: String,
    },
}

fn list_or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
