//! Hook scripts: shell commands of the configuration that run before and after what barkeep does.
//!
//! Around an event run, in this order: the script before it, the retried script before it, the event, the retried script
//! after it, the script after it. A script's exit code changes nothing. A retried one is run again until it exits with 0,
//! with [`ABORT_CONTINUE`], or with [`ABORT_STOP`], which stops the event if it has not happened yet.
//!
//! They may call barkeep, so nobody holds a lock while they run that another command would wait for: what is held at most is
//! the lock of the one backup that is about to begin or to go, and of the archiving that is under way.

mod archiving;
mod deletion;
mod environment;
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use archiving::ArchiveScripts;
pub(crate) use deletion::DeletionScripts;
pub(crate) use environment::{Environment, Recovery, WalFacts};
use script::{Ending, Script, Shell, set_surroundings};

use crate::command::signals;
use crate::context::{Context, ServerContext};
use crate::error::CommandError;

/// A retried script's exit code for "don't try again, go on".
pub(crate) const ABORT_CONTINUE: i32 = 62;
/// A retried script's exit code for "don't try again, stop what you were about to do".
pub(crate) const ABORT_STOP: i32 = 63;

/// The pause after a failed try.
const BREAK: Duration = Duration::from_secs(3);
/// The pause after [`TRIES_BEFORE_NAP`] failed tries in a row.
const NAP: Duration = Duration::from_secs(60);
/// Failed tries before a longer pause.
const TRIES_BEFORE_NAP: u32 = 6;
/// How often a pause looks whether it should end.
const PAUSE_STEP: Duration = Duration::from_millis(100);

/// What scripts run before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A base backup.
    Backup,
    /// The archiving of one WAL file.
    Archive,
    /// The deletion of a backup.
    Delete,
    /// The deletion of one WAL file.
    WalDelete,
    /// A restore.
    Recovery,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Backup => "backup",
            Event::Archive => "archive",
            Event::Delete => "delete",
            Event::WalDelete => "wal_delete",
            Event::Recovery => "recovery",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pre,
    Post,
}

/// The scripts of one server.
#[derive(Debug, Clone)]
pub(crate) struct Hooks {
    server: ServerContext,
    cancelled: Arc<AtomicBool>,
}

impl Hooks {
    pub(crate) fn new(server: &ServerContext) -> Self {
        Hooks { server: server.clone(), cancelled: Arc::default() }
    }

    /// Whether any script is configured for this event.
    pub(crate) fn any(&self, event: Event) -> bool {
        self.has(Phase::Pre, event) || self.has(Phase::Post, event)
    }

    /// Whether a script is configured to run before this event.
    pub(crate) fn any_before(&self, event: Event) -> bool {
        self.has(Phase::Pre, event)
    }

    /// Runs what is to run before an event.
    ///
    /// # Errors
    /// When a retried script wants the event not to happen.
    pub(crate) fn before(&self, event: Event, environment: &Environment) -> Result<(), CommandError> {
        self.plain(Phase::Pre, event, environment);
        self.retried(Phase::Pre, event, environment)
    }

    /// Runs what is to run after an event. Whatever comes of it, the event has happened.
    pub(crate) fn after(&self, event: Event, environment: &Environment) {
        if let Err(error) = self.retried(Phase::Post, event, environment) {
            self.server.output.warning(format!("{error}: this has happened already"));
        }
        self.plain(Phase::Post, event, environment);
    }

    /// Like [`before`](Self::before), for commands that listen to signals: one that comes stops the script too.
    ///
    /// # Errors
    /// As for [`before`](Self::before), and after a signal.
    pub(crate) fn before_listening(
        &self,
        context: &mut Context,
        event: Event,
        environment: Environment,
    ) -> Result<(), CommandError> {
        if !self.has(Phase::Pre, event) {
            return Ok(());
        }
        self.listening(context, move |hooks| hooks.before(event, &environment))
    }

    /// Like [`after`](Self::after), for commands that listen to signals: one that comes stops the script too.
    pub(crate) fn after_listening(&self, context: &mut Context, event: Event, environment: Environment) {
        if !self.has(Phase::Post, event) {
            return;
        }
        let work = move |hooks: &Hooks| {
            hooks.after(event, &environment);
            Ok(())
        };
        if let Err(error) = self.listening(context, work) {
            self.server.output.warning(error.to_string());
        }
    }

