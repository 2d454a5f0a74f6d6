//! `delete`: removes a backup, the increments that descend from it, and the WAL that only they needed.

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{ServerLock, Task};
use barkeep_retention::may_delete;

use super::deletion::{self, Outcome};
use crate::args::DeleteArgs;
use crate::context::{Context, Policy};
use crate::error::CommandError;
use crate::verdicts;

/// Deletes a backup.
///
/// # Errors
/// When there is no such backup, it is kept, too few would remain, or another process is at work.
pub fn run(context: &mut Context, args: &DeleteArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let name = server.name();
    let busy = || {
        CommandError::new(format!(
            "Another process is running on server {name}: impossible to delete the backup now"
        ))
        .hint("a backup or another delete; try again when it has ended")
    };
    let lock = match ServerLock::try_acquire(&server.layout(), Task::Backup) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => return Err(busy()),
        Err(error) => return Err(error.into()),
    };
    // With this lock in hand, whatever is unfinished is dead.
    server.catalog().sweep_locked(&lock)?;
    let backups = server.catalog().backups()?;
    let id = match server.catalog().resolve(&backups, &args.backup) {
        // What can't be read can still be deleted, by its id.
        Err(barkeep_catalog::CatalogError::Damaged { .. }) => args.backup.parse().map_err(|_| {
            CommandError::new(format!("Unknown backup '{}' for server '{name}'", args.backup))
        })?,
        resolved => resolved.map_err(|error| {
            CommandError::from(error).hint(format!("list them with: barkeep list-backups {name}"))
        })?,
    };
    let facts = verdicts::facts(&server, &backups)?;
    let descendants = backups.descendants(id);
    for candidate in descendants.iter().chain([&id]) {
        // The minimum is about full backups; increments go with theirs.
        let minimum = server.config.minimum_redundancy();
        may_delete(&facts, candidate, minimum).map_err(|refusal| {
            CommandError::new(format!("Cannot delete backup {candidate} of server {name}: {refusal}"))
        })?;
    }
    if !descendants.is_empty() {
        server.output.warning(format!(
            "Backup {id} has incremental backups which depend on it. Deleting all backups in the tree"
        ));
    }
    match deletion::delete_tree(&server, id)? {
        Outcome::Deleted => Ok(()),
        Outcome::Busy => Err(busy()),
    }
}
