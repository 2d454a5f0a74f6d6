//! From a connection string to an open session: which hosts, which addresses, in clear or by TLS, in libpq's order.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::conninfo::{Host, REPLICATION_DATABASE, Settings, SslMode, SslNegotiation, TargetSessionAttrs};
use super::socket::Socket;
use super::{Attempt, ConnInfo, ConnectError, ConnectFailure, Connection, ReplicationError, tls};
use crate::wire::{Auth, AuthProgress, BackendMessage, Credentials, Inbox, WireError, frontend};

/// The most addresses tried of one host name.
const ADDRESSES_MAX: usize = 32;

/// A connected socket, ready for the startup message.
pub(crate) struct Opened<'a> {
    pub(crate) socket: Socket,
    pub(crate) host: &'a Host,
    pub(crate) settings: &'a Settings,
    /// The hash for channel binding, on TLS.
    pub(crate) end_point: Option<Vec<u8>>,
    pub(crate) password: Option<String>,
}

/// A failure to start a session, and whether the server had got as far as asking for proof.
pub(crate) struct Refusal {
    pub(crate) failure: ConnectFailure,
    pub(crate) auth_begun: bool,
}

impl Refusal {
    pub(crate) fn before_auth(failure: impl Into<ConnectFailure>) -> Refusal {
        Refusal { failure: failure.into(), auth_begun: false }
    }
}

/// A kind of session: physical replication or SQL.
pub(crate) trait Kind {
    type Session: Send;

    /// The database field for the password file.
    fn passfile_database(settings: &Settings) -> &str;

