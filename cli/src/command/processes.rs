//! `list-processes`, `terminate-process`, `lock-directory-cleanup`: who is at work.

use std::time::{Duration, Instant};

use barkeep_catalog::ServerLock;
use barkeep_catalog::processes::{Process, remove_free_locks};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::args::{ServerArgs, TerminateProcessArgs};
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::{Report, Style};

/// How long to wait for a process to end. A receiver writes what it has received before it does.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it has.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

struct Listed<'a> {
    server: &'a str,
    processes: Vec<Process>,
}

/// Lists the processes that are at work on a server.
///
/// # Errors
/// When there is no such server, or its locks can't be asked.
pub fn list(context: &mut Context, args: &ServerArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let processes = server.catalog().processes()?;
    server.output.report(&Listed { server: server.name(), processes });
    Ok(())
}

/// Stops the process that does a task for a server.
///
/// # Errors
/// When there is none, or it does not end.
pub fn terminate(context: &mut Context, args: &TerminateProcessArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let name = server.name();
    let processes = server.catalog().processes()?;
    let Some(process) = processes.iter().find(|process| process.task == args.task) else {
        let what = format!("Termination of {} failed: no such process for server {name}", args.task);
        return Err(CommandError::new(what).hint(format!("see: barkeep list-processes {name}")));
    };
    let pid = stop(&server, process)?;
    server.output.info(format!("Stopped process {}({pid})", process.task));
    Ok(())
}

/// Removes the lock files that nobody holds.
///
/// # Errors
/// When the lock directory can't be read.
pub fn clean_locks(context: &mut Context) -> Result<(), CommandError> {
    let directory = &context.config().global.lock_directory;
    let removed = remove_free_locks(directory).map_err(|error| {
        CommandError::because(format!("cannot clean up the lock directory {}", directory.display()), &error)
    })?;
    for path in removed {
        context.output().debug(format!("Removed {}", path.display()));
    }
    Ok(())
}

/// Asks a process to end, and waits until it has let its lock go. Its process id.
pub(super) fn stop(server: &ServerContext, process: &Process) -> Result<i32, CommandError> {
    let (name, task) = (server.name(), process.task);
    let Some(pid) = process.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
        let what =
            format!("A {task} process for server {name} is running, but its lock file names no process");
        return Err(CommandError::new(what).hint("find it with ps and stop it by hand"));
    };
    let number = pid.as_raw_nonzero().get();
    match kill_process(pid, Signal::INT) {
        // It has just ended by itself.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            let what = format!("Cannot terminate process {task}({number}) of server {name}");
            return Err(CommandError::because(what, &error));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let layout = server.layout();
    while ServerLock::holder(&layout, process.lock)?.is_some_and(|holder| holder.pid == process.pid) {
        if Instant::now() >= deadline {
            let seconds = PATIENCE.as_secs();
            let what = format!(
                "Cannot terminate process {task}({number}) of server {name}: it has not ended within {seconds} s"
            );
            return Err(CommandError::new(what).hint("see its log; its disk may be slow"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(number)
}

impl Report for Listed<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let entry = |process: &Process| json!({ "pid": process.pid, "name": process.task });
        self.processes.iter().map(entry).collect()
    }

    fn console(&self, _: Style) -> String {
        if self.processes.is_empty() {
            return format!("No active subprocesses found for server {}.\n", self.server);
        }
        let line = |process: &Process| match process.pid {
            Some(pid) => format!("{pid} {}\n", process.task),
            None => format!("? {}\n", process.task),
        };
        let lines: String = self.processes.iter().map(line).collect();
        format!("Active subprocesses for server {}:\n{lines}", self.server)
    }
}
