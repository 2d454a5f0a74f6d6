//! One run of the archiver: batch after batch, from the queues to the report.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use barkeep_transport::durable;
use jiff::Timestamp;
use pgwal::WalFile;

use super::batch::Batch;
use super::locks::Locks;
use super::parallel::{Ready, prepare_all};
use super::place::Job;
use super::queue::{self, QueuedFile};
use super::{
    ArchiveError, ArchiveEvent, ArchiveHooks, ArchiveOptions, ArchiveReport, BATCH_FILES_MAX, HookFile,
    Origin, Rejection, known_cluster, move_to_errors,
};
use crate::inspect::Cluster;
use crate::xlogdb::WalEntry;
use crate::{IndexStore, Layout};

pub(super) struct Run<'a> {
    pub(super) locks: Locks<'a>,
    layout: &'a Layout,
    options: &'a ArchiveOptions,
    now: Timestamp,
    hooks: &'a dyn ArchiveHooks,
    observer: &'a mut dyn FnMut(ArchiveEvent),
    report: ArchiveReport,
    /// Directories of the archive that hold no leftovers.
    clean_directories: BTreeSet<PathBuf>,
    cluster: Option<Cluster>,
    store: &'a IndexStore,
}

impl<'a> Run<'a> {
    /// Begins one, unless another archiver is at work.
    pub(super) fn begin(
        layout: &'a Layout,
        options: &'a ArchiveOptions,
        now: Timestamp,
        hooks: &'a dyn ArchiveHooks,
        store: &'a IndexStore,
        observer: &'a mut dyn FnMut(ArchiveEvent),
    ) -> Result<Self, ArchiveError> {
        Ok(Run {
            locks: Locks::try_both(layout)?,
            layout,
            options,
            now,
            hooks,
            observer,
            report: ArchiveReport::default(),
            clean_directories: BTreeSet::new(),
            cluster: None,
            store,
        })
    }

    /// What it did so far.
    pub(super) fn report(&self) -> ArchiveReport {
        self.report
    }

    /// Tells the observer.
    pub(super) fn tell_one(&mut self, event: ArchiveEvent) {
        (self.observer)(event);
    }

    /// Archives what came from one place.
    pub(super) fn origin(&mut self, origin: Origin, limit: usize) -> Result<(), ArchiveError> {
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
        if queue.unknown.is_empty() {
            return Ok(());
        }
        self.locks.both()?;
        for name in &queue.unknown {
            let path = directory.join(name);
            // Something else may have got its name while the others were archived.
            if queue::is_unknown(&path) {
                self.reject(&path, name, Rejection::Unknown)?;
            }
        }
        Ok(())
    }

    /// Archives some files: all of them prepared, then published, then listed, then their sources removed.
    fn batch(&mut self, directory: &Path, files: &[QueuedFile]) -> Result<(), ArchiveError> {
        let mut jobs: Vec<Job> = files.iter().map(|queued| Job::of(queued, directory)).collect();
        let stopped = self.announce(&mut jobs);
        if !jobs.is_empty() {
            let ready = self.prepare(&jobs)?;
            let outcome = self.publish(directory, &jobs, ready)?;
            self.tell(outcome)?;
        }
        stopped.map_or(Ok(()), Err)
    }

    /// Reads, judges and compresses files, without Barman's lock.
    pub(super) fn prepare(&mut self, jobs: &[Job]) -> Result<Vec<Ready>, ArchiveError> {
        self.locks.only_own()?;
        for job in jobs {
            self.make_ready(self.layout.wal_directory(&job.file))?;
        }
        // Learned anew for each batch until it is known: the first segment of an archive tells it for the rest.
        self.cluster = self.cluster.or_else(|| known_cluster(self.layout, self.store));
        Ok(prepare_all(jobs, self.layout, self.options, self.cluster, self.store))
    }

    /// Brings prepared files into the archive, as far as they are still what was read.
    pub(super) fn publish<'j>(
        &mut self,
        directory: &Path,
        jobs: &'j [Job],
        ready: Vec<Ready>,
    ) -> Result<Batch<'j>, ArchiveError>
    where
        'a: 'j,
    {
        self.locks.both()?;
        let mut outcome = Batch::new(self.layout, self.options, self.now);
        for (job, ready) in jobs.iter().zip(ready) {
            outcome.publish(job, ready)?;
        }
        outcome.sync_names()?;
        outcome.list()?;
        if let Err(error) = self.store.add(&outcome.indexes) {
            (self.observer)(ArchiveEvent::NotIndexed(error.to_string()));
        }
        if outcome.remove_sources()? {
            durable::sync_dir(directory)?;
        }
        Ok(outcome)
    }

    /// Tells the hooks of the files that come next. Those that they don't let pass are taken off the batch.
    fn announce(&mut self, jobs: &mut Vec<Job>) -> Option<ArchiveError> {
        if self.hooks.is_empty() {
            return None;
        }
        self.locks.release();
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

    /// Makes sure that a directory of the archive is there, and holds none of the copies of archivers that were killed.
    pub(super) fn make_ready(&mut self, directory: PathBuf) -> Result<(), ArchiveError> {
        durable::create_dir_all(&directory)?;
        if !self.clean_directories.contains(&directory) {
            // The list is written beside the archive's files, by others too.
            durable::remove_temporary_files_of(&directory, |name| name.parse::<WalFile>().is_ok())?;
            self.clean_directories.insert(directory);
        }
        Ok(())
    }

    /// Tells what became of a batch: the observer, then the hooks. What is rejected is moved away on the way.
    pub(super) fn tell(&mut self, outcome: Batch<'_>) -> Result<(), ArchiveError> {
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
        for (job, _) in
            outcome.done.iter().filter(|(job, _)| !job.stays && outcome.already.contains(&job.file))
        {
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
        for (file, change) in outcome.overtaken {
            self.report.overtaken += 1;
            (self.observer)(ArchiveEvent::Overtaken { file, change });
        }
        for (job, rejection) in outcome.rejected {
            let name = OsString::from(job.file.to_string());
            if let Ok(entry) = WalEntry::of_file(job.file, &job.source) {
                hooked.push((entry, job.source.clone(), Some(rejection.to_string())));
            }
            self.reject(&job.source, &name, rejection)?;
        }
        if !hooked.is_empty() && !self.hooks.is_empty() {
            self.locks.release();
            for (entry, path, error) in &hooked {
                self.hooks.after(&hook_file(entry, path), error.as_deref());
            }
        }
        Ok(())
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

fn hook_file<'a>(entry: &'a WalEntry, path: &'a Path) -> HookFile<'a> {
    HookFile {
        file: entry.file,
        path,
        size: entry.size,
        time: entry.time,
        compression: entry.compression.as_deref(),
    }
}
