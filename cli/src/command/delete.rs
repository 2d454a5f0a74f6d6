//! `delete`: removes a backup, the increments that descend from it, and the WAL that only they needed.

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{BackupId, Backups, CatalogError, ServerLock, Task};
use barkeep_retention::{Refusal, may_delete};
use serde_json::{Value, json};

use super::deletion::{self, Cause, Outcome, Preview};
use crate::args::DeleteArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::text::size_u64;
use crate::output::{Report, Style};
use crate::verdicts;

/// Deletes a backup.
///
/// # Errors
/// When there is no such backup, it is kept, too few would remain, or another process is at work.
pub fn run(context: &mut Context, args: &DeleteArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let name = server.name();
    if args.dry_run {
        let backups = server.catalog().current()?;
        let id = chosen(&server, &backups, &args.backup)?;
        refuse(&server, &backups, id)?;
        let preview = deletion::preview(&server, id, Cause::Person)?;
        context.output().report(&DryRun { server: name, preview });
        return Ok(());
    }
    let lock = alone(&server)?;
    // With this lock in hand, whatever is unfinished is dead.
    server.catalog().sweep_locked(&lock)?;
    let backups = server.catalog().backups()?;
    let id = chosen(&server, &backups, &args.backup)?;
    refuse(&server, &backups, id)?;
    if !backups.descendants(id).is_empty() {
        server.output.warning(format!(
            "Backup {id} has incremental backups which depend on it. Deleting all backups in the tree"
        ));
    }
    // Scripts run before a backup goes, and may do what they like with the others; then it is looked at once more.
    drop(lock);
    let permit = |id| {
        let lock = alone(&server)?;
        refuse(&server, &server.catalog().backups()?, id)?;
        Ok(Some(lock))
    };
    match deletion::delete_tree(&server, id, Cause::Person, &permit)? {
        Outcome::Deleted => Ok(()),
        Outcome::Busy => Err(busy(name)),
    }
}

/// The lock that keeps backups and other deletions away.
fn alone(server: &ServerContext) -> Result<ServerLock, CommandError> {
    match ServerLock::try_acquire(&server.layout(), Task::Backup) {
        Ok(lock) => Ok(lock),
        Err(LockError::Held { .. }) => Err(busy(server.name())),
        Err(error) => Err(error.into()),
    }
}

fn busy(name: &str) -> CommandError {
    CommandError::new(format!(
        "Another process is running on server {name}: impossible to delete the backup now"
    ))
    .hint("a backup or another delete; try again when it has ended")
}

/// The backup that is meant.
fn chosen(server: &ServerContext, backups: &Backups, text: &str) -> Result<BackupId, CommandError> {
    let name = server.name();
    match server.catalog().resolve(backups, text) {
        // What can't be read can still be deleted, by its id.
        Err(CatalogError::Damaged { .. }) => text
            .parse()
            .map_err(|_| CommandError::new(format!("Unknown backup '{text}' for server '{name}'"))),
        resolved => resolved.map_err(|error| {
            CommandError::from(error).hint(format!("list them with: barkeep list-backups {name}"))
        }),
    }
}

/// Refuses what must not be deleted.
fn refuse(server: &ServerContext, backups: &Backups, id: BackupId) -> Result<(), CommandError> {
    let name = server.name();
    let facts = verdicts::facts(server, backups, false)?;
    for candidate in backups.descendants(id).iter().chain([&id]) {
        // The minimum is about full backups; increments go with theirs.
        let minimum = server.config.minimum_redundancy();
        may_delete(&facts, candidate, minimum, jiff::Timestamp::now()).map_err(|refusal| {
            let error =
                CommandError::new(format!("Cannot delete backup {candidate} of server {name}: {refusal}"));
            match refusal {
                Refusal::LastRestorable => error.hint(
                    "take another one first; to give up the server altogether, remove its directory yourself",
                ),
                Refusal::Kept { .. } => error.hint(format!("barkeep keep --release {name} {candidate}")),
                Refusal::MinimumRedundancy { .. } => error,
            }
        })?;
    }
    Ok(())
}

/// What a deletion would remove.
struct DryRun<'a> {
    server: &'a str,
    preview: Preview,
}

impl DryRun<'_> {
    fn bytes(&self) -> (u64, u64) {
        let backups = self.preview.backups.iter();
        let backups = backups.map(|info| info.deduplicated_size.or(info.size).unwrap_or(0));
        let wal = self.preview.wal.iter().map(|entry| entry.size);
        (backups.fold(0, u64::saturating_add), wal.fold(0, u64::saturating_add))
    }
}

impl Report for DryRun<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let (backup_bytes, wal_bytes) = self.bytes();
        let backups: Vec<String> = self.preview.backups.iter().map(|info| info.id.to_string()).collect();
        let wals: Vec<String> = self.preview.wal.iter().map(|entry| entry.file.to_string()).collect();
        json!({ "would_delete": {
            "backups": backups,
            "backup_bytes": backup_bytes,
            "wals": wals,
            "wal_bytes": wal_bytes,
        } })
    }

    fn console(&self, _: Style) -> String {
        let (backup_bytes, wal_bytes) = self.bytes();
        let mut text = String::new();
        for info in &self.preview.backups {
            let size = info.deduplicated_size.or(info.size).unwrap_or(0);
            text.push_str(&format!(
                "Would delete backup {} for server {} ({})\n",
                info.id,
                self.server,
                size_u64(size)
            ));
        }
        if !self.preview.wal.is_empty() {
            text.push_str("Would delete associated WAL segments:\n");
        }
        for entry in &self.preview.wal {
            text.push_str(&format!("\t{}\n", entry.file));
        }
        text + &format!("This would free {}\n", size_u64(backup_bytes.saturating_add(wal_bytes)))
    }
}
