//! `barkeep daemon`: cron's work without cron, receivers that are started again at once, and backups by schedule.
//!
//! One loop looks once a second what is due, and never waits for anything but signals: maintenance runs in a thread for each
//! server, receivers and backups are processes of their own. So one server that hangs delays no other, a receiver can be
//! stopped by `receive-wal --stop` as ever, and one that outlives the daemon is left to its work by the next.
//!
//! All of it goes by the locks that cron goes by: daemon, cron and Barman's cron may run side by side.

mod backups;
mod listen;
mod receivers;
mod schedule;
mod service;
mod workers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barkeep_catalog::ServerLock;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use schedule::Schedule;

use crate::args::DaemonArgs;
use crate::command::config_update;
use crate::command::cron::{self, Launcher, Sources};
use crate::config::Config;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::Output;
use backups::Backups;
use listen::Listener;
use receivers::Receivers;
use service::ServiceManager;
use workers::Workers;

/// How often the loop looks what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often every server gets what cron would do for it.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(60);
/// How often WAL that has arrived is archived.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long everything may take to end when the daemon is stopped.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Everything that can happen to the loop.
enum Event {
    /// Time has passed.
    Look,
    /// SIGHUP: the configuration is to be read again.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The daemon.
struct Daemon {
    output: Output,
    launcher: Arc<Launcher>,
    servers: Vec<ServerContext>,
    receivers: Receivers,
    backups: Backups,
    workers: Workers,
    checks: BTreeMap<String, Child>,
    listener: Option<Listener>,
    last_maintenance: Option<Instant>,
    last_archiving: Instant,
    /// What was last wrong with the configuration files.
    config_error: Option<String>,
}

/// Works until SIGTERM or SIGINT.
///
/// # Errors
/// When there is one already, or the system does not let signals be waited for.
pub(crate) fn run(context: &mut Context, args: &DaemonArgs) -> Result<(), CommandError> {
    let lock_path = context.config().global.lock_directory.join(".barkeep-daemon.lock");
    let _lock = ServerLock::acquire_path_within(&lock_path, Duration::ZERO)
        .map_err(|error| CommandError::because("The daemon cannot be started", &error))?;
    let mut daemon = Daemon::new(context)?;
    if let Some(address) = args.listen {
        daemon.listener = Some(Listener::start(address, args.listen_publicly, context, &daemon.output)?);
    }
    daemon.output.info(format!("The daemon takes care of {} servers", daemon.servers.len()));
    let (mut reload, mut terminate, mut interrupt) = {
        let _entered = context.runtime()?.enter();
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let mut manager = ServiceManager::of_environment();
    manager.ready(&daemon.status());
    loop {
        let event = context.runtime()?.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Event::Stop,
                _ = interrupt.recv() => Event::Stop,
                _ = reload.recv() => Event::Reload,
                () = tokio::time::sleep(LOOK_INTERVAL) => Event::Look,
            }
        });
        match event {
            Event::Look => {
                if daemon.maintenance_is_due() {
                    daemon.read_changes(context);
                }
                daemon.look(context);
                if let Some(listener) = &daemon.listener {
                    listener.turned();
                }
                manager.alive(&daemon.status());
            }
            Event::Reload => {
                manager.reloading();
                daemon.reload(context);
                daemon.last_maintenance = None;
                manager.ready(&daemon.status());
            }
            Event::Stop => break,
        }
    }
    manager.stopping();
    daemon.stop();
    Ok(())
}

impl Daemon {
    fn new(context: &Context) -> Result<Self, CommandError> {
        let mut daemon = Daemon {
            output: context.output().clone(),
            launcher: Arc::new(Launcher::new(context, true)),
            servers: Vec::new(),
            receivers: Receivers::default(),
            backups: Backups::default(),
            workers: Workers::default(),
            checks: BTreeMap::new(),
            listener: None,
            last_maintenance: None,
            last_archiving: Instant::now(),
            config_error: None,
        };
        daemon.take_over(context, &[])?;
        Ok(daemon)
    }

    /// Goes by the configuration of `context` from now on, and by that of `before` no longer.
    fn take_over(&mut self, context: &Context, before: &[ServerContext]) -> Result<(), CommandError> {
        let servers = context.servers(&["all".to_owned()], Policy::Query)?;
        self.receivers.stop_changed(before, &servers);
        self.backups.plan(&servers, &jiff::Zoned::now());
        if let Some(listener) = &self.listener {
            listener.watch(context)?;
        }
        self.servers = servers;
        Ok(())
    }

