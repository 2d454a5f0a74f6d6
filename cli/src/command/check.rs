//! `check`: whether servers can be backed up and recovered. Every fault is told, not just the first.

mod lines;
mod report;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::args::CheckArgs;
use crate::context::{Context, Policy, ServerContext, new_runtime};
use crate::error::{CommandError, exit};
use crate::live::Live;
use crate::notify;
use crate::output::Report as _;
use lines::{Deadline, Home};
use report::{Checked, Nagios};

pub(super) use lines::gap_summary;
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
    for mut checked in check_all(context, &servers, args.check_timeout)? {
        if let Some(server) = servers.iter().find(|server| server.name() == checked.server()) {
            if args.deep {
                checked.extend(lines::deep(server));
            }
            notify::note_check(server, &checked.lines);
        }
        if args.nagios {
            nagios.add(&checked);
        } else {
            checked.tell(context.output());
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

/// How many servers are checked at the same time.
const SERVERS_AT_ONCE: usize = 8;

/// Checks servers, several at a time; the results come in the order of the servers.
fn check_all(
    context: &Context,
    servers: &[ServerContext],
    limit: Option<u64>,
) -> Result<Vec<Checked>, CommandError> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Checked>>> = servers.iter().map(|_| Mutex::default()).collect();
    let work = || -> Result<(), CommandError> {
        let runtime = new_runtime()?;
        while let Some((server, result)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            servers.get(at).zip(results.get(at))
        } {
            let checked = check_on(&runtime, context, server, limit, Scope::Everything);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(checked);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 1..SERVERS_AT_ONCE.min(servers.len()) {
            // Without a thread to spare, there are fewer.
            let _ = std::thread::Builder::new().name("check".to_owned()).spawn_scoped(scope, work);
        }
        work()
    })?;
    let checked =
        |result: Mutex<Option<Checked>>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().filter_map(checked).collect())
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All of it.
    Everything,
    /// What a backup does not find out by itself: it makes a single connection to the host of the files.
    BeforeBackup,
}

/// Checks one server before its backup. `limit` in seconds overrides `check_timeout`; 0 is none.
///
/// # Errors
/// When the event loop can't be started; what is wrong with the server is in the lines.
pub fn check(
    context: &mut Context,
    server: &ServerContext,
    limit: Option<u64>,
) -> Result<Checked, CommandError> {
    Ok(check_on(&new_runtime()?, context, server, limit, Scope::BeforeBackup))
}

fn check_on(
    runtime: &Runtime,
    context: &Context,
    server: &ServerContext,
    limit: Option<u64>,
    scope: Scope,
) -> Checked {
    let limit = match limit {
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => server.config.check_timeout(),
    };
    let deadline = Deadline::after(limit);
    let now = context.now();
    // The server answers while the home is read.
    let (home, live) = std::thread::scope(|threads| {
        let home = threads.spawn(|| Home::read(server, now));
        let live = Live::ask_on(runtime, context, server, limit);
        (home.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), live)
    });
    Checked::new(server, lines::all(server, &home, &live, now, deadline, scope))
}
