//! The threads of the daemon: what cron would do, one thread for each server that is being looked after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::command::archive_wal::{self, Verbosity};
use crate::command::cron::{self, Launcher, Sources};
use crate::context::ServerContext;
use crate::error::CommandError;

#[derive(Debug, Default)]
pub(super) struct Workers {
    by_server: BTreeMap<String, JoinHandle<()>>,
}

impl Workers {
    /// Does all of cron's work but for receivers, unless the server's last turn has not ended yet.
    pub(super) fn maintain(&mut self, server: &ServerContext, launcher: &Arc<Launcher>, sources: Sources) {
        let launcher = Arc::clone(launcher);
        self.start(server, move |server| cron::maintain_if_due(server, &launcher, &sources));
    }

    /// Archives what has arrived, unless the server's last turn has not ended yet.
    pub(super) fn archive(&mut self, server: &ServerContext) {
        let config = &server.config;
        if config.active() && !config.disabled() && !config.passive() {
            self.start(server, |server| archive_wal::archive(server, Verbosity::Brief).map(drop));
        }
    }

    fn start(
        &mut self,
        server: &ServerContext,
        work: impl FnOnce(&ServerContext) -> Result<(), CommandError> + Send + 'static,
    ) {
        let name = server.name().to_owned();
        if self.by_server.get(&name).is_some_and(|worker| !worker.is_finished()) {
            return;
        }
        let server = server.clone();
        let turn = move || {
            if let Err(error) = work(&server)
                && !error.is_reported()
            {
                server.output.error(format!("{}: {error}", server.name()));
            }
        };
        // Without a thread to spare, there will be a next time.
        if let Ok(worker) = std::thread::Builder::new().name(name.clone()).spawn(turn) {
            self.by_server.insert(name, worker);
        }
    }

    pub(super) fn all_ended(&mut self) -> bool {
        self.by_server.values().all(JoinHandle::is_finished)
    }
}
