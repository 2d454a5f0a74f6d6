//! The receivers of the daemon: a process for each server that streams.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use barkeep_catalog::{ServerLock, Task};

use super::backups::interrupt;
use crate::command::cron::{self, Launcher};
use crate::context::ServerContext;

/// The pause before a receiver that has ended is started again: this at first, twice as long each time, up to the second.
/// (A receiver that only loses its connection does not end.)
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A receiver that has run this long has begun well: the next pause is the shortest again.
const GOOD_RUN: Duration = Duration::from_secs(120);
/// A receiver that runs has made its slot and streams by then.
const HEAD_START: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Receivers {
    by_server: BTreeMap<String, Receiver>,
}

#[derive(Debug, Default)]
struct Receiver {
    child: Option<Child>,
    started: Option<Instant>,
    /// Not before then.
    next_start: Option<Instant>,
    pause: Duration,
    /// The daemon itself has stopped it, for its configuration has changed.
    stopped_for_change: bool,
}

impl Receivers {
    /// Starts the receivers that are missing and stops those that should not be.
    pub(super) fn look(&mut self, servers: &[ServerContext], launcher: &Launcher) {
        for server in servers {
            let receiver = self.by_server.entry(server.name().to_owned()).or_default();
            receiver.reap(server);
            if let Err(error) = receiver.keep(server, launcher) {
                server.output.error(format!("{}: {error}", server.name()));
                receiver.wait_before_next();
            }
        }
        for (_, receiver) in self.by_server.iter_mut().filter(|(name, _)| {
            // Servers that are gone from the configuration.
            !servers.iter().any(|server| server.name() == name.as_str())
        }) {
            receiver.ended();
        }
    }

    /// Stops the receivers whose server is configured otherwise now, or gone; those that are still wanted are started again.
    pub(super) fn stop_changed(&mut self, before: &[ServerContext], after: &[ServerContext]) {
        for old in before {
            let new = after.iter().find(|new| new.name() == old.name());
            let same = new.is_some_and(|new| are_alike(old, new));
            if !same && let Some(receiver) = self.by_server.get_mut(old.name()) {
                receiver.ask_to_stop();
                receiver.stopped_for_change = receiver.child.is_some();
                receiver.next_start = None;
                receiver.pause = Duration::ZERO;
            }
        }
    }

    /// Whether a backup had better wait a moment, so that its first WAL is not lost on a receiver that is just starting.
    pub(super) fn has_just_begun(&self, name: &str) -> bool {
        self.by_server.get(name).is_some_and(|receiver| {
            receiver.child.is_some() && receiver.started.is_some_and(|started| started.elapsed() < HEAD_START)
        })
    }

    pub(super) fn running(&self) -> usize {
        self.by_server.values().filter(|receiver| receiver.child.is_some()).count()
    }

    pub(super) fn ask_to_stop(&mut self) {
        self.by_server.values_mut().for_each(Receiver::ask_to_stop);
    }

    pub(super) fn all_ended(&mut self) -> bool {
        self.by_server.values_mut().fold(true, |all, receiver| receiver.ended() & all)
    }
}

/// Whether two configurations of a server say the same.
pub(super) fn are_alike(one: &ServerContext, other: &ServerContext) -> bool {
    let texts = |server: &ServerContext| {
        let settings = server.config.settings();
        settings.map(|(key, setting)| (key, setting.text.clone())).collect::<Vec<_>>()
    };
    one.name() == other.name() && texts(one) == texts(other)
}

impl Receiver {
    /// Starts it if it is wanted and nobody receives.
    fn keep(
        &mut self,
        server: &ServerContext,
        launcher: &Launcher,
    ) -> Result<(), crate::error::CommandError> {
        let config = &server.config;
        let wanted =
            config.active() && !config.disabled() && !config.passive() && config.streaming_archiver();
        if !wanted || self.child.is_some() || self.next_start.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        server.catalog().create_directories()?;
        if ServerLock::holder(&server.layout(), Task::ReceiveWal)?.is_some() {
            // Somebody else's, who may have been started by cron; asked again soon.
            self.next_start = Some(Instant::now() + PAUSES.0);
            return Ok(());
        }
        server.output.info(format!("Starting streaming archiver for server {}", server.name()));
        self.child = Some(launcher.start(&["receive-wal", server.name()])?);
        self.started = Some(Instant::now());
        Ok(())
    }

    /// Takes note of its end.
    fn reap(&mut self, server: &ServerContext) {
        let Some(child) = &mut self.child else { return };
        let Ok(Some(status)) = child.try_wait() else { return };
        self.child = None;
        let name = server.name();
        if std::mem::take(&mut self.stopped_for_change) {
            return;
        }
        if status.success() {
            // Somebody has stopped it. It comes back as with cron, a while later.
            server.output.info(format!("The receiver of server {name} was stopped"));
            self.next_start = Some(Instant::now() + cron::INTERVAL);
            self.pause = Duration::ZERO;
            return;
        }
        if self.started.is_some_and(|started| started.elapsed() >= GOOD_RUN) {
            self.pause = Duration::ZERO;
        }
        self.wait_before_next();
        let seconds = self.pause.as_secs();
        server.output.warning(format!(
            "The receiver of server {name} has ended ({status}); trying again in {seconds} s"
        ));
    }

    fn wait_before_next(&mut self) {
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        self.next_start = Some(Instant::now() + self.pause);
    }

    fn ask_to_stop(&mut self) {
        if let Some(child) = &self.child {
            interrupt(child);
        }
    }

    /// Whether it is gone.
    fn ended(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && child.try_wait().is_ok_and(|status| status.is_some())
        {
            self.child = None;
        }
        self.child.is_none()
    }
}
