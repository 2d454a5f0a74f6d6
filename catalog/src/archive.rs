//! Moving WAL into the archive: from `incoming/`, where `archive_command` delivers, and `streaming/`, where the receiver
//! writes, to `wals/`.
//!
//! A source is removed only when its copy, the copy's name and its line in `xlog.db` are on stable storage. Every step
//! can be repeated, so a crash anywhere costs nothing but the next run's time. Files are compressed in parallel, and a
//! batch shares its fsyncs of directories and list; the list is locked only while its lines are appended.

mod place;
mod queue;

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use barkeep_transport::codec::{Compression, Level};
use barkeep_transport::durable::{self, DurableError};
use jiff::{Span, Timestamp};
use pgwal::WalFile;

use crate::lock::LockError;
use crate::wal::WalError;
use crate::xlogdb::{Locked, WalEntry, XlogDbError};
use crate::{Layout, ServerLock, Task, time};
use place::{Job, PrepareError, Prepared};
use queue::QueuedFile;

/// Most files that share one fsync of the list. Each holds a file open until then.
const BATCH_FILES_MAX: usize = 64;
/// Most threads that compress at once.
const WORKERS_MAX: usize = 16;
/// How often a name for a rejected file is tried, a second later each time.
const REJECT_TRIES: u32 = 3600;

/// Where WAL comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `streaming/`, written by a receiver.
    Streaming,
    /// `incoming/`, written by `archive_command`.
    Incoming,
}

/// What to archive, and how.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Where to look, in order, and how many files to take from there at most (0 is all).
    pub origins: Vec<(Origin, usize)>,
    /// How to compress what does not come compressed already.
    pub compression: Compression,
    /// How hard.
    pub level: Level,
    /// How many threads compress; `None` uses every processor there is.
    pub workers: Option<NonZeroUsize>,
}

impl Default for ArchiveOptions {
    /// Everything from both places, as it is.
    fn default() -> Self {
        ArchiveOptions {
            origins: vec![(Origin::Streaming, 0), (Origin::Incoming, 0)],
            compression: Compression::None,
            level: Level::Medium,
            workers: None,
        }
    }
}

/// Something that happened on the way, in order.
#[derive(Debug)]
pub enum ArchiveEvent {
    /// Files of this origin come next.
    Origin(Origin),
    /// A file is in the archive and in the list, for good.
    Archived(WalEntry),
    /// The archive had the file already, with the same content; the source is removed.
    AlreadyArchived(WalFile),
    /// A file that can't be archived was moved to `errors/`.
    Rejected {
        /// Its name.
        name: OsString,
        /// Where it is now.
        moved_to: PathBuf,
        /// Why.
        reason: Rejection,
    },
    /// A file was left where it is: it is no whole segment, or can't be read.
    Left {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a file can't be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The archive has another file of that name. What the difference is.
    Duplicate(String),
    /// It is no WAL file.
    Unknown,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchiveReport {
    /// Files archived.
    pub archived: usize,
    /// Files that the archive had already.
    pub already_archived: usize,
    /// Files moved to `errors/`.
    pub rejected: usize,
    /// Files left where they are.
    pub left: usize,
}

impl ArchiveReport {
    /// Whether somebody has to look at something.
    pub const fn needs_attention(&self) -> bool {
        self.rejected > 0 || self.left > 0
    }
}

/// Why a run ended early. What was archived until then stays archived; the rest is where it was.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Another process is archiving.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A directory can't be read.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive can't be written.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// The list can't be written.
    #[error(transparent)]
    List(#[from] XlogDbError),
    /// A name for a file in `errors/` could not be found.
    #[error("cannot move '{}' to '{}': too many files of that name", path.display(), errors.display())]
    NoName {
        /// The file.
        path: PathBuf,
        /// The directory.
        errors: PathBuf,
    },
}

/// Archives what there is, under the server's archive lock. `observer` hears of every file, in order; of an archived one
/// only when nothing can undo it any more. `now` names rejected files.
///
/// ```
/// use barkeep_catalog::archive::{ArchiveOptions, archive_wal};
/// use barkeep_catalog::Layout;
/// # let home = tempfile::tempdir()?;
/// # let home = home.path();
/// let layout = Layout::new("pg15", home, home);
/// std::fs::create_dir_all(&layout.incoming)?;
/// std::fs::write(layout.incoming.join("000000010000000000000001"), "some WAL")?;
///
/// let report = archive_wal(&layout, &ArchiveOptions::default(), jiff::Timestamp::now(), |_| {})?;
/// assert_eq!(report.archived, 1);
/// assert!(home.join("wals/0000000100000000/000000010000000000000001").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When another process is archiving, or something fails that the next file would meet too.
pub fn archive_wal(
    layout: &Layout,
    options: &ArchiveOptions,
    now: Timestamp,
    mut observer: impl FnMut(ArchiveEvent),
) -> Result<ArchiveReport, ArchiveError> {
    let _lock = ServerLock::try_acquire(layout, Task::ArchiveWal)?;
    let mut run = Run {
        layout,
        options,
        now,
        observer: &mut observer,
        report: ArchiveReport::default(),
        ready_directories: BTreeSet::new(),
    };
    for (origin, limit) in &options.origins {
        run.origin(*origin, *limit)?;
    }
    Ok(run.report)
}

struct Run<'a> {
    layout: &'a Layout,
    options: &'a ArchiveOptions,
    now: Timestamp,
    observer: &'a mut dyn FnMut(ArchiveEvent),
    report: ArchiveReport,
    /// Directories of the archive that exist and hold no leftovers.
    ready_directories: BTreeSet<PathBuf>,
}

impl Run<'_> {
    fn origin(&mut self, origin: Origin, limit: usize) -> Result<(), ArchiveError> {
        let directory = match origin {
            Origin::Streaming => &self.layout.streaming,
            Origin::Incoming => &self.layout.incoming,
        };
        let queue = queue::read(directory, origin, limit)
            .map_err(|source| ArchiveError::Read { path: directory.clone(), source })?;
        (self.observer)(ArchiveEvent::Origin(origin));
        for batch in queue.files.chunks(BATCH_FILES_MAX) {
            self.batch(directory, batch)?;
        }
        for name in &queue.unknown {
            self.reject(&directory.join(name), name, Rejection::Unknown)?;
        }
        Ok(())
    }

