//! From prepared files to archived ones: names, lines, and the end of the sources. All of it under both [locks](super::locks).

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use barkeep_transport::durable::{self, DurableError, TempFile};
use jiff::Timestamp;
use pgwal::WalFile;

use super::found::{Change, FileState};
use super::parallel::{Ready, each_of};
use super::place::{self, Arrival, Job, PrepareError, Prepared};
use super::{ArchiveError, ArchiveOptions, Rejection, move_to_errors};
use crate::Layout;
use crate::index_store::Facts;
use crate::inspect::{SegmentIndex, Soundness};
use crate::wal::WalError;
use crate::xlogdb::{self, Locked, WalEntry};

/// What became of a batch so far.
pub(super) struct Batch<'j> {
    layout: &'j Layout,
    options: &'j ArchiveOptions,
    now: Timestamp,
    /// Directories of the archive with new names.
    directories: BTreeSet<PathBuf>,
    pub(super) entries: Vec<WalEntry>,
    /// Which list there was before the first of them was published.
    listed_in: Option<xlogdb::Version>,
    pub(super) already: Vec<WalFile>,
    /// Whose sources have done their service, and which files these were.
    pub(super) done: Vec<(&'j Job, Option<FileState>)>,
    pub(super) rejected: Vec<(&'j Job, Rejection)>,
    /// Damaged files that made room for sound ones, and where they are now.
    pub(super) replaced: Vec<(WalFile, PathBuf)>,
    pub(super) indexes: Vec<(Facts, Option<Arc<SegmentIndex>>)>,
    pub(super) left: Vec<(PathBuf, String)>,
    /// What another process was at work on.
    pub(super) overtaken: Vec<(WalFile, Change)>,
}

impl<'j> Batch<'j> {
    /// An empty one.
    pub(super) fn new(layout: &'j Layout, options: &'j ArchiveOptions, now: Timestamp) -> Self {
        Batch {
            layout,
            options,
            now,
            directories: BTreeSet::new(),
            entries: Vec::new(),
            listed_in: xlogdb::version(layout),
            already: Vec::new(),
            done: Vec::new(),
            rejected: Vec::new(),
            replaced: Vec::new(),
            indexes: Vec::new(),
            left: Vec::new(),
            overtaken: Vec::new(),
        }
    }

    /// Gives a prepared file its name in the archive, unless something has changed since it was read: then nothing is done
    /// with it, and the copy that was made goes. The name is not on stable storage yet.
    pub(super) fn publish(&mut self, job: &'j Job, ready: Ready) -> Result<(), ArchiveError> {
        let Ready { found, outcome } = ready;
        let mut change = found.change(job, self.layout);
        if outcome.as_ref().is_ok_and(|prepared| prepared.rests_on_archived() && found.archived.is_none()) {
            // It came and went again.
            change = change.or(Some(Change::Archive));
        }
        if let Some(change) = change {
            self.overtaken.push((job.file, change));
            return Ok(());
        }
        let source = found.source;
        match outcome {
            Ok(Prepared::Copy(copy, arrival)) => {
                self.make_room(job, &arrival)?;
                self.publish_copy(job, copy, arrival, source)?;
            }
            Ok(Prepared::Link(path, arrival)) => {
                self.make_room(job, &arrival)?;
                let destination = self.layout.wal(&job.file);
                // The archive's last file may have been deleted while this one was read, and the directory with it.
                durable::create_dir_all(&self.layout.wal_directory(&job.file))?;
                match durable::link_unsynced(&path, &destination) {
                    Ok(()) => self.published(job, arrival, source),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.overtaken.push((job.file, Change::Archive));
                    }
                    // Some systems let only a file's owner link it, and some file systems can't at all.
                    Err(_) => match place::copy_instead(&path, &destination, self.options) {
                        Ok(Some(copy)) => self.publish_copy(job, copy, arrival, source)?,
                        Ok(None) => self.overtaken.push((job.file, Change::Gone)),
                        Err(PrepareError::Source(error)) => self.leave(job, error),
                        Err(PrepareError::Archive(error)) => return Err(error.into()),
                    },
                }
            }
            Ok(Prepared::Same) => {
                // Its name may be the work of a run that crashed before this was certain.
                self.directories.insert(self.layout.wal_directory(&job.file));
                self.already.push(job.file);
                self.done.push((job, source));
            }
            Ok(Prepared::Different(difference)) => {
                self.rejected.push((job, Rejection::Duplicate(difference)));
            }
            // The receiver finds its place by this one: it is told of when it is about to be moved.
            Ok(Prepared::Refused(_, note)) if job.stays => self.left.push((job.source.clone(), note)),
            Ok(Prepared::Refused(Soundness::Foreign, note)) => {
                self.rejected.push((job, Rejection::Foreign(note)));
            }
            Ok(Prepared::Refused(_, note)) => self.rejected.push((job, Rejection::Damaged(note))),
            Ok(Prepared::Unfit(reason)) => self.left.push((job.source.clone(), reason)),
            Ok(Prepared::Gone) => self.overtaken.push((job.file, Change::Gone)),
            Err(PrepareError::Source(error)) => self.leave(job, error),
            // As below: the directory was there when this began.
            Err(PrepareError::Archive(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.overtaken.push((job.file, Change::Archive));
            }
            Err(PrepareError::Archive(error)) => return Err(error.into()),
        }
        Ok(())
    }

    fn publish_copy(
        &mut self,
        job: &'j Job,
        copy: TempFile,
        arrival: Arrival,
        source: Option<FileState>,
    ) -> Result<(), ArchiveError> {
        match copy.try_publish_new_unsynced() {
            Ok(None) => self.published(job, arrival, source),
            Ok(Some(_)) => self.overtaken.push((job.file, Change::Archive)),
            // Barman deletes a directory of the archive with all that is in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.overtaken.push((job.file, Change::Archive));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn published(&mut self, job: &'j Job, arrival: Arrival, source: Option<FileState>) {
        let Arrival { entry, inspection, .. } = arrival;
        self.directories.insert(self.layout.wal_directory(&job.file));
        if let (WalFile::Segment(segment), Some(inspection)) = (entry.file, inspection) {
            self.indexes.push((
                Facts::of(segment, &inspection, entry.size, Some(entry.time as u64)),
                inspection.index,
            ));
        }
        self.entries.push(entry);
        self.done.push((job, source));
    }

    fn leave(&mut self, job: &Job, error: WalError) {
        self.left.push((job.source.clone(), error.to_string()));
    }

    /// Moves a damaged file of the archive away, for a sound one that is about to get its name. A crash in between leaves
    /// the sound one where it was, and the next run goes on.
    fn make_room(&mut self, job: &Job, arrival: &Arrival) -> Result<(), ArchiveError> {
        if !arrival.replaces {
            return Ok(());
        }
        let (path, errors) = (self.layout.wal(&job.file), &self.layout.errors);
        let name = OsString::from(job.file.to_string());
        let moved_to = move_to_errors(&path, &name, "damaged", errors, self.now)?
            .ok_or_else(|| ArchiveError::NoName { path: path.clone(), errors: errors.clone() })?;
        self.replaced.push((job.file, moved_to));
        Ok(())
    }

    /// Brings the names in the archive to stable storage.
    pub(super) fn sync_names(&self) -> Result<(), DurableError> {
        self.directories.iter().try_for_each(|directory| durable::sync_dir(directory))
    }

    /// Appends the lines of what is new, and of what a crash left without one.
    pub(super) fn list(&self) -> Result<(), ArchiveError> {
        if self.entries.is_empty() && self.already.is_empty() {
            return Ok(());
        }
        let list = Locked::acquire(self.layout)?;
        let mut lines = self.entries.clone();
        // Who made the list anew since has found what was published and not listed yet.
        let is_the_same = xlogdb::version(self.layout) == self.listed_in;
        if !self.already.is_empty() || !is_the_same {
            let listed: HashSet<WalFile> = list.read()?.entries.iter().map(|entry| entry.file).collect();
            lines.retain(|entry| !listed.contains(&entry.file));
            for file in self.already.iter().filter(|file| !listed.contains(file)) {
                let path = self.layout.wal(file);
                let entry = WalEntry::of_file(*file, &path);
                lines.push(entry.map_err(|source| ArchiveError::Read { path, source })?);
            }
            lines.sort_by_cached_key(|entry| entry.file.to_string());
        }
        // A damaged file made room for one of these, now or before a crash: its line goes.
        if !self.replaced.is_empty() || self.made_room_for(&lines) {
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

    /// Removes the sources of what is archived and listed, as long as they are what was read; whether there were any.
    /// Several at once: for each, the system gives back all the memory that holds it.
    pub(super) fn remove_sources(&self) -> Result<bool, DurableError> {
        let is_read = |(job, read): &&(&Job, Option<FileState>)| {
            !job.stays && read.is_some_and(|read| read.is_at(&job.source))
        };
        let moved: Vec<&Job> = self.done.iter().filter(is_read).map(|(job, _)| *job).collect();
        let removals = each_of(moved.len(), self.options.workers, |place, _| {
            durable::remove_unsynced(&moved[place].source)
        });
        removals.into_iter().try_fold(false, |any, removed| Ok(removed? || any))
    }
}
