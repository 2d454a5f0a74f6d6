//! The typed form of a connection string: libpq's defaults filled in, impossible values refused.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::passfile::{self, PassfileProblem, Wanted};
use super::{ConnInfo, ConnInfoError};
use crate::wire::ChannelBinding;

const DEFAULT_PORT: u16 = 5432;
/// Where servers put their Unix socket by default: distributions' builds, PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
/// What `.pgpass` calls the database of a physical replication connection.
pub(in super::super) const REPLICATION_DATABASE: &str = "replication";

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// In clear; TLS if the server insists.
    Allow,
    /// TLS; in clear if the server has none.
    Prefer,
    /// TLS; the certificate is verified only if there is a root certificate file.
    Require,
    /// TLS with a certificate from a trusted authority.
    VerifyCa,
    /// TLS with a certificate from a trusted authority that names the host.
    VerifyFull,
}

/// libpq's `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// Ask first.
    Postgres,
    /// Begin with the TLS handshake (PostgreSQL 17 and later).
    Direct,
}

/// libpq's `sslcertmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslCertMode {
    /// Never send a client certificate.
    Disable,
    /// Send it if the server asks and there is one.
    Allow,
    /// The server must ask for it.
    Require,
}

/// A TLS version, in `ssl_min_protocol_version` and `ssl_max_protocol_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, the oldest there is here.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// libpq's `target_session_attrs`: which servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Any.
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that does not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery, or else any.
    PreferStandby,
}

/// One of the hosts to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name, its address, or the directory of its Unix socket (or `@` and an abstract socket's name).
    pub name: String,
    /// An address that saves looking the name up.
    pub address: Option<IpAddr>,
    /// The port, which is also part of the Unix socket's name.
    pub port: u16,
}

impl Host {
    /// The path of the Unix socket, if this is one; an abstract one begins with a NUL.
    pub fn socket(&self) -> Option<PathBuf> {
        if self.address.is_some() {
            return None;
        }
        if let Some(name) = self.name.strip_prefix('@') {
            return Some(PathBuf::from(format!("\0{name}/.s.PGSQL.{}", self.port)));
        }
        self.name.starts_with('/').then(|| Path::new(&self.name).join(format!(".s.PGSQL.{}", self.port)))
    }
}

/// Everything a connection needs, typed. Made by [`ConnInfo::settings`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The hosts to try, in order; never empty.
    pub hosts: Vec<Host>,
    /// Try the hosts in random order.
    pub load_balance: bool,
    /// The user; the process's own if none was given.
    pub user: String,
    /// The database, if one was given.
    pub dbname: Option<String>,
    /// What the server shows as `application_name`.
    pub application_name: Option<String>,
    /// Server settings for the session, as on the postgres command line.
    pub options: Option<String>,
    /// The bound for connecting to one address, authentication included.
    pub connect_timeout: Option<Duration>,
    /// TCP keepalives; `None` if switched off.
    pub keepalives: Option<Keepalives>,
    /// How long sent data may stay unacknowledged before the connection is closed.
    pub tcp_user_timeout: Option<Duration>,
    /// Whether and how to use TLS.
    pub ssl_mode: SslMode,
    /// How TLS begins.
    pub ssl_negotiation: SslNegotiation,
    /// The root certificates.
    pub ssl_root_cert: RootCert,
    /// The client certificate's file; the default one need not exist.
    pub ssl_cert: Option<PathBuf>,
    /// The client key's file.
    pub ssl_key: Option<PathBuf>,
    /// Whether to send the client certificate.
    pub ssl_cert_mode: SslCertMode,
    /// The revocation list's file.
    pub ssl_crl: Option<PathBuf>,
    /// Whether the TLS handshake names the host.
    pub ssl_sni: bool,
    /// The oldest TLS version to accept.
    pub ssl_min: TlsVersion,
    /// The newest TLS version to offer.
    pub ssl_max: TlsVersion,
    /// Whether authentication must be bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// The authentication methods to accept, if not all.
    pub require_auth: Option<Vec<&'static str>>,
    /// The operating system's user that must own the server's end of a Unix socket.
    pub require_peer: Option<String>,
    /// Which servers will do.
    pub target_session_attrs: TargetSessionAttrs,
}

