//! Moving WAL into the archive: from `incoming/`, where `archive_command` delivers, and `streaming/`, where the receiver
//! writes, to `wals/`.
//!
//! A source is removed only when its copy, the copy's name and its line in `xlog.db` are on stable storage. Every step
//! can be repeated, so a crash anywhere costs nothing but the next run's time. Files are compressed in parallel, and a
//! batch shares its fsyncs of directories and list; the list is locked only while its lines are appended.
//!
//! Each segment is read once: while its bytes pass by it is [judged](crate::inspect), hashed and
//! [indexed](crate::index_store), then it is compressed and written.

mod chain;
mod direct;
mod event;
mod hooks;
mod look;
mod place;
mod queue;
mod reindex;

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use barkeep_transport::codec::{Compression, Level};
use barkeep_transport::durable::{self, DurableError};
use jiff::{Span, Timestamp};
use pgwal::{SegmentName, WalFile};

use crate::index_store::Facts;
use crate::inspect::{Cluster, Inspection, SegmentIndex, Soundness};

use crate::wal::{OpenWal, WalError};
use crate::xlogdb::{self, Locked, WalEntry};
use crate::{IndexStore, Layout, ServerLock, Task, identity, time};
use chain::Chain;
pub use direct::archive_directly;
pub use event::{ArchiveError, ArchiveEvent, ArchiveReport, Rejection, Verify};
pub use hooks::{ArchiveHooks, HookFile, HookStop, NoHooks};
use look::Scratch;
use place::{Arrival, Job, PrepareError, Prepared, Work};
use queue::QueuedFile;
pub use reindex::{Indexed, index_archive};

/// Most files that share one fsync of the list. Each holds a file open until then.
const BATCH_FILES_MAX: usize = 64;
/// Most threads that compress at once.
const WORKERS_MAX: usize = 16;
/// How many threads wait for fsyncs at once: the disk takes several at a time.
const SYNCERS: usize = 4;
/// How long the archive's lock is waited for after hooks have run.
const HOOKS_PATIENCE: Duration = Duration::from_secs(60);
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
    /// What is done with segments that are not sound.
    pub verify: Verify,
}

impl Default for ArchiveOptions {
    /// Everything from both places, as it is and however it is.
    fn default() -> Self {
        ArchiveOptions {
            origins: vec![(Origin::Streaming, 0), (Origin::Incoming, 0)],
            compression: Compression::None,
            level: Level::Medium,
            workers: None,
            verify: Verify::Off,
        }
    }
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
    observer: impl FnMut(ArchiveEvent),
) -> Result<ArchiveReport, ArchiveError> {
    archive_wal_with(layout, options, now, &NoHooks, observer)
}

/// Like [`archive_wal`], with [hooks](ArchiveHooks).
///
/// # Errors
/// As for [`archive_wal`], and when a hook stops it.
pub fn archive_wal_with(
    layout: &Layout,
    options: &ArchiveOptions,
    now: Timestamp,
    hooks: &dyn ArchiveHooks,
    mut observer: impl FnMut(ArchiveEvent),
) -> Result<ArchiveReport, ArchiveError> {
    let lock = ServerLock::try_acquire(layout, Task::ArchiveWal)?;
    let store = IndexStore::of(layout);
    let mut run = Run {
        lock: Some(lock),
        layout,
        options,
        now,
        hooks,
        observer: &mut observer,
        report: ArchiveReport::default(),
        ready_directories: BTreeSet::new(),
        cluster: None,
        store: &store,
    };
    for (origin, limit) in &options.origins {
        run.origin(*origin, *limit)?;
    }
    Ok(run.report)
}

/// What is known of the cluster that a server's WAL is of: from the record of its first backup, or else from the WAL that
/// is archived.
pub fn known_cluster(layout: &Layout, store: &IndexStore) -> Option<Cluster> {
    let recorded = identity::read(layout).ok().flatten();
    let recorded = recorded.and_then(|identity| {
        let version = identity.version.parse().ok();
        identity.system_id.parse().ok().map(|system_id| Cluster { system_id, version })
    });
    recorded.or_else(|| {
        let system_id = store.system_id().ok().flatten()?;
        Some(Cluster { system_id, version: None })
    })
}

