//! Who is at work on a server, as the locks tell, and the lock files that nobody needs any more.

use std::io;
use std::path::{Path, PathBuf};

use crate::lock::{LockError, remove_if_free};
use crate::store::CatalogError;
use crate::{Catalog, ServerLock, Status, Task};

/// The name that Barman has for the task of copying one backup from another backup host.
const SYNC_BACKUP: &str = "sync-backup";

/// A process at work on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What it does, by Barman's word for it.
    pub task: &'static str,
    /// Its lock.
    pub lock: Task,
    /// Its process id, when its lock file says.
    pub pid: Option<u32>,
}

impl Catalog {
    /// The processes at work on this server. Creates and writes nothing.
    ///
    /// # Errors
    /// When a lock file is there and can't be asked, or the lock directory or the catalogue can't be read.
    pub fn processes(&self) -> Result<Vec<Process>, CatalogError> {
        let mut processes = Vec::new();
        let mut look = |task: &'static str, lock: Task| -> Result<(), LockError> {
            if let Some(holder) = ServerLock::holder(self.layout(), lock)? {
                processes.push(Process { task, lock, pid: holder.pid });
            }
            Ok(())
        };
        look("receive-wal", Task::ReceiveWal)?;
        for id in self.synced_backups()? {
            look(SYNC_BACKUP, Task::SyncBackup(id))?;
        }
        look("backup", Task::Backup)?;
        for info in self.backups()?.iter() {
            // A backup whose hook scripts have their turn has this lock alone.
            if matches!(info.status, Status::Empty | Status::Started) {
                look("backup", Task::OneBackup(info.id))?;
            }
        }
        look("cron", Task::Cron)?;
        // An archiver of ours has the first from its beginning to its end, the second only while it moves files.
        look("archive-wal", Task::Archiver)?;
        look("archive-wal", Task::ArchiveWal)?;
        look("sync-wal", Task::SyncWal)?;
        // A backup may have both of its locks, and so may an archiver.
        let mut seen = Vec::new();
        processes.retain(|process| {
            let new = process.pid.is_none() || !seen.contains(&(process.task, process.pid));
            seen.push((process.task, process.pid));
            new
        });
        Ok(processes)
    }

    /// The backups that have a lock file for being copied from another backup host.
    fn synced_backups(&self) -> Result<Vec<crate::BackupId>, CatalogError> {
        let (prefix, suffix) = (format!(".{}-", self.layout().server), format!("-{SYNC_BACKUP}.lock"));
        let directory = &self.layout().lock_directory;
        let names =
            lock_files(directory).map_err(|source| LockError::Io { path: directory.clone(), source })?;
        let id = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix(&prefix)?.strip_suffix(&suffix)?.parse().ok()
        };
        let mut ids: Vec<_> = names.into_iter().filter_map(id).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Removes the lock files of a directory that nobody holds. Returns those that were removed.
///
/// # Errors
/// When the directory can't be read. A file that can't be removed stays.
pub fn remove_free_locks(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for path in lock_files(directory)? {
        // Anything else of that name is none of ours.
        let is_file = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        if is_file && remove_if_free(&path) {
            removed.push(path);
        }
    }
    removed.sort_unstable();
    Ok(removed)
}

/// The files `.*.lock` of a directory; none when it does not exist.
fn lock_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".") && name.ends_with(b".lock") {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    fn home() -> (tempfile::TempDir, Catalog) {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", &home.path().join("pg"), home.path()));
        catalog.create_directories().unwrap();
        (home, catalog)
    }

    fn tasks(catalog: &Catalog) -> Vec<&'static str> {
        catalog.processes().unwrap().into_iter().map(|process| process.task).collect()
    }

    #[test]
    fn who_holds_a_lock_is_at_work() {
        let (_home, catalog) = home();
        assert_eq!(tasks(&catalog), [""; 0]);
        let acquire = |task| ServerLock::try_acquire(catalog.layout(), task).unwrap();
        let id = "20260102T030405".parse().unwrap();
        let locks = [Task::Cron, Task::ReceiveWal, Task::SyncBackup(id), Task::XlogDb].map(acquire);
        // Another server whose name begins alike.
        let other = Layout { server: "pg-x".to_owned(), ..catalog.layout().clone() };
        let _other = ServerLock::try_acquire(&other, Task::Backup).unwrap();
        assert_eq!(tasks(&catalog), ["receive-wal", "sync-backup", "cron"]);
        let pids = catalog.processes().unwrap();
        assert!(pids.iter().all(|process| process.pid == Some(std::process::id())));
        drop(locks);
        assert_eq!(tasks(&catalog), [""; 0]);
    }

    #[test]
    fn a_backup_in_its_hook_script_is_one_process() {
        let (_home, catalog) = home();
        let info = catalog.start_backup(&jiff::Zoned::now()).unwrap();
        let lock = ServerLock::try_acquire(catalog.layout(), Task::Backup).unwrap();
        let own = ServerLock::try_acquire(catalog.layout(), Task::OneBackup(info.id)).unwrap();
        assert_eq!(tasks(&catalog), ["backup"]);
        drop(lock);
        assert_eq!(tasks(&catalog), ["backup"]);
        drop(own);
        assert_eq!(tasks(&catalog), [""; 0]);
    }

    #[test]
    fn an_archiver_is_one_process_whether_it_reads_or_moves_files() {
        let (_home, catalog) = home();
        std::fs::create_dir_all(catalog.layout().private()).unwrap();
        let own = ServerLock::try_acquire(catalog.layout(), Task::Archiver).unwrap();
        assert_eq!(tasks(&catalog), ["archive-wal"]);
        let barmans = ServerLock::try_acquire(catalog.layout(), Task::ArchiveWal).unwrap();
        assert_eq!(tasks(&catalog), ["archive-wal"]);
        assert_eq!(catalog.processes().unwrap()[0].lock, Task::Archiver, "its end is this one's end");
        drop(own);
        assert_eq!(tasks(&catalog), ["archive-wal"]);
        drop(barmans);
        assert_eq!(tasks(&catalog), [""; 0]);
    }

    #[test]
    fn free_lock_files_go_and_held_ones_stay() {
        let (home, catalog) = home();
        drop(ServerLock::try_acquire(catalog.layout(), Task::Backup).unwrap());
        let held = ServerLock::try_acquire(catalog.layout(), Task::Cron).unwrap();
        std::fs::write(home.path().join("x.lock"), "").unwrap();
        std::fs::create_dir(home.path().join(".dir.lock")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", home.path().join(".link.lock")).unwrap();
        let removed = remove_free_locks(home.path()).unwrap();
        assert_eq!(removed, [home.path().join(".pg-backup.lock")]);
        assert!(held.path().exists() && home.path().join("x.lock").exists());
        assert!(home.path().join(".link.lock").is_symlink());
        assert!(remove_free_locks(&home.path().join("nowhere")).unwrap().is_empty());
    }
}
