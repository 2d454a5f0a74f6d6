//! `receive-wal --stop`.

use std::time::{Duration, Instant};

use barkeep_catalog::{ServerLock, Task};
use rustix::process::{Pid, Signal, kill_process};

use crate::context::ServerContext;
use crate::error::CommandError;

/// How long to wait for a receiver to end. It writes what it has received before it does.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether it has.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn run(server: &ServerContext) -> Result<(), CommandError> {
    let name = server.config.name();
    let layout = server.layout();
    let Some(holder) = ServerLock::holder(&layout, Task::ReceiveWal)? else {
        let what = format!("Termination of receive-wal failed: no such process for server {name}");
        return Err(CommandError::new(what));
    };
    let pid = holder.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else {
        let what =
            format!("A receive-wal process for server {name} is running, but its lock file names no process");
        return Err(CommandError::new(what).hint("find it with ps and stop it by hand"));
    };
    let number = pid.as_raw_nonzero();
    kill_process(pid, Signal::INT).map_err(|error| {
        CommandError::because(
            format_args!("cannot stop process {number}, the receive-wal of server {name}"),
            &error,
        )
    })?;
    let deadline = Instant::now() + PATIENCE;
    while ServerLock::holder(&layout, Task::ReceiveWal)? == Some(holder) {
        if Instant::now() >= deadline {
            let seconds = PATIENCE.as_secs();
            let what = format!(
                "process {number}, the receive-wal of server {name}, has not ended within {seconds} s"
            );
            return Err(CommandError::new(what).hint("see its log; its disk may be slow"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    server.output.info(format!("Stopped receive-wal for server {name} (process {number})"));
    Ok(())
}
