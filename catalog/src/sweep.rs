//! Backups whose process is gone: their records say that they are being taken, and nobody is at it any more.
//!
//! Whoever takes a backup holds the server's backup lock until its last record is written, or at least the lock of that
//! one backup, while a hook script has its turn. So an unfinished record whose locks are free has failed; readers show it
//! so, and writers record it.

use std::time::Duration;

use crate::lock::{LockError, SharedLock};
use crate::store::CatalogError;
use crate::{BackupId, BackupInfo, Backups, Catalog, ServerLock, Status, Task};

impl Catalog {
    /// All backups as they are: those whose record says that they are being taken while nobody is at it any more are
    /// shown as failed. Writes nothing; [`sweep`](Self::sweep) does.
    ///
    /// # Errors
    /// As for [`backups`](Self::backups), and when a lock can't be asked.
    pub fn current(&self) -> Result<Backups, CatalogError> {
        let mut backups = self.backups()?;
        for abandoned in self.abandoned(&backups)? {
            backups.by_id.insert(abandoned.id, abandoned);
        }
        Ok(backups)
    }

    /// Records as failed the backups whose process is gone, under the server's backup lock. Which ones they were.
    ///
    /// # Errors
    /// When the catalogue can't be read or written. A lock in other hands is not an error: whoever has it is at work,
    /// and there will be a next time.
    pub fn sweep(&self) -> Result<Vec<BackupId>, CatalogError> {
        if self.abandoned(&self.backups()?)?.is_empty() {
            return Ok(Vec::new());
        }
        let lock = match ServerLock::try_acquire(self.layout(), Task::Backup) {
            Ok(lock) => lock,
            Err(LockError::Held { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        self.sweep_locked(&lock)
    }

    /// Like [`sweep`](Self::sweep), for who has the server's backup lock already, before it starts a backup of its own.
    ///
    /// # Errors
    /// When the catalogue can't be read or written.
    pub fn sweep_locked(&self, _backup_lock: &ServerLock) -> Result<Vec<BackupId>, CatalogError> {
        let mut swept = Vec::new();
        for mut info in self.backups()?.by_id.into_values().filter(|info| info.status.is_unfinished()) {
            if self.is_free(task_of(&info))? {
                mark_abandoned(&mut info);
                self.save(&info)?;
                swept.push(info.id);
            }
        }
        Ok(swept)
    }

    /// The backups that nobody is at work on though their records say so, as they should be recorded.
    fn abandoned(&self, backups: &Backups) -> Result<Vec<BackupInfo>, CatalogError> {
        let unfinished: Vec<&BackupInfo> =
            backups.iter().filter(|backup| backup.status.is_unfinished()).collect();
        let Some(newest) = unfinished.last().map(|backup| backup.id) else { return Ok(Vec::new()) };
        let backup_free = self.is_free(Task::Backup)?;
        let mut abandoned = Vec::new();
        for backup in unfinished {
            // A server has one backup at a time: the holder of the server's lock can only be at the newest.
            let holder_may_be_at_it = backup.status != Status::Syncing && !backup_free && backup.id == newest;
            if holder_may_be_at_it || !self.is_free(task_of(backup))? {
                continue;
            }
            // It may have ended between the reading of its record and the asking for its lock. Its last record is
            // written before the lock is let go, so what is read now is final.
            match self.read(backup.id) {
                Ok(mut info) if info.status.is_unfinished() => {
                    mark_abandoned(&mut info);
                    abandoned.push(info);
                }
                Ok(info) => abandoned.push(info),
                Err(CatalogError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(abandoned)
    }

    fn is_free(&self, task: Task) -> Result<bool, CatalogError> {
        match SharedLock::acquire_within(self.layout(), task, Duration::ZERO) {
            Ok(_) => Ok(true),
            Err(LockError::Held { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What keeps the lock of one unfinished backup.
fn task_of(info: &BackupInfo) -> Task {
    match info.status {
        Status::Syncing => Task::SyncBackup(info.id),
        _ => Task::OneBackup(info.id),
    }
}

fn mark_abandoned(info: &mut BackupInfo) {
    let action = if info.status == Status::Syncing { "copying the backup" } else { "taking the backup" };
    info.set_failed(action, "its process ended without finishing it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, backup_info};
    use std::fs;

    fn home() -> (tempfile::TempDir, Catalog) {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", &home.path().join("pg"), home.path()));
        catalog.create_directories().unwrap();
        (home, catalog)
    }

    fn record(catalog: &Catalog, id: &str, status: Status) {
        let info = BackupInfo { status, ..BackupInfo::new(id.parse().unwrap(), "pg") };
        fs::write(catalog.layout().backup_info(info.id), backup_info::render(&info).unwrap()).unwrap();
    }

    fn statuses(backups: &Backups) -> Vec<Status> {
        backups.iter().map(|backup| backup.status).collect()
    }

    #[test]
    fn a_killed_backup_is_shown_failed_and_swept_only_by_a_writer() {
        let (_home, catalog) = home();
        record(&catalog, "20260101T000000", Status::Done);
        record(&catalog, "20260102T000000", Status::Empty);
        record(&catalog, "20260103T000000", Status::Started);
        record(&catalog, "20260104T000000", Status::Syncing);
        let failed = [Status::Done, Status::Failed, Status::Failed, Status::Failed];
        let current = catalog.current().unwrap();
        assert_eq!(statuses(&current), failed);
        let error = current.iter().nth(2).unwrap().error.clone().unwrap();
        assert_eq!(error, "failure taking the backup (its process ended without finishing it)");
        let recorded = [Status::Done, Status::Empty, Status::Started, Status::Syncing];
        assert_eq!(statuses(&catalog.backups().unwrap()), recorded, "reading must not write");
        assert!(!catalog.layout().lock("backup").exists(), "reading must not write");
        assert_eq!(catalog.sweep().unwrap().len(), 3);
        assert_eq!(statuses(&catalog.backups().unwrap()), failed);
        assert_eq!(catalog.sweep().unwrap(), []);
    }

    #[test]
    fn a_running_backup_is_left_alone_but_not_the_dead_ones_before_it() {
        let (_home, catalog) = home();
        record(&catalog, "20260102T000000", Status::Started);
        record(&catalog, "20260103T000000", Status::Started);
        let lock = ServerLock::try_acquire(catalog.layout(), Task::Backup).unwrap();
        assert_eq!(statuses(&catalog.current().unwrap()), [Status::Failed, Status::Started]);
        assert_eq!(catalog.sweep().unwrap(), [], "the holder is at work");
        drop(lock);
        assert_eq!(statuses(&catalog.current().unwrap()), [Status::Failed, Status::Failed]);
    }
    #[test]
    fn a_backup_whose_own_lock_is_held_is_being_taken() {
        let (_home, catalog) = home();
        record(&catalog, "20260102T000000", Status::Empty);
        let id = "20260102T000000".parse().unwrap();
        let own = ServerLock::try_acquire(catalog.layout(), Task::OneBackup(id)).unwrap();
        assert_eq!(statuses(&catalog.current().unwrap()), [Status::Empty]);
        assert_eq!(catalog.sweep().unwrap(), []);
        let lock = ServerLock::try_acquire(catalog.layout(), Task::Backup).unwrap();
        assert_eq!(catalog.sweep_locked(&lock).unwrap(), []);
        drop(own);
        assert_eq!(catalog.sweep_locked(&lock).unwrap(), [id]);
    }
}
