//! Why a connection could not be made, and why a command failed on one.

use std::fmt;
use std::io;
use std::time::Duration;

use super::conninfo::{ConnInfoError, Host, PassfileProblem, TargetSessionAttrs};
use super::tls::TlsError;
use crate::wire::command::CommandError;
use crate::wire::{AuthError, ServerError, SqlState, WireError};

/// Why no host of a connection string gave a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection string is wrong; nothing was tried.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// Every host that was tried failed, in this order. One that refused the user ended the search.
    #[error("{}", Attempts(.0))]
    Hosts(Vec<Attempt>),
}

impl ConnectError {
    /// What the last host answered, if it did: tells a wrong password from a server that is down.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            ConnectError::ConnInfo(_) => None,
            ConnectError::Hosts(attempts) => {
                attempts.iter().rev().find_map(|attempt| attempt.failure.sqlstate())
            }
        }
    }
}

/// One attempt to connect.
#[derive(Debug)]
pub struct Attempt {
    /// The host as the connection string has it.
    pub host: Host,
    /// The address that was tried, when the name was resolved.
    pub address: Option<std::net::IpAddr>,
    /// Whether the connection was encrypted when it failed.
    pub encrypted: bool,
    /// What went wrong.
    pub failure: ConnectFailure,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.socket() {
            Some(socket) => {
                write!(f, "socket \"{}\"", socket.to_string_lossy().replace('\0', "@"))?;
            }
            None => {
                write!(f, "server at \"{}\"", self.host.name)?;
                if let Some(address) = self.address.filter(|address| address.to_string() != self.host.name) {
                    write!(f, " ({address})")?;
                }
                write!(f, ", port {}", self.host.port)?;
                if self.encrypted {
                    write!(f, " (TLS)")?;
                }
            }
        }
        write!(f, ": {}", self.failure)
    }
}

struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to ")?;
        for (index, attempt) in self.0.iter().enumerate() {
            if index > 0 {
                write!(f, "; ")?;
            }
            write!(f, "{attempt}")?;
        }
        Ok(())
    }
}

/// What went wrong with one host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The name has no address.
    #[error("the host name cannot be resolved: {0}")]
    Resolve(#[source] io::Error),
    /// Nobody is there, or the connection broke.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// `connect_timeout` ran out.
    #[error("no connection within {} s (connect_timeout)", .0.as_secs())]
    Timeout(Duration),
    /// The server closed the connection before it was usable.
    #[error("the server closed the connection unexpectedly")]
    Closed,
    /// The server has no TLS, and `sslmode` asks for it.
    #[error("the server does not support TLS, but sslmode asks for it")]
    TlsNotOffered,
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password could not be given, or the server not believed.
    #[error("{error}{}", Note(.passfile))]
    Auth {
        /// What went wrong.
        #[source]
        error: AuthError,
        /// Why the password file was not used, if it was not.
        passfile: Option<PassfileProblem>,
    },
    /// The server said no.
    #[error("{error}{}", Note(.passfile))]
    Server {
        /// Its words.
        #[source]
        error: Box<ServerError>,
        /// Why the password file was not used, if it was not.
        passfile: Option<PassfileProblem>,
    },
    /// Whatever answered does not speak PostgreSQL's protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The server's end of the Unix socket belongs to somebody else than `requirepeer`.
    #[error("requirepeer asks for the user {wanted:?}, but the server runs as {found:?}")]
    WrongPeer {
        /// Who was asked for.
        wanted: String,
        /// Who it is: a name or a number.
        found: String,
    },
    /// `target_session_attrs` asks for another kind of server.
    #[error("the server is not what target_session_attrs={} asks for", attrs_name(*.0))]
    WrongRole(TargetSessionAttrs),
    /// The SQL client failed in a way of its own.
    #[error("{0}")]
    Sql(String),
}

impl ConnectFailure {
    /// The server's code, if it was the server that said no.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            ConnectFailure::Server { error, .. } => Some(error.code),
            _ => None,
        }
    }

    /// Whether libpq would stop here rather than try the next host: the server was reached and refused the user.
    pub(super) fn ends_the_search(&self) -> bool {
        match self {
            ConnectFailure::Auth { .. } => true,
            ConnectFailure::Server { error, .. } => error.code != SqlState::CANNOT_CONNECT_NOW,
            _ => false,
        }
    }
}

struct Note<'a>(&'a Option<PassfileProblem>);

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(problem) => write!(f, " ({problem})"),
            None => Ok(()),
        }
    }
}

fn attrs_name(attrs: TargetSessionAttrs) -> &'static str {
    match attrs {
        TargetSessionAttrs::Any => "any",
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        TargetSessionAttrs::Primary => "primary",
        TargetSessionAttrs::Standby => "standby",
        TargetSessionAttrs::PreferStandby => "prefer-standby",
    }
}

/// Why a replication command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicationError {
    /// The command was never sent: it cannot be written down.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The server refused or broke off the command.
    #[error("{command}: {error}")]
    Server {
        /// The command's first word.
        command: &'static str,
        /// The server's words.
        #[source]
        error: Box<ServerError>,
    },
    /// The server has no such command.
    #[error("{command} needs PostgreSQL {needed} or later; the server is {found}")]
    Unsupported {
        /// The command's first word.
        command: &'static str,
        /// The major version that has it.
        needed: u32,
        /// The server's version, as it gives it.
        found: String,
    },
    /// The connection broke.
    #[error("the connection to the server broke: {0}")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection unexpectedly")]
    Closed,
    /// The server broke the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// An earlier command on this connection was abandoned halfway, or failed hard: make a new connection.
    #[error("the connection is not usable: an earlier command did not end cleanly")]
    NotIdle,
}

impl ReplicationError {
    /// The server's code, if it was the server that said no.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            ReplicationError::Server { error, .. } => Some(error.code),
            _ => None,
        }
    }

    /// Whether a new connection might do better: the network or the server went away.
    pub fn is_disconnect(&self) -> bool {
        match self {
            ReplicationError::Io(_) | ReplicationError::Closed | ReplicationError::NotIdle => true,
            ReplicationError::Server { error, .. } => error.is_fatal(),
            _ => false,
        }
    }
}
