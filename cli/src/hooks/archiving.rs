//! The scripts around the archiving of WAL.

use barkeep_catalog::archive::{ArchiveHooks, HookFile, HookStop};
use barkeep_catalog::literal::float_repr;

use super::{Environment, Event, Hooks, WalFacts};
use crate::context::ServerContext;

/// Runs a server's scripts around the archiving of each WAL file.
#[derive(Debug)]
pub(crate) struct ArchiveScripts {
    hooks: Hooks,
}

impl ArchiveScripts {
    /// The scripts; `None` when there are none.
    pub(crate) fn of(server: &ServerContext) -> Option<Self> {
        let hooks = Hooks::new(server);
        hooks.any(Event::Archive).then_some(ArchiveScripts { hooks })
    }
}

impl ArchiveHooks for ArchiveScripts {
    fn before(&self, file: &HookFile<'_>) -> Result<(), HookStop> {
        let outcome = self.hooks.before(Event::Archive, &environment(file, None));
        outcome.map_err(|error| HookStop { reason: error.to_string() })
    }

    fn after(&self, file: &HookFile<'_>, error: Option<&str>) {
        self.hooks.after(Event::Archive, &environment(file, error));
    }
}

fn environment(file: &HookFile<'_>, error: Option<&str>) -> Environment {
    Environment::of_wal(&WalFacts {
        name: &file.file.to_string(),
        path: file.path,
        size: file.size,
        time: &float_repr(file.time),
        compression: file.compression,
        error,
    })
}
