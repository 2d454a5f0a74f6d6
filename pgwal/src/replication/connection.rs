//! A physical replication connection and the commands that answer at once.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::Kind;
use super::conninfo::Host;
use super::socket::Socket;
use super::{
    BaseBackupOptions, BaseBackupStream, ConnInfo, ConnectError, ReplicationError, SqlState, StartPhysical,
    WalStream,
};
use crate::wire::{AuthMethod, BackendMessage, Inbox, ServerError, TextRow, WireError, command, frontend};
use crate::{Lsn, TimelineId};

/// Memory asked for at a time to receive into, in bytes.
const RECEIVE_LEN: usize = 512 << 10;
/// More is asked for when less than this is left, in bytes.
const RECEIVE_LEN_MIN: usize = 64 << 10;
/// The most rows of a command that is not a stream.
const ROWS_MAX: usize = 10_000;
/// The most settings that a server may report.
const PARAMETERS_MAX: usize = 1000;

/// An open physical replication connection.
///
/// One command at a time; the streams borrow it. Dropping it closes the socket, which ends whatever the server was
/// doing for it.
pub struct Connection {
    socket: Socket,
    inbox: Inbox,
    /// Bytes to send that are not sent yet: a cancelled send goes on with the next call.
    outbox: BytesMut,
    parameters: BTreeMap<String, String>,
    host: Host,
    auth_method: AuthMethod,
    /// For SQL sessions, which hand it on.
    cancel_key: Bytes,
    idle: bool,
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier, a decimal number of 64 bits.
    pub system_id: String,
    /// The timeline the server is on.
    pub timeline: TimelineId,
    /// The end of the WAL that is safe on the server.
    pub flush_lsn: Lsn,
    /// The database connected to; none on a physical connection.
    pub database: Option<String>,
}

/// The answer to READ_REPLICATION_SLOT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `physical`; the server refuses to read others.
    pub slot_type: String,
    /// The oldest WAL that the slot keeps; none if it has reserved none.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of `restart_lsn`.
    pub restart_timeline: Option<TimelineId>,
}

/// The answer to TIMELINE_HISTORY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The file's name, which is the one the timeline demands.
    pub file_name: String,
    /// What the file holds.
    pub content: Bytes,
}

impl Connection {
    /// Connects to the first host of `conninfo` that will do.
    ///
    /// # Errors
    /// [`ConnectError`], with what each host answered.
    pub async fn connect(conninfo: &ConnInfo) -> Result<Connection, ConnectError> {
        super::connect::connect(conninfo, Kind::Physical).await
    }

    pub(super) fn new(socket: Socket, host: Host) -> Connection {
        Connection {
            socket,
            inbox: Inbox::new(),
            outbox: BytesMut::new(),
            parameters: BTreeMap::new(),
            host,
            auth_method: AuthMethod::None,
            cancel_key: Bytes::new(),
            idle: false,
        }
    }

