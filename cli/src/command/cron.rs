//! `cron`: the work of one minute for all servers.
//!
//! Each server has a thread and a lock of its own, so that one that hangs delays no other; the next minute's cron passes
//! it by. Receivers are started as processes that outlive this one.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{ServerLock, Status, Task};
use barkeep_retention::{Verdict, WalPolicy};
use barkeep_transport::durable;
use pgwal::replication::ConnInfo;
use rustix::process::{Pid, Signal, kill_process};

use super::archive_wal::{self, Verbosity};
use super::deletion::{self, Cause, Outcome};
use super::{connect, heal, index, lost, name_map, scheduled_drill};
use crate::args::CronArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::verdicts::{self, Verdicts};

/// How often it is meant to be run.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

/// Does what is due for every server.
///
/// # Errors
/// None of its own: each server's trouble is told, and makes the exit code 1.
pub fn run(context: &mut Context, args: &CronArgs) -> Result<(), CommandError> {
    if let Err(error) = super::config_update::drain(context) {
        context.output().error(error.to_string());
    }
    let launcher = Launcher::new(context, args.keep_descriptors);
    let servers = context.servers(&["all".to_owned()], Policy::Query)?;
    for server in servers.iter().filter(|server| is_watched(server)) {
        if let Err(error) = launcher.start(&["-q", "check", server.name()]) {
            server.output.error(error.to_string());
        }
    }
    let sources: Vec<Sources> = servers.iter().map(|server| Sources::of(context, server)).collect();
    std::thread::scope(|scope| {
        for (server, source) in servers.iter().zip(&sources) {
            let launcher = &launcher;
            let work = move || {
                if let Err(error) = serve(server, launcher, source)
                    && !error.is_reported()
                {
                    server.output.error(format!("{}: {error}", server.name()));
                }
            };
            // Without a thread to spare, the servers take turns.
            if std::thread::Builder::new().name(server.name().to_owned()).spawn_scoped(scope, work).is_err() {
                work();
            }
        }
    });
    Ok(())
}

/// Where a server is asked, as far as it can be. One that can't be asked keeps what it has.
pub(crate) struct Sources {
    /// For missing WAL.
    stream: Option<ConnInfo>,
    /// For names.
    sql: Option<ConnInfo>,
}

impl Sources {
    pub(crate) fn of(context: &Context, server: &ServerContext) -> Self {
        Sources {
            stream: connect::wal_streaming(context, server).ok(),
            sql: connect::sql(context, server).ok(),
        }
    }
}

/// Whether somebody wants to hear when a server's check turns bad or good: then it is checked every minute, beside all
/// else, by a process that does the notifying.
pub(crate) fn is_watched(server: &ServerContext) -> bool {
    server.config.active() && server.config.notify().is_some()
}

fn serve(server: &ServerContext, launcher: &Launcher, sources: &Sources) -> Result<(), CommandError> {
    let (name, output) = (server.name(), &server.output);
    if !server.config.active() {
        return stop_receiver(server, "is inactive");
    }
    if let [fault, ..] = server.config.faults() {
        return Err(CommandError::new(format!("{fault} (server '{name}' is disabled)")));
    }
    if server.config.passive() {
        output.debug(format!("Skipping passive server '{name}'"));
        return Ok(());
    }
    server.catalog().create_directories()?;
    // Before this server's lock, which an earlier cron may hold for long: a receiver is never to wait for an archiver.
    if server.config.streaming_archiver() {
        if ServerLock::holder(&server.layout(), Task::ReceiveWal)?.is_none() {
            output.info(format!("Starting streaming archiver for server {name}"));
            launcher.start_receiver(name)?;
        }
    } else {
        stop_receiver(server, "has streaming_archiver = off")?;
    }
    maintain_locked(server, launcher, sources)
}

