//! From a connection string to an open session: which hosts, which addresses, in clear or by TLS, in libpq's order.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::conninfo::{
    Host, PassfileProblem, REPLICATION_DATABASE, Settings, SslMode, SslNegotiation, TargetSessionAttrs,
};
use super::socket::Socket;
use super::{Attempt, ConnInfo, ConnectError, ConnectFailure, Connection, ReplicationError, tls};
use crate::wire::{Auth, AuthProgress, BackendMessage, Credentials, WireError, frontend};

/// The most addresses tried of one host name.
const ADDRESSES_MAX: usize = 32;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Physical replication commands.
    Physical,
    /// SQL.
    #[cfg(feature = "sql")]
    Sql,
}

/// A failure to start a session, and whether the server had got as far as asking for proof.
struct Refusal {
    failure: ConnectFailure,
    auth_begun: bool,
}

impl From<ConnectFailure> for Refusal {
    fn from(failure: ConnectFailure) -> Self {
        Refusal { failure, auth_begun: false }
    }
}

/// What `target_session_attrs` asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Role {
    in_recovery: bool,
    read_only: bool,
}

impl Role {
    fn suits(self, wanted: TargetSessionAttrs) -> bool {
        match wanted {
            TargetSessionAttrs::Any => true,
            TargetSessionAttrs::ReadWrite => !self.read_only,
            TargetSessionAttrs::ReadOnly => self.read_only,
            TargetSessionAttrs::Primary => !self.in_recovery,
            TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => self.in_recovery,
        }
    }
}

/// Opens a session with the first host that will do.
pub(crate) async fn connect(conninfo: &ConnInfo, kind: Kind) -> Result<Connection, ConnectError> {
    let mut settings = conninfo.settings()?;
    if settings.load_balance {
        shuffle(&mut settings.hosts);
    }
    // `prefer-standby` goes round twice: first for a standby, then for anything.
    let passes: &[TargetSessionAttrs] = match settings.target_session_attrs {
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::PreferStandby, TargetSessionAttrs::Any],
        TargetSessionAttrs::Any => &[TargetSessionAttrs::Any],
        TargetSessionAttrs::ReadWrite => &[TargetSessionAttrs::ReadWrite],
        TargetSessionAttrs::ReadOnly => &[TargetSessionAttrs::ReadOnly],
        TargetSessionAttrs::Primary => &[TargetSessionAttrs::Primary],
        TargetSessionAttrs::Standby => &[TargetSessionAttrs::Standby],
    };
    let mut attempts = Vec::new();
    for wanted in passes {
        attempts.clear();
        for host in &settings.hosts {
            let search = Search { conninfo, settings: &settings, kind, host, wanted: *wanted };
            if let Some(session) = search.host(&mut attempts).await {
                return Ok(session);
            }
            if attempts.last().is_some_and(|attempt| attempt.failure.ends_the_search()) {
                return Err(ConnectError::Hosts(attempts));
            }
        }
    }
    Err(ConnectError::Hosts(attempts))
}

/// The search of one host.
struct Search<'a> {
    conninfo: &'a ConnInfo,
    settings: &'a Settings,
    kind: Kind,
    host: &'a Host,
    wanted: TargetSessionAttrs,
}

/// How to reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Clear,
    /// TLS if the server has it, else in clear on the same connection.
    TlsIfOffered,
    Tls,
}

