//! A stored backup that a command works on: found, held against deletion, and where its files are.

use std::num::NonZeroUsize;
use std::time::Duration;

use barkeep_catalog::lock::SharedLock;
use barkeep_catalog::{BackupId, BackupInfo, Layout, LockError, ServerLock, Task};
use pgbase::verify::BackupArchives;
use pgbase::{BackupTrees, ScanObserver};

use super::restore::choose::archive;
use crate::config::{ServerConfig, Source};
use crate::context::ServerContext;
use crate::error::CommandError;
use crate::output::{Output, Progress};

/// How long to wait for a process that changes the backup.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Most files worked on at a time unless the user says otherwise: more only make a disk seek.
const JOBS_MAX: usize = 8;

/// The backup that `text` means.
pub(super) fn find(server: &ServerContext, text: &str) -> Result<BackupInfo, CommandError> {
    let catalog = server.catalog();
    let backups = catalog.backups()?;
    let id = catalog.resolve(&backups, text).map_err(|error| {
        CommandError::from(error).hint(format!("list them with: barkeep list-backups {}", server.name()))
    })?;
    Ok(backups.get(id).cloned().map_or_else(|| catalog.read(id), Ok)?)
}

/// Refuses a backup whose files can't be looked at, one by one or in archives.
pub(super) fn check_readable(info: &BackupInfo, server: &str, what: &str) -> Result<(), CommandError> {
    check_usable(info, server, what)?;
    let Some(kind) = special_kind(info) else { return Ok(()) };
    Err(CommandError::new(format!("Backup {} of server '{server}' is {kind} and can't be {what}", info.id)))
}

/// Refuses a backup whose files can't be looked at one by one.
pub(super) fn check_plain(info: &BackupInfo, server: &str, what: &str) -> Result<(), CommandError> {
    check_readable(info, server, what)?;
    if info.is_archived() {
        let id = info.id;
        let what = format!("Backup {id} of server '{server}' is made of tar archives and can't be {what}");
        let hint = format!(
            "PostgreSQL has put its own manifest beside them: barkeep verify-backup {server} {id} reads it"
        );
        return Err(CommandError::new(what).hint(hint));
    }
    Ok(())
}

/// Refuses a backup that can't be restored.
pub(super) fn check_restorable(info: &BackupInfo, server: &str) -> Result<(), CommandError> {
    check_usable(info, server, "restored")?;
    let id = info.id;
    let kind = match special_kind(info) {
        Some(kind) => kind,
        None if info.parent_backup_id.is_some() => "incremental",
        None => return Ok(()),
    };
    Err(CommandError::new(format!("Backup {id} of server '{server}' is {kind}, which is not supported yet"))
        .hint("restore another one, or this one with Barman"))
}

fn check_usable(info: &BackupInfo, server: &str, what: &str) -> Result<(), CommandError> {
    if info.status.is_usable() {
        return Ok(());
    }
    Err(CommandError::new(format!(
        "Backup {} of server '{server}' is {} and can't be {what}",
        info.id,
        info.status.as_str()
    ))
    .hint(format!("see: barkeep list-backups {server}")))
}

/// What makes the files of a backup unreadable here.
fn special_kind(info: &BackupInfo) -> Option<&'static str> {
    if info.snapshots_info.is_some() {
        Some("made of disk snapshots")
    } else if info.encryption.is_some() {
        Some("encrypted")
    } else {
        None
    }
}

/// Where the files of a backup are.
pub(super) fn trees(layout: &Layout, info: &BackupInfo) -> BackupTrees {
    let place = |oid| (oid, layout.backup_tablespace(info.id, oid));
    BackupTrees {
        data: layout.backup_data(info.id),
        tablespaces: info.tablespaces.iter().map(|tablespace| place(tablespace.oid)).collect(),
        packed: info.has_compressed_files(),
    }
}

/// Where the archives of a backup are that is made of such. One that is missing is looked for uncompressed.
pub(super) fn archives(layout: &Layout, info: &BackupInfo) -> BackupArchives {
    let directory = layout.backup_data(info.id);
    let place =
        |stem: &str| archive(&directory, stem).unwrap_or_else(|| directory.join(format!("{stem}.tar")));
    let tablespaces = info.tablespaces.iter().map(|tablespace| tablespace.oid);
    BackupArchives {
        data: place("base"),
        tablespaces: tablespaces.map(|oid| (oid, place(&oid.to_string()))).collect(),
        directory: directory.clone(),
    }
}

/// Holds the backup's lock together with other readers, so that it is not deleted meanwhile. Where no lock can be had, as
/// in a home that may only be read, the command goes on without.
pub(super) fn keep_from_deletion(
    server: &ServerContext,
    id: BackupId,
) -> Result<Option<SharedLock>, CommandError> {
    let (layout, task) = (server.layout(), Task::OneBackup(id));
    // There is nothing to share before the file exists.
    drop(ServerLock::try_acquire(&layout, task));
    match SharedLock::acquire_within(&layout, task, LOCK_PATIENCE) {
        Ok(lock) => Ok(lock),
        Err(error @ LockError::Held { .. }) => {
            Err(CommandError::because(format!("Backup {id} is being changed or deleted"), &error)
                .hint("try again, or choose another backup"))
        }
        Err(error) => {
            server.output.debug(format!("Backup {id} is read without its lock: {error}"));
            Ok(None)
        }
    }
}

/// As many files at a time as was said; otherwise as the machine has processors.
pub(super) fn jobs(asked: Option<u32>, config: &ServerConfig) -> usize {
    let configured = config
        .setting("parallel_jobs")
        .filter(|setting| setting.source != Source::Default)
        .and_then(|setting| setting.text.as_deref()?.trim().parse::<u32>().ok());
    match asked.or(configured) {
        Some(jobs) => usize::try_from(jobs.max(1)).unwrap_or(JOBS_MAX),
        None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get).clamp(2, JOBS_MAX),
    }
}

/// Shows how far the reading of a backup is.
pub(super) struct Watcher {
    progress: Progress,
}

impl Watcher {
    pub(super) fn new(output: &Output, label: &str) -> Self {
        Watcher { progress: output.progress(label, None) }
    }
}

impl ScanObserver for Watcher {
    fn total(&self, _files: u64, bytes: u64) {
        self.progress.set_total(bytes);
    }

    fn read(&self, bytes: u64) {
        self.progress.advance(bytes);
    }
}