/// All of cron's work for one server but the starting of its receiver, for the daemon.
///
/// # Errors
/// As for cron.
pub(crate) fn maintain_if_due(
    server: &ServerContext,
    launcher: &Launcher,
    sources: &Sources,
) -> Result<(), CommandError> {
    if !server.config.active() {
        return stop_receiver(server, "is inactive");
    }
    if let [fault, ..] = server.config.faults() {
        return Err(CommandError::new(format!("{fault} (server '{}' is disabled)", server.name())));
    }
    if server.config.passive() {
        return Ok(());
    }
    server.catalog().create_directories()?;
    if !server.config.streaming_archiver() {
        stop_receiver(server, "has streaming_archiver = off")?;
    }
    maintain_locked(server, launcher, sources)
}

fn maintain_locked(
    server: &ServerContext,
    launcher: &Launcher,
    sources: &Sources,
) -> Result<(), CommandError> {
    let (name, output) = (server.name(), &server.output);
    let _lock = match ServerLock::try_acquire(&server.layout(), Task::Cron) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => {
            output.info(format!(
                "Another cron process is already running on server {name}. Skipping to the next server"
            ));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    maintain(server, launcher, sources)
}

/// What one server needs every minute. A step that fails keeps none of the others from its turn.
fn maintain(server: &ServerContext, launcher: &Launcher, sources: &Sources) -> Result<(), CommandError> {
    let (name, output) = (server.name(), &server.output);
    let mut first_failure = None;
    let mut step = |outcome: Result<(), CommandError>| {
        if let Err(error) = outcome {
            match first_failure {
                None => first_failure = Some(error),
                Some(_) => output.error(format!("{name}: {error}")),
            }
        }
    };
    step(sweep(server));
    output.info(format!("Starting WAL archiving for server {name}"));
    step(archive_wal::archive(server, Verbosity::Brief).map(|outcome| {
        if outcome == archive_wal::Outcome::Busy {
            output.info(format!("Another archive-wal process is already running on server {name}"));
        }
    }));
    step(heal::fetch_missing(server, sources.stream.as_ref()).and_then(|fetched| match fetched {
        0 => Ok(()),
        _ => archive_wal::archive_delivered(server),
    }));
    step(index::catch_up(server));
    step(check_waiting(server));
    step(name_map::save_if_due(server, sources.sql.as_ref()));
    step(scheduled_drill::start_if_due(server, launcher));
    step(finish_deletions(server));
    step(lost::tell_once(server));
    step(release_keeps(server));
    step(enforce_retention(server));
    first_failure.map_or(Ok(()), Err)
}

/// Records as failed the backups that nobody is at work on any more.
fn sweep(server: &ServerContext) -> Result<(), CommandError> {
    for id in server.catalog().sweep()? {
        server.output.warning(format!(
            "Backup {id} of server {} was never finished and its process is gone: it is now FAILED; delete it when you \
             have looked into it",
            server.name()
        ));
    }
    Ok(())
}

/// Looks whether backups that wait for WAL have all of it now.
fn check_waiting(server: &ServerContext) -> Result<(), CommandError> {
    let name = server.name();
    let waiting = server.catalog().backups()?.by_id.into_values();
    for mut info in waiting.filter(|info| info.status == Status::WaitingForWals) {
        let _lock = match ServerLock::try_acquire(&server.layout(), Task::OneBackup(info.id)) {
            Ok(lock) => lock,
            Err(LockError::Held { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        match server.catalog().check_backup(&mut info)? {
            Status::Done => server.output.info(format!("Backup {} of server {name} is complete", info.id)),
            Status::Failed => server.output.error(format!(
                "Backup {} of server {name} has failed: {}",
                info.id,
                info.error.unwrap_or_default()
            )),
            _ => {}
        }
    }
    Ok(())
}

/// Goes on with deletions that did not end.
fn finish_deletions(server: &ServerContext) -> Result<(), CommandError> {
    for id in server.catalog().marked()? {
        deletion::finish(server, id)?;
    }
    // Half-written records and marks of processes that were killed, also of backups that Barman has deleted since.
    let _ = durable::remove_abandoned_files(&server.layout().meta());
    Ok(())
}

/// Lets go what was kept until a moment that is past, so that Barman sees it too.
fn release_keeps(server: &ServerContext) -> Result<(), CommandError> {
    let (catalog, now) = (server.catalog(), jiff::Timestamp::now());
    for id in catalog.backups()?.by_id.into_keys() {
        if catalog.kept(id)?.is_some_and(|kept| kept.is_over(now)) {
            catalog.release(id)?;
            server.output.info(format!("Backup {id} of server {} is kept no longer", server.name()));
        }
    }
    Ok(())
}

/// Deletes the backups that the retention policy has no use for, oldest first, then the WAL that only the policy for WAL
/// lets go.
fn enforce_retention(server: &ServerContext) -> Result<(), CommandError> {
    let name = server.name();
    verdicts::policy(&server.config).map_err(|error| {
        CommandError::because(format_args!("nothing is deleted from server '{name}'"), &error)
            .hint("correct its retention_policy")
    })?;
    let judged = Verdicts::judge(server, &server.catalog().backups()?, jiff::Timestamp::now())?;
    for judgement in judged.iter().filter(|judgement| judgement.verdict == Verdict::Obsolete) {
        // Increments are obsolete with their full backup, and gone with it by now.
        if server.catalog().read(judgement.id).is_err() {
            continue;
        }
        server.output.info(format!(
            "Enforcing retention policy: backup {} of server {name} is obsolete: {}",
            judgement.id, judgement.reason
        ));
        if deletion::delete_tree(server, judgement.id, Cause::Policy, &deletion::permitted)? == Outcome::Busy
        {
            server.output.info(format!("Another process is at work on backup {}", judgement.id));
        }
    }
    if judged.policy().is_some() && judged.wal_policy() != WalPolicy::Main {
        deletion::purge_by_policy(server)?;
    }
    Ok(())
}

/// Stops the receiver of a server that should have none.
fn stop_receiver(server: &ServerContext, why: &str) -> Result<(), CommandError> {
    let Some(holder) = ServerLock::holder(&server.layout(), Task::ReceiveWal)? else { return Ok(()) };
    let pid = holder.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let name = server.name();
    let Some(pid) = pid else {
        return Err(CommandError::new(format!(
            "server '{name}' {why}, but a receive-wal runs and its lock file names no process"
        )));
    };
    server.output.info(format!("Server '{name}' {why}: stopping receive-wal subprocess"));
    match kill_process(pid, Signal::INT) {
        // It has just ended by itself.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => {
            Err(CommandError::because(format_args!("cannot stop process {}", pid.as_raw_nonzero()), &error))
        }
    }
}

/// Starts barkeep commands that go on after this process.
#[derive(Debug)]
pub(crate) struct Launcher {
    program: PathBuf,
    config: PathBuf,
    home: Option<std::ffi::OsString>,
    keep_descriptors: bool,
}

impl Launcher {
    pub(crate) fn new(context: &Context, keep_descriptors: bool) -> Self {
        let invoked = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
        // The program may have been replaced since it was started: then its name leads to the new one.
        let program = std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or(invoked);
        Launcher {
            program,
            config: context.config_path().to_owned(),
            home: context.env("HOME"),
            keep_descriptors,
        }
    }

    pub(super) fn start_receiver(&self, server: &str) -> Result<(), CommandError> {
        self.start(&["-q", "receive-wal", server]).map(drop)
    }

    /// Starts barkeep with these words, on the same configuration.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn start(&self, words: &[&str]) -> Result<Child, CommandError> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).args(words).stdin(Stdio::null());
        // A process group of its own: what stops this process by a key must not stop that one.
        command.process_group(0);
        if let Some(home) = &self.home {
            command.env("HOME", home);
        }
        if !self.keep_descriptors {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.spawn().map_err(|error| {
            let (program, words) = (self.program.display(), words.join(" "));
            CommandError::because(format_args!("cannot start '{program}' {words}"), &error)
        })
    }
}
