//! The hook scripts around a backup.
//!
//! They may call barkeep, even to delete backups of the same server, so the server's backup lock is let go while they
//! run. The one of the new backup alone is held before it begins: it tells others that somebody is at work on it.

use std::time::Duration;

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{BackupInfo, Catalog, ServerLock, Task};

use crate::context::{Context, ServerContext};
use crate::error::{CommandError, chain};
use crate::hooks::{Environment, Event, Hooks};

/// How long to wait for the server's lock after the scripts: whoever deletes a backup meanwhile needs a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// What a backup under way holds.
pub(super) struct Locks {
    _server: ServerLock,
    _own: Option<ServerLock>,
}

/// Runs the scripts before a backup.
///
/// # Errors
/// When a script wants no backup, or somebody else has begun to back up the server meanwhile.
pub(super) fn before(
    context: &mut Context,
    server: &ServerContext,
    catalog: &Catalog,
    info: &BackupInfo,
    lock: ServerLock,
) -> Result<Locks, CommandError> {
    let hooks = Hooks::new(server);
    if !hooks.any_before(Event::Backup) {
        return Ok(Locks { _server: lock, _own: None });
    }
    let environment = Environment::of_backup_among(catalog.layout(), &catalog.backups()?, info);
    let own = ServerLock::try_acquire(catalog.layout(), Task::OneBackup(info.id))?;
    drop(lock);
    hooks.before_listening(context, Event::Backup, environment)?;
    match ServerLock::acquire_within(catalog.layout(), Task::Backup, LOCK_PATIENCE) {
        Ok(lock) => Ok(Locks { _server: lock, _own: Some(own) }),
        Err(error @ LockError::Held { .. }) => {
            Err(CommandError::because("another backup began while the hook scripts were running", &error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs the scripts after a backup, whatever came of it. Nothing may be locked.
pub(super) fn after(context: &mut Context, server: &ServerContext, catalog: &Catalog, info: &BackupInfo) {
    let hooks = Hooks::new(server);
    if !hooks.any(Event::Backup) {
        return;
    }
    match catalog.backups() {
        Ok(backups) => {
            let environment = Environment::of_backup_among(catalog.layout(), &backups, info);
            hooks.after_listening(context, Event::Backup, environment);
        }
        Err(error) => {
            server.output.warning(format!("The scripts after the backup were not run: {}", chain(&error)));
        }
    }
}