    fn listening(
        &self,
        context: &mut Context,
        work: impl FnOnce(&Hooks) -> Result<(), CommandError> + Send + 'static,
    ) -> Result<(), CommandError> {
        let hooks = self.clone();
        let cancelled = Arc::clone(&self.cancelled);
        context.runtime()?.block_on(async move {
            let mut work = tokio::task::spawn_blocking(move || work(&hooks));
            let ended = |result: Result<_, tokio::task::JoinError>| {
                result.map_err(|error| CommandError::because("a hook script was lost sight of", &error))?
            };
            let signal = tokio::select! {
                result = &mut work => return ended(result),
                signal = signals::stop() => signal?,
            };
            cancelled.store(true, Ordering::Relaxed);
            ended(work.await)?;
            Err(CommandError::new(format!("{signal} while a hook script was running")))
        })
    }

    fn has(&self, phase: Phase, event: Event) -> bool {
        [false, true].iter().any(|retry| self.script(phase, event, *retry).is_some())
    }

    fn script(&self, phase: Phase, event: Event, retry: bool) -> Option<Script<'_>> {
        let hook = format!("{}{}", event.name(), if retry { "_retry_script" } else { "_script" });
        let phase = match phase {
            Phase::Pre => "pre",
            Phase::Post => "post",
        };
        let command = self.server.config.text(&format!("{phase}_{hook}"))?;
        Some(Script { server: &self.server, command, hook, phase, retry, cancelled: &self.cancelled })
    }

    fn plain(&self, phase: Phase, event: Event, environment: &Environment) {
        if let Some(script) = self.script(phase, event, false) {
            let ending = script.run(environment);
            if !ending.is_success() {
                self.server.output.warning(script.told(&ending));
            }
        }
    }

    fn retried(&self, phase: Phase, event: Event, environment: &Environment) -> Result<(), CommandError> {
        let Some(script) = self.script(phase, event, true) else { return Ok(()) };
        let (output, started) = (&self.server.output, Instant::now());
        let mut failures = 0;
        loop {
            let ending = script.run(environment);
            match ending {
                Ending::Exited(0) => return Ok(()),
                Ending::Exited(ABORT_CONTINUE) => {
                    output.warning(format!("{}, which means to go on without it", script.told(&ending)));
                    return Ok(());
                }
                Ending::Exited(ABORT_STOP) => {
                    let what = format!("{}, which means to stop", script.told(&ending));
                    return Err(CommandError::new(what));
                }
                Ending::Cancelled => return Err(CommandError::new(script.told(&ending))),
                _ => failures += 1,
            }
            let pause = if failures % TRIES_BEFORE_NAP == 0 { NAP } else { BREAK };
            if self.server.config.hook_timeout().is_some_and(|limit| started.elapsed() + pause >= limit) {
                let what = format!("{}; given up after {failures} tries", script.told(&ending));
                return Err(CommandError::new(what).hint("correct the script, or raise hook_timeout"));
            }
            output.warning(format!("{}; trying again in {} seconds", script.told(&ending), pause.as_secs()));
            self.pause(pause);
        }
    }

    fn pause(&self, length: Duration) {
        let end = Instant::now() + length;
        while !self.cancelled.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PAUSE_STEP));
        }
    }
}

/// Runs the command of a notification (`notify = exec:...`), `input` on its standard input. What went wrong.
pub(crate) fn run_notifier(
    server: &ServerContext,
    command: &str,
    variables: &[(&str, String)],
    input: Vec<u8>,
) -> Result<(), String> {
    let shell = Shell {
        key: "notify".to_owned(),
        command,
        limit: Some(crate::notify::PATIENCE),
        cancelled: &AtomicBool::new(false),
    };
    let prepare = |command: &mut std::process::Command| {
        set_surroundings(command, server);
        command.envs(variables.iter().map(|(name, value)| (*name, value.replace('\0', ""))));
    };
    match shell.run(Some(input), prepare) {
        Ok(Ending::Exited(0)) => Ok(()),
        Ok(ending) => Err(format!("it {ending}")),
        Err(error) => Err(error.to_string()),
    }
}
