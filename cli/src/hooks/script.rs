//! One run of one script.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Environment;
use crate::context::ServerContext;
use crate::output::redact;

/// The version of Barman whose hooks these are, for scripts that look at it.
const BARMAN_VERSION: &str = crate::BARMAN_VERSION;
/// How long a script that was asked to end may take.
const GRACE: Duration = Duration::from_secs(5);
/// How long to wait for the rest of a script's output when it has ended: what it started in the background may hold the
/// pipe for ever.
const REST_OF_OUTPUT: Duration = Duration::from_millis(500);
/// The shortest and longest time between two looks at a running script.
const LOOKS: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(50));
/// How much of a script's output is logged, in bytes; the rest is read and dropped.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;
/// The longest line that is logged in one piece, in bytes.
const LINE_BYTES_MAX: u64 = 8 * 1024;

/// A configured script.
pub(super) struct Script<'a> {
    pub(super) server: &'a ServerContext,
    /// What the configuration says: a command for the shell.
    pub(super) command: &'a str,
    /// The key without its phase: `backup_retry_script`.
    pub(super) hook: String,
    /// `pre` or `post`.
    pub(super) phase: &'static str,
    pub(super) retry: bool,
    pub(super) cancelled: &'a AtomicBool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It took longer than this, and was stopped.
    TooLong(Duration),
    /// Somebody wanted barkeep to stop.
    Cancelled,
    /// It could not be started, or be waited for.
    Broken(String),
}

impl Ending {
    pub(super) fn is_success(&self) -> bool {
        *self == Ending::Exited(0)
    }

    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, signal) => Ending::Killed(signal.unwrap_or(0)),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "returned {code}"),
            Ending::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Ending::TooLong(limit) => write!(f, "was stopped after {} seconds", limit.as_secs()),
            Ending::Cancelled => f.write_str("was interrupted"),
            Ending::Broken(why) => write!(f, "cannot be run: {why}"),
        }
    }
}

impl Script<'_> {
    /// The configuration key.
    fn key(&self) -> String {
        format!("{}_{}", self.phase, self.hook)
    }

    /// What happened, as a sentence without its end.
    pub(super) fn told(&self, ending: &Ending) -> String {
        let because = if matches!(ending, Ending::TooLong(_)) { " (hook_timeout)" } else { "" };
        format!("{} of server '{}' ({}) {ending}{because}", self.key(), self.server.name(), self.command)
    }

    /// Runs it to its end, its output going to the log.
    pub(super) fn run(&self, environment: &Environment) -> Ending {
        if self.cancelled.load(Ordering::Relaxed) {
            return Ending::Cancelled;
        }
        let key = self.key();
        tracing::debug!("Attempt to run {key}: {}", redact(self.command));
        let ending = self.try_run(environment).unwrap_or_else(|error| Ending::Broken(error.to_string()));
        tracing::debug!("{key} ended: {ending:?}");
        ending
    }

    fn try_run(&self, environment: &Environment) -> io::Result<Ending> {
        let shell = Shell {
            key: self.key(),
            command: self.command,
            limit: self.server.config.hook_timeout(),
            cancelled: self.cancelled,
        };
        shell.run(None, |command| self.set_environment(command, environment))
    }

    fn set_environment(&self, command: &mut Command, environment: &Environment) {
        set_surroundings(command, self.server);
        command.envs(environment.variables());
        command.env("BARMAN_VERSION", BARMAN_VERSION);
        command.env("BARMAN_SERVER", self.server.name());
        command.env("BARMAN_CONFIGURATION", &self.server.surroundings.config_path);
        command.env("BARMAN_HOOK", &self.hook);
        command.env("BARMAN_PHASE", self.phase);
        command.env("BARMAN_RETRY", if self.retry { "1" } else { "0" });
    }
}

/// What every command that is started for a server finds in its environment.
pub(super) fn set_surroundings(command: &mut Command, server: &ServerContext) {
    if let Some(home) = &server.surroundings.home {
        command.env("HOME", home);
    }
    if let Some(prefix) = server.config.text("path_prefix").filter(|prefix| !prefix.is_empty()) {
        let mut path = std::ffi::OsString::from(prefix);
        if let Some(inherited) = std::env::var_os("PATH") {
            path.push(":");
            path.push(inherited);
        }
        command.env("PATH", path);
    }
}

/// A command for the shell, its output going to the log.
pub(super) struct Shell<'a> {
    /// What it is called in the log.
    pub(super) key: String,
    pub(super) command: &'a str,
    /// How long it may take.
    pub(super) limit: Option<Duration>,
    /// Whether it should end.
    pub(super) cancelled: &'a AtomicBool,
}

impl Shell<'_> {
    /// Runs it to its end, `input` on its standard input.
    pub(super) fn run(
        &self,
        input: Option<Vec<u8>>,
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Ending> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(self.command);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(writer.try_clone()?).stderr(writer);
        // A group of its own, so that all of it can be stopped.
        command.process_group(0);
        prepare(&mut command);
        let mut child = command.spawn()?;
        // The command holds this end of the pipe, which would never end.
        drop(command);
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // In a thread: it may not read, or not all. It ends with the command, which closes the pipe.
            std::thread::Builder::new().spawn(move || drop(stdin.write_all(&input)))?;
        }
        let output = log_output(self.key.clone(), reader)?;
        let ending = self.wait(&mut child)?;
        if output.recv_timeout(REST_OF_OUTPUT) == Err(RecvTimeoutError::Timeout) {
            tracing::debug!("{} has left something running that may still write", self.key);
        }
        Ok(ending)
    }

    fn wait(&self, child: &mut Child) -> io::Result<Ending> {
        let (started, mut pause) = (Instant::now(), LOOKS.0);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Ending::of(status));
            }
            if self.cancelled.load(Ordering::Relaxed) {
                stop(child)?;
                return Ok(Ending::Cancelled);
            }
            if let Some(limit) = self.limit.filter(|limit| started.elapsed() >= *limit) {
                stop(child)?;
                return Ok(Ending::TooLong(limit));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOKS.1);
        }
    }
}

/// Asks a script and what it has started to end, and ends them when they don't.
fn stop(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let send = |signal| group.map_or(Ok(()), |group| kill_process_group(group, signal));
    // An error means that nobody is left.
    let _ = send(Signal::TERM);
    let asked = Instant::now();
    while child.try_wait()?.is_none() {
        if asked.elapsed() >= GRACE {
            let _ = send(Signal::KILL);
            child.wait()?;
            break;
        }
        std::thread::sleep(LOOKS.1);
    }
    Ok(())
}

/// Logs what a script writes, line by line, in a thread that ends with the output. The answer ends with it too.
fn log_output(key: String, reader: io::PipeReader) -> io::Result<Receiver<()>> {
    let (ended, answer) = sync_channel::<()>(0);
    std::thread::Builder::new().name(key.clone()).spawn(move || {
        let _ended = ended;
        let mut reader = BufReader::new(reader);
        let mut left = OUTPUT_BYTES_MAX;
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(read) if left > 0 => {
                    let text = String::from_utf8_lossy(&line);
                    tracing::info!("{key}: {}", redact(text.trim_end()));
                    left = left.saturating_sub(read as u64);
                    if left == 0 {
                        tracing::warn!("{key} writes a lot: the rest is not logged");
                    }
                }
                Ok(_) => {}
            }
        }
    })?;
    Ok(answer)
}
