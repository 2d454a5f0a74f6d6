//! Deleting backups and WAL: what `delete` and `cron` have in common.

use std::collections::BTreeSet;
use std::time::Instant;

use barkeep_catalog::delete::{self, DeletionHooks, DoomedBackup};
use barkeep_catalog::lock::LockError;
use barkeep_catalog::{BackupId, BackupInfo, Keep, ServerLock, Status, Task};
use barkeep_catalog::{Backups, wal, xlogdb};
use barkeep_retention::{Claim, plan};
use pgwal::{Lsn, WalFile};

use crate::context::ServerContext;
use crate::error::{CommandError, chain};
use crate::hooks::DeletionScripts;

/// What came of the deletion of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is gone, with its descendants.
    Deleted,
    /// Another process is at work on it.
    Busy,
}

/// Deletes a backup and the increments that descend from it, children first, and then the WAL that nobody needs any
/// more. Whether it may go has been decided.
///
/// # Errors
/// When storage fails. What has begun will be finished by the next cron.
pub(super) fn delete_tree(server: &ServerContext, id: BackupId) -> Result<Outcome, CommandError> {
    let backups = server.catalog().backups()?;
    let mut tree = backups.descendants(id);
    tree.push(id);
    let mut locks = Vec::new();
    for id in &tree {
        match ServerLock::try_acquire(&server.layout(), Task::OneBackup(*id)) {
            Ok(lock) => locks.push(lock),
            Err(LockError::Held { .. }) => return Ok(Outcome::Busy),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(snapshot) = tree.iter().filter_map(|id| backups.get(*id)).find(|info| is_snapshot(info)) {
        let id = snapshot.id;
        return Err(CommandError::new(format!(
            "backup {id} is made of disk snapshots, which barkeep cannot delete"
        ))
        .hint("delete it with the tool that took it"));
    }
    // Where recovery from the oldest of them begins: if no backup remains, WAL from there on is kept.
    let begin = tree.iter().filter_map(|id| Origin::of(backups.get(*id)?)).min_by_key(|origin| origin.begin);
    let hooks = DeletionScripts::new(server);
    for id in &tree {
        delete_one(server, &backups, *id, begin, &hooks)?;
    }
    for lock in locks {
        lock.remove();
    }
    Ok(Outcome::Deleted)
}

/// Goes on with a deletion that did not end. Everything it does can be repeated.
///
/// # Errors
/// When storage fails.
pub(super) fn finish(server: &ServerContext, id: BackupId) -> Result<Outcome, CommandError> {
    if server.catalog().backups()?.get(id).is_some() {
        return delete_tree(server, id);
    }
    // Only marks and files are left, or a record that can't be read.
    let lock = match ServerLock::try_acquire(&server.layout(), Task::OneBackup(id)) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => return Ok(Outcome::Busy),
        Err(error) => return Err(error.into()),
    };
    server.catalog().remove_backup_files(id)?;
    server.catalog().forget_backup(id)?;
    lock.remove();
    Ok(Outcome::Deleted)
}

fn delete_one(
    server: &ServerContext,
    backups: &Backups,
    id: BackupId,
    begin: Option<Origin>,
    hooks: &dyn DeletionHooks,
) -> Result<(), CommandError> {
    let (name, output) = (server.name(), &server.output);
    let (started, clock) = (jiff::Zoned::now(), Instant::now());
    let doomed = backups.get(id).map(|info| DoomedBackup {
        info,
        previous: backups.usable_before(id).map(|info| info.id),
        next: backups.usable_after(id).map(|info| info.id),
    });
    if let Some(doomed) = &doomed {
        hooks.before_backup(doomed).map_err(|stopped| {
            CommandError::new(format!("backup {id} of server {name} was not deleted: {stopped}"))
        })?;
    }
    output.info(format!("Deleting backup {id} for server {name}"));
    let outcome = sweep_one(server, id, begin, hooks);
    if let Some(doomed) = &doomed {
        hooks.after_backup(doomed, outcome.as_ref().err().map(ToString::to_string).as_deref());
    }
    outcome?;
    output.info(format!(
        "Deleted backup {id} (start time: {}, elapsed time: {})",
        super::shown::ctime(&started),
        crate::output::text::duration(clock.elapsed())
    ));
    Ok(())
}

/// Marks a backup and removes it, its record last.
fn sweep_one(
    server: &ServerContext,
    id: BackupId,
    begin: Option<Origin>,
    hooks: &dyn DeletionHooks,
) -> Result<(), CommandError> {
    server.catalog().mark_for_deletion(id)?;
    server.catalog().remove_backup_files(id)?;
    purge_wal(server, begin, hooks)?;
    server.catalog().forget_backup(id)?;
    Ok(())
}

/// Removes the WAL that recovery from no remaining backup can ask for. When no backup remains, what lies before `begin`.
fn purge_wal(
    server: &ServerContext,
    begin: Option<Origin>,
    hooks: &dyn DeletionHooks,
) -> Result<(), CommandError> {
    let removable = removable_wal(server, begin)?;
    if removable.is_empty() {
        return Ok(());
    }
    server.output.info("Delete associated WAL segments:");
    for entry in delete::remove_wal(&server.layout(), &removable, hooks)? {
        server.output.info(format!("\t{}", entry.file));
    }
    Ok(())
}

/// Removes the WAL from before a server's first backup, which nothing can be recovered with.
///
/// # Errors
/// When storage fails.
pub(super) fn purge_before_first(server: &ServerContext) -> Result<(), CommandError> {
    let removable = removable_wal(server, None)?;
    if removable.is_empty() {
        return Ok(());
    }
    server.output.info("WAL segments preceding the current backup have been found:");
    for entry in delete::remove_wal(&server.layout(), &removable, &DeletionScripts::new(server))? {
        server.output.info(format!("\t{} from server {} has been removed", entry.file, server.name()));
    }
    Ok(())
}

/// Where a backup is from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    timeline: pgwal::TimelineId,
    begin: Lsn,
    size: pgwal::SegmentSize,
}

