//! Carrying out a plan on another machine, through a [`Host`]: into empty directories, in the same order as here.
//!
//! The far end is told every path and every byte. What has to be worked out first, such as configuration files and
//! decompressed WAL, is made in a directory here and sent from there.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use barkeep_transport::host::{Access, Action, Change, Host, HostError, Kind, PIECE_BYTES, Root};

use super::super::destination::{DestinationState, INCOMPLETE_MARKER, state_by_names};
use super::super::facts::{BackupFormat, RestorePlan, STAGED_WAL, WalPlace};
use super::super::tree::{FileJob, PG_CONTROL};
use super::super::wal_copy;
use super::{
    CONTROL_IN_WAITING, Content, MANIFEST, PRIVATE_DIRECTORY, PRIVATE_FILE, Phase, RestoreError,
    RestoreEvent, RestoreObserver, RestoreReport, configure, ground, space,
};
use crate::copy::{CopyMethod, Directory};
use crate::pool;

/// Files below this size are sent several at a time, in bytes.
const SMALL_BYTES: u64 = 128 << 10;
/// Most files that are sent at a time.
const BATCH_FILES: usize = 64;
/// Most names looked at to tell what is in a directory.
const NAMES_MAX: usize = 64;
/// The directory itself, for what can be done to it.
const ITSELF: &str = ".";

/// Looks at a destination on another machine. Its agent has made the directory if it was missing.
///
/// # Errors
/// When it can't be looked at.
pub fn look_at_remote(host: &dyn Host, path: &Path) -> io::Result<DestinationState> {
    let root = host.open(path, Access::Change).map_err(io::Error::other)?;
    names(host, root).map(state_by_names).map_err(io::Error::other)
}

/// The first names in a directory.
fn names(host: &dyn Host, root: Root) -> Result<Vec<String>, HostError> {
    let mut names: Vec<String> = Vec::new();
    let walked = host.walk(root, &[], &mut |entry| {
        let top = entry.path.iter().next().unwrap_or_default().to_string_lossy().into_owned();
        if names.last() != Some(&top) {
            names.push(top);
        }
        if names.len() >= NAMES_MAX { Err(io::Error::other("enough")) } else { Ok(()) }
    });
    match walked {
        Err(HostError::Sink(_)) | Ok(()) => Ok(names),
        Err(error) => Err(error),
    }
}

/// Carries out a plan on `host`, whose agent may change all the plan's destinations; `staging` is an empty directory
/// here, for what is made on the way.
///
/// # Errors
/// As for [`execute`](super::execute), and when the host or the way to it fails. What was made is removed, if the host
/// can be reached still; until the end the destination can't be started.
pub fn execute_remote(
    host: &dyn Host,
    plan: &RestorePlan,
    jobs: usize,
    staging: &Path,
    observer: &dyn RestoreObserver,
) -> Result<RestoreReport, RestoreError> {
    let plain = plan.backup.format != BackupFormat::Tar && !plan.delta;
    if !plain {
        let what = "only plain backups are restored to another machine, and only into empty directories";
        return Err(HostError::Refused(what.to_owned()).into());
    }
    observer.event(RestoreEvent::Phase(Phase::Listing));
    let content = Content::open(plan)?;
    let mut far = Far { host, plan, staging, observer, roots: Vec::new(), wal: None, claimed: false };
    let result = far.restore(content, jobs);
    if result.is_err() && far.claimed {
        // Nobody can do more about what is left if the host can't be reached.
        let _ = far.clear();
    }
    result
}

/// The destinations at the far end.
struct Far<'a> {
    host: &'a dyn Host,
    plan: &'a RestorePlan,
    staging: &'a Path,
    observer: &'a dyn RestoreObserver,
    roots: Vec<Root>,
    /// Where WAL goes: a directory, and the path in it.
    wal: Option<(Root, PathBuf)>,
    /// Whether what is there is ours.
    claimed: bool,
}

/// Something to send.
enum Job {
    Files(Vec<FileJob>),
    /// By its index in the plan.
    Wal(usize),
}