    /// IDENTIFY_SYSTEM.
    ///
    /// # Errors
    /// [`ReplicationError`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        const COMMAND: &str = "IDENTIFY_SYSTEM";
        let row = self.query_one(COMMAND, COMMAND).await?;
        let system_id: u64 = row.required(0, COMMAND, "systemid")?;
        Ok(SystemIdentity {
            system_id: system_id.to_string(),
            timeline: row.required(1, COMMAND, "timeline")?,
            flush_lsn: row.required(2, COMMAND, "xlogpos")?,
            database: row.text(3).map(str::to_owned),
        })
    }

    /// SHOW: the value of a setting, as the server prints it, units included.
    ///
    /// # Errors
    /// [`ReplicationError`]; an unknown setting is the server's error `42704`.
    pub async fn show(&mut self, name: &str) -> Result<String, ReplicationError> {
        const COMMAND: &str = "SHOW";
        let row = self.query_one(COMMAND, &command::show(name)?).await?;
        Ok(row.required(0, COMMAND, "value")?)
    }

    /// TIMELINE_HISTORY: the history file of a timeline.
    ///
    /// # Errors
    /// [`ReplicationError`]; timeline 1 has no file, which is the server's error `58P01`. A file name other than the
    /// timeline's own is refused.
    pub async fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<TimelineHistory, ReplicationError> {
        const COMMAND: &str = "TIMELINE_HISTORY";
        let row = self.query_one(COMMAND, &command::timeline_history(timeline)).await?;
        let file_name: String = row.required(0, COMMAND, "filename")?;
        if file_name != format!("{:08X}.history", timeline.as_u32()) {
            return Err(WireError::bad_field(COMMAND, "filename", &file_name).into());
        }
        let content =
            row.bytes(1).cloned().ok_or_else(|| WireError::bad_field(COMMAND, "content", "NULL"))?;
        Ok(TimelineHistory { file_name, content })
    }

    /// CREATE_REPLICATION_SLOT, physical; `reserve_wal` keeps WAL from now on rather than from the first use.
    ///
    /// # Errors
    /// [`ReplicationError`]; a slot that exists already is the server's error [`SqlState::DUPLICATE_OBJECT`].
    pub async fn create_physical_slot(
        &mut self,
        name: &str,
        reserve_wal: bool,
    ) -> Result<(), ReplicationError> {
        let text = command::create_physical_slot(name, reserve_wal)?;
        self.query("CREATE_REPLICATION_SLOT", &text).await.map(drop)
    }

    /// READ_REPLICATION_SLOT; `None` if there is no such slot.
    ///
    /// # Errors
    /// [`ReplicationError::Unsupported`] before PostgreSQL 15 (ask `pg_replication_slots` by SQL there);
    /// [`ReplicationError::Server`] if the slot is a logical one.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<Slot>, ReplicationError> {
        const COMMAND: &str = "READ_REPLICATION_SLOT";
        self.need(15, COMMAND)?;
        let rows = self.query(COMMAND, &command::read_slot(name)?).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let Some(slot_type) = row.text(0) else { return Ok(None) };
        Ok(Some(Slot {
            slot_type: slot_type.to_owned(),
            restart_lsn: row.parsed(1, COMMAND, "restart_lsn")?,
            restart_timeline: row.parsed(2, COMMAND, "restart_tli")?,
        }))
    }

    /// DROP_REPLICATION_SLOT; `false` if there was no such slot.
    ///
    /// # Errors
    /// [`ReplicationError`]; a slot in use is the server's error [`SqlState::OBJECT_IN_USE`].
    pub async fn drop_slot(&mut self, name: &str) -> Result<bool, ReplicationError> {
        let text = command::drop_slot(name)?;
        match self.query("DROP_REPLICATION_SLOT", &text).await {
            Ok(_) => Ok(true),
            Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_OBJECT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// START_REPLICATION PHYSICAL.
    ///
    /// # Errors
    /// [`ReplicationError`]; after a server's error that is not fatal the connection can be used again. A missing
    /// slot is [`SqlState::UNDEFINED_OBJECT`], an active one [`SqlState::OBJECT_IN_USE`], WAL that is gone
    /// [`SqlState::UNDEFINED_FILE`] (which may also come later, from [`WalStream::next`]).
    pub async fn start_physical(&mut self, start: StartPhysical) -> Result<WalStream<'_>, ReplicationError> {
        let text = start.command()?;
        self.begin(&text).await?;
        WalStream::begin(self).await
    }

    /// BASE_BACKUP.
    ///
    /// # Errors
    /// [`ReplicationError`].
    pub async fn base_backup(
        &mut self,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackupStream<'_>, ReplicationError> {
        BaseBackupStream::begin(self, options).await
    }

    /// Says good-bye and closes the connection.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.outbox);
        // The server sees the socket close in any case.
        let _ = self.flush().await;
        let _ = self.socket.shutdown().await;
    }

    /// A setting that the server reports by itself, such as `server_version` or `in_hot_standby`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's version as `server_version_num` has it, such as 150020; 0 if it cannot be told.
    pub fn server_version_num(&self) -> u32 {
        self.parameter("server_version").and_then(version_num).unwrap_or(0)
    }

    /// The host that answered.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// How the server had the client prove itself.
    pub fn auth_method(&self) -> AuthMethod {
        self.auth_method
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.socket.is_encrypted()
    }

    /// Whether the next command may be sent.
    pub fn is_idle(&self) -> bool {
        self.idle
    }
}

/// An idle session, taken apart.
#[cfg(feature = "sql")]
pub(crate) struct Parts {
    pub(crate) socket: Socket,
    /// Bytes that came after the session was ready.
    pub(crate) received: BytesMut,
    pub(crate) parameters: BTreeMap<String, String>,
    /// The body of BackendKeyData.
    pub(crate) cancel_key: Bytes,
}

/// What the streams and the start of the session are made of.
impl Connection {
    pub(super) fn set_idle(&mut self) {
        self.idle = true;
    }

    pub(super) fn set_auth_method(&mut self, method: AuthMethod) {
        self.auth_method = method;
    }

    pub(super) fn set_cancel_key(&mut self, key: Bytes) {
        self.cancel_key = key;
    }

    /// Takes the session apart, for another client to go on with.
    #[cfg(feature = "sql")]
    pub(crate) fn into_parts(mut self) -> Parts {
        let received = self.inbox.buffer().split();
        Parts { socket: self.socket, received, parameters: self.parameters, cancel_key: self.cancel_key }
    }

    pub(super) fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    pub(super) fn need(&self, major: u32, command: &'static str) -> Result<(), ReplicationError> {
        if self.server_version_num() >= major * 10_000 {
            return Ok(());
        }
        let found = self.parameter("server_version").unwrap_or("unknown").to_owned();
        Err(ReplicationError::Unsupported { command, needed: major, found })
    }