impl Search<'_> {
    /// Tries every address; failures are added to `attempts`.
    async fn host(&self, attempts: &mut Vec<Attempt>) -> Option<Connection> {
        if self.host.socket().is_some() {
            return self.address(None, attempts).await;
        }
        let addresses = match self.timed(self.resolve()).await {
            Ok(addresses) => addresses,
            Err(failure) => {
                attempts.push(self.attempt(None, false, failure));
                return None;
            }
        };
        for address in addresses {
            if let Some(session) = self.address(Some(address), attempts).await {
                return Some(session);
            }
            if attempts.last().is_some_and(|attempt| attempt.failure.ends_the_search()) {
                return None;
            }
        }
        None
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectFailure> {
        if let Some(address) = self.host.address {
            return Ok(vec![SocketAddr::new(address, self.host.port)]);
        }
        let found = tokio::net::lookup_host((self.host.name.as_str(), self.host.port)).await;
        let found: Vec<_> = found.map_err(ConnectFailure::Resolve)?.take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            let nothing = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(ConnectFailure::Resolve(nothing));
        }
        Ok(found)
    }

    /// Tries the transports that `sslmode` allows, one after the other.
    async fn address(&self, address: Option<SocketAddr>, attempts: &mut Vec<Attempt>) -> Option<Connection> {
        let transports: &[Transport] = match (address, self.settings.ssl_mode) {
            // TLS over a Unix socket does not exist.
            (None, _) | (_, SslMode::Disable) => &[Transport::Clear],
            (_, SslMode::Allow) => &[Transport::Clear, Transport::Tls],
            (_, SslMode::Prefer) => &[Transport::TlsIfOffered, Transport::Clear],
            _ => &[Transport::Tls],
        };
        for transport in transports {
            let mut encrypted = false;
            let session = self.session(address, *transport, &mut encrypted);
            let Refusal { failure, auth_begun } = match self.timed(session).await {
                Ok(connection) => return Some(connection),
                Err(refusal) => refusal,
            };
            let refused = matches!(failure, ConnectFailure::Server { .. });
            let retry = match transport {
                Transport::Clear => refused,
                // Without a TLS layer the second try would be the same as the first.
                Transport::TlsIfOffered => {
                    encrypted && (refused || matches!(failure, ConnectFailure::Tls(_)))
                }
                Transport::Tls => false,
            };
            attempts.push(self.attempt(address.map(|address| address.ip()), encrypted, failure));
            // Once the server has asked for proof, it has accepted the transport.
            if !retry || auth_begun {
                return None;
            }
            if let (true, Some(attempt)) = (encrypted, attempts.last()) {
                // Allowed by sslmode=prefer, and worth knowing.
                tracing::warn!("{attempt}; going on without TLS, as sslmode=prefer says");
            }
        }
        None
    }

    async fn session(
        &self,
        address: Option<SocketAddr>,
        transport: Transport,
        encrypted: &mut bool,
    ) -> Result<Connection, Refusal> {
        let (socket, end_point) = self.open(address, transport, encrypted).await?;
        let database = match self.kind {
            Kind::Physical => REPLICATION_DATABASE,
            #[cfg(feature = "sql")]
            Kind::Sql => self.settings.dbname.as_deref().unwrap_or(&self.settings.user),
        };
        let (password, problem) = self.settings.password(self.conninfo, self.host, database);
        if let Some(problem) = &problem {
            tracing::warn!("{problem}");
        }
        let mut connection = Connection::new(socket, self.host.clone());
        let mut auth_begun = false;
        let logged_in = match self.send_startup(&mut connection) {
            Ok(()) => log_in(&mut connection, self.auth(password, end_point), &mut auth_begun).await,
            Err(error) => Err(error.into()),
        };
        logged_in.map_err(|failure| Refusal { failure: with_note(failure, problem), auth_begun })?;
        if self.wanted != TargetSessionAttrs::Any {
            // Another transport would not change the server's role.
            let refuse = |failure| Refusal { failure, auth_begun: true };
            let role = self.role(&mut connection).await.map_err(|error| refuse(failure(error)))?;
            if !role.suits(self.wanted) {
                return Err(refuse(ConnectFailure::WrongRole(self.wanted)));
            }
        }
        Ok(connection)
    }

    fn send_startup(&self, connection: &mut Connection) -> Result<(), WireError> {
        let settings = self.settings;
        let mut parameters = vec![("user", settings.user.as_str())];
        match self.kind {
            Kind::Physical => {
                parameters.push(("replication", "true"));
                // The server takes no notice of it here, but poolers in between may.
                parameters.push(("database", settings.dbname.as_deref().unwrap_or(REPLICATION_DATABASE)));
            }
            #[cfg(feature = "sql")]
            Kind::Sql => {
                parameters.push(("client_encoding", "UTF8"));
                parameters.push(("database", settings.dbname.as_deref().unwrap_or(&settings.user)));
            }
        }
        if let Some(name) = &settings.application_name {
            parameters.push(("application_name", name));
        }
        if let Some(options) = &settings.options {
            parameters.push(("options", options));
        }
        frontend::startup(parameters, connection.outbox())
    }

    fn auth(&self, password: Option<String>, end_point: Option<Vec<u8>>) -> Auth {
        let credentials = Credentials { user: self.settings.user.clone(), password };
        let auth = Auth::new(credentials, self.settings.channel_binding, end_point);
        match &self.settings.require_auth {
            Some(methods) => auth.allow_only(methods.clone()),
            None => auth,
        }
    }

    async fn role(&self, connection: &mut Connection) -> Result<Role, ReplicationError> {
        let on = |value: Option<&str>| value.map(|value| value == "on");
        // Reported by itself from PostgreSQL 14 on.
        if let (Some(in_recovery), Some(read_only)) = (
            on(connection.parameter("in_hot_standby")),
            on(connection.parameter("default_transaction_read_only")),
        ) {
            return Ok(Role { in_recovery, read_only: in_recovery || read_only });
        }
        let read_only = connection.show("transaction_read_only").await? == "on";
        match self.kind {
            // 13 has no better answer for a replication connection: read-only, and not because of the default.
            Kind::Physical => {
                let by_default = connection.show("default_transaction_read_only").await? == "on";
                Ok(Role { in_recovery: read_only && !by_default, read_only })
            }
            #[cfg(feature = "sql")]
            Kind::Sql => {
                let row = connection.query_one("SELECT", "SELECT pg_catalog.pg_is_in_recovery()").await?;
                Ok(Role { in_recovery: row.text(0) == Some("t"), read_only })
            }
        }
    }

    async fn open(
        &self,
        address: Option<SocketAddr>,
        transport: Transport,
        encrypted: &mut bool,
    ) -> Result<(Socket, Option<Vec<u8>>), ConnectFailure> {
        let Some(address) = address else {
            let path = self.host.socket().unwrap_or_default();
            let stream = Socket::connect_unix(&path).await.map_err(ConnectFailure::Io)?;
            self.check_peer(&stream)?;
            return Ok((Socket::Unix(stream), None));
        };
        let mut stream = Socket::connect_tcp(address, self.settings).await.map_err(ConnectFailure::Io)?;
        if transport == Transport::Clear {
            return Ok((Socket::Tcp(stream), None));
        }
        if self.settings.ssl_negotiation == SslNegotiation::Postgres && !ask_for_tls(&mut stream).await? {
            return match transport {
                Transport::TlsIfOffered => Ok((Socket::Tcp(stream), None)),
                _ => Err(ConnectFailure::TlsNotOffered),
            };
        }
        *encrypted = true;
        let (stream, end_point) = tls::handshake(stream, &self.host.name, self.settings).await?;
        Ok((Socket::Tls(Box::new(stream)), end_point))
    }

    fn check_peer(&self, stream: &tokio::net::UnixStream) -> Result<(), ConnectFailure> {
        let Some(wanted) = &self.settings.require_peer else { return Ok(()) };
        let uid = stream.peer_cred().map_err(ConnectFailure::Io)?.uid();
        let found = super::conninfo::user_name(uid);
        if found.as_ref() == Some(wanted) {
            return Ok(());
        }
        let found = found.unwrap_or_else(|| format!("user id {uid}"));
        Err(ConnectFailure::WrongPeer { wanted: wanted.clone(), found })
    }

    async fn timed<T, E: From<ConnectFailure>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(limit) = self.settings.connect_timeout else { return work.await };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(ConnectFailure::Timeout(limit).into()),
        }
    }

    fn attempt(&self, address: Option<IpAddr>, encrypted: bool, failure: ConnectFailure) -> Attempt {
        Attempt { host: self.host.clone(), address, encrypted, failure }
    }
}

