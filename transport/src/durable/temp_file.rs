//! A file that is written under a temporary name and gets its own when it is whole.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{Advice, fadvise};

use super::{
    DurableError, Result, Step, TEMPORARY_MARK, parent, remove_unsynced, rename_no_replace, step, sync_dir,
};
use crate::faults;

/// Longest file name that a Linux directory holds, in bytes (`NAME_MAX`).
pub(super) const NAME_BYTES_MAX: usize = 255;
/// How many temporary names are tried before giving up on a directory.
const TEMPORARY_NAME_TRIES: u32 = 64;
/// Of how many new bytes in a file the system is told at once to begin writing them.
const WRITE_BACK_BYTES: u64 = 4 << 20;
/// The mode of files that are nobody else's business.
const PRIVATE_FILE: u32 = 0o600;

/// A file being written under a temporary name; [`publish`](TempFile::publish) gives it its own. Dropped before
/// that, it is removed.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("report");
/// use barkeep_transport::durable::TempFile;
/// use std::io::Write;
///
/// let mut file = TempFile::create(&path)?;
/// writeln!(file, "written bit by bit")?;
/// assert!(!path.exists());
/// file.publish()?;
/// assert_eq!(std::fs::read_to_string(&path)?, "written bit by bit\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TempFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    synced: bool,
    published: bool,
    /// Bytes written, and how many of them the system was asked to write back already.
    written: u64,
    written_back: u64,
}

impl TempFile {
    /// Starts a file that is to become `path`, for its owner alone.
    ///
    /// # Errors
    /// When the temporary file can't be created.
    pub fn create(path: &Path) -> Result<Self> {
        Self::create_mode(path, PRIVATE_FILE)
    }

    /// Like [`create`](TempFile::create) with a mode (less the umask).
    ///
    /// # Errors
    /// When the temporary file can't be created.
    pub fn create_mode(path: &Path, mode: u32) -> Result<Self> {
        let mut tries = 0;
        loop {
            let temporary = temporary_path(path);
            let open =
                || OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&temporary);
            match step(Step::Create, path, open) {
                Ok(file) => {
                    let path = path.to_owned();
                    // Says that somebody is at work; where locks are unknown, nobody takes it for abandoned.
                    let _ = file.try_lock();
                    return Ok(TempFile {
                        file,
                        temporary,
                        path,
                        synced: false,
                        published: false,
                        written: 0,
                        written_back: 0,
                    });
                }
                // Left by an earlier process that had our process id.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && tries < TEMPORARY_NAME_TRIES =>
                {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The path that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path that it has until then.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// The open file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Appends bytes, with an error that names the file (the [`Write`] implementation gives a bare one).
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|source| self.failed(Step::Write, source))
    }

    /// Wraps an error that happened while this file was being written, so that it names the file.
    pub fn failed(&self, step: Step, source: io::Error) -> DurableError {
        DurableError { step, path: self.path.clone(), source }
    }

    /// Sets the permission bits, and the modification time when given.
    ///
    /// # Errors
    /// When they can't be set.
    pub fn set_metadata(&mut self, mode: Option<u32>, modified: Option<SystemTime>) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.synced = false;
        let file = &self.file;
        step(Step::Metadata, &self.path, || {
            if let Some(mode) = mode {
                file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
            }
            modified.map_or(Ok(()), |modified| file.set_modified(modified))
        })
    }

    /// Lets the system begin to write a large file while it is filled, so that its fsync has less to wait for. That it need not
    /// keep the bytes makes it write those that are not on the disk yet, and keep them all the same.
    fn write_back(&mut self) {
        let length = self.written - self.written_back;
        if length >= WRITE_BACK_BYTES {
            // Advice: who does not take it loses nothing.
            let _ = fadvise(&self.file, self.written_back, NonZeroU64::new(length), Advice::DontNeed);
            self.written_back = self.written;
        }
    }

    /// Brings the content to stable storage. [`publish`](TempFile::publish) does it when this was not called; on
    /// its own it serves batches, where many files are synced before the first is published.
    ///
    /// # Errors
    /// When the fsync fails; the file can then never be published, since what the system dropped can't be known.
    pub fn sync(&mut self) -> Result<()> {
        if !self.synced {
            let file = &self.file;
            step(Step::Sync, &self.path, || file.sync_all())?;
            self.synced = true;
        }
        Ok(())
    }

    /// Syncs, renames to the final path replacing what is there, and fsyncs the directory.
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        step(Step::Rename, &self.path, || fs::rename(&self.temporary, &self.path))?;
        self.published = true;
        sync_dir(parent(&self.path))
    }

    /// Like [`publish`](TempFile::publish), but never replaces: fails with kind `AlreadyExists` when the final
    /// path exists.
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn publish_new(self) -> Result<()> {
        let directory = parent(&self.path).to_owned();
        self.publish_new_unsynced()?;
        sync_dir(&directory)
    }

    /// Like [`publish_new`](TempFile::publish_new), without the fsync of the directory: for batches, which end in
    /// one [`sync_dir`].
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn publish_new_unsynced(self) -> Result<()> {
        let path = self.path.clone();
        match self.try_publish_new_unsynced()? {
            None => Ok(()),
            Some(_) => {
                let source = io::ErrorKind::AlreadyExists.into();
                Err(DurableError { step: Step::Rename, path, source })
            }
        }
    }

    /// Like [`publish_new_unsynced`](TempFile::publish_new_unsynced), but gives the file back, as it was, when the final path
    /// exists.
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn try_publish_new_unsynced(mut self) -> Result<Option<TempFile>> {
        self.sync()?;
        match rename_no_replace(&self.temporary, &self.path) {
            Ok(()) => {
                self.published = true;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Some(self)),
            Err(error) => Err(error),
        }
    }
}

impl Write for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::check(Step::Write, &self.path)?;
        self.synced = false;
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        self.write_back();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done about a failure here; the name says that the file is rubbish.
            let _ = remove_unsynced(&self.temporary);
        }
    }
}

/// `.<name>.barkeep-<pid>-<number>.tmp` beside the final path, the name shortened when it would not fit.
fn temporary_path(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let tail = format!("{TEMPORARY_MARK}{}-{number}.tmp", std::process::id());
    let name = path.file_name().unwrap_or_default().as_bytes();
    let room = NAME_BYTES_MAX - 1 - tail.len();
    let mut temporary = Vec::with_capacity(NAME_BYTES_MAX);
    temporary.push(b'.');
    temporary.extend_from_slice(&name[..name.len().min(room)]);
    temporary.extend_from_slice(tail.as_bytes());
    parent(path).join(OsStr::from_bytes(&temporary))
}
