//! Deleting backups and WAL: what `delete`, `cron` and `backup` have in common.

use std::time::Instant;

use barkeep_catalog::delete::{self, DeletionHooks, DoomedBackup};
use barkeep_catalog::lock::LockError;
use barkeep_catalog::xlogdb::WalEntry;
use barkeep_catalog::{BackupId, BackupInfo, Backups, CatalogError, Keep, ServerLock, Task};
use pgwal::WalFile;

use crate::context::ServerContext;
use crate::error::CommandError;
use crate::hooks::DeletionScripts;
use crate::verdicts::Verdicts;
use crate::wal_plan::{Origin, WalFates};

/// What came of the deletion of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is gone, with its descendants.
    Deleted,
    /// Another process is at work on it.
    Busy,
}

/// On whose behalf something is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The retention policy's.
    Policy,
    /// A person's. WAL between backups that are kept by themselves stays then, as Barman has it: the person spoke of one
    /// backup only.
    Person,
}

impl Cause {
    /// Whether no WAL goes with a backup: a person deleted it, and the one before it is kept by itself.
    fn spares_wal_of(
        self,
        server: &ServerContext,
        backups: &Backups,
        id: BackupId,
    ) -> Result<bool, CommandError> {
        let before = backups.usable_before(id).map(|before| before.id);
        let kept = match before {
            Some(before) if self == Cause::Person => {
                server.catalog().kept_at(before, jiff::Timestamp::now())?
            }
            _ => None,
        };
        Ok(kept == Some(Keep::Standalone))
    }
}

/// What is asked for each backup, after the scripts before its deletion and before anything of it goes: whether it still may.
/// The lock that comes with the answer is held until its files are gone, and not while any script runs.
pub(super) type Permit<'a> = &'a dyn Fn(BackupId) -> Result<Option<ServerLock>, CommandError>;

/// What the retention policy has decided needs no further word.
pub(super) fn permitted(_: BackupId) -> Result<Option<ServerLock>, CommandError> {
    Ok(None)
}

/// Deletes a backup and the increments that descend from it, children first, and then the WAL that nobody needs any
/// more. Each is deleted if `permit` says so.
///
/// # Errors
/// When storage fails or a hook stops it. What has begun will be finished by the next cron.
pub(super) fn delete_tree(
    server: &ServerContext,
    id: BackupId,
    cause: Cause,
    permit: Permit<'_>,
) -> Result<Outcome, CommandError> {
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
    let origin = Origin::first(tree.iter().filter_map(|id| backups.get(*id)));
    let hooks = DeletionScripts::new(server);
    let sweep = Sweep { server, origin, cause, hooks: &hooks, permit };
    for id in &tree {
        sweep.delete_one(&backups, *id)?;
    }
    for lock in locks {
        lock.remove();
    }
    Ok(Outcome::Deleted)
}

/// What deleting a backup would remove.
#[derive(Debug)]
pub(super) struct Preview {
    /// The backups, in the order in which they would go.
    pub(super) backups: Vec<BackupInfo>,
    /// The WAL.
    pub(super) wal: Vec<WalEntry>,
}

/// What [`delete_tree`] would remove. Nothing is touched.
///
/// # Errors
/// When the catalogue or the archive can't be read.
pub(super) fn preview(server: &ServerContext, id: BackupId, cause: Cause) -> Result<Preview, CommandError> {
    let mut backups = server.catalog().backups()?;
    let mut tree = backups.descendants(id);
    tree.push(id);
    let origin = Origin::first(tree.iter().filter_map(|id| backups.get(*id)));
    let spared = cause.spares_wal_of(server, &backups, id)?;
    let fates = fates_without(server, &tree, origin.as_ref(), cause)?;
    let wal = if spared { Vec::new() } else { fates.removable().cloned().collect() };
    let backups = tree.iter().filter_map(|id| backups.by_id.remove(id)).collect();
    Ok(Preview { backups, wal })
}