impl Origin {
    fn of(info: &BackupInfo) -> Option<Self> {
        Some(Origin { timeline: info.timeline?, begin: info.begin_xlog?, size: info.segment_size })
    }
}

/// The files of the archive that may go. None at all as long as anything about a remaining backup is not known.
fn removable_wal(server: &ServerContext, begin: Option<Origin>) -> Result<Vec<WalFile>, CommandError> {
    let backups = server.catalog().current()?;
    let marked: BTreeSet<BackupId> = server.catalog().marked()?.into_iter().collect();
    let keep_all = |why: String| {
        server.output.warning(format!("WAL of server {} is kept for now: {why}", server.name()));
        Ok(Vec::new())
    };
    if let Some(fault) = backups.faults.iter().find(|fault| !marked.iter().any(|id| names(fault, *id))) {
        return keep_all(chain(fault));
    }
    let mut claims = Vec::new();
    let mut size = begin.map(|origin| origin.size);
    let remaining = backups.iter().filter(|info| info.status != Status::Failed && !marked.contains(&info.id));
    for info in remaining {
        let Some(origin) = Origin::of(info) else {
            return keep_all(format!("backup {} does not say where it begins", info.id));
        };
        if *size.get_or_insert(origin.size) != origin.size {
            return keep_all("its backups have WAL segments of different sizes".to_owned());
        }
        let end = info.end_xlog.unwrap_or(origin.begin);
        let standalone = server.catalog().keep(info.id)? == Some(Keep::Standalone) && info.end_xlog.is_some();
        let claim = if standalone { Claim::standalone } else { Claim::onwards };
        claims.push(claim(Some(info.id), origin.timeline, origin.begin, end));
    }
    if let (true, Some(origin)) = (claims.is_empty(), begin) {
        claims.push(Claim::onwards(None, origin.timeline, origin.begin, origin.begin));
    }
    let Some(size) = size else { return Ok(Vec::new()) };
    // What the list names and the archive has lost goes from the list too.
    let listed = xlogdb::read(&server.layout())?.entries.into_iter().map(|entry| entry.file);
    let archived = xlogdb::archived_files(&server.layout())?.into_iter().map(|(file, _)| file);
    let files: Vec<WalFile> = listed.chain(archived).collect::<BTreeSet<_>>().into_iter().collect();
    let timelines =
        files.iter().filter(|file| matches!(file, WalFile::History(_))).map(|file| file.timeline());
    let mut histories = Vec::new();
    for timeline in timelines {
        match wal::history(&server.layout(), timeline) {
            Ok(history) => histories.extend(history),
            // Unknown ancestry keeps WAL.
            Err(error) => server.output.warning(chain(&error)),
        }
    }
    let mut removable: Vec<WalFile> = plan(&claims, &histories, &files, size).removable().collect();
    removable.sort_by_cached_key(WalFile::to_string);
    Ok(removable)
}

/// Whether a fault is about this backup's record.
fn names(fault: &barkeep_catalog::CatalogError, id: BackupId) -> bool {
    fault.to_string().contains(id.as_str())
}

fn is_snapshot(info: &BackupInfo) -> bool {
    info.backup_type() == barkeep_catalog::BackupType::Snapshot
}