    /// Sends a command; from here to ReadyForQuery the connection is busy.
    pub(super) async fn begin(&mut self, text: &str) -> Result<(), ReplicationError> {
        if !self.idle {
            return Err(ReplicationError::NotIdle);
        }
        frontend::query(text, &mut self.outbox)?;
        self.idle = false;
        tracing::debug!(host = %self.host.name, command = text, "replication command");
        self.flush().await
    }

    /// Sends what is in the outbox. Cancel-safe: what was sent is gone from it, the rest stays.
    pub(super) async fn flush(&mut self) -> Result<(), ReplicationError> {
        while !self.outbox.is_empty() {
            if self.socket.write_buf(&mut self.outbox).await? == 0 {
                return Err(ReplicationError::Closed);
            }
        }
        Ok(self.socket.flush().await?)
    }

    /// The next message; reports of settings are kept, notices outside of backups are logged. Cancel-safe.
    pub(super) async fn next_message(&mut self) -> Result<BackendMessage, ReplicationError> {
        loop {
            if let Some(frame) = self.inbox.next_frame()? {
                match BackendMessage::parse(frame)? {
                    BackendMessage::ParameterStatus { name, value } => {
                        if self.parameters.len() < PARAMETERS_MAX {
                            self.parameters.insert(name, value);
                        }
                    }
                    BackendMessage::NotificationResponse => {}
                    message => return Ok(message),
                }
                continue;
            }
            let buffer = self.inbox.buffer();
            if buffer.capacity() - buffer.len() < RECEIVE_LEN_MIN {
                buffer.reserve(RECEIVE_LEN);
            }
            if self.socket.read_buf(buffer).await? == 0 {
                return Err(ReplicationError::Closed);
            }
        }
    }

    /// After an ErrorResponse: reads up to ReadyForQuery, and makes an error of it.
    pub(super) async fn fail(&mut self, command: &'static str, error: Box<ServerError>) -> ReplicationError {
        if !error.is_fatal() {
            loop {
                match self.next_message().await {
                    Ok(BackendMessage::ReadyForQuery) => {
                        self.idle = true;
                        break;
                    }
                    Ok(_) => {}
                    // The error that was first is the one to tell.
                    Err(_) => break,
                }
            }
        }
        ReplicationError::Server { command, error }
    }

    async fn query(&mut self, command: &'static str, text: &str) -> Result<Vec<TextRow>, ReplicationError> {
        self.begin(text).await?;
        let mut rows = Vec::new();
        loop {
            match self.next_message().await? {
                BackendMessage::DataRow(row) if rows.len() < ROWS_MAX => rows.push(row),
                BackendMessage::DataRow(_) => {
                    return Err(WireError::TooMany { what: "rows", limit: ROWS_MAX }.into());
                }
                BackendMessage::RowDescription(_)
                | BackendMessage::CommandComplete(_)
                | BackendMessage::EmptyQueryResponse => {}
                BackendMessage::Notice(notice) => log_notice(command, &notice),
                BackendMessage::Error(error) => return Err(self.fail(command, error).await),
                BackendMessage::ReadyForQuery => {
                    self.idle = true;
                    return Ok(rows);
                }
                message => {
                    return Err(WireError::UnexpectedMessage { during: command, tag: message.tag() }.into());
                }
            }
        }
    }

    pub(super) async fn query_one(
        &mut self,
        command: &'static str,
        text: &str,
    ) -> Result<TextRow, ReplicationError> {
        let rows = self.query(command, text).await?;
        let count = rows.len();
        match <[TextRow; 1]>::try_from(rows) {
            Ok([row]) => Ok(row),
            Err(_) => Err(WireError::bad_field(command, "number of rows", &count.to_string()).into()),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("host", &self.host)
            .field("server_version", &self.parameter("server_version"))
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

pub(super) fn log_notice(command: &'static str, notice: &ServerError) {
    tracing::warn!(command, severity = %notice.severity, code = %notice.code, "{}", notice.message);
}

/// `15.20 (Debian 15.20-1)`, `18beta1`, `17devel` to 150020, 180000, 170000, as `PQserverVersion` does it.
fn version_num(text: &str) -> Option<u32> {
    let number = |text: &str| -> Option<u32> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse().ok().filter(|number| *number < 10_000)
    };
    let minor = text.split_once('.').and_then(|(major, minor)| {
        // "18beta1.2" has no minor version.
        major.chars().all(|c| c.is_ascii_digit()).then(|| number(minor))?
    });
    Some(number(text)? * 10_000 + minor.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_libpq_does() {
        for (text, number) in [
            ("15.20 (Debian 15.20-0+deb12u1)", Some(150_020)),
            ("13.23", Some(130_023)),
            ("18beta1", Some(180_000)),
            ("17devel", Some(170_000)),
            ("", None),
            ("x15", None),
        ] {
            assert_eq!(version_num(text), number, "{text}");
        }
    }
}
