//! Straight into the archive: the way of a local `archive_command`, without a stop in `incoming/`.

use std::path::Path;

use barkeep_transport::durable;
use jiff::Timestamp;
use pgwal::WalFile;

use super::chain::Chain;
use super::place::{self, Job, PrepareError, Prepared, Work};
use super::{ArchiveError, ArchiveEvent, ArchiveOptions, Batch, NoHooks, Run, known_cluster};
use crate::lock::LockError;
use crate::{IndexStore, Layout, ServerLock, Task, xlogdb};

/// Archives the file at `path`, which stays where it is, in one pass: judged, indexed, compressed, listed. True when it is
/// done: the file is durable under its own name. False when it is not for this way, and nothing was changed: another
/// process is archiving, there is a file of that name already, or something is wrong with it. It is then to be
/// [received](crate::reception) like any other.
///
/// # Errors
/// When the archive can't be written.
pub fn archive_directly(
    layout: &Layout,
    options: &ArchiveOptions,
    file: WalFile,
    path: &Path,
    now: Timestamp,
    mut observer: impl FnMut(ArchiveEvent),
) -> Result<bool, ArchiveError> {
    let lock = match ServerLock::try_acquire(layout, Task::ArchiveWal) {
        Err(LockError::Held { .. }) => return Ok(false),
        lock => lock?,
    };
    if layout.wal(&file).exists() || layout.incoming.join(file.to_string()).exists() {
        return Ok(false);
    }
    let store = IndexStore::of(layout);
    let cluster = known_cluster(layout, &store);
    let mut run = Run {
        layout,
        options,
        now,
        hooks: &NoHooks,
        observer: &mut observer,
        report: super::ArchiveReport::default(),
        ready_directories: std::collections::BTreeSet::new(),
        cluster,
        store: &store,
        lock: Some(lock),
    };
    run.make_ready(layout.wal_directory(&file))?;
    let job = Job { file, source: path.to_owned(), stays: true };
    let segment = match file {
        WalFile::Segment(segment) => Some(segment),
        _ => None,
    };
    let work = Work { layout, options, cluster, chain: Chain::new(layout, &store, vec![segment]) };
    let listed_in = xlogdb::version(layout);
    let prepared = place::prepare_at_once(&job, &work);
    if !matches!(&prepared, Ok(Prepared::Copy(..)) | Err(PrepareError::Archive(_))) {
        return Ok(false);
    }
    let mut outcome = Batch { listed_in, ..Batch::default() };
    run.publish(&job, prepared, &mut outcome)?;
    for directory in &outcome.directories {
        durable::sync_dir(directory)?;
    }
    // Both only need the file to have its name.
    let (listed, indexed) = std::thread::scope(|scope| {
        let indexing = scope.spawn(|| store.add(&outcome.indexes));
        let listed = run.list(&outcome);
        (listed, indexing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    listed?;
    if let Err(error) = indexed {
        (run.observer)(ArchiveEvent::NotIndexed(error.to_string()));
    }
    run.tell(outcome)?;
    Ok(true)
}