/// TCP keepalive timings; `None` is the system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalives {
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// The time between probes.
    pub interval: Option<Duration>,
    /// Lost probes before the connection counts as dead.
    pub count: Option<u32>,
}

/// Where trust in servers' certificates comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The machine's own authorities (`sslrootcert=system`).
    System,
    /// A file that was named and must exist.
    File(PathBuf),
    /// `~/.postgresql/root.crt`, if it exists.
    Default(Option<PathBuf>),
}

impl Settings {
    pub(super) fn new(conninfo: &ConnInfo) -> Result<Settings, ConnInfoError> {
        let values = Values(conninfo);
        let default_file = |name: &str| conninfo.home().map(|home| home.join(".postgresql").join(name));
        let file = |key: &str| conninfo.get(key).map(PathBuf::from);
        let root_cert = match conninfo.get("sslrootcert") {
            Some("system") => RootCert::System,
            Some(path) => RootCert::File(PathBuf::from(path)),
            None => RootCert::Default(default_file("root.crt")),
        };
        let settings = Settings {
            hosts: values.hosts()?,
            load_balance: values.choice(
                "load_balance_hosts",
                false,
                &[("disable", false), ("random", true)],
            )?,
            user: values.user()?,
            dbname: values.text("dbname"),
            application_name: values
                .text("application_name")
                .or_else(|| values.text("fallback_application_name")),
            options: values.text("options"),
            connect_timeout: values.seconds("connect_timeout")?,
            keepalives: values.keepalives()?,
            tcp_user_timeout: values
                .integer("tcp_user_timeout")?
                .and_then(|ms| u64::try_from(ms).ok())
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            ssl_mode: values.ssl_mode(&root_cert)?,
            ssl_negotiation: values.choice(
                "sslnegotiation",
                SslNegotiation::Postgres,
                &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
            )?,
            ssl_root_cert: root_cert,
            ssl_cert: file("sslcert").or_else(|| default_file("postgresql.crt")),
            ssl_key: file("sslkey").or_else(|| default_file("postgresql.key")),
            ssl_cert_mode: values.choice(
                "sslcertmode",
                SslCertMode::Allow,
                &[
                    ("disable", SslCertMode::Disable),
                    ("allow", SslCertMode::Allow),
                    ("require", SslCertMode::Require),
                ],
            )?,
            ssl_crl: file("sslcrl").or_else(|| default_file("root.crl").filter(|file| file.exists())),
            ssl_sni: values.choice("sslsni", true, &[("0", false), ("1", true)])?,
            ssl_min: values.tls_version("ssl_min_protocol_version", TlsVersion::Tls12)?,
            ssl_max: values.tls_version("ssl_max_protocol_version", TlsVersion::Tls13)?,
            channel_binding: values.choice(
                "channel_binding",
                ChannelBinding::Prefer,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            require_auth: values.require_auth()?,
            require_peer: values.text("requirepeer"),
            target_session_attrs: values.target_session_attrs()?,
        };
        settings.check(conninfo)?;
        Ok(settings)
    }

    /// Refuses what libpq refuses, and what would weaken security if it were silently ignored.
    fn check(&self, conninfo: &ConnInfo) -> Result<(), ConnInfoError> {
        let conflict = |reason: &str| Err(ConnInfoError::Conflict { reason: reason.to_owned() });
        if self.ssl_negotiation == SslNegotiation::Direct && self.ssl_mode < SslMode::Require {
            return conflict("sslnegotiation=direct needs sslmode=require or stronger");
        }
        if self.ssl_min > self.ssl_max {
            return conflict("ssl_min_protocol_version is above ssl_max_protocol_version");
        }
        if conninfo.get("gssencmode") == Some("require") {
            return conflict("gssencmode=require: GSSAPI encryption is not supported");
        }
        if conninfo.get("sslcrldir").is_some() {
            return conflict(
                "sslcrldir is not supported; put the revocation lists into one file and name it by sslcrl",
            );
        }
        Ok(())
    }

    /// The password for one host: as given, or else from the password file.
    ///
    /// `database` is what the file's third field must match; physical replication is `replication` there.
    /// A problem with the file comes back beside the answer, for a warning.
    pub(in super::super) fn password(
        &self,
        conninfo: &ConnInfo,
        host: &Host,
        database: &str,
    ) -> (Option<String>, Option<PassfileProblem>) {
        if let Some(password) = conninfo.get("password") {
            return (Some(password.to_owned()), None);
        }
        let file = conninfo
            .get("passfile")
            .map(PathBuf::from)
            .or_else(|| conninfo.home().map(|home| home.join(".pgpass")));
        let Some(file) = file else { return (None, None) };
        // Sockets in a default directory are "localhost" in the file; others go by their directory.
        let default_directory = SOCKET_DIRECTORIES.contains(&host.name.as_str());
        let name = if default_directory { "localhost" } else { &host.name };
        let port = host.port.to_string();
        let wanted = Wanted { host: name, port: &port, database, user: &self.user };
        match passfile::look_up(&file, wanted) {
            Ok(password) => (password, None),
            Err(problem) => (None, Some(problem)),
        }
    }
}

/// Readers of single keys.
struct Values<'a>(&'a ConnInfo);

