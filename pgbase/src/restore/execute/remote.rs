//! Carrying out a plan on another machine, through a [`Host`]: in the same order as here.
//!
//! The far end is told every path and every byte. What has to be worked out first, such as configuration files and
//! decompressed WAL, is made in a directory here and sent from there.

mod over;
mod send;
mod unpack;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use barkeep_transport::host::{Access, Action, Change, Host, HostError, Kind, Root};

use super::super::destination::{DestinationState, INCOMPLETE_MARKER, state_by_names};
use super::super::facts::{RestorePlan, STAGED_WAL, WalPlace};
use super::super::tree::PG_CONTROL;
use super::{
    CONTROL_IN_WAITING, Content, MANIFEST, PRIVATE_DIRECTORY, PRIVATE_FILE, Phase, RestoreError,
    RestoreEvent, RestoreObserver, RestoreReport, configure, ground, manifest_aside, space,
};
use crate::copy::Directory;

/// Most names looked at to tell what is in a directory.
const NAMES_MAX: usize = 64;
/// The directory itself, for what can be done to it.
const ITSELF: &str = ".";
/// The directory, in that for what is made on the way, for configuration out of an archive.
const UNPACKED: &str = "unpacked";

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
    observer.event(RestoreEvent::Phase(Phase::Listing));
    let content = Content::open(plan)?;
    let mut far = Far { host, plan, staging, observer, roots: Vec::new(), wal: None, claimed: false };
    let result = far.restore(content, jobs);
    if result.is_err() && far.claimed && !far.is_in_use() {
        // Nobody can do more about what is left if the host can't be reached.
        let _ = far.clear();
    }
    result
}

/// Something that is at a destination.
#[derive(Debug, Clone)]
struct There {
    kind: Kind,
    size: u64,
    mode: u32,
    /// Whether somebody else knows it by another name.
    shared: bool,
    target: PathBuf,
}

/// A destination at the far end.
#[derive(Debug)]
struct FarRoot {
    root: Root,
    path: PathBuf,
    /// What a delta restore found, in the order in which directories come before what is in them.
    names: Vec<PathBuf>,
    there: HashMap<PathBuf, There>,
}

/// The destinations at the far end.
struct Far<'a> {
    host: &'a dyn Host,
    plan: &'a RestorePlan,
    staging: &'a Path,
    observer: &'a dyn RestoreObserver,
    roots: Vec<FarRoot>,
    /// Where WAL goes: a directory, and the path in it.
    wal: Option<(Root, PathBuf)>,
    /// Whether what is there is ours.
    claimed: bool,
}