    /// Archives some files: all of them prepared, then published, then listed, then their sources removed.
    fn batch(&mut self, directory: &Path, files: &[QueuedFile]) -> Result<(), ArchiveError> {
        let job = |queued: &QueuedFile| Job {
            file: queued.file,
            source: directory.join(queued.file.to_string()),
            stays: queued.stays,
        };
        let jobs: Vec<Job> = files.iter().map(job).collect();
        for job in &jobs {
            self.make_ready(self.layout.wal_directory(&job.file))?;
        }
        let prepared = prepare_all(&jobs, self.layout, self.options);

        let mut outcome = Batch::default();
        for (job, prepared) in jobs.iter().zip(prepared) {
            self.publish(job, prepared, &mut outcome)?;
        }
        for directory in &outcome.directories {
            durable::sync_dir(directory)?;
        }
        self.list(&outcome)?;
        let mut removed = false;
        for job in outcome.done.iter().filter(|job| !job.stays) {
            removed |= durable::remove_unsynced(&job.source)?;
        }
        if removed {
            durable::sync_dir(directory)?;
        }
        self.tell(outcome)
    }

    fn make_ready(&mut self, directory: PathBuf) -> Result<(), ArchiveError> {
        if !self.ready_directories.contains(&directory) {
            durable::create_dir_all(&directory)?;
            durable::remove_temporary_files(&directory)?;
            self.ready_directories.insert(directory);
        }
        Ok(())
    }