impl Values<'_> {
    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).map(str::to_owned)
    }

    fn user(&self) -> Result<String, ConnInfoError> {
        self.text("user")
            .or_else(|| self.0.system_user.clone())
            .ok_or_else(|| ConnInfoError::NoUser { uid: rustix::process::geteuid().as_raw() })
    }

    fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&'static str, T)],
    ) -> Result<T, ConnInfoError> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        match choices.iter().find(|(name, _)| *name == value) {
            Some((_, choice)) => Ok(*choice),
            None => Err(bad_value(key, value, expected(key))),
        }
    }

    fn integer(&self, key: &'static str) -> Result<Option<i32>, ConnInfoError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| bad_value(key, value, "an integer"))
    }

    /// libpq's rule for timeouts: zero and below mean none, one is rounded up to two.
    fn seconds(&self, key: &'static str) -> Result<Option<Duration>, ConnInfoError> {
        let seconds = self.integer(key)?.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.max(2))))
    }

    fn keepalives(&self) -> Result<Option<Keepalives>, ConnInfoError> {
        let positive = |key| Ok(self.integer(key)?.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0));
        let seconds = |key| Ok(positive(key)?.map(|n| Duration::from_secs(u64::from(n))));
        let keepalives = Keepalives {
            idle: seconds("keepalives_idle")?,
            interval: seconds("keepalives_interval")?,
            count: positive("keepalives_count")?,
        };
        Ok((self.integer("keepalives")? != Some(0)).then_some(keepalives))
    }

    fn ssl_mode(&self, root_cert: &RootCert) -> Result<SslMode, ConnInfoError> {
        let system = *root_cert == RootCert::System;
        let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
        let mode = self.choice(
            "sslmode",
            default,
            &[
                ("disable", SslMode::Disable),
                ("allow", SslMode::Allow),
                ("prefer", SslMode::Prefer),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ],
        )?;
        if system && mode != SslMode::VerifyFull {
            // Anyone can get a certificate from a public authority: only the name tells servers apart.
            let reason =
                "sslrootcert=system needs sslmode=verify-full; a weaker mode would trust any host".to_owned();
            return Err(ConnInfoError::Conflict { reason });
        }
        Ok(mode)
    }

    fn tls_version(&self, key: &'static str, default: TlsVersion) -> Result<TlsVersion, ConnInfoError> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        match value.to_ascii_lowercase().as_str() {
            // Older ones than 1.2 do not exist here: as a lower bound they mean the same.
            "tlsv1" | "tlsv1.1" if default == TlsVersion::Tls12 => Ok(TlsVersion::Tls12),
            "tlsv1.2" => Ok(TlsVersion::Tls12),
            "tlsv1.3" => Ok(TlsVersion::Tls13),
            _ => Err(bad_value(key, value, "TLSv1.2 or TLSv1.3")),
        }
    }

    /// A list of methods, or of methods each with `!` before it.
    fn require_auth(&self) -> Result<Option<Vec<&'static str>>, ConnInfoError> {
        const KEY: &str = "require_auth";
        const ALL: [&str; 7] = ["password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"];
        let Some(value) = self.0.get(KEY) else { return Ok(None) };
        let bad =
            || bad_value(KEY, value, "a comma-separated list of methods, either all with \"!\" or none");
        let negated = value.starts_with('!');
        let mut named = Vec::new();
        for word in value.split(',') {
            let method = match (word.strip_prefix('!'), negated) {
                (Some(method), true) => method,
                (None, false) => word,
                _ => return Err(bad()),
            };
            let method = *ALL.iter().find(|known| **known == method).ok_or_else(bad)?;
            if named.contains(&method) {
                return Err(bad());
            }
            named.push(method);
        }
        Ok(Some(if negated {
            ALL.into_iter().filter(|method| !named.contains(method)).collect()
        } else {
            named
        }))
    }

    fn target_session_attrs(&self) -> Result<TargetSessionAttrs, ConnInfoError> {
        self.choice(
            "target_session_attrs",
            TargetSessionAttrs::Any,
            &[
                ("any", TargetSessionAttrs::Any),
                ("read-write", TargetSessionAttrs::ReadWrite),
                ("read-only", TargetSessionAttrs::ReadOnly),
                ("primary", TargetSessionAttrs::Primary),
                ("standby", TargetSessionAttrs::Standby),
                ("prefer-standby", TargetSessionAttrs::PreferStandby),
            ],
        )
    }

    /// Pairs up `host`, `hostaddr` and `port`.
    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list = |key| self.0.get(key).map(|value| value.split(',').collect::<Vec<_>>());
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
        if let Some(names) = &names
            && names.len() != count
        {
            return Err(ConnInfoError::ListLength { what: "host", found: names.len(), hosts: count });
        }
        if let Some(ports) = &ports
            && ports.len() != 1
            && ports.len() != count
        {
            return Err(ConnInfoError::ListLength { what: "port", found: ports.len(), hosts: count });
        }
        let entry = |list: &Option<Vec<&str>>, index: usize| {
            let list = list.as_ref()?;
            let entry = if list.len() == 1 { list.first() } else { list.get(index) };
            entry.map(|entry| (*entry).to_owned()).filter(|entry| !entry.is_empty())
        };
        let host = |index| {
            let port = match entry(&ports, index) {
                None => DEFAULT_PORT,
                Some(port) => match port.trim().parse() {
                    Ok(number) if number > 0 => number,
                    _ => return Err(bad_value("port", &port, "a number from 1 to 65535")),
                },
            };
            let address = match entry(&addresses, index) {
                None => None,
                Some(address) => match address.parse::<IpAddr>() {
                    Ok(parsed) => Some(parsed),
                    Err(_) => return Err(bad_value("hostaddr", &address, "an IP address")),
                },
            };
            let name = entry(&names, index)
                .or_else(|| address.map(|address| address.to_string()))
                .unwrap_or_else(|| default_socket_directory(port));
            Ok(Host { name, address, port })
        };
        (0..count).map(host).collect()
    }
}

/// The default directory that has the socket, else the first one that exists.
fn default_socket_directory(port: u16) -> String {
    let has_socket = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    let found = SOCKET_DIRECTORIES
        .iter()
        .find(has_socket)
        .or_else(|| SOCKET_DIRECTORIES.iter().find(|directory| Path::new(directory).is_dir()));
    (*found.unwrap_or(&"/tmp")).to_owned()
}

fn bad_value(key: &'static str, value: &str, expected: &'static str) -> ConnInfoError {
    ConnInfoError::BadValue { key, value: value.chars().take(64).collect(), expected }
}

fn expected(key: &'static str) -> &'static str {
    match key {
        "sslmode" => "disable, allow, prefer, require, verify-ca or verify-full",
        "target_session_attrs" => "any, read-write, read-only, primary, standby or prefer-standby",
        "channel_binding" => "disable, prefer or require",
        "sslcertmode" => "disable, allow or require",
        "sslnegotiation" => "postgres or direct",
        "load_balance_hosts" => "disable or random",
        _ => "0 or 1",
    }
}
