//! Locks between processes: flock(2) on `.<server>-<what>.lock`, the files and the calls that Barman uses, so that
//! the two exclude each other; and some of barkeep's own, which Barman never sees.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{BackupId, Layout};

/// How long a lock file may take to settle, in tries, when another process keeps removing it.
const REPLACED_TRIES: u32 = 64;
/// Pause between tries when a lock is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long a free lock may look taken because somebody is asking about it (see [`ServerLock::holder`]).
const PROBE_PATIENCE: Duration = Duration::from_millis(100);
/// How much of a lock file is read for the holder's process id, in bytes.
const PID_BYTES_MAX: u64 = 32;

/// What a lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Taking a backup, or deleting one by hand.
    Backup,
    /// Periodic maintenance.
    Cron,
    /// Moving WAL into the archive.
    ArchiveWal,
    /// Reading and compressing WAL that is to be moved there. Barkeep's own, in its side folder: Barman has no such lock.
    Archiver,
    /// Receiving WAL.
    ReceiveWal,
    /// Reading or changing the list of archived files.
    XlogDb,
    /// Copying WAL from another backup host.
    SyncWal,
    /// Changing or deleting one backup.
    OneBackup(BackupId),
    /// Copying one backup from another backup host.
    SyncBackup(BackupId),
}

impl Task {
    /// The middle of the lock file's name.
    pub fn name(self) -> String {
        match self {
            Task::Backup => "backup".to_owned(),
            Task::Cron => "cron".to_owned(),
            Task::ArchiveWal => "archive-wal".to_owned(),
            Task::Archiver => "archiver".to_owned(),
            Task::ReceiveWal => "receive-wal".to_owned(),
            Task::XlogDb => "xlogdb".to_owned(),
            Task::SyncWal => "sync-wal".to_owned(),
            Task::OneBackup(id) => id.to_string(),
            Task::SyncBackup(id) => format!("{id}-sync-backup"),
        }
    }

    /// The lock file.
    pub fn path(self, layout: &Layout) -> PathBuf {
        let name = self.name();
        match self {
            Task::Archiver => layout.private().join(format!("{name}.lock")),
            _ => layout.lock(&name),
        }
    }
}

/// A lock that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("another process{} holds the lock '{}'", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder, when the file says.
        pid: Option<u32>,
    },
    /// The lock file can't be used.
    #[error("cannot lock '{}': {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A lock held by this process until it is dropped. The file stays, as Barman leaves it.
#[derive(Debug)]
pub struct ServerLock {
    file: File,
    path: PathBuf,
}

/// Who has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, when the lock file says.
    pub pid: Option<u32>,
}

impl ServerLock {
    /// Takes the lock, or fails at once (after a tenth of a second, in which a mere question would have passed).
    ///
    /// # Errors
    /// [`LockError::Held`] when somebody else has it; [`LockError::Io`] when the file can't be used.
    pub fn try_acquire(layout: &Layout, task: Task) -> Result<Self, LockError> {
        Self::acquire_within(layout, task, PROBE_PATIENCE)
    }

    /// Takes the lock, waiting for it as long as `patience`.
    ///
    /// # Errors
    /// As for [`try_acquire`](Self::try_acquire).
    pub fn acquire_within(layout: &Layout, task: Task, patience: Duration) -> Result<Self, LockError> {
        Self::acquire_path_within(&task.path(layout), patience)
    }

    /// Takes the lock of this file, waiting for it as long as `patience`.
    ///
    /// # Errors
    /// As for [`try_acquire`](Self::try_acquire).
    pub fn acquire_path_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::acquire_path(path) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
                outcome => return outcome,
            }
        }
    }

    /// Who has the lock now; `None` when nobody has.
    ///
    /// Creates and writes nothing. While the question is asked, the lock looks taken to others for a moment.
    ///
    /// # Errors
    /// When the lock file is there and can't be asked.
    pub fn holder(layout: &Layout, task: Task) -> Result<Option<Holder>, LockError> {
        let path = task.path(layout);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(Holder { pid: read_pid(&mut file) })),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Lets the lock go and removes its file, when what it was about does not exist any more.
    pub fn remove(self) {
        // Whoever has opened the file meanwhile finds out that it is gone (see `acquire_path`). A file that stays is
        // only litter.
        let _ = std::fs::remove_file(&self.path);
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn acquire_path(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        for _ in 0..REPLACED_TRIES {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { path: path.to_owned(), pid: read_pid(&mut file) });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Barman's cron removes lock files that are free. If this one was removed after it was opened, the lock
            // is on a file that nobody else will ever find.
            if is_still_at(&file, path).map_err(failed)? {
                write_pid(&mut file).map_err(failed)?;
                return Ok(ServerLock { file, path: path.to_owned() });
            }
        }
        Err(failed(io::Error::other("the lock file is being removed again and again")))
    }
}

