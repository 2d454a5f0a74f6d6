//! What can go wrong while a backup is unpacked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use pgwal::Lsn;
use pgwal::label::LabelError;

use super::CorruptPages;
use crate::manifest::{FileFault, ManifestError, TooManyFiles};
use crate::tar::TarError;

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The data directory.
    Data,
    /// The tablespace with this object id.
    Tablespace(u32),
}

impl From<Option<u32>> for Place {
    fn from(tablespace: Option<u32>) -> Self {
        tablespace.map_or(Place::Data, Place::Tablespace)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Data => f.write_str("the data directory"),
            Place::Tablespace(oid) => write!(f, "tablespace {oid}"),
        }
    }
}

/// A backup that can't be unpacked, or must not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A file system call failed.
    #[error("can't {action} '{}': {source}", path.display())]
    Io {
        /// What was tried, as a verb with what follows it.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something of that name is there already: a member sent twice, or a backup made before.
    #[error("'{}' exists already: the server sent it twice, or the destination isn't empty", path.display())]
    Exists {
        /// The path in the destination.
        path: PathBuf,
    },
    /// A file in a directory that was not sent, or that is a link.
    #[error("'{name}' is in a directory that the server did not send")]
    NoDirectory {
        /// The member's name.
        name: String,
    },
    /// A file in the manifest's place.
    #[error("the archive of the data directory has a file '{name}', which no server sends")]
    Reserved {
        /// The member's name.
        name: String,
    },
    /// The archive is not what PostgreSQL sends.
    #[error("the archive of {place} can't be trusted: {source}")]
    Tar {
        /// Which archive.
        place: Place,
        /// What is wrong with it.
        #[source]
        source: TarError,
    },
    /// An archive or link for a tablespace that was not announced.
    #[error("the server sent something for tablespace {oid}, which it had not announced")]
    UnknownTablespace {
        /// Its object id.
        oid: u32,
    },
    /// An archive announced or begun twice.
    #[error("the server sent {place} twice")]
    RepeatedArchive {
        /// Which archive.
        place: Place,
    },
    /// An archive that was announced but never came.
    #[error("the server never sent {place}")]
    MissingArchive {
        /// Which archive.
        place: Place,
    },
    /// A tablespace inside the data directory (`allow_in_place_tablespaces`, a developer option).
    #[error(
        "tablespace {oid} lies within the data directory ('{location}'): such tablespaces can't be backed up"
    )]
    InPlaceTablespace {
        /// Its object id.
        oid: u32,
        /// Its location.
        location: String,
    },
    /// A link in the archive of a tablespace.
    #[error("the archive of {place} has a link to tablespace {oid}: only the data directory has such links")]
    MisplacedLink {
        /// Which archive.
        place: Place,
        /// The tablespace.
        oid: u32,
    },
    /// A link that points elsewhere than announced.
    #[error("the link of tablespace {oid} points at '{target}', but the server had announced '{location}'")]
    LinkTarget {
        /// The tablespace.
        oid: u32,
        /// Where the link points.
        target: String,
        /// Where it should.
        location: String,
    },
    /// More files than are accepted.
    #[error(transparent)]
    TooManyFiles(#[from] TooManyFiles),
    /// The stream ended, or went on, out of order.
    #[error("the server's backup ended before it was complete")]
    Incomplete,
    /// No manifest was sent.
    #[error("the server sent no backup manifest")]
    NoManifest,
    /// The manifest can't be used.
    #[error(transparent)]
    Manifest(ManifestError),
    /// Files differ from the manifest.
    #[error(
        "{fault_count} differences between the files received and the backup manifest; first: {}",
        first(faults)
    )]
    ManifestMismatch {
        /// The first differences.
        faults: Vec<FileFault>,
        /// How many there are.
        fault_count: u64,
    },
    /// Pages with wrong checksums.
    #[error("{0}")]
    CorruptPages(CorruptPages),
    /// No `backup_label` was sent.
    #[error("the server sent no backup_label")]
    NoLabel,
    /// The `backup_label` can't be used.
    #[error(transparent)]
    Label(LabelError),
    /// The `backup_label` is of another backup.
    #[error("backup_label says that the backup starts at {label}, the server had announced {announced}")]
    LabelStart {
        /// By the label.
        label: Lsn,
        /// By the server.
        announced: Lsn,
    },
}

impl UnpackError {
    /// Whether the destination is full (or the quota used up): it helps to make room and try again.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, UnpackError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        UnpackError::Io { action, path: path.to_owned(), source: source.into() }
    }
}

fn first(faults: &[FileFault]) -> String {
    faults.first().map(ToString::to_string).unwrap_or_default()
}
