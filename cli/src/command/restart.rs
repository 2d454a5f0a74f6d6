//! Restarting the WAL receiver of a server whose configuration has changed.

use barkeep_catalog::{ServerLock, Task};

use super::cron::Launcher;
use super::receive_wal;
use crate::config::Config;
use crate::context::{Context, Policy};
use crate::error::CommandError;

/// Stops the receiver of a server, if one runs, and starts one if the configuration as it is now wants one. What is no
/// server (any more, or yet) has none.
pub(super) fn receiver(context: &Context, name: &str) -> Result<(), CommandError> {
    let home = context.env("HOME").map(std::path::PathBuf::from);
    let config = Config::load(context.config_path(), home.as_deref())?;
    let changed = Context::new(config, context.output().clone(), home);
    let Ok(server) = changed.server(name, Policy::Query) else { return Ok(()) };
    if ServerLock::holder(&server.layout(), Task::ReceiveWal)?.is_some() {
        receive_wal::stop::run(&server)?;
    }
    let config = &server.config;
    let wanted = config.streaming_archiver() && config.active() && !config.passive() && !config.disabled();
    if wanted { Launcher::new(&changed, false).start_receiver(name) } else { Ok(()) }
}
