//! The threads that copy: one queue, largest files first, so that no thread ends with a large file alone.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::super::facts::RestorePlan;
use super::super::tree::FileJob;
use super::super::wal_copy;
use super::ground::{Ground, Root};
use super::{ExecuteOptions, RestoreError, RestoreEvent, RestoreObserver};
use crate::copy::{CopyMethod, Directory};

/// What the threads share.
pub(super) struct Work<'a> {
    pub(super) plan: &'a RestorePlan,
    pub(super) sources: &'a [Directory],
    pub(super) ground: &'a Ground,
    pub(super) wal_directory: &'a Root,
    pub(super) method: &'a CopyMethod,
    pub(super) options: ExecuteOptions,
    pub(super) observer: &'a dyn RestoreObserver,
}

enum Job {
    File(FileJob),
    /// By its index in the plan.
    Wal(usize),
}

/// Copies all files and WAL; the first failure stops everyone.
pub(super) fn copy_all(work: &Work<'_>, files: Vec<FileJob>) -> Result<(), RestoreError> {
    let segment = work.plan.backup.segment_size.bytes();
    let mut jobs: Vec<Job> = files.into_iter().map(Job::File).collect();
    jobs.extend((0..work.plan.wal.len()).map(Job::Wal));
    jobs.sort_by_key(|job| {
        std::cmp::Reverse(match job {
            Job::File(file) => file.size,
            Job::Wal(_) => segment,
        })
    });
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    let threads = NonZeroUsize::new(work.options.jobs.min(jobs.len())).map_or(1, NonZeroUsize::get);
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = work.copy(job, &stop) {
                stop.store(true, Ordering::Relaxed);
                let mut first = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                first.get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    let failure = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

impl Work<'_> {
    fn copy(&self, job: &Job, stop: &AtomicBool) -> Result<(), RestoreError> {
        let interrupted = AtomicBool::new(false);
        let progress = |bytes: u64| {
            self.observer.event(RestoreEvent::Copied { bytes });
            if stop.load(Ordering::Relaxed) || self.observer.cancelled() {
                interrupted.store(true, Ordering::Relaxed);
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            Ok(())
        };
        let result = match job {
            Job::File(file) => self.copy_file(file, &progress),
            Job::Wal(index) => self.copy_wal(*index, &progress),
        };
        if interrupted.into_inner() { Err(RestoreError::Cancelled) } else { result }
    }

    fn copy_file(&self, job: &FileJob, progress: &dyn Fn(u64) -> io::Result<()>) -> Result<(), RestoreError> {
        let (Some(source), Some(root)) = (self.sources.get(job.tree), self.ground.roots().get(job.tree))
        else {
            return Err(RestoreError::Cancelled);
        };
        let copy = || -> io::Result<()> {
            let mut from = source.read(&job.path)?;
            let mut to = root.directory.create(&job.path, job.mode, self.options.owner)?;
            self.method.copy(&mut from, &mut to, job.size, progress)
        };
        copy().map_err(|source| RestoreError::Copy {
            from: self.plan.trees.get(job.tree).map_or(job.path.clone(), |tree| tree.from.join(&job.path)),
            to: root.path.join(&job.path),
            source,
        })
    }

    fn copy_wal(&self, index: usize, progress: &dyn Fn(u64) -> io::Result<()>) -> Result<(), RestoreError> {
        let Some(wal) = self.plan.wal.get(index) else { return Ok(()) };
        let size = self.plan.backup.segment_size;
        // WAL may come from another file system than the backup: what works is found out for each file anew.
        let method = CopyMethod::default();
        wal_copy::place(wal, &self.wal_directory.directory, size, self.options.owner, &method, progress)
            .map(drop)
            .map_err(|source| RestoreError::Copy {
                from: wal.from.clone(),
                to: self.wal_directory.path.join(Path::new(&wal.name)),
                source,
            })
    }
}
