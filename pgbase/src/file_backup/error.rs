//! What can go wrong while a cluster's files are copied.

use std::io;
use std::path::{Path, PathBuf};

use barkeep_transport::host::HostError;
use pgwal::label::LabelError;

use crate::manifest::ManifestError;

/// A backup that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileBackupError {
    /// The host that has the files, or the way to it, failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A file of the cluster can't be read.
    #[error("can't read '{}' of the server: {source}", path.display())]
    Read {
        /// The file, relative to its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the backup can't be written.
    #[error("can't write '{}': {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory that was named has no cluster in it.
    #[error("'{}' has no global/pg_control: it is not the data directory", path.display())]
    NoControlFile {
        /// The directory.
        path: PathBuf,
    },
    /// A tablespace that can't be backed up this way.
    #[error(
        "tablespace {oid} lies within the data directory ('{location}'): such tablespaces can't be backed up"
    )]
    InPlaceTablespace {
        /// Its object id.
        oid: u32,
        /// Its location.
        location: String,
    },
    /// More or larger files, or longer names, than a file system has.
    #[error("the server has more or larger files than a backup can hold, or files with impossible names")]
    TooMany,
    /// The `backup_label` can't be used.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// The manifest can't be made or made durable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It can't be made durable.
    #[error("{0}")]
    Durable(String),
    /// The observer asked for it.
    #[error("the backup was interrupted")]
    Cancelled,
}

impl FileBackupError {
    /// Whether another try may do better, since only the connection was lost.
    pub const fn may_pass(&self) -> bool {
        matches!(self, FileBackupError::Host(error) if error.is_lost())
    }

    /// Whether the destination is full (or the quota used up).
    pub fn is_disk_full(&self) -> bool {
        matches!(self, FileBackupError::Write { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        FileBackupError::Write { path: path.to_owned(), source }
    }

    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        FileBackupError::Read { path: path.to_owned(), source }
    }
}
