//! The threads that copy: WAL, which may turn out to be damaged, before hours are spent on files; of these the largest first,
//! so that no thread ends with a large file alone.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::facts::RestorePlan;
use super::super::tree::FileJob;
use super::super::wal_copy;
use super::delta::{LocalFile, PIECE_BYTES, update};
use super::ground::{Ground, Root};
use super::seams::Seams;
use super::{ExecuteOptions, RestoreError, RestoreEvent, RestoreObserver};
use crate::copy::{CopyMethod, Directory, copy_without_zeros};
use crate::packed::StoredFile;
use crate::pool;

/// The longest nap between two looks at the observer.
const NAP: Duration = Duration::from_millis(100);

/// What the threads share.
pub(super) struct Work<'a> {
    pub(super) plan: &'a RestorePlan,
    pub(super) sources: &'a [Directory],
    pub(super) ground: &'a Ground,
    pub(super) wal_directory: &'a Root,
    pub(super) seams: Seams<'a>,
    pub(super) method: &'a CopyMethod,
    pub(super) options: ExecuteOptions,
    pub(super) observer: &'a dyn RestoreObserver,
}

enum Job {
    File(FileJob),
    /// By its index in the plan.
    Wal(usize),
}

/// What a thread compares files in.
struct Buffers {
    new: Vec<u8>,
    old: Vec<u8>,
}

/// Copies all WAL; the first failure stops everyone.
pub(super) fn copy_wal(work: &Work<'_>) -> Result<(), RestoreError> {
    let jobs: Vec<Job> = (0..work.plan.wal.len()).map(Job::Wal).collect();
    run(work, &jobs).map(|_| ())
}

/// Copies all files; the first failure stops everyone. How many bytes were written where there was something.
pub(super) fn copy_files(work: &Work<'_>, mut files: Vec<FileJob>) -> Result<u64, RestoreError> {
    files.sort_by_key(|file| std::cmp::Reverse(file.size));
    let jobs: Vec<Job> = files.into_iter().map(Job::File).collect();
    run(work, &jobs)
}

fn run(work: &Work<'_>, jobs: &[Job]) -> Result<u64, RestoreError> {
    let buffer = || if work.ground.is_in_use() { vec![0; PIECE_BYTES] } else { Vec::new() };
    let buffers = || Buffers { new: buffer(), old: buffer() };
    let written = AtomicU64::new(0);
    pool::run(jobs, work.options.jobs, buffers, |buffers, job, stop| {
        written.fetch_add(work.copy(job, buffers, stop)?, Ordering::Relaxed);
        Ok::<_, RestoreError>(())
    })?;
    Ok(written.into_inner())
}

impl Work<'_> {
    /// Copies a file, again if need be; how many bytes were written.
    fn copy(&self, job: &Job, buffers: &mut Buffers, stop: &AtomicBool) -> Result<u64, RestoreError> {
        let interrupted = AtomicBool::new(false);
        let progress = |bytes: u64| {
            self.observer.event(RestoreEvent::Copied { bytes });
            if stop.load(Ordering::Relaxed) || self.observer.cancelled() {
                interrupted.store(true, Ordering::Relaxed);
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            Ok(())
        };
        let mut left = self.options.retry.times;
        loop {
            let again = left < self.options.retry.times;
            let result = match job {
                Job::File(file) => self.copy_file(file, again, buffers, &progress),
                Job::Wal(index) => self.copy_wal(*index, again, &progress),
            };
            if interrupted.load(Ordering::Relaxed) {
                return Err(RestoreError::Cancelled);
            }
            match result {
                Err(error) if left > 0 && error.may_pass() => {
                    tracing::warn!(%error, left, "a file could not be copied and will be tried again");
                    left -= 1;
                    self.wait(stop)?;
                }
                result => return result,
            }
        }
    }

    /// Waits before another try, with an ear for the observer.
    fn wait(&self, stop: &AtomicBool) -> Result<(), RestoreError> {
        let begun = Instant::now();
        loop {
            if stop.load(Ordering::Relaxed) || self.observer.cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let left = self.options.retry.pause.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    fn copy_file(
        &self,
        job: &FileJob,
        again: bool,
        buffers: &mut Buffers,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<u64, RestoreError> {
        let (Some(source), Some(root)) = (self.sources.get(job.tree), self.ground.roots().get(job.tree))
        else {
            return Err(RestoreError::Cancelled);
        };
        let owner = self.options.owner;
        let mut copy = || -> io::Result<u64> {
            let mut from = job.open(source)?;
            if root.in_use {
                if let Some(old) = root.directory.change(&job.path, job.mode, owner)? {
                    let mut old = LocalFile::new(old, &mut buffers.old)?;
                    let written = update(&mut from, job.size, &mut old, &mut buffers.new, progress)?;
                    old.set_modified(from.file().metadata()?.modified()?)?;
                    return Ok(written);
                }
                remove_if_there(&root.directory, &job.path)?;
            } else if again {
                remove_if_there(&root.directory, &job.path)?;
            }
            let mut to = root.directory.create(&job.path, job.mode, owner)?;
            match &mut from {
                StoredFile::Plain(from) => self.method.copy(from, &mut to, job.size, progress)?,
                StoredFile::Packed(from) => copy_without_zeros(from, &to, job.size, progress)?,
            }
            // As rsync leaves it: what compares by time finds nothing to do.
            to.set_modified(from.file().metadata()?.modified()?)?;
            Ok(job.size)
        };
        copy().map_err(|source| RestoreError::Copy {
            from: self.plan.trees.get(job.tree).map_or(job.path.clone(), |tree| tree.from.join(&job.path)),
            to: root.path.join(&job.path),
            source,
        })
    }

    fn copy_wal(
        &self,
        index: usize,
        again: bool,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<u64, RestoreError> {
        let Some(wal) = self.plan.wal.get(index) else { return Ok(0) };
        let size = self.plan.backup.segment_size;
        // WAL may come from another file system than the backup: what works is found out for each file anew.
        let method = CopyMethod::default();
        let name = wal.name();
        let copy = || -> io::Result<u64> {
            let directory = &self.wal_directory.directory;
            if again {
                remove_if_there(directory, Path::new(&name))?;
            }
            let (owner, goes_on) = (self.options.owner, self.seams.goes_on(index));
            let ending = wal_copy::place(wal, directory, size, owner, &method, goes_on, progress)?;
            self.seams.note(index, ending)?;
            // What counts as written are the backup's own files.
            Ok(0)
        };
        copy().map_err(|source| RestoreError::Copy {
            from: wal.source.path(),
            to: self.wal_directory.path.join(&name),
            source,
        })
    }
}

fn remove_if_there(directory: &Directory, path: &Path) -> io::Result<()> {
    match directory.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
