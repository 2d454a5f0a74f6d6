//! What a failed command says: what happened, why, and what to do next.

use std::error::Error;
use std::fmt;

/// The exit codes of Barman's programs.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// Something failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong; also what `check --nagios` says on trouble.
    pub const USAGE: u8 = 2;
    /// `get-wal`: not a WAL file's name, or the output can't be written.
    pub const GET_WAL_INPUT: u8 = 3;
    /// `wal-archive` and `wal-restore`: it failed on this side.
    pub const CLIENT: u8 = 2;
    /// `wal-restore`: recovery must not take this for the end of WAL. PostgreSQL stops at any code above 125 (see
    /// `RestoreArchivedFile`); those up to 192 stand for signals in a shell.
    pub const STOP_RECOVERY: u8 = 200;
    /// `wal-archive`: `ssh` failed.
    pub const CONNECTION: u8 = 3;
}

/// A command's failure.
///
/// ```
/// use barkeep::error::CommandError;
/// let error = CommandError::new("Unknown backup 'x' for server 'main'").hint("list them with: barkeep list-backups main");
/// assert_eq!(error.to_string(), "Unknown backup 'x' for server 'main' (list them with: barkeep list-backups main)");
/// assert_eq!(error.exit_code(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    what: String,
    hint: Option<String>,
    exit_code: u8,
    quiet: bool,
}

impl CommandError {
    /// A failure in one sentence, exit code 1.
    pub fn new(what: impl Into<String>) -> Self {
        CommandError { what: what.into(), hint: None, exit_code: exit::FAILED, quiet: false }
    }

    /// A failure caused by `error`, whose whole chain of causes is told.
    pub fn because(what: impl fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self::new(format!("{what}: {}", chain(error)))
    }

    /// A failure that has been told already: nothing more is printed, only the exit code remains.
    pub fn reported() -> Self {
        CommandError { what: String::new(), hint: None, exit_code: exit::FAILED, quiet: true }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub fn code(mut self, exit_code: u8) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Whether it has been told already.
    pub fn is_reported(&self) -> bool {
        self.quiet
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Error for CommandError {}

/// Any library error is a failure with exit code 1 that tells the whole chain of causes.
macro_rules! from_library_errors {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                CommandError::new(chain(&error))
            }
        })+
    };
}

// Owners of libraries add their error types here, one a line.
from_library_errors! {
    barkeep_catalog::CatalogError,
    barkeep_catalog::lock::LockError,
    barkeep_catalog::wal::WalError,
    barkeep_catalog::xlogdb::XlogDbError,
    barkeep_transport::durable::DurableError,
    crate::config::ConfigError,
    pgbase::stream::TakeBackupError,
    pgwal::replication::ConnInfoError,
    pgwal::replication::ConnectError,
    pgwal::replication::ReplicationError,
    pgwal::replication::receive::ReceiveError,
    std::io::Error,
}

/// An error and its causes, joined by colons; a cause that its parent's text already contains is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