    /// Does what is due.
    fn look(&mut self, context: &Context) {
        let now = Instant::now();
        self.receivers.look(&self.servers, &self.launcher);
        let receivers = &self.receivers;
        let held = |name: &str| receivers.has_just_begun(name);
        self.backups.look(&self.servers, &self.launcher, &jiff::Zoned::now(), held);
        if self.maintenance_is_due() {
            self.last_maintenance = Some(now);
            self.last_archiving = now;
            for server in &self.servers {
                self.workers.maintain(server, &self.launcher, Sources::of(context, server));
            }
            self.check();
        } else if now - self.last_archiving >= ARCHIVE_INTERVAL {
            self.last_archiving = now;
            for server in &self.servers {
                self.workers.archive(server);
            }
        }
    }

    /// Checks the servers that somebody watches (all of them, where metrics are served), each unless its last check still runs.
    fn check(&mut self) {
        self.checks.retain(|_, child| !child.try_wait().is_ok_and(|status| status.is_some()));
        let all = self.listener.is_some();
        let is_watched =
            |server: &&ServerContext| cron::is_watched(server) || (all && server.config.active());
        for server in self.servers.iter().filter(is_watched) {
            if self.checks.contains_key(server.name()) {
                continue;
            }
            match self.launcher.start(&["-q", "check", server.name()]) {
                Ok(child) => drop(self.checks.insert(server.name().to_owned(), child)),
                Err(error) => server.output.error(error.to_string()),
            }
        }
    }

    fn maintenance_is_due(&self) -> bool {
        self.last_maintenance.is_none_or(|last| last.elapsed() >= MAINTENANCE_INTERVAL)
    }

    /// What cron would see of a changed configuration, the daemon sees too. One that can't be read is told of once.
    fn read_changes(&mut self, context: &mut Context) {
        if let Err(error) = config_update::drain(context) {
            self.output.error(error.to_string());
        }
        match self.go_by_the_files(context) {
            Ok(true) => {
                self.output.info(format!("The configuration has changed: {} servers", self.servers.len()))
            }
            Ok(false) => {}
            Err(error) => {
                let told = error.to_string();
                if self.config_error.as_ref() != Some(&told) {
                    self.output.error(format!("The configuration can't be read and stays as it was: {told}"));
                }
                self.config_error = Some(told);
                return;
            }
        }
        self.config_error = None;
    }

    /// SIGHUP.
    fn reload(&mut self, context: &mut Context) {
        match self.go_by_the_files(context) {
            Ok(_) => {
                for warning in &context.config().warnings {
                    self.output.warning(warning);
                }
                self.output.info(format!("Configuration reloaded: {} servers", self.servers.len()));
            }
            Err(error) => self
                .output
                .error(format!("The configuration could not be reloaded and stays as it was: {error}")),
        }
    }

    /// Reads the configuration files again. Whether they say something else than before.
    fn go_by_the_files(&mut self, context: &mut Context) -> Result<bool, CommandError> {
        let path = context.config_path().to_owned();
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let fresh = context.with_config(Config::load(&path, home.as_deref())?);
        let before = std::mem::take(&mut self.servers);
        if let Err(error) = self.take_over(&fresh, &before) {
            self.servers = before;
            return Err(error);
        }
        context.replace_config(fresh);
        let same = before.len() == self.servers.len()
            && before.iter().zip(&self.servers).all(|(old, new)| receivers::are_alike(old, new));
        Ok(!same)
    }

    fn stop(&mut self) {
        self.output.info("The daemon stops");
        self.receivers.ask_to_stop();
        self.backups.ask_to_stop();
        let deadline = Instant::now() + STOP_PATIENCE;
        let done = |daemon: &mut Self| {
            daemon.receivers.all_ended() & daemon.backups.all_ended() & daemon.workers.all_ended()
        };
        while !done(self) {
            if Instant::now() >= deadline {
                self.output.warning("Some work has not ended in time and is left to itself");
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.output.info("The daemon has stopped");
    }

    /// What `systemctl status` shows.
    fn status(&self) -> String {
        format!(
            "{} servers, {} receivers, {} backups running",
            self.servers.len(),
            self.receivers.running(),
            self.backups.running()
        )
    }
}