/// Goes on with a deletion that did not end. Everything it does can be repeated.
///
/// # Errors
/// When storage fails.
pub(super) fn finish(server: &ServerContext, id: BackupId) -> Result<Outcome, CommandError> {
    if server.catalog().backups()?.get(id).is_some() {
        return delete_tree(server, id, Cause::Policy, &permitted);
    }
    // Only marks and files are left, or a record that can't be read.
    let lock = match ServerLock::try_acquire(&server.layout(), Task::OneBackup(id)) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => return Ok(Outcome::Busy),
        Err(error) => return Err(error.into()),
    };
    let catalog = server.catalog();
    match catalog.mark_for_deletion(id) {
        Ok(()) => {
            catalog.remove_backup_files(id)?;
            catalog.forget_backup(id)?;
        }
        // Another process has ended it meanwhile.
        Err(CatalogError::Unknown { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    lock.remove();
    Ok(Outcome::Deleted)
}

/// The deletion of a backup with its increments.
struct Sweep<'a> {
    server: &'a ServerContext,
    origin: Option<Origin>,
    cause: Cause,
    hooks: &'a dyn DeletionHooks,
    permit: Permit<'a>,
}

impl Sweep<'_> {
    fn delete_one(&self, backups: &Backups, id: BackupId) -> Result<(), CommandError> {
        let (name, output) = (self.server.name(), &self.server.output);
        let (started, clock) = (jiff::Zoned::now(), Instant::now());
        let doomed = backups.get(id).map(|info| DoomedBackup {
            info,
            previous: backups.usable_before(id).map(|info| info.id),
            next: backups.usable_after(id).map(|info| info.id),
        });
        if let Some(doomed) = &doomed {
            self.hooks.before_backup(doomed).map_err(|stopped| {
                CommandError::new(format!("backup {id} of server {name} was not deleted: {stopped}"))
            })?;
        }
        output.info(format!("Deleting backup {id} for server {name}"));
        let outcome = self.remove_one(backups, id);
        if let Some(doomed) = &doomed {
            self.hooks.after_backup(doomed, outcome.as_ref().err().map(ToString::to_string).as_deref());
        }
        outcome?;
        output.info(format!(
            "Deleted backup {id} (start time: {}, elapsed time: {})",
            super::shown::ctime(&started),
            crate::output::text::duration(clock.elapsed())
        ));
        Ok(())
    }

    /// Marks a backup and removes it, its mark last.
    fn remove_one(&self, backups: &Backups, id: BackupId) -> Result<(), CommandError> {
        let catalog = self.server.catalog();
        let permit = (self.permit)(id)?;
        catalog.mark_for_deletion(id)?;
        catalog.remove_backup_files(id)?;
        // What is marked counts no more, whoever looks next.
        drop(permit);
        if !self.cause.spares_wal_of(self.server, backups, id)? {
            self.purge_wal()?;
        }
        // Files that the next backup shared with this one are its own now.
        if let Some(next) = backups.usable_after(id) {
            catalog.measure_again(next.id)?;
        }
        catalog.forget_backup(id)?;
        Ok(())
    }

    /// Removes the WAL that recovery from no remaining backup can ask for. When no backup remains, what lies before the
    /// beginning of those that go.
    fn purge_wal(&self) -> Result<(), CommandError> {
        let removable = removable_wal(self.server, self.origin.as_ref(), self.cause)?;
        if removable.is_empty() {
            return Ok(());
        }
        self.server.output.info("Delete associated WAL segments:");
        for entry in delete::remove_wal(&self.server.layout(), &removable, self.hooks)? {
            self.server.output.info(format!("\t{}", entry.file));
        }
        Ok(())
    }
}

/// Removes the WAL from before a server's first backup, which nothing can be recovered with.
///
/// # Errors
/// When storage fails.
pub(super) fn purge_before_first(server: &ServerContext) -> Result<(), CommandError> {
    let removable = removable_wal(server, None, Cause::Person)?;
    if removable.is_empty() {
        return Ok(());
    }
    server.output.info("WAL segments preceding the current backup have been found:");
    for entry in delete::remove_wal(&server.layout(), &removable, &DeletionScripts::new(server))? {
        server.output.info(format!("\t{} from server {} has been removed", entry.file, server.name()));
    }
    Ok(())
}

/// Removes the WAL that the policy for WAL lets go while its backups stay.
///
/// # Errors
/// When storage fails.
pub(super) fn purge_by_policy(server: &ServerContext) -> Result<(), CommandError> {
    let removable = removable_wal(server, None, Cause::Policy)?;
    if removable.is_empty() {
        return Ok(());
    }
    let removed = delete::remove_wal(&server.layout(), &removable, &DeletionScripts::new(server))?;
    server.output.info(format!(
        "Enforcing WAL retention policy: {} WAL files of server {} removed",
        removed.len(),
        server.name()
    ));
    Ok(())
}

/// The files of the archive that may go. None at all as long as anything about a remaining backup is not known.
fn removable_wal(
    server: &ServerContext,
    origin: Option<&Origin>,
    cause: Cause,
) -> Result<Vec<WalFile>, CommandError> {
    let fates = fates_without(server, &[], origin, cause)?;
    if let Some(why) = &fates.all_kept {
        server.output.warning(format!("WAL of server {} is kept for now: {why}", server.name()));
    }
    Ok(fates.removable().map(|entry| entry.file).collect())
}

/// What is to become of the archive when these backups are gone.
fn fates_without(
    server: &ServerContext,
    gone: &[BackupId],
    origin: Option<&Origin>,
    cause: Cause,
) -> Result<WalFates, CommandError> {
    let mut backups = server.catalog().current()?;
    backups.by_id.retain(|id, _| !gone.contains(id));
    let verdicts = Verdicts::judge(server, &backups, jiff::Timestamp::now())?;
    let mut claims = verdicts.remaining_claims();
    if let (Ok(claims), Cause::Person) = (&mut claims, cause) {
        claims.iter_mut().for_each(|claim| claim.standalone = false);
    }
    WalFates::decide(server, &backups, claims, origin)
}

fn is_snapshot(info: &BackupInfo) -> bool {
    info.backup_type() == barkeep_catalog::BackupType::Snapshot
}
