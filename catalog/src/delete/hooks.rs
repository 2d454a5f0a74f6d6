//! Who is told of a deletion, and may stop it.

use std::path::Path;

use crate::xlogdb::WalEntry;
use crate::{BackupId, BackupInfo};

/// What is called around the removal of each backup and each WAL file, in Barman's order: `before_backup`, the backup's
/// files go, for each WAL file that goes with it `before_wal`, removal, `after_wal`, the backup's record goes,
/// `after_backup`. No lock on the list of archived files is held meanwhile.
///
/// A removal that was interrupted is gone through again, so a call may come twice.
pub trait DeletionHooks: Sync {
    /// Before the backup is marked and anything of it is removed.
    ///
    /// # Errors
    /// When it must not be deleted (now): nothing of it has been touched.
    fn before_backup(&self, backup: &DoomedBackup<'_>) -> Result<(), Stopped> {
        let _ = backup;
        Ok(())
    }

    /// After the backup and its record are gone, or after what `error` says went wrong.
    fn after_backup(&self, backup: &DoomedBackup<'_>, error: Option<&str>) {
        let _ = (backup, error);
    }

    /// Whether [`before_wal`](Self::before_wal) and [`after_wal`](Self::after_wal) do anything. If not, WAL is removed
    /// without asking file by file.
    fn about_wal(&self) -> bool {
        false
    }

    /// Before a file of the archive is removed; it is not in the archive's list any more.
    ///
    /// # Errors
    /// When the removal has to stop. This file and those after it stay, and are listed again.
    fn before_wal(&self, wal: &DoomedWal<'_>) -> Result<(), Stopped> {
        let _ = wal;
        Ok(())
    }

    /// After the file was removed, or could not be.
    fn after_wal(&self, wal: &DoomedWal<'_>, error: Option<&str>) {
        let _ = (wal, error);
    }
}

/// A backup that is about to go, or has just gone.
#[derive(Debug, Clone, Copy)]
pub struct DoomedBackup<'a> {
    /// What its record says, before the deletion changed it.
    pub info: &'a BackupInfo,
    /// The usable backup before it, by identifier.
    pub previous: Option<BackupId>,
    /// The usable backup after it.
    pub next: Option<BackupId>,
}

/// A file of the archive that is about to go, or has just gone.
#[derive(Debug, Clone, Copy)]
pub struct DoomedWal<'a> {
    /// What the list says of it.
    pub entry: &'a WalEntry,
    /// Where it is.
    pub path: &'a Path,
}

/// A hook that stopped a deletion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the deletion was stopped by {by}")]
pub struct Stopped {
    /// Which, in words that end the sentence "the deletion was stopped by ...".
    pub by: String,
}

/// Nobody is told, nothing is stopped.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl DeletionHooks for NoHooks {}