impl Far<'_> {
    fn restore(&mut self, mut content: Content, jobs: usize) -> Result<RestoreReport, RestoreError> {
        let plan = self.plan;
        self.claim()?;
        self.check(&content)?;
        self.mark()?;
        let mut delta = None;
        if self.is_in_use() {
            self.check(&content)?;
            self.disarm()?;
            delta = Some(self.clear_the_way(&content.listings)?);
        }
        self.make_directories(&content)?;
        let data = self.data()?.root;
        if plan.wal_place == WalPlace::PgWal {
            let marks = plan.wal.iter().map(|wal| {
                let name = format!("pg_wal/archive_status/{}.done", wal.name());
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
        let mut top_names: Vec<PathBuf> = content
            .listings
            .first()
            .map(|listing| listing.files.iter().map(|file| file.path.clone()).collect())
            .unwrap_or_default();
        self.send_all_wal(jobs)?;
        let mut written = 0;
        if !content.archives.is_empty() {
            let unpacked = self.unpack_all(&content.archives, jobs)?;
            (report.files, report.bytes, written) = (unpacked.files, unpacked.bytes, unpacked.bytes);
            top_names = unpacked.top_names;
        }
        let files = content.take_files();
        written += self.send_all_files(&content.sources, files, jobs)?;
        report.delta = delta.map(|delta| super::DeltaReport { written, ..delta });

        self.observer.event(RestoreEvent::Phase(Phase::Configuring));
        let links = plan.trees.iter().filter_map(|tree| {
            let oid = tree.tablespace.as_ref()?.0;
            let target = tree.to.clone();
            Some(change(data, format!("pg_tblspc/{oid}"), Action::SymbolicLink { target }))
        });
        self.make(links.collect())?;
        self.configure(&content, &top_names, &mut report)?;
        if let Some(source) = content.sources.first() {
            let control = source.read(Path::new(PG_CONTROL));
            let mut control = control.map_err(|error| RestoreError::read(Path::new(PG_CONTROL), error))?;
            let mode = content.control_mode.unwrap_or(PRIVATE_FILE);
            let waiting = Path::new(CONTROL_IN_WAITING);
            self.send_file(data, waiting, mode, &mut control, &AtomicBool::new(false))?;
            self.make(vec![send::keep_time(data, waiting, &control)])?;
            if top_names.iter().any(|name| name == Path::new(MANIFEST)) {
                let to = PathBuf::from(manifest_aside(plan));
                self.make(vec![change(data, MANIFEST, Action::Rename { to })])?;
            }
        }

        self.observer.event(RestoreEvent::Phase(Phase::Syncing));
        let wal = self.wal.iter().map(|(root, _)| *root);
        for root in self.roots.iter().map(|root| root.root).chain(wal) {
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

    /// Opens the destinations, which must be empty still unless this is a delta restore.
    fn claim(&mut self) -> Result<(), RestoreError> {
        for tree in &self.plan.trees {
            let root = self.host.open(&tree.to, Access::Change)?;
            let mut far = FarRoot { root, path: tree.to.clone(), names: Vec::new(), there: HashMap::new() };
            if self.plan.delta {
                self.list(&mut far)?;
            } else if !names(self.host, root)?.is_empty() {
                return Err(RestoreError::NotEmpty { path: tree.to.clone() });
            }
            self.roots.push(far);
        }
        let data = self.data()?.root;
        self.wal = Some(match &self.plan.wal_place {
            WalPlace::PgWal => (data, PathBuf::from("pg_wal")),
            WalPlace::Staged => (data, PathBuf::from(STAGED_WAL)),
            WalPlace::Elsewhere(path) => (self.host.open(path, Access::Change)?, PathBuf::new()),
        });
        Ok(())
    }

    fn data(&self) -> Result<&FarRoot, RestoreError> {
        self.roots.first().ok_or_else(|| super::no_control(self.plan))
    }

    /// Whether anything was there before.
    fn is_in_use(&self) -> bool {
        self.roots.iter().any(|root| !root.names.is_empty())
    }

    /// Says in the data directory that it isn't finished, and keeps other restores out of it.
    fn mark(&mut self) -> Result<(), RestoreError> {
        let data = self.data()?;
        let (root, path) = (data.root, data.path.clone());
        let busy = || RestoreError::Busy { path: path.clone() };
        let is_busy = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::WouldBlock)
        };
        let mut changes = Vec::new();
        if !data.there.contains_key(Path::new(INCOMPLETE_MARKER)) {
            changes.push(change(root, INCOMPLETE_MARKER, Action::CreateFile { mode: PRIVATE_FILE }));
        }
        changes.push(change(root, INCOMPLETE_MARKER, Action::Lock));
        changes.push(change(root, INCOMPLETE_MARKER, Action::Sync));
        changes.push(change(root, ITSELF, Action::Sync));
        for (change, outcome) in changes.iter().zip(self.host.change(&changes)?) {
            match outcome {
                Err(error) if is_busy(&error) => return Err(busy()),
                outcome => outcome.map_err(|error| RestoreError::write(&self.full_path(change), error))?,
            }
        }
        self.claimed = true;
        Ok(())
    }

    fn make_directories(&self, content: &Content) -> Result<(), RestoreError> {
        let modes = content.modes(self.plan)?;
        let mut made = Vec::new();
        for ((far, mode), listing) in self.roots.iter().zip(modes).zip(&content.listings) {
            // What is in use has the mode that its owner gave it.
            if far.names.is_empty() {
                made.push(change(far.root, ITSELF, metadata(mode)));
            }
            for job in &listing.directories {
                let action = match far.there.get(&job.path) {
                    Some(there) if there.kind == Kind::Directory => metadata(job.mode),
                    _ => Action::CreateDirectory { mode: job.mode },
                };
                made.push(change(far.root, &job.path, action));
            }
        }
        self.make(made)?;
        let data = self.data()?.root;
        let extra: Vec<Change> = ["global", "pg_tblspc", "pg_wal", "pg_wal/archive_status"]
            .into_iter()
            .chain((self.plan.wal_place == WalPlace::Staged).then_some(STAGED_WAL))
            .map(|name| change(data, name, Action::CreateDirectory { mode: PRIVATE_DIRECTORY }))
            .collect();
        self.make_or_find(extra)
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
        let root = self.roots.iter().find(|root| root.root == change.root);
        root.map_or_else(|| change.path.clone(), |root| root.path.join(&change.path))
    }

    /// Works the configuration out here, and sends it.
    fn configure(
        &self,
        content: &Content,
        copied: &[PathBuf],
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        let directory =
            Directory::open(self.staging).map_err(|error| RestoreError::write(self.staging, error))?;
        // What came out of an archive was put aside.
        let unpacked = match content.sources.first() {
            Some(_) => None,
            None => {
                let path = self.staging.join(UNPACKED);
                Some(Directory::open(&path).map_err(|error| RestoreError::read(&path, error))?)
            }
        };
        let Some(inherited) = content.sources.first().or(unpacked.as_ref()) else {
            return Err(super::no_control(self.plan));
        };
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
            let data = self.data()?;
            if data.there.contains_key(name) || copied.iter().any(|copied| copied == name) {
                self.make(vec![change(data.root, name, Action::RemoveFile)])?;
            }
            self.send_file(data.root, name, PRIVATE_FILE, &mut file, &AtomicBool::new(false))?;
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
        for root in self.roots.iter().map(|root| root.root).chain(wal) {
            self.host.change(&self.removals(root)?)?;
        }
        Ok(())
    }

    /// What removes all that is in a directory.
    fn removals(&self, root: Root) -> Result<Vec<Change>, RestoreError> {
        let mut removals = Vec::new();
        self.host.walk(root, &[], &mut |entry| {
            removals.push(Change { root, path: entry.path, action: over::removal(entry.kind) });
            Ok(())
        })?;
        // What is in a directory goes before it.
        removals.reverse();
        Ok(removals)
    }
}

fn change(root: Root, path: impl AsRef<Path>, action: Action) -> Change {
    Change { root, path: path.as_ref().to_owned(), action }
}

const fn metadata(mode: u32) -> Action {
    Action::SetMetadata { mode: Some(mode), owner: None, modified_ns: None }
}