/// Removes a lock file that nobody holds. Whether it did.
pub(crate) fn remove_if_free(path: &Path) -> bool {
    match ServerLock::acquire_path(path) {
        Ok(lock) => {
            lock.remove();
            true
        }
        Err(_) => false,
    }
}

/// A lock that many readers may hold at once, and that keeps writers out while they do.
#[derive(Debug)]
pub struct SharedLock {
    _file: File,
}

impl SharedLock {
    /// Takes the lock for reading, waiting for a writer as long as `patience`. `None` when there is no lock file, hence
    /// no writer: nothing is created.
    ///
    /// # Errors
    /// [`LockError::Held`] when a writer still has it; [`LockError::Io`] when the file can't be used.
    pub fn acquire_within(
        layout: &Layout,
        task: Task,
        patience: Duration,
    ) -> Result<Option<Self>, LockError> {
        let path = task.path(layout);
        let deadline = Instant::now() + patience;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LockError::Io { path, source }),
        };
        loop {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Some(SharedLock { _file: file })),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(POLL_INTERVAL)
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { pid: read_pid(&mut file), path });
                }
                Err(TryLockError::Error(source)) => return Err(LockError::Io { path, source }),
            }
        }
    }
}

impl Drop for ServerLock {
    fn drop(&mut self) {
        // Closing the file would do; this also releases it when a child has inherited the description.
        let _ = self.file.unlock();
    }
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok(ours.dev() == there.dev() && ours.ino() == there.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn layout() -> (tempfile::TempDir, Layout) {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new("pg15", &home.path().join("pg15"), home.path());
        (home, layout)
    }

    #[test]
    fn the_file_is_barmans() {
        let (home, layout) = layout();
        let lock = ServerLock::try_acquire(&layout, Task::Backup).unwrap();
        let path = home.path().join(".pg15-backup.lock");
        assert_eq!(lock.path(), path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(lock);
        assert!(path.exists());
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time_and_says_by_whom() {
        let (_home, layout) = layout();
        assert_eq!(ServerLock::holder(&layout, Task::Cron).unwrap(), None);
        let lock = ServerLock::try_acquire(&layout, Task::Cron).unwrap();
        let pid = Some(std::process::id());
        assert_eq!(ServerLock::holder(&layout, Task::Cron).unwrap(), Some(Holder { pid }));
        match ServerLock::try_acquire(&layout, Task::Cron).unwrap_err() {
            LockError::Held { pid: found, .. } => assert_eq!(found, pid),
            other => panic!("{other}"),
        }
        // Another task's lock is another lock.
        ServerLock::try_acquire(&layout, Task::Backup).unwrap();
        drop(lock);
        assert_eq!(ServerLock::holder(&layout, Task::Cron).unwrap(), None);
        ServerLock::try_acquire(&layout, Task::Cron).unwrap();
    }

    #[test]
    fn waiting_ends_when_the_holder_lets_go() {
        let (_home, layout) = layout();
        let lock = ServerLock::try_acquire(&layout, Task::XlogDb).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                ServerLock::acquire_within(&layout, Task::XlogDb, Duration::from_secs(60)).map(drop)
            });
            std::thread::sleep(Duration::from_millis(30));
            drop(lock);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn readers_share_and_wait_for_writers() {
        let (_home, layout) = layout();
        let read = || SharedLock::acquire_within(&layout, Task::XlogDb, Duration::ZERO);
        assert!(read().unwrap().is_none(), "no lock file, and none is made");
        let writer = ServerLock::try_acquire(&layout, Task::XlogDb).unwrap();
        assert!(matches!(read(), Err(LockError::Held { pid: Some(_), .. })));
        drop(writer);
        let (one, two) = (read().unwrap(), read().unwrap());
        assert!(one.is_some() && two.is_some());
        assert!(ServerLock::acquire_path(&layout.lock("xlogdb")).is_err());
    }

    #[test]
    fn a_removed_lock_file_is_not_trusted() {
        let (_home, layout) = layout();
        let path = layout.lock("cron");
        let first = ServerLock::acquire_path(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&first.file, &path).unwrap());
        // A new file of the same name is a new lock.
        ServerLock::acquire_path(&path).unwrap();
    }

    #[test]
    fn a_longer_pid_leaves_nothing_behind() {
        let (_home, layout) = layout();
        std::fs::write(layout.lock("cron"), "999999999999\n").unwrap();
        let lock = ServerLock::try_acquire(&layout, Task::Cron).unwrap();
        assert_eq!(std::fs::read_to_string(lock.path()).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_missing_lock_directory_is_named() {
        let (home, _) = layout();
        let layout = Layout::new("pg15", home.path(), &home.path().join("nowhere"));
        let error = ServerLock::try_acquire(&layout, Task::Cron).unwrap_err().to_string();
        assert!(error.contains("nowhere/.pg15-cron.lock"), "{error}");
    }
}
