//! After the copy: the WAL that makes the backup consistent.

use std::time::{Duration, Instant};

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{BackupInfo, Catalog, ServerLock, Status, Task};

use crate::command::archive_wal::{self, Verbosity};
use crate::command::signals::{self, Signal};
use crate::context::ServerContext;
use crate::error::CommandError;

/// How often the archive is looked at while a backup waits.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why the waiting ended early.
pub(super) enum WaitError {
    Interrupted(Signal),
    Failed(CommandError),
}

impl<E: Into<CommandError>> From<E> for WaitError {
    fn from(error: E) -> Self {
        WaitError::Failed(error.into())
    }
}

/// Archives what has arrived, and moves the backup on if that was enough. With `patience`, waits for more: as long as it
/// says, or without end for `Some(None)`.
pub(super) async fn complete(
    server: &ServerContext,
    catalog: &Catalog,
    info: &mut BackupInfo,
    patience: Option<Option<Duration>>,
) -> Result<(), WaitError> {
    let archive_and_check = |info: &mut BackupInfo| -> Result<Status, CommandError> {
        archive_wal::archive(server, Verbosity::Brief)?;
        check(catalog, info)
    };
    let Some(limit) = patience else {
        archive_and_check(info)?;
        return Ok(());
    };
    let name = server.config.name();
    if let Some(wal) = info.end_wal {
        server.output.info(format!("Waiting for the WAL file {wal} from server '{name}'"));
    }
    let started = Instant::now();
    let stop = signals::stop();
    tokio::pin!(stop);
    loop {
        if archive_and_check(info)? != Status::WaitingForWals {
            return Ok(());
        }
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            server
                .output
                .warning(format!("Stopped waiting for WAL after {} seconds", started.elapsed().as_secs()));
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            signal = &mut stop => return Err(WaitError::Interrupted(signal?)),
        }
    }
}

/// Moves the backup on if its WAL is there. Cron does so too, and may even delete backups: the record's lock keeps the
/// two apart, and what cron has written meanwhile counts.
fn check(catalog: &Catalog, info: &mut BackupInfo) -> Result<Status, CommandError> {
    let _lock = match ServerLock::try_acquire(catalog.layout(), Task::OneBackup(info.id)) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => return Ok(info.status),
        Err(error) => return Err(error.into()),
    };
    *info = catalog.read(info.id)?;
    Ok(catalog.check_backup(info)?)
}
