//! `check-backup`: looks whether a backup has all the WAL that makes it consistent, and moves it on if so.

use barkeep_catalog::completion::WalState;
use barkeep_catalog::lock::LockError;
use barkeep_catalog::{ServerLock, Status, Task};

use crate::args::BackupIdArgs;
use crate::context::{Context, Policy};
use crate::error::CommandError;

/// Evaluates a backup's WAL again.
///
/// # Errors
/// When server or backup are unknown, the backup failed, or WAL that it needs is missing.
pub fn run(context: &mut Context, args: &BackupIdArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let catalog = server.catalog();
    let backups = catalog.current()?;
    let id = catalog.resolve(&backups, &args.backup).map_err(|error| {
        CommandError::from(error).hint(format!("list them with: barkeep list-backups {}", server.name()))
    })?;
    let _lock = match ServerLock::try_acquire(catalog.layout(), Task::OneBackup(id)) {
        Ok(lock) => lock,
        Err(error @ LockError::Held { .. }) => {
            return Err(CommandError::because(format_args!("backup {id} is being worked on"), &error));
        }
        Err(error) => return Err(error.into()),
    };
    let mut info = catalog.read(id)?;
    if info.status.is_unfinished() {
        server.output.debug(format!("Backup {id} of server '{}' is still being taken", server.name()));
        return Ok(());
    }
    if info.status == Status::Failed {
        return Err(CommandError::new(format!(
            "The validity of backup {id} of server '{}' cannot be checked: its status is {}",
            server.name(),
            info.status
        )));
    }
    let name = server.name();
    match catalog.reconsider(&mut info)? {
        WalState::Complete => {
            server
                .output
                .debug(format!("Backup {id} of server '{name}' has all its WAL: it is {}", info.status));
            Ok(())
        }
        WalState::Waiting { next } => {
            server
                .output
                .debug(format!("Backup {id} of server '{name}' waits for {next}: it is {}", info.status));
            Ok(())
        }
        WalState::Unknown => {
            Err(CommandError::new(format!("the record of backup {id} does not say which WAL it needs")))
        }
        WalState::Missing { .. } | WalState::SpansTimelines { .. } => Err(CommandError::new(format!(
            "backup {id} of server '{name}' cannot be restored: {}",
            info.error.unwrap_or_default()
        ))),
    }
}