impl Far<'_> {
    fn restore(&mut self, mut content: Content, jobs: usize) -> Result<RestoreReport, RestoreError> {
        let plan = self.plan;
        self.claim()?;
        let data = self.roots[0];
        let modes = content.modes(plan)?;
        let mut made = Vec::new();
        for ((root, mode), listing) in self.roots.iter().zip(modes).zip(&content.listings) {
            made.push(change(*root, ITSELF, metadata(mode)));
            made.extend(
                listing
                    .directories
                    .iter()
                    .map(|job| change(*root, &job.path, Action::CreateDirectory { mode: job.mode })),
            );
        }
        self.make(made)?;
        let extra: Vec<Change> = ["global", "pg_tblspc", "pg_wal", "pg_wal/archive_status"]
            .into_iter()
            .chain((plan.wal_place == WalPlace::Staged).then_some(STAGED_WAL))
            .map(|name| change(data, name, Action::CreateDirectory { mode: PRIVATE_DIRECTORY }))
            .collect();
        self.make_or_find(extra)?;
        if plan.wal_place == WalPlace::PgWal {
            let marks = plan.wal.iter().map(|wal| {
                let name = format!("pg_wal/archive_status/{}.done", wal.name);
                change(data, name, Action::CreateFile { mode: PRIVATE_FILE })
            });
            self.make(marks.collect())?;
        }

        self.observer.event(RestoreEvent::Phase(Phase::Copying));
        let mut report = content.report(plan);
        self.observer.event(RestoreEvent::Total {
            files: report.files,
            bytes: report.bytes.saturating_add(space::wal_bytes(plan)),
            wal_files: report.wal_files,
        });
        let top_names: Vec<PathBuf> = content
            .listings
            .first()
            .map(|listing| listing.files.iter().map(|file| file.path.clone()).collect())
            .unwrap_or_default();
        let files = content.take_files();
        self.send_all(&content.sources, files, jobs)?;

        self.observer.event(RestoreEvent::Phase(Phase::Configuring));
        let links = plan.trees.iter().filter_map(|tree| {
            let oid = tree.tablespace.as_ref()?.0;
            let target = tree.to.clone();
            Some(change(data, format!("pg_tblspc/{oid}"), Action::SymbolicLink { target }))
        });
        self.make(links.collect())?;
        let inherited = content.sources.first().ok_or_else(|| super::no_control(plan))?;
        self.configure(inherited, &top_names, &mut report)?;
        let control = inherited.read(Path::new(PG_CONTROL));
        let mut control = control.map_err(|error| RestoreError::read(Path::new(PG_CONTROL), error))?;
        let mode = content.control_mode.unwrap_or(PRIVATE_FILE);
        self.send_file(data, Path::new(CONTROL_IN_WAITING), mode, &mut control, &AtomicBool::new(false))?;
        if top_names.iter().any(|name| name == Path::new(MANIFEST)) {
            let to = PathBuf::from(format!("{MANIFEST}.{}", plan.backup.id));
            self.make(vec![change(data, MANIFEST, Action::Rename { to })])?;
        }

        self.observer.event(RestoreEvent::Phase(Phase::Syncing));
        let wal = self.wal.iter().map(|(root, _)| *root);
        for root in self.roots.iter().copied().chain(wal) {
            self.host.sync(root)?;
        }
        if self.observer.cancelled() {
            return Err(RestoreError::Cancelled);
        }
        self.make(vec![
            change(data, CONTROL_IN_WAITING, Action::Rename { to: PathBuf::from(PG_CONTROL) }),
            change(data, "global", Action::Sync),
            change(data, INCOMPLETE_MARKER, Action::RemoveFile),
            change(data, ITSELF, Action::Sync),
        ])?;
        Ok(report)
    }

    /// Opens the destinations, which must be empty still, and marks the data directory as unfinished.
    fn claim(&mut self) -> Result<(), RestoreError> {
        for tree in &self.plan.trees {
            let root = self.host.open(&tree.to, Access::Change)?;
            if !names(self.host, root)?.is_empty() {
                return Err(RestoreError::NotEmpty { path: tree.to.clone() });
            }
            self.roots.push(root);
        }
        let data = *self.roots.first().ok_or_else(|| super::no_control(self.plan))?;
        self.wal = Some(match &self.plan.wal_place {
            WalPlace::PgWal => (data, PathBuf::from("pg_wal")),
            WalPlace::Staged => (data, PathBuf::from(STAGED_WAL)),
            WalPlace::Elsewhere(path) => (self.host.open(path, Access::Change)?, PathBuf::new()),
        });
        // The mark itself makes sure that nobody else is at it.
        self.make(vec![change(data, INCOMPLETE_MARKER, Action::CreateFile { mode: PRIVATE_FILE })])?;
        self.claimed = true;
        Ok(())
    }

    /// Makes changes, all of which must succeed.
    fn make(&self, changes: Vec<Change>) -> Result<(), RestoreError> {
        self.make_unless(changes, |_| false)
    }

    /// The same, for directories that may be there already.
    fn make_or_find(&self, changes: Vec<Change>) -> Result<(), RestoreError> {
        self.make_unless(changes, |error| error.kind() == io::ErrorKind::AlreadyExists)
    }

    fn make_unless(
        &self,
        changes: Vec<Change>,
        is_fine: impl Fn(&io::Error) -> bool,
    ) -> Result<(), RestoreError> {
        let outcomes = self.host.change(&changes)?;
        for (change, outcome) in changes.iter().zip(outcomes) {
            match outcome {
                Err(error) if !is_fine(&error) => {
                    return Err(RestoreError::write(&self.full_path(change), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn full_path(&self, change: &Change) -> PathBuf {
        let tree = self.roots.iter().position(|root| *root == change.root);
        let tree = tree.and_then(|index| self.plan.trees.get(index));
        tree.map_or_else(|| change.path.clone(), |tree| tree.to.join(&change.path))
    }

    fn send_all(&self, sources: &[Directory], files: Vec<FileJob>, jobs: usize) -> Result<(), RestoreError> {
        let (mut large, small): (Vec<FileJob>, Vec<FileJob>) =
            files.into_iter().partition(|file| file.size >= SMALL_BYTES);
        large.sort_by_key(|file| std::cmp::Reverse(file.size));
        let mut work: Vec<Job> = large.into_iter().map(|file| Job::Files(vec![file])).collect();
        work.extend((0..self.plan.wal.len()).map(Job::Wal));
        let mut batch = Vec::new();
        for file in small {
            batch.push(file);
            if batch.len() >= BATCH_FILES {
                work.push(Job::Files(std::mem::take(&mut batch)));
            }
        }
        work.push(Job::Files(batch));
        pool::run(
            &work,
            jobs.max(1),
            || (),
            |(), job, stop| match job {
                Job::Files(files) => self.send_files(sources, files, stop),
                Job::Wal(index) => self.send_wal(*index, stop),
            },
        )
    }

    fn send_files(
        &self,
        sources: &[Directory],
        files: &[FileJob],
        stop: &AtomicBool,
    ) -> Result<(), RestoreError> {
        let mut changes = Vec::new();
        for job in files {
            let (Some(source), Some(root)) = (sources.get(job.tree), self.roots.get(job.tree)) else {
                continue;
            };
            let from =
                || self.plan.trees.get(job.tree).map_or(job.path.clone(), |tree| tree.from.join(&job.path));
            let mut file = job.open(source).map_err(|error| RestoreError::read(&from(), error))?;
            if job.size >= SMALL_BYTES {
                self.send_file(*root, &job.path, job.mode, &mut file, stop)?;
                continue;
            }
            let mut data = Vec::new();
            file.take(SMALL_BYTES * 2)
                .read_to_end(&mut data)
                .map_err(|error| RestoreError::read(&from(), error))?;
            changes.push(change(*root, &job.path, Action::CreateFile { mode: job.mode }));
            if !data.is_empty() {
                changes.push(change(*root, &job.path, Action::Write { offset: 0, data }));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.make(changes)?;
        self.account(files.iter().filter(|job| job.size < SMALL_BYTES).map(|job| job.size).sum(), stop)
    }

    /// Sends one file, leaving out what is zero.
    fn send_file(
        &self,
        root: Root,
        path: &Path,
        mode: u32,
        mut file: &mut dyn Read,
        stop: &AtomicBool,
    ) -> Result<(), RestoreError> {
        self.make(vec![change(root, path, Action::CreateFile { mode })])?;
        let mut offset = 0;
        loop {
            let mut data = Vec::with_capacity(PIECE_BYTES);
            let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut data);
            let bytes = read.map_err(|error| RestoreError::read(path, error))? as u64;
            if bytes == 0 {
                return self.make(vec![change(root, path, Action::Truncate { size: offset })]);
            }
            if data.iter().any(|byte| *byte != 0) {
                self.make(vec![change(root, path, Action::Write { offset, data })])?;
            }
            offset += bytes;
            self.account(bytes, stop)?;
        }
    }

    fn send_wal(&self, index: usize, stop: &AtomicBool) -> Result<(), RestoreError> {
        let (Some(wal), Some((root, directory))) = (self.plan.wal.get(index), &self.wal) else {
            return Ok(());
        };
        let path = self.staging.join(&wal.name);
        let copy = || -> io::Result<File> {
            let staging = Directory::open(self.staging)?;
            let size = self.plan.backup.segment_size;
            wal_copy::place(wal, &staging, size, None, &CopyMethod::default(), &|_| Ok(()))?;
            let file = File::open(&path)?;
            // Open, it needs no name.
            std::fs::remove_file(&path)?;
            Ok(file)
        };
        let mut file = copy().map_err(|source| RestoreError::Copy {
            from: wal.from.clone(),
            to: path.clone(),
            source,
        })?;
        self.send_file(*root, &directory.join(&wal.name), PRIVATE_FILE, &mut file, stop)
    }

    /// Works the configuration out here, and sends it.
    fn configure(
        &self,
        inherited: &Directory,
        copied: &[PathBuf],
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        let directory =
            Directory::open(self.staging).map_err(|error| RestoreError::write(self.staging, error))?;
        let here = ground::Root { path: self.staging.to_owned(), directory, in_use: false };
        configure::configure(self.plan, inherited, &here, None, report)?;
        report.missing_files.retain(|name| !copied.iter().any(|path| path == Path::new(name)));
        let entries = here.directory.entries().map_err(|error| RestoreError::read(self.staging, error))?;
        for entry in entries.iter().filter(|entry| entry.kind == crate::copy::Kind::File) {
            let name = Path::new(&entry.name);
            let mut file = here
                .directory
                .read(name)
                .map_err(|error| RestoreError::read(&self.staging.join(name), error))?;
            self.send_file(self.roots[0], name, PRIVATE_FILE, &mut file, &AtomicBool::new(false))?;
        }
        Ok(())
    }

    fn account(&self, bytes: u64, stop: &AtomicBool) -> Result<(), RestoreError> {
        self.observer.event(RestoreEvent::Copied { bytes });
        match stop.load(Ordering::Relaxed) || self.observer.cancelled() {
            true => Err(RestoreError::Cancelled),
            false => Ok(()),
        }
    }

    /// Removes all that is in the destinations, which were empty.
    fn clear(&self) -> Result<(), RestoreError> {
        let wal = self.wal.iter().filter(|(_, path)| path.as_os_str().is_empty()).map(|(root, _)| *root);
        for root in self.roots.iter().copied().chain(wal) {
            let mut removals = Vec::new();
            self.host.walk(root, &[], &mut |entry| {
                let action = match entry.kind {
                    Kind::Directory => Action::RemoveDirectory,
                    _ => Action::RemoveFile,
                };
                removals.push(Change { root, path: entry.path, action });
                Ok(())
            })?;
            // What is in a directory goes before it.
            removals.reverse();
            self.host.change(&removals)?;
        }
        Ok(())
    }
}

fn change(root: Root, path: impl AsRef<Path>, action: Action) -> Change {
    Change { root, path: path.as_ref().to_owned(), action }
}

const fn metadata(mode: u32) -> Action {
    Action::SetMetadata { mode: Some(mode), owner: None, modified_ns: None }
}
