//! Connection strings, exactly as libpq reads them.
//!
//! A [`ConnInfo`] is made from `key=value` pairs or a `postgresql://` URI, then filled up from the service file and
//! from `PG*` variables, in libpq's order of precedence. It feeds both kinds of connection: physical replication
//! ([`Connection`](super::Connection)) and, with the feature `sql`, ordinary ones.

mod keys;
mod parse;
mod passfile;
mod service;
mod settings;
mod uri;
mod user;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub use passfile::PassfileProblem;
pub(super) use settings::REPLICATION_DATABASE;
pub use settings::{
    Host, Keepalives, RootCert, Settings, SslCertMode, SslMode, SslNegotiation, TargetSessionAttrs,
    TlsVersion,
};
pub(super) use user::name_of as user_name;

/// The environment of a process, as a function from a variable's name to its value.
///
/// Pass `&|name| std::env::var_os(name)` for the real one, or `&|_| None` for none.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What is wrong with a connection string, a service file or a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// A word with no `=` behind it.
    #[error(
        "the word at byte {position} of the connection string has no \"=\" behind it \
         (values with spaces need single quotes)"
    )]
    MissingEquals {
        /// Where the word begins, counted from 1.
        position: usize,
    },
    /// A quoted value with no end.
    #[error("the quoted value of {key:?} in the connection string does not end")]
    UnterminatedQuote {
        /// Whose value it is.
        key: String,
    },
    /// A malformed URI.
    #[error("the connection URI is malformed: {reason}")]
    Uri {
        /// What is wrong with it.
        reason: String,
    },
    /// A key that libpq does not know.
    #[error("unknown connection option {key:?}")]
    UnknownKey {
        /// The key, shortened.
        key: String,
    },
    /// A value that the key cannot have.
    #[error("invalid value {value:?} for connection option {key:?}: expected {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Options that contradict each other.
    #[error("{reason}")]
    Conflict {
        /// Which, and why.
        reason: String,
    },
    /// Lists of hosts, addresses and ports of different lengths.
    #[error("{what} has {found} entries for {hosts} hosts")]
    ListLength {
        /// The key of the list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The number of hosts.
        hosts: usize,
    },
    /// A variable that is not UTF-8.
    #[error("the environment variable {variable} is not valid UTF-8")]
    VariableNotUtf8 {
        /// Its name.
        variable: &'static str,
    },
    /// The service named by `service` is in no service file.
    #[error("service {name:?} was not found in {}", list(.files))]
    ServiceNotFound {
        /// The service's name.
        name: String,
        /// The files that were read, or would have been.
        files: Vec<PathBuf>,
    },
    /// A service file that is missing though it was named, or cannot be read.
    #[error("cannot read the service file \"{}\": {reason}", file.display())]
    ServiceFileUnreadable {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        reason: String,
    },
    /// A line in a service file that is none.
    #[error("line {line} of the service file \"{}\": {reason}", file.display())]
    ServiceFileSyntax {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// No user name was given and the operating system has none either.
    #[error(
        "no user was given, and user id {uid} has no name on this machine; add user=... to the connection string"
    )]
    NoUser {
        /// The process's user id.
        uid: u32,
    },
}

fn list(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|file| format!("\"{}\"", file.display())).collect();
    if files.is_empty() { "any service file".to_owned() } else { files.join(" or ") }
}

/// Where and how to connect.
///
/// ```
/// use pgwal::replication::ConnInfo;
/// let mut conninfo = ConnInfo::parse("host=db1,db2 user=barman password='a b'", &|_| None)?;
/// conninfo.set("application_name", "barman_receive_wal")?;
/// assert_eq!(conninfo.get("host"), Some("db1,db2"));
/// assert_eq!(
///     conninfo.redacted(),
///     "application_name=barman_receive_wal host=db1,db2 password=*** user=barman"
/// );
/// # Ok::<(), pgwal::replication::ConnInfoError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// Only keys from the table; an empty value counts as absent, but keeps the environment's out.
    values: BTreeMap<&'static str, String>,
    /// Where `.pgpass` and `.postgresql` are looked for.
    home: Option<PathBuf>,
    /// The process's user, for want of another.
    system_user: Option<String>,
}