struct Run<'a> {
    /// The archive's lock; let go while hooks run.
    lock: Option<ServerLock>,
    layout: &'a Layout,
    options: &'a ArchiveOptions,
    now: Timestamp,
    hooks: &'a dyn ArchiveHooks,
    observer: &'a mut dyn FnMut(ArchiveEvent),
    report: ArchiveReport,
    /// Directories of the archive that exist and hold no leftovers.
    ready_directories: BTreeSet<PathBuf>,
    cluster: Option<Cluster>,
    store: &'a IndexStore,
}

impl Run<'_> {
    fn origin(&mut self, origin: Origin, limit: usize) -> Result<(), ArchiveError> {
        let directory = match origin {
            Origin::Streaming => &self.layout.streaming,
            Origin::Incoming => &self.layout.incoming,
        };
        let queue = queue::read(directory, origin, limit)
            .map_err(|source| ArchiveError::Read { path: directory.clone(), source })?;
        if origin == Origin::Incoming {
            // Of receivers that were killed. That it can't be removed keeps nothing from being archived.
            let _ = durable::remove_abandoned_files(directory);
        }
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
        let mut jobs: Vec<Job> = files.iter().map(job).collect();
        let stopped = self.released(|run| run.announce(&mut jobs))?;
        for job in &jobs {
            self.make_ready(self.layout.wal_directory(&job.file))?;
        }
        // Learned anew for each batch until it is known: the first segment of an archive tells it for the rest.
        self.cluster = self.cluster.or_else(|| known_cluster(self.layout, self.store));
        let prepared = prepare_all(&jobs, self.layout, self.options, self.cluster, self.store);

        let mut outcome = Batch { listed_in: xlogdb::version(self.layout), ..Batch::default() };
        for (job, prepared) in jobs.iter().zip(prepared) {
            self.publish(job, prepared, &mut outcome)?;
        }
        for directory in &outcome.directories {
            durable::sync_dir(directory)?;
        }
        self.list(&outcome)?;
        if let Err(error) = self.store.add(&outcome.indexes) {
            (self.observer)(ArchiveEvent::NotIndexed(error.to_string()));
        }
        if self.remove_sources(&outcome)? {
            durable::sync_dir(directory)?;
        }
        self.tell(outcome)?;
        stopped.map_or(Ok(()), Err)
    }

    /// Removes the sources of what is archived and listed; whether there were any. Several at once: for each, the system
    /// gives back all the memory that holds it.
    fn remove_sources(&self, outcome: &Batch<'_>) -> Result<bool, DurableError> {
        let moved: Vec<&Job> = outcome.done.iter().copied().filter(|job| !job.stays).collect();
        let removals = each_of(moved.len(), self.options.workers, |place, _| {
            durable::remove_unsynced(&moved[place].source)
        });
        removals.into_iter().try_fold(false, |any, removed| Ok(removed? || any))
    }

    /// Does something for which hooks run, without the lock. What is known of files is not believed afterwards: each is
    /// looked at again before anything is done with it.
    fn released<T>(&mut self, work: impl FnOnce(&Self) -> T) -> Result<T, ArchiveError> {
        if self.hooks.is_empty() {
            return Ok(work(self));
        }
        self.lock = None;
        let outcome = work(self);
        self.lock = Some(ServerLock::acquire_within(self.layout, Task::ArchiveWal, HOOKS_PATIENCE)?);
        Ok(outcome)
    }

    /// Tells the hooks of the files that come next. Those that they don't let pass are taken off the batch.
    fn announce(&self, jobs: &mut Vec<Job>) -> Option<ArchiveError> {
        for (place, job) in jobs.iter().enumerate() {
            let Ok(entry) = WalEntry::of_file(job.file, &job.source) else { continue };
            if job.stays && self.layout.wal(&job.file).exists() {
                continue;
            }
            if let Err(stop) = self.hooks.before(&hook_file(&entry, &job.source)) {
                let file = job.file;
                jobs.truncate(place);
                return Some(ArchiveError::Stopped { file, stop });
            }
        }
        None
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
            Ok(Prepared::Copy(copy, arrival)) => {
                self.make_room(job, &arrival, outcome)?;
                copy.publish_new_unsynced()?;
                outcome.published(job, directory, arrival);
            }
            Ok(Prepared::Link(source, arrival)) => {
                self.make_room(job, &arrival, outcome)?;
                let destination = self.layout.wal(&job.file);
                match durable::link_unsynced(&source, &destination) {
                    Ok(()) => outcome.published(job, directory, arrival),
                    // Some systems let only a file's owner link it, and some file systems can't at all.
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        match place::copy_instead(&source, &destination, self.options) {
                            Ok(Some(copy)) => {
                                copy.publish_new_unsynced()?;
                                outcome.published(job, directory, arrival);
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
            Ok(Prepared::Different(difference)) => {
                outcome.rejected.push((job, Rejection::Duplicate(difference)));
            }
            // The receiver finds its place by this one: it is told of when it is about to be moved.
            Ok(Prepared::Refused(_, note)) if job.stays => outcome.left.push((job.source.clone(), note)),
            Ok(Prepared::Refused(Soundness::Foreign, note)) => {
                outcome.rejected.push((job, Rejection::Foreign(note)));
            }
            Ok(Prepared::Refused(_, note)) => outcome.rejected.push((job, Rejection::Damaged(note))),
            Ok(Prepared::Unfit(reason)) => outcome.left.push((job.source.clone(), reason)),
            Ok(Prepared::Gone) => {}
            Err(PrepareError::Source(error)) => outcome.left(job, error),
            Err(PrepareError::Archive(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// Moves a damaged file of the archive away, for a sound one that is about to get its name. A crash in between leaves
    /// the sound one where it was, and the next run goes on.
    fn make_room(&self, job: &Job, arrival: &Arrival, outcome: &mut Batch<'_>) -> Result<(), ArchiveError> {
        if !arrival.replaces {
            return Ok(());
        }
        let (path, errors) = (self.layout.wal(&job.file), &self.layout.errors);
        let name = OsString::from(job.file.to_string());
        let moved_to = move_to_errors(&path, &name, "damaged", errors, self.now)?
            .ok_or_else(|| ArchiveError::NoName { path: path.clone(), errors: errors.clone() })?;
        outcome.replaced.push((job.file, moved_to));
        Ok(())
    }

    /// Appends the lines of what is new, and of what a crash left without one.
    fn list(&self, outcome: &Batch<'_>) -> Result<(), ArchiveError> {
        if outcome.entries.is_empty() && outcome.already.is_empty() {
            return Ok(());
        }
        let list = Locked::acquire(self.layout)?;
        let mut lines = outcome.entries.clone();
        // Who made the list anew since has found what was published and not listed yet.
        let is_the_same = xlogdb::version(self.layout) == outcome.listed_in;
        if !outcome.already.is_empty() || !is_the_same {
            let listed: HashSet<WalFile> = list.read()?.entries.iter().map(|entry| entry.file).collect();
            lines.retain(|entry| !listed.contains(&entry.file));
            for file in outcome.already.iter().filter(|file| !listed.contains(file)) {
                let path = self.layout.wal(file);
                let entry = WalEntry::of_file(*file, &path);
                lines.push(entry.map_err(|source| ArchiveError::Read { path, source })?);
            }
            lines.sort_by_cached_key(|entry| entry.file.to_string());
        }
        // A damaged file made room for one of these, now or before a crash: its line goes.
        if !outcome.replaced.is_empty() || self.made_room_for(&lines) {
            let mut all = list.read()?.entries;
            all.retain(|entry| lines.iter().all(|line| line.file != entry.file));
            all.extend(lines);
            list.replace(&all)?;
            return Ok(());
        }
        list.append(&lines)?;
        Ok(())
    }

    /// Whether `errors/` holds a damaged file of the name of one of these.
    fn made_room_for(&self, lines: &[WalEntry]) -> bool {
        let names = fs::read_dir(&self.layout.errors).into_iter().flatten();
        let damaged: Vec<String> = names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".damaged"))
            .collect();
        !damaged.is_empty()
            && lines.iter().any(|line| {
                let name = line.file.to_string();
                damaged.iter().any(|damaged| damaged.starts_with(&name))
            })
    }

    fn tell(&mut self, outcome: Batch<'_>) -> Result<(), ArchiveError> {
        let mut hooked = Vec::new();
        self.report.archived += outcome.entries.len();
        for entry in outcome.entries {
            hooked.push((entry.clone(), self.layout.wal(&entry.file), None));
            (self.observer)(ArchiveEvent::Archived(entry));
        }
        for (facts, _) in outcome.indexes.into_iter().filter(|(facts, _)| !facts.soundness.is_fine()) {
            self.report.doubtful += 1;
            (self.observer)(ArchiveEvent::Doubtful {
                file: WalFile::Segment(facts.segment),
                soundness: facts.soundness,
                note: facts.note,
            });
        }
        for job in outcome.done.iter().filter(|job| !job.stays && outcome.already.contains(&job.file)) {
            self.report.already_archived += 1;
            let path = self.layout.wal(&job.file);
            if let Ok(entry) = WalEntry::of_file(job.file, &path) {
                hooked.push((entry, path, None));
            }
            (self.observer)(ArchiveEvent::AlreadyArchived(job.file));
        }
        for (file, moved_to) in outcome.replaced {
            (self.observer)(ArchiveEvent::Healed { file, moved_to });
        }
        for (path, reason) in outcome.left {
            self.report.left += 1;
            (self.observer)(ArchiveEvent::Left { path, reason });
        }
        for (job, rejection) in outcome.rejected {
            let name = OsString::from(job.file.to_string());
            if let Ok(entry) = WalEntry::of_file(job.file, &job.source) {
                hooked.push((entry, job.source.clone(), Some(rejection.to_string())));
            }
            self.reject(&job.source, &name, rejection)?;
        }
        self.released(|run| {
            for (entry, path, error) in &hooked {
                run.hooks.after(&hook_file(entry, path), error.as_deref());
            }
        })
    }

    /// Moves a file to `errors/`, under a name that says when and why.
    fn reject(&mut self, path: &Path, name: &OsStr, reason: Rejection) -> Result<(), ArchiveError> {
        let errors = &self.layout.errors;
        match move_to_errors(path, name, reason.suffix(), errors, self.now) {
            Ok(Some(moved_to)) => {
                self.report.rejected += 1;
                (self.observer)(ArchiveEvent::Rejected { name: name.to_owned(), moved_to, reason });
                Ok(())
            }
            Ok(None) => Err(ArchiveError::NoName { path: path.to_owned(), errors: errors.clone() }),
            // Somebody else took it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What became of a batch so far.
#[derive(Default)]
struct Batch<'j> {
    /// Directories of the archive with new names.
    directories: BTreeSet<PathBuf>,
    entries: Vec<WalEntry>,
    /// Which list there was before the first of them was published.
    listed_in: Option<xlogdb::Version>,
    already: Vec<WalFile>,
    /// Whose sources have done their service.
    done: Vec<&'j Job>,
    rejected: Vec<(&'j Job, Rejection)>,
    /// Damaged files that made room for sound ones, and where they are now.
    replaced: Vec<(WalFile, PathBuf)>,
    indexes: Vec<(Facts, Option<Arc<SegmentIndex>>)>,
    left: Vec<(PathBuf, String)>,
}

impl<'j> Batch<'j> {
    fn published(&mut self, job: &'j Job, directory: PathBuf, arrival: Arrival) {
        let Arrival { entry, inspection, .. } = arrival;
        self.directories.insert(directory);
        if let (WalFile::Segment(segment), Some(inspection)) = (entry.file, inspection) {
            self.indexes.push((Facts::of(segment, &inspection, entry.size), inspection.index));
        }
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
    cluster: Option<Cluster>,
    store: &IndexStore,
) -> Vec<Result<Prepared, PrepareError>> {
    let segments = jobs.iter().map(|job| match job.file {
        WalFile::Segment(segment) => Some(segment),
        _ => None,
    });
    let work = Work { layout, options, cluster, chain: Chain::new(layout, store, segments.collect()) };
    let prepare = |place: usize, scratch: &mut Scratch| {
        let prepared = place::prepare(&jobs[place], place, &work, scratch);
        work.chain.post(place, None);
        prepared
    };
    if jobs.len() == 1 {
        return vec![sync(prepare(0, &mut Scratch::default()))];
    }
    // Threads that compress hand on to threads that wait for the disk.
    let (to_sync, syncing) = mpsc::channel();
    let syncing = Mutex::new(syncing);
    let synced = Mutex::new(Vec::with_capacity(jobs.len()));
    std::thread::scope(|scope| {
        for _ in 0..SYNCERS.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let next = syncing.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((place, prepared)) = next else { return };
                    let outcome = (place, sync(prepared));
                    synced.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
        let handed_on = each_of(jobs.len(), options.workers, |place, scratch| {
            // The receiver lives as long as this scope.
            let _ = to_sync.send((place, prepare(place, scratch)));
        });
        drop((to_sync, handed_on));
    });
    let mut synced: Vec<(usize, _)> = synced.into_inner().unwrap_or_else(PoisonError::into_inner);
    synced.sort_by_key(|(place, _)| *place);
    synced.into_iter().map(|(_, prepared)| prepared).collect()
}

fn sync(prepared: Result<Prepared, PrepareError>) -> Result<Prepared, PrepareError> {
    let mut prepared = prepared?;
    prepared.sync()?;
    Ok(prepared)
}

/// Does `work` for each place from 0 to `count`, with as many threads as are worth it, which take the places in order; the
/// results are in that order too.
fn each_of<T: Send>(
    count: usize,
    workers: Option<NonZeroUsize>,
    work: impl Fn(usize, &mut Scratch) -> T + Sync,
) -> Vec<T> {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = workers.unwrap_or_else(processors).get().min(WORKERS_MAX).min(count);
    if workers <= 1 {
        let mut scratch = Scratch::default();
        return (0..count).map(|place| work(place, &mut scratch)).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut scratch = Scratch::default();
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return;
                    }
                    let result = work(place, &mut scratch);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((place, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

fn hook_file<'a>(entry: &'a WalEntry, path: &'a Path) -> HookFile<'a> {
    HookFile {
        file: entry.file,
        path,
        size: entry.size,
        time: entry.time,
        compression: entry.compression.as_deref(),
    }
}

/// Reads until `buffer` is full or the source ends.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Moves the file `path` into the directory `errors`, as `<name>.<time>.<suffix>`; `None` when no such name is free. Where it
/// is then.
pub(crate) fn move_to_errors(
    path: &Path,
    name: &OsStr,
    suffix: &str,
    errors: &Path,
    now: Timestamp,
) -> Result<Option<PathBuf>, DurableError> {
    durable::create_dir_all(errors)?;
    let mut moment = now;
    for _ in 0..REJECT_TRIES {
        let mut target = name.to_owned();
        target.push(format!(".{}.{suffix}", time::utc_stamp(moment)));
        let moved_to = errors.join(target);
        match move_new(path, &moved_to) {
            Ok(()) => return Ok(Some(moved_to)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                moment = moment.checked_add(Span::new().seconds(1)).unwrap_or(Timestamp::MAX);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Looks at one segment that is in a file.
pub(crate) fn look_at_one(
    segment: SegmentName,
    open: OpenWal,
    cluster: Option<Cluster>,
    judge: bool,
) -> Result<Inspection, WalError> {
    look::look_at(segment, open, cluster, judge, |_| None, false, &mut Scratch::default())
}

/// Whether two WAL files hold the same when decompressed; `None` when one of them is gone meanwhile.
pub(crate) fn same_content(new: &Path, existing: &Path) -> Result<Option<bool>, WalError> {
    match place::compare(new, existing) {
        Ok(Prepared::Same) => Ok(Some(true)),
        Ok(Prepared::Different(_)) => Ok(Some(false)),
        Ok(_) => Ok(None),
        Err(PrepareError::Source(WalError::Read { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(PrepareError::Source(error)) => Err(error),
        // Comparing writes nothing.
        Err(PrepareError::Archive(error)) => Err(WalError::Read { path: error.path, source: error.source }),
    }
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
mod sound_tests;
#[cfg(test)]
mod tests;