    /// Sends the startup message, authenticates, and waits until the session is ready.
    fn start(opened: Opened<'_>) -> impl Future<Output = Result<Self::Session, Refusal>> + Send;

    /// Whether the server is in recovery, and whether sessions there are read-only.
    fn role(session: &mut Self::Session) -> impl Future<Output = Result<Role, ConnectFailure>> + Send;
}

/// What `target_session_attrs` asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) in_recovery: bool,
    pub(crate) read_only: bool,
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
pub(crate) async fn connect<K: Kind>(conninfo: &ConnInfo) -> Result<K::Session, ConnectError> {
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
            let search = Search { conninfo, settings: &settings, host, wanted: *wanted };
            if let Some(session) = search.host::<K>(&mut attempts).await {
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
    async fn host<K: Kind>(&self, attempts: &mut Vec<Attempt>) -> Option<K::Session> {
        if self.host.socket().is_some() {
            return self.address::<K>(None, attempts).await;
        }
        let addresses = match self.timed(self.resolve()).await {
            Ok(addresses) => addresses,
            Err(failure) => {
                attempts.push(self.attempt(None, false, failure));
                return None;
            }
        };
        for address in addresses {
            if let Some(session) = self.address::<K>(Some(address), attempts).await {
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
    async fn address<K: Kind>(
        &self,
        address: Option<SocketAddr>,
        attempts: &mut Vec<Attempt>,
    ) -> Option<K::Session> {
        let transports: &[Transport] = match (address, self.settings.ssl_mode) {
            // TLS over a Unix socket does not exist.
            (None, _) | (_, SslMode::Disable) => &[Transport::Clear],
            (_, SslMode::Allow) => &[Transport::Clear, Transport::Tls],
            (_, SslMode::Prefer) => &[Transport::TlsIfOffered, Transport::Clear],
            _ => &[Transport::Tls],
        };
        for transport in transports {
            let mut encrypted = false;
            let mut auth_begun = false;
            let result =
                self.timed(self.session::<K>(address, *transport, &mut encrypted, &mut auth_begun)).await;
            let failure = match result {
                Ok(session) => return Some(session),
                Err(failure) => failure,
            };
            let retry = match transport {
                Transport::Clear => matches!(failure, ConnectFailure::Server { .. }),
                // Without a TLS layer the second try would be the same as the first.
                Transport::TlsIfOffered => {
                    matches!(failure, ConnectFailure::Tls(_))
                        || (encrypted && matches!(failure, ConnectFailure::Server { .. }))
                }
                Transport::Tls => false,
            };
            attempts.push(self.attempt(address.map(|address| address.ip()), encrypted, failure));
            // Once the server has asked for proof, it has accepted the transport.
            if !retry || auth_begun {
                return None;
            }
        }
        None
    }

    async fn session<K: Kind>(
        &self,
        address: Option<SocketAddr>,
        transport: Transport,
        encrypted: &mut bool,
        auth_begun: &mut bool,
    ) -> Result<K::Session, ConnectFailure> {
        let (socket, end_point) = self.open(address, transport, encrypted).await?;
        let database = K::passfile_database(self.settings);
        let (password, passfile_problem) = self.settings.password(self.conninfo, self.host, database);
        if let Some(problem) = &passfile_problem {
            tracing::warn!("{problem}");
        }
        let opened = Opened { socket, host: self.host, settings: self.settings, end_point, password };
        let mut session = K::start(opened).await.map_err(|refusal| {
            *auth_begun = refusal.auth_begun;
            match refusal.failure {
                ConnectFailure::Auth { error, .. } => {
                    ConnectFailure::Auth { error, passfile: passfile_problem }
                }
                ConnectFailure::Server { error, .. } => {
                    ConnectFailure::Server { error, passfile: passfile_problem }
                }
                failure => failure,
            }
        })?;
        if self.wanted != TargetSessionAttrs::Any {
            // The session is made: another transport would not change the role.
            *auth_begun = true;
            if !K::role(&mut session).await?.suits(self.wanted) {
                return Err(ConnectFailure::WrongRole(self.wanted));
            }
        }
        Ok(session)
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

    async fn timed<T>(
        &self,
        work: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        match self.settings.connect_timeout {
            None => work.await,
            Some(limit) => {
                tokio::time::timeout(limit, work).await.unwrap_or(Err(ConnectFailure::Timeout(limit)))
            }
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

/// Physical replication sessions.
pub(super) struct Physical;

impl Kind for Physical {
    type Session = Connection;

    fn passfile_database(_settings: &Settings) -> &str {
        REPLICATION_DATABASE
    }

    async fn start(opened: Opened<'_>) -> Result<Connection, Refusal> {
        let settings = opened.settings;
        let mut connection = Connection::new(opened.socket, opened.host.clone(), Inbox::new());
        let mut parameters = vec![
            ("user", settings.user.as_str()),
            // The server takes no notice of it here, but poolers in between may.
            ("database", settings.dbname.as_deref().unwrap_or(REPLICATION_DATABASE)),
            ("replication", "true"),
        ];
        if let Some(name) = &settings.application_name {
            parameters.push(("application_name", name));
        }
        if let Some(options) = &settings.options {
            parameters.push(("options", options));
        }
        frontend::startup(parameters, connection.outbox()).map_err(Refusal::before_auth)?;
        let credentials = Credentials { user: settings.user.clone(), password: opened.password };
        let mut auth = Auth::new(credentials, settings.channel_binding, opened.end_point);
        if let Some(methods) = &settings.require_auth {
            auth = auth.allow_only(methods.clone());
        }
        let mut auth_begun = false;
        match log_in(&mut connection, auth, &mut auth_begun).await {
            Ok(()) => Ok(connection),
            Err(failure) => Err(Refusal { failure, auth_begun }),
        }
    }

    async fn role(connection: &mut Connection) -> Result<Role, ConnectFailure> {
        let on = |value: Option<&str>| value.map(|value| value == "on");
        // Reported by itself from PostgreSQL 14 on.
        if let (Some(in_recovery), Some(read_only)) = (
            on(connection.parameter("in_hot_standby")),
            on(connection.parameter("default_transaction_read_only")),
        ) {
            return Ok(Role { in_recovery, read_only: in_recovery || read_only });
        }
        let read_only = connection.show("transaction_read_only").await.map_err(failure)? == "on";
        let by_default = connection.show("default_transaction_read_only").await.map_err(failure)? == "on";
        // 13 has no better answer for a replication connection: read-only, and not because of the default.
        Ok(Role { in_recovery: read_only && !by_default, read_only })
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
            BackendMessage::BackendKeyData if admitted => {}
            BackendMessage::Notice(notice) => super::connection::log_notice("startup", &notice),
            message => {
                return Err(WireError::UnexpectedMessage { during: "startup", tag: message.tag() }.into());
            }
        }
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