impl ConnInfo {
    /// Reads a connection string, and completes it from the service file and the environment.
    ///
    /// # Errors
    /// [`ConnInfoError`]: the text is malformed, a key is unknown to libpq, a value is impossible, or the service
    /// cannot be found.
    pub fn parse(text: &str, environment: Environment<'_>) -> Result<ConnInfo, ConnInfoError> {
        let pairs = if uri::is_uri(text) { uri::key_values(text)? } else { parse::key_values(text)? };
        let mut values = BTreeMap::new();
        for (key, value) in pairs {
            // The last of several wins.
            values.insert(known(&key)?, value);
        }
        let system_user = user::current(environment);
        let home = environment("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .or_else(user::home_of_current);
        service::fill(&mut values, home.as_deref(), environment)?;
        fill_from_variables(&mut values, environment)?;
        let conninfo = ConnInfo { values, home, system_user };
        conninfo.settings()?;
        Ok(conninfo)
    }

    /// Sets a key, replacing whatever it had from any source.
    ///
    /// # Errors
    /// [`ConnInfoError::UnknownKey`], or what the new value makes impossible; the old value stays then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConnInfoError> {
        let key = known(key)?;
        let mut changed = self.clone();
        changed.values.insert(key, value.to_owned());
        changed.settings()?;
        *self = changed;
        Ok(())
    }

    /// The value of a key, from whichever source; `None` if it has none or an empty one. Includes the password.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Keys that were given and that libpq would act on, but this client does not.
    pub fn ignored_keys(&self) -> Vec<&'static str> {
        let ignored = |key: &&'static str| keys::find(key).is_some_and(keys::Key::is_ignored);
        self.values.keys().copied().filter(ignored).filter(|key| self.get(key).is_some()).collect()
    }

    /// All keys and values in `key=value` form with `***` for everything secret: for logs and error messages.
    pub fn redacted(&self) -> String {
        let show = |(key, value): (&&'static str, &String)| {
            let secret = keys::find(key).is_some_and(keys::Key::is_secret);
            format!("{key}={}", if secret { "***".to_owned() } else { quote(value) })
        };
        let shown = self.values.iter().filter(|(_, value)| !value.is_empty()).map(show);
        shown.collect::<Vec<_>>().join(" ")
    }

    /// The typed form, with libpq's defaults filled in.
    ///
    /// # Errors
    /// [`ConnInfoError`] for impossible values and combinations.
    pub fn settings(&self) -> Result<Settings, ConnInfoError> {
        Settings::new(self)
    }

    /// The home directory in force.
    pub(super) fn home(&self) -> Option<&std::path::Path> {
        self.home.as_deref()
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({})", self.redacted())
    }
}

impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

fn known(key: &str) -> Result<&'static str, ConnInfoError> {
    match keys::find(key) {
        Some(key) => Ok(key.name),
        None => Err(ConnInfoError::UnknownKey { key: key.chars().take(64).collect() }),
    }
}

fn fill_from_variables(
    values: &mut BTreeMap<&'static str, String>,
    environment: Environment<'_>,
) -> Result<(), ConnInfoError> {
    for key in keys::KEYS {
        let Some(variable) = key.variable else { continue };
        if values.contains_key(key.name) {
            continue;
        }
        if let Some(value) = environment(variable) {
            let value = value.into_string().map_err(|_| ConnInfoError::VariableNotUtf8 { variable })?;
            values.insert(key.name, value);
        }
    }
    Ok(())
}

/// A value as it must stand in a `key=value` string.
fn quote(value: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ',' | '/' | ':' | '@' | '+');
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests;