/// SSLRequest: one byte comes back, and nothing may come with it in clear (CVE-2021-23222).
async fn ask_for_tls(stream: &mut TcpStream) -> Result<bool, ConnectFailure> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(ConnectFailure::Io)?;
    // Exactly one byte is read: whatever else is there is read by the TLS layer, which refuses it.
    match stream.read_u8().await {
        Ok(b'S') => Ok(true),
        Ok(b'N') => Ok(false),
        Ok(tag) => {
            Err(WireError::UnexpectedMessage { during: "the request for TLS", tag: char::from(tag) }.into())
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ConnectFailure::Closed),
        Err(error) => Err(ConnectFailure::Io(error)),
    }
}

/// Random enough to spread clients over hosts.
fn shuffle(hosts: &mut [Host]) {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new();
    let mut keyed: Vec<_> = hosts.iter().cloned().enumerate().collect();
    keyed.sort_by_key(|(index, _)| random.hash_one(index));
    for (place, (_, host)) in hosts.iter_mut().zip(keyed) {
        *place = host;
    }
}

/// From the startup message to the first ReadyForQuery.
async fn log_in(
    connection: &mut Connection,
    mut auth: Auth,
    auth_begun: &mut bool,
) -> Result<(), ConnectFailure> {
    connection.flush().await.map_err(failure)?;
    let mut admitted = false;
    loop {
        match connection.next_message().await.map_err(failure)? {
            BackendMessage::Authentication(request) => {
                *auth_begun = true;
                let step = auth.step(request, connection.outbox());
                match step.map_err(|error| ConnectFailure::Auth { error, passfile: None })? {
                    AuthProgress::Continue => connection.flush().await.map_err(failure)?,
                    AuthProgress::Done(method) => {
                        admitted = true;
                        connection.set_auth_method(method);
                    }
                }
            }
            BackendMessage::Error(error) => return Err(ConnectFailure::Server { error, passfile: None }),
            BackendMessage::ReadyForQuery if admitted => {
                connection.set_idle();
                return Ok(());
            }
            BackendMessage::BackendKeyData(key) if admitted => connection.set_cancel_key(key),
            BackendMessage::Notice(notice) => super::connection::log_notice("startup", &notice),
            message => {
                return Err(WireError::UnexpectedMessage { during: "startup", tag: message.tag() }.into());
            }
        }
    }
}

/// Says why the password file was not used, where a password is what was missing.
fn with_note(failure: ConnectFailure, problem: Option<PassfileProblem>) -> ConnectFailure {
    match failure {
        ConnectFailure::Auth { error, .. } => ConnectFailure::Auth { error, passfile: problem },
        ConnectFailure::Server { error, .. } => ConnectFailure::Server { error, passfile: problem },
        failure => failure,
    }
}

fn failure(error: ReplicationError) -> ConnectFailure {
    match error {
        ReplicationError::Server { error, .. } => ConnectFailure::Server { error, passfile: None },
        ReplicationError::Io(error) => ConnectFailure::Io(error),
        ReplicationError::Wire(error) => ConnectFailure::Wire(error),
        // Commands made here are valid and supported by every version.
        _ => ConnectFailure::Closed,
    }
}
