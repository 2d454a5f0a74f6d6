//! `check`: whether servers can be backed up and recovered. Every fault is told, not just the first.

mod lines;
mod report;

use std::time::Duration;

use crate::args::CheckArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, exit};
use crate::live::Live;
use report::{Checked, Nagios};

pub use lines::{Line, Perf};

/// Checks the servers.
///
/// # Errors
/// When a server is unknown; under `--nagios` with the exit code that Nagios takes for critical.
pub fn run(context: &mut Context, args: &CheckArgs) -> Result<(), CommandError> {
    let servers = match context.servers(&args.servers, Policy::Query) {
        Ok(servers) => servers,
        Err(_) if args.nagios => {
            context.output().info("BARMAN CRITICAL - Global configuration errors");
            return Err(CommandError::reported().code(exit::USAGE));
        }
        Err(error) => return Err(error),
    };
    let mut nagios = Nagios::default();
    for server in servers {
        let checked = check(context, &server, args.check_timeout)?;
        if args.nagios {
            nagios.add(&checked);
            continue;
        }
        context.output().report(&checked);
        if !checked.ok() {
            context.output().mark_failed();
        }
    }
    if args.nagios {
        for line in nagios.lines() {
            context.output().info(line);
        }
        if nagios.critical() {
            return Err(CommandError::reported().code(exit::USAGE));
        }
    }
    Ok(())
}

/// Checks one server. `limit` in seconds overrides `check_timeout`; 0 is none.
///
/// # Errors
/// When the event loop can't be started; what is wrong with the server is in the lines.
pub fn check(
    context: &mut Context,
    server: &ServerContext,
    limit: Option<u64>,
) -> Result<Checked, CommandError> {
    let limit = match limit {
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => server.config.check_timeout(),
    };
    let live = Live::ask(context, server, limit)?;
    Ok(Checked::new(server, lines::all(server, &live, context.now())))
}
