//! The threads that copy: large files in ranges, largest first, then small ones in batches.

mod batch;
mod hash;
mod jobs;
mod packed;
mod range;
mod reuse;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use barkeep_transport::host::{Host, HostError, ReadOptions};

use crate::copy::{CopyMethod, Directory};
use crate::packed::{BlockPacker, Packing, original_name};
use crate::pipeline::{CorruptPage, CorruptPages, MAX_CORRUPT_PAGES};
use crate::pool;

use super::inspector::{self, Parameters};
use super::limit::Limiter;
use super::list::{FileList, Outcomes};
use super::reference::{Known as KnownChecksums, OpenReference};
use super::target::{Target, Writer};
use super::{FileBackupError, FileBackupObserver, FileBackupPlan, Tree, TreeKind};
use jobs::{Job, Large, divide};

/// Smaller files are never compressed, in bytes: file systems have nothing smaller than this.
const PACK_FROM_BYTES: u64 = 4097;

/// What was copied.
pub(super) struct Outcome {
    pub(super) list: FileList,
    pub(super) corrupt: CorruptPages,
    /// As files are stored.
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
    /// What became of each file, in few bytes: a million of them have to fit into memory.
    outcomes: Outcomes,
    corrupt: CorruptPages,
    /// As files are stored.
    total_bytes: u64,
    new_bytes: u64,
}

impl Shared {
    /// Notes what became of a file; `is_new` unless it shares its bytes with an earlier copy.
    fn note(&mut self, list: &FileList, row: usize, finished: Option<Finished>, is_new: bool) {
        let stored = finished.as_ref().map_or(0, |file| file.stored);
        self.total_bytes += stored;
        self.new_bytes += if is_new { stored } else { 0 };
        let outcome = finished.as_ref().map(|file| (file.size, file.modified_ns, &file.checksum[..]));
        self.outcomes.note(list, row, outcome);
    }
}

/// What each thread has for itself.
struct Tools {
    writer: Writer,
    packer: Option<(BlockPacker, u32)>,
}

impl Tools {
    fn new() -> Self {
        Tools { writer: Writer::new(), packer: None }
    }

    /// A packer that has nothing yet.
    fn packer(&mut self, packing: Packing, block_bytes: u32) -> io::Result<&mut BlockPacker> {
        let kept = self.packer.take().filter(|(_, known)| *known == block_bytes);
        let (mut packer, _) = match kept {
            Some(kept) => kept,
            None => (BlockPacker::with_blocks(packing, block_bytes)?, block_bytes),
        };
        packer.reset();
        Ok(&mut self.packer.insert((packer, block_bytes)).0)
    }
}

struct Finished {
    size: u64,
    /// How large it is as it is stored.
    stored: u64,
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
    let oids: Vec<u32> = plan.tablespaces.iter().map(|one| one.oid).collect();
    let references: Vec<OpenReference> =
        plan.references.iter().map(|reference| OpenReference::open(reference, &oids)).collect();
    let prefixes: Vec<String> = trees.iter().map(|tree| tree.prefix.clone()).collect();
    let checksums = references
        .iter()
        .map(|reference| reference.checksums(&list, plan.manifest_checksum, &prefixes))
        .collect();
    let (jobs, larges) = divide(&list, plan.manifest_checksum, plan.packing.is_some());
    let shared = Shared {
        outcomes: list.begin_copy(),
        corrupt: CorruptPages::default(),
        total_bytes: 0,
        new_bytes: 0,
    };
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
    pool::run(&jobs, plan.jobs.max(1), Tools::new, |tools, job, stop| work.run(tools, job, stop))?;
    let Work { shared, .. } = work;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    list.end_copy(shared.outcomes);
    let Shared { corrupt, total_bytes, new_bytes, .. } = shared;
    Ok(Outcome { list, corrupt, total_bytes, new_bytes })
}

impl Work<'_> {
    fn run(&self, tools: &mut Tools, job: &Job, stop: &AtomicBool) -> Result<(), FileBackupError> {
        tools.writer.clear();
        match job {
            Job::Range { large, offset, length } => self.range(tools, *large, *offset, *length, stop),
            Job::Batch { rows, tree } => self.batch(tools, rows.clone(), *tree, stop),
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
        lock(&self.shared).note(self.list, row, finished, is_new);
    }

    /// How a file is compressed; `None` for one that is stored as it is: a small one, or one at the top of the data
    /// directory, where people look for configuration.
    fn packing(&self, row: usize) -> Option<Packing> {
        let packing = self.plan.packing?;
        let file = &self.list.rows[row];
        let place = self.list.directory(file);
        let at_top = self.tree(place.tree).kind != TreeKind::Tablespace && place.path.as_os_str().is_empty();
        // The name of one that is stored as it is must not look like that of a compressed one.
        let has_to_be = original_name(self.list.name(file)).is_some();
        (has_to_be || (!at_top && file.size >= PACK_FROM_BYTES)).then_some(packing)
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