    /// Gives a prepared file its name in the archive. The name is not on stable storage yet.
    fn publish<'j>(
        &self,
        job: &'j Job,
        prepared: Result<Prepared, PrepareError>,
        outcome: &mut Batch<'j>,
    ) -> Result<(), ArchiveError> {
        let directory = self.layout.wal_directory(&job.file);
        match prepared {
            Ok(Prepared::Copy(copy, entry)) => {
                copy.publish_new_unsynced()?;
                outcome.published(job, directory, entry);
            }
            Ok(Prepared::Link(source, entry)) => {
                let destination = self.layout.wal(&job.file);
                match durable::link_unsynced(&source, &destination) {
                    Ok(()) => outcome.published(job, directory, entry),
                    // Some systems let only a file's owner link it, and some file systems can't at all.
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        match place::copy_instead(&source, &destination, self.options) {
                            Ok(Some(copy)) => {
                                copy.publish_new_unsynced()?;
                                outcome.published(job, directory, entry);
                            }
                            Ok(None) => {}
                            Err(PrepareError::Source(error)) => outcome.left(job, error),
                            Err(PrepareError::Archive(error)) => return Err(error.into()),
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Prepared::Same) => {
                // Its name may be the work of a run that crashed before this was certain.
                outcome.directories.insert(directory);
                outcome.already.push(job.file);
                outcome.done.push(job);
            }
            Ok(Prepared::Different(difference)) => outcome.different.push((job, difference)),
            Ok(Prepared::Unfit(reason)) => outcome.left.push((job.source.clone(), reason)),
            Ok(Prepared::Gone) => {}
            Err(PrepareError::Source(error)) => outcome.left(job, error),
            Err(PrepareError::Archive(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// Appends the lines of what is new, and of what a crash left without one.
    fn list(&self, outcome: &Batch<'_>) -> Result<(), ArchiveError> {
        if outcome.entries.is_empty() && outcome.already.is_empty() {
            return Ok(());
        }
        let list = Locked::acquire(self.layout)?;
        let mut lines = outcome.entries.clone();
        if !outcome.already.is_empty() {
            let listed: HashSet<WalFile> = list.read()?.entries.iter().map(|entry| entry.file).collect();
            for file in outcome.already.iter().filter(|file| !listed.contains(file)) {
                let path = self.layout.wal(file);
                let entry = WalEntry::of_file(*file, &path);
                lines.push(entry.map_err(|source| ArchiveError::Read { path, source })?);
            }
            lines.sort_by_cached_key(|entry| entry.file.to_string());
        }
        list.append(&lines)?;
        Ok(())
    }

    fn tell(&mut self, outcome: Batch<'_>) -> Result<(), ArchiveError> {
        self.report.archived += outcome.entries.len();
        for entry in outcome.entries {
            (self.observer)(ArchiveEvent::Archived(entry));
        }
        for job in outcome.done.iter().filter(|job| !job.stays && outcome.already.contains(&job.file)) {
            self.report.already_archived += 1;
            (self.observer)(ArchiveEvent::AlreadyArchived(job.file));
        }
        for (path, reason) in outcome.left {
            self.report.left += 1;
            (self.observer)(ArchiveEvent::Left { path, reason });
        }
        for (job, difference) in outcome.different {
            let name = OsString::from(job.file.to_string());
            self.reject(&job.source, &name, Rejection::Duplicate(difference))?;
        }
        Ok(())
    }

    /// Moves a file to `errors/`, under a name that says when and why.
    fn reject(&mut self, path: &Path, name: &OsStr, reason: Rejection) -> Result<(), ArchiveError> {
        let suffix = match reason {
            Rejection::Duplicate(_) => "duplicate",
            Rejection::Unknown => "unknown",
        };
        durable::create_dir_all(&self.layout.errors)?;
        let mut moment = self.now;
        for _ in 0..REJECT_TRIES {
            let mut target = name.to_owned();
            target.push(format!(".{}.{suffix}", time::utc_stamp(moment)));
            let moved_to = self.layout.errors.join(target);
            match move_new(path, &moved_to) {
                Ok(()) => {
                    self.report.rejected += 1;
                    (self.observer)(ArchiveEvent::Rejected { name: name.to_owned(), moved_to, reason });
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    moment = moment.checked_add(Span::new().seconds(1)).unwrap_or(Timestamp::MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(ArchiveError::NoName { path: path.to_owned(), errors: self.layout.errors.clone() })
    }
}

/// What became of a batch so far.
#[derive(Default)]
struct Batch<'j> {
    /// Directories of the archive with new names.
    directories: BTreeSet<PathBuf>,
    entries: Vec<WalEntry>,
    already: Vec<WalFile>,
    /// Whose sources have done their service.
    done: Vec<&'j Job>,
    different: Vec<(&'j Job, String)>,
    left: Vec<(PathBuf, String)>,
}

impl<'j> Batch<'j> {
    fn published(&mut self, job: &'j Job, directory: PathBuf, entry: WalEntry) {
        self.directories.insert(directory);
        self.entries.push(entry);
        self.done.push(job);
    }

    fn left(&mut self, job: &Job, error: WalError) {
        self.left.push((job.source.clone(), error.to_string()));
    }
}

/// Prepares all files at once, with as many threads as are worth it; the results are in the order of the jobs.
fn prepare_all(
    jobs: &[Job],
    layout: &Layout,
    options: &ArchiveOptions,
) -> Vec<Result<Prepared, PrepareError>> {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = options.workers.unwrap_or_else(processors).get().min(WORKERS_MAX).min(jobs.len());
    if workers <= 1 {
        return jobs.iter().map(|job| place::prepare(job, layout, options)).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, _)>> = Mutex::new(Vec::with_capacity(jobs.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let prepared = place::prepare(job, layout, options);
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, prepared));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, prepared)| prepared).collect()
}

/// Moves a file or directory to a name that must be free, also to another file system (files only).
fn move_new(from: &Path, to: &Path) -> Result<(), DurableError> {
    match durable::rename_new(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let mut copy = durable::TempFile::create(to)?;
            let mut source =
                fs::File::open(from).map_err(|error| copy.failed(durable::Step::Create, error))?;
            io::copy(&mut source, &mut copy).map_err(|error| copy.failed(durable::Step::Write, error))?;
            copy.publish_new()?;
            durable::remove(from).map(drop)
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests;
