//! Straight into the archive: the way of a local `archive_command`, without a stop in `incoming/`.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pgwal::WalFile;

use super::batch::Batch;
use super::chain::Chain;
use super::found::Found;
use super::parallel::Ready;
use super::place::{self, Job, PrepareError, Prepared, Work};
use super::run::Run;
use super::{ArchiveError, ArchiveEvent, ArchiveOptions, NoHooks, known_cluster};
use crate::lock::LockError;
use crate::{IndexStore, Layout};

/// How long Barman's archiver is waited for, when the file is ready: by way of `incoming/` it would be safe soon, too.
const PATIENCE: Duration = Duration::from_millis(100);

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
    observer: impl FnMut(ArchiveEvent),
) -> Result<bool, ArchiveError> {
    archive_with(layout, options, file, path, now, observer, || {})
}

/// `meanwhile` happens when the file is read and compressed, before it gets its name.
pub(super) fn archive_with(
    layout: &Layout,
    options: &ArchiveOptions,
    file: WalFile,
    path: &Path,
    now: Timestamp,
    mut observer: impl FnMut(ArchiveEvent),
    meanwhile: impl FnOnce(),
) -> Result<bool, ArchiveError> {
    let store = IndexStore::of(layout);
    let mut run = match Run::begin(layout, options, now, &NoHooks, &store, &mut observer) {
        Err(ArchiveError::Lock(LockError::Held { .. })) => return Ok(false),
        run => run?,
    };
    if layout.wal(&file).exists() || layout.incoming.join(file.to_string()).exists() {
        return Ok(false);
    }
    run.locks.only_own()?;
    run.make_ready(layout.wal_directory(&file))?;
    let job = Job { file, source: path.to_owned(), stays: true };
    let segment = match file {
        WalFile::Segment(segment) => Some(segment),
        _ => None,
    };
    let cluster = known_cluster(layout, &store);
    let work = Work { layout, options, cluster, chain: Chain::new(layout, &store, vec![segment]) };
    let found = Found::of(&job, layout);
    let outcome = place::prepare_at_once(&job, &work);
    if !matches!(&outcome, Ok(Prepared::Copy(..)) | Err(PrepareError::Archive(_))) {
        return Ok(false);
    }
    meanwhile();
    match run.locks.both_within(PATIENCE) {
        Err(LockError::Held { .. }) => return Ok(false),
        locked => locked?,
    }
    if cluster.is_none() && known_cluster(layout, &store).is_some() {
        // Another cluster may have been quicker.
        return Ok(false);
    }
    let mut batch = Batch::new(layout, options, now);
    batch.publish(&job, Ready { found, outcome })?;
    if !batch.overtaken.is_empty() {
        return Ok(false);
    }
    batch.sync_names()?;
    // Both only need the file to have its name.
    let (listed, indexed) = std::thread::scope(|scope| {
        let indexing = scope.spawn(|| store.add(&batch.indexes));
        let listed = batch.list();
        (listed, indexing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    listed?;
    if let Err(error) = indexed {
        run.tell_one(ArchiveEvent::NotIndexed(error.to_string()));
    }
    run.tell(batch)?;
    Ok(true)
}
