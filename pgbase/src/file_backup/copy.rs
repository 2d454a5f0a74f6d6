//! The threads that copy: large files in ranges, largest first, then small ones in batches.

mod batch;
mod hash;
mod jobs;
mod range;
mod reuse;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use barkeep_transport::host::{Host, HostError, ReadOptions};

use crate::copy::{CopyMethod, Directory};
use crate::pipeline::{CorruptPage, CorruptPages, MAX_CORRUPT_PAGES};
use crate::pool;

use super::inspector::{self, Parameters};
use super::limit::Limiter;
use super::list::FileList;
use super::reference::{Known as KnownChecksums, OpenReference};
use super::target::{Target, Writer};
use super::{FileBackupError, FileBackupObserver, FileBackupPlan, Tree, TreeKind};
use jobs::{Job, Large, divide};

/// What was copied.
pub(super) struct Outcome {
    pub(super) list: FileList,
    pub(super) corrupt: CorruptPages,
    pub(super) total_bytes: u64,
    pub(super) new_bytes: u64,
}

/// What the threads share.
struct Work<'a> {
    host: &'a dyn Host,
    plan: &'a FileBackupPlan,
    target: &'a Target,
    trees: &'a [Tree],
    observer: &'a dyn FileBackupObserver,
    limiter: Option<Limiter>,
    references: Vec<OpenReference>,
    checksums: Vec<KnownChecksums>,
    method: CopyMethod,
    larges: Vec<Large>,
    /// What the threads change; nobody keeps it for long.
    shared: Mutex<Shared>,
    list: &'a FileList,
}

struct Shared {
    finished: Vec<(usize, Option<Finished>)>,
    corrupt: CorruptPages,
    new_bytes: u64,
}

struct Finished {
    size: u64,
    modified_ns: i64,
    checksum: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies everything that is listed.
pub(super) fn copy_all(
    host: &dyn Host,
    plan: &FileBackupPlan,
    target: &Target,
    trees: &[Tree],
    mut list: FileList,
    observer: &dyn FileBackupObserver,
) -> Result<Outcome, FileBackupError> {
    list.begin_copy();
    let oids: Vec<u32> = plan.tablespaces.iter().map(|one| one.oid).collect();
    let references: Vec<OpenReference> =
        plan.references.iter().map(|reference| OpenReference::open(reference, &oids)).collect();
    let prefixes: Vec<String> = trees.iter().map(|tree| tree.prefix.clone()).collect();
    let checksums = references
        .iter()
        .map(|reference| reference.checksums(&list, plan.manifest_checksum, &prefixes))
        .collect();
    let (jobs, larges) = divide(&list, plan.manifest_checksum);
    let shared = Shared { finished: Vec::new(), corrupt: CorruptPages::default(), new_bytes: 0 };
    let work = Work {
        host,
        plan,
        target,
        trees,
        observer,
        limiter: plan.limit_kib.and_then(Limiter::from_kib),
        references,
        checksums,
        method: CopyMethod::default(),
        larges,
        shared: Mutex::new(shared),
        list: &list,
    };
    pool::run(&jobs, plan.jobs.max(1), Writer::new, |writer, job, stop| work.run(writer, job, stop))?;
    let Work { shared, .. } = work;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (index, finished) in shared.finished {
        list.finish(index, finished.as_ref().map(|file| (file.size, file.modified_ns, &file.checksum[..])));
    }
    let total_bytes = list.totals().1;
    Ok(Outcome { list, corrupt: shared.corrupt, total_bytes, new_bytes: shared.new_bytes })
}

impl Work<'_> {
    fn run(&self, writer: &mut Writer, job: &Job, stop: &AtomicBool) -> Result<(), FileBackupError> {
        writer.clear();
        match job {
            Job::Range { large, offset, length } => self.range(writer, *large, *offset, *length, stop),
            Job::Batch { rows, tree } => self.batch(writer, rows.clone(), *tree, stop),
        }
    }

    fn tree(&self, number: u16) -> &Tree {
        &self.trees[usize::from(number)]
    }

    fn options(&self, tree: &Tree) -> ReadOptions {
        let inspector = self.plan.pages.filter(|_| tree.kind != TreeKind::Outside).map(|geometry| {
            let in_tablespace = tree.kind == TreeKind::Tablespace;
            let parameters = Parameters { geometry, start: self.plan.start, in_tablespace };
            (inspector::NAME.to_owned(), parameters.encode())
        });
        ReadOptions { inspector }
    }

    /// The directory that a row's copy goes to.
    fn directory(&self, row: usize) -> Result<Directory, FileBackupError> {
        let place = self.list.directory(&self.list.rows[row]);
        let tree = &self.target.trees[self.tree(place.tree).target];
        let opened = match place.path.as_os_str().is_empty() {
            true => tree.directory.again(),
            false => tree.directory.directory(&place.path),
        };
        opened.map_err(|error| FileBackupError::write(&tree.path.join(&place.path), error))
    }

    fn target_path(&self, row: usize) -> PathBuf {
        let row = &self.list.rows[row];
        let tree = &self.target.trees[self.tree(self.list.directory(row).tree).target];
        tree.path.join(self.list.path(row))
    }

    /// Waits as the limits say, and tells whether to go on.
    fn account(&self, tree: &Tree, bytes: u64, stop: &AtomicBool) -> io::Result<()> {
        let ends = || stop.load(Ordering::Relaxed) || self.observer.cancelled();
        for limiter in [&self.limiter, &tree.limiter].into_iter().flatten() {
            limiter.take(bytes, &ends);
        }
        self.observer.copied(bytes);
        if ends() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    fn finished(&self, row: usize, finished: Option<Finished>, is_new: bool) {
        let mut shared = lock(&self.shared);
        if let (true, Some(file)) = (is_new, &finished) {
            shared.new_bytes += file.size;
        }
        shared.finished.push((row, finished));
    }

    fn note_findings(&self, row: usize, findings: &[u8]) -> Result<(), FileBackupError> {
        if findings.is_empty() {
            return Ok(());
        }
        let (pages, count) = inspector::decode(findings)
            .ok_or_else(|| HostError::Protocol("findings that make no sense".to_owned()))?;
        let row = &self.list.rows[row];
        let prefix = &self.tree(self.list.directory(row).tree).prefix;
        let file = format!("{prefix}{}", self.list.path(row).display());
        let mut shared = lock(&self.shared);
        let corrupt = &mut shared.corrupt;
        corrupt.count = corrupt.count.saturating_add(count);
        for page in pages {
            if corrupt.first.len() < MAX_CORRUPT_PAGES {
                let (block, stored, computed) = (page.block, page.stored, page.computed);
                corrupt.first.push(CorruptPage { file: file.clone(), block, stored, computed });
            }
        }
        Ok(())
    }

    /// The sink's own error comes first, then the host's.
    fn judge(
        &self,
        read: Result<(), HostError>,
        error: Option<FileBackupError>,
    ) -> Result<(), FileBackupError> {
        match (read, error) {
            (_, Some(error)) => Err(error),
            (Err(_), None) if self.observer.cancelled() => Err(FileBackupError::Cancelled),
            (Err(error), None) => Err(error.into()),
            (Ok(()), None) => Ok(()),
        }
    }

    fn sink_error(&self, row: usize, error: io::Error, stop: &AtomicBool) -> FileBackupError {
        let ends = stop.load(Ordering::Relaxed) || self.observer.cancelled();
        match ends && error.kind() == io::ErrorKind::Interrupted {
            true => FileBackupError::Cancelled,
            false => FileBackupError::write(&self.target_path(row), error),
        }
    }
}
