//! What a command works with: configuration, output, clock, environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barkeep_catalog::{Catalog, Layout};

use crate::config::{Config, ServerConfig};
use crate::error::CommandError;
use crate::output::Output;

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    config: Config,
    output: Output,
    surroundings: Arc<Surroundings>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Which servers a command may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It only reads: inactive and disabled servers are fine (list-backups, status, show-backup, check ...).
    Query,
    /// It works on what is stored: inactive servers are fine, disabled ones are refused (restore, get-wal, delete).
    Stored,
    /// It operates the server: inactive ones are skipped, disabled ones refused (backup, receive-wal, cron ...).
    Operate,
}

/// A server that a command may work on.
#[derive(Debug, Clone)]
pub struct ServerContext {
    /// Its configuration.
    pub config: Arc<ServerConfig>,
    /// Where to speak.
    pub output: Output,
    /// What programs that are started for the server are told.
    pub surroundings: Arc<Surroundings>,
}

/// What barkeep knows of the place it was started in, for the programs that it starts in turn.
#[derive(Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The main configuration file, as a full path.
    pub config_path: PathBuf,
    /// `HOME`, where it is not the one of barkeep's own environment, after a change of user.
    pub home: Option<PathBuf>,
}

impl Context {
    /// A context; `home` replaces the environment's `HOME` after a change of user.
    pub fn new(config: Config, output: Output, home: Option<PathBuf>) -> Self {
        let config_path = std::path::absolute(&config.path).unwrap_or_else(|_| config.path.clone());
        let surroundings = Arc::new(Surroundings { config_path, home });
        Context { config, output, surroundings, runtime: None }
    }

    /// The same surroundings with another configuration, read from the same file.
    pub(crate) fn with_config(&self, config: Config) -> Self {
        Context {
            config,
            output: self.output.clone(),
            surroundings: Arc::clone(&self.surroundings),
            runtime: None,
        }
    }

    /// Goes by the configuration of `fresh` from now on.
    pub(crate) fn replace_config(&mut self, fresh: Context) {
        self.config = fresh.config;
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The main configuration file, for commands that start others.
    pub fn config_path(&self) -> &Path {
        &self.config.path
    }

    /// Where to speak.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The time, read anew at each call.
    pub fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    /// An environment variable as the user barkeep runs as has it. Give this to `ConnInfo::parse`, and set `HOME` from it
    /// for child processes: the process's own environment still has the invoker's.
    pub fn env(&self, name: &str) -> Option<OsString> {
        match (&self.surroundings.home, name) {
            (Some(home), "HOME") => Some(home.clone().into_os_string()),
            _ => std::env::var_os(name),
        }
    }

    /// The runtime for sockets, started at the first call. Commands that need none never pay for it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn runtime(&mut self) -> Result<&tokio::runtime::Runtime, CommandError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => new_runtime()?,
        };
        Ok(self.runtime.insert(runtime))
    }

    /// The runtime, if it was started.
    pub fn started_runtime(&self) -> Option<&tokio::runtime::Runtime> {
        self.runtime.as_ref()
    }

    /// One server by name, if the policy lets a command work on it.
    ///
    /// # Errors
    /// When there is no such server, or the policy refuses it. An inactive server that the policy skips is an error
    /// that has been told already as information, with exit code 0.
    pub fn server(&self, name: &str, policy: Policy) -> Result<ServerContext, CommandError> {
        if name == "all" {
            return Err(CommandError::new("this command works on one server, not on \"all\""));
        }
        self.refuse_conflicts()?;
        let Some(config) = self.config.servers.get(name) else { return Err(self.unknown_server(name)) };
        match self.admit(config, policy) {
            Admission::Yes => Ok(self.context_of(config)),
            Admission::Skip => Err(CommandError::reported().code(crate::error::exit::OK)),
            Admission::No(reason) => Err(CommandError::new(reason)),
        }
    }

    /// The servers by name, or all of them, in name order. Those the policy skips or refuses are told of and left
    /// out; a refusal makes the exit code 1 at the end, and does not keep the others from their turn.
    ///
    /// # Errors
    /// When one does not exist, or "all" is mixed with names.
    pub fn servers(&self, names: &[String], policy: Policy) -> Result<Vec<ServerContext>, CommandError> {
        self.refuse_conflicts()?;
        let all = names.iter().any(|name| name == "all");
        if all && names.len() > 1 {
            return Err(CommandError::new("\"all\" stands for all servers and cannot be mixed with names"));
        }
        if let Some(unknown) = names.iter().find(|name| !all && !self.config.servers.contains_key(*name)) {
            return Err(self.unknown_server(unknown));
        }
        let mut admitted = Vec::new();
        for (name, config) in &self.config.servers {
            if !all && !names.contains(name) {
                continue;
            }
            match self.admit(config, policy) {
                Admission::Yes => admitted.push(self.context_of(config)),
                Admission::Skip => {}
                Admission::No(reason) => self.output.error(reason),
            }
        }
        Ok(admitted)
    }

    /// All servers in name order, whatever is wrong with them or between them.
    pub fn all_servers(&self) -> Vec<ServerContext> {
        self.config.servers.values().map(|config| self.context_of(config)).collect()
    }

    fn admit(&self, config: &ServerConfig, policy: Policy) -> Admission {
        match policy {
            Policy::Query => Admission::Yes,
            Policy::Operate if !config.active() => {
                self.output.info(format!("Skipping inactive server '{}'", config.name()));
                Admission::Skip
            }
            Policy::Stored | Policy::Operate => match config.faults() {
                [] => Admission::Yes,
                [fault, ..] => Admission::No(format!("{fault} (server '{}' is disabled)", config.name())),
            },
        }
    }

    fn context_of(&self, config: &Arc<ServerConfig>) -> ServerContext {
        ServerContext {
            config: Arc::clone(config),
            output: self.output.clone(),
            surroundings: Arc::clone(&self.surroundings),
        }
    }

    fn refuse_conflicts(&self) -> Result<(), CommandError> {
        match self.config.conflicts.as_slice() {
            [] => Ok(()),
            conflicts => {
                Err(CommandError::new(conflicts.join("; ")).hint("give each server its own directories"))
            }
        }
    }

    fn unknown_server(&self, name: &str) -> CommandError {
        CommandError::new(format!("Unknown server '{name}'"))
            .hint(format!("{} has no such section; see: barkeep list-servers", self.config.path.display()))
    }
}

/// An event loop for sockets, on the thread that drives it.
///
/// # Errors
/// When the system refuses.
pub fn new_runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::because("cannot start the event loop", &error))
}

impl ServerContext {
    /// The server's name.
    pub fn name(&self) -> &str {
        self.config.name()
    }

    /// The server's directories.
    pub fn layout(&self) -> Layout {
        let config = &self.config;
        Layout {
            server: config.name().to_owned(),
            backup_directory: config.backup_directory(),
            base: config.basebackups_directory(),
            wals: config.wals_directory(),
            incoming: config.incoming_wals_directory(),
            streaming: config.streaming_wals_directory(),
            errors: config.errors_directory(),
            xlogdb_directory: config.xlogdb_directory(),
            lock_directory: config.lock_directory().to_owned(),
        }
    }

    /// The server's catalogue. Touches nothing.
    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.layout())
    }
}

enum Admission {
    Yes,
    Skip,
    No(String),
}
