//! The scripts around deletions.

use barkeep_catalog::delete::{DeletionHooks, DoomedBackup, DoomedWal, Stopped};
use barkeep_catalog::literal::float_repr;

use super::{Environment, Event, Hooks, WalFacts};
use crate::context::ServerContext;
use crate::error::CommandError;

/// Runs a server's scripts around the deletion of its backups and WAL.
#[derive(Debug)]
pub(crate) struct DeletionScripts {
    hooks: Hooks,
}

impl DeletionScripts {
    pub(crate) fn new(server: &ServerContext) -> Self {
        DeletionScripts { hooks: Hooks::new(server) }
    }

    fn environment(&self, backup: &DoomedBackup<'_>, error: Option<&str>) -> Environment {
        let layout = self.hooks.server.layout();
        let environment = Environment::of_backup(&layout, backup.info, backup.previous, backup.next);
        match error {
            Some(error) => environment.with_error(error),
            None => environment,
        }
    }
}

impl DeletionHooks for DeletionScripts {
    fn before_backup(&self, backup: &DoomedBackup<'_>) -> Result<(), Stopped> {
        self.hooks.before(Event::Delete, &self.environment(backup, None)).map_err(stopped)
    }

    fn after_backup(&self, backup: &DoomedBackup<'_>, error: Option<&str>) {
        self.hooks.after(Event::Delete, &self.environment(backup, error));
    }

    fn about_wal(&self) -> bool {
        self.hooks.any(Event::WalDelete)
    }

    fn before_wal(&self, wal: &DoomedWal<'_>) -> Result<(), Stopped> {
        self.hooks.before(Event::WalDelete, &of_wal(wal, None)).map_err(stopped)
    }

    fn after_wal(&self, wal: &DoomedWal<'_>, error: Option<&str>) {
        self.hooks.after(Event::WalDelete, &of_wal(wal, error));
    }
}

fn of_wal(wal: &DoomedWal<'_>, error: Option<&str>) -> Environment {
    Environment::of_wal(&WalFacts {
        name: &wal.entry.file.to_string(),
        path: wal.path,
        size: wal.entry.size,
        time: &float_repr(wal.entry.time),
        compression: wal.entry.compression.as_deref(),
        error,
    })
}

fn stopped(error: CommandError) -> Stopped {
    Stopped { by: error.to_string() }
}
