//! WAL as the server sends it.

use bytes::Bytes;

use super::connection::{Connection, log_notice};
use super::{ReplicationError, StandbyStatus, TimelineEnd};
use crate::wire::{BackendMessage, StreamMessage, WireError, frontend};
use crate::{Lsn, PgTimestamp, TimelineId};

const COMMAND: &str = "START_REPLICATION";

/// What happens next in a WAL stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalEvent {
    /// WAL.
    Data {
        /// Where these bytes begin.
        start: Lsn,
        /// The WAL. A slice of the receive buffer: nothing was copied, and holding it for long holds the buffer.
        bytes: Bytes,
        /// The end of WAL on the server when this was sent.
        server_end: Lsn,
        /// The server's clock when this was sent.
        sent_at: PgTimestamp,
    },
    /// The server is there and has nothing new.
    KeepAlive {
        /// The end of WAL on the server.
        server_end: Lsn,
        /// The server's clock.
        sent_at: PgTimestamp,
        /// The server wants a status at once, or else will end the connection (`wal_sender_timeout`).
        reply_requested: bool,
    },
    /// All WAL of this timeline was sent. The stream is over; the connection can start the next one.
    TimelineEnd {
        /// The timeline that follows.
        next: TimelineId,
        /// Where it begins.
        switch: Lsn,
    },
    /// The server shuts down and has sent all it had. The stream and the connection are over.
    ServerShutdown,
    /// The stream is over because [`WalStream::stop`] was called, or the server ended it without a next timeline.
    Stopped,
}

/// An open START_REPLICATION.
///
/// Read it with [`next`](WalStream::next) and answer with [`send_status`](WalStream::send_status): at least when the
/// server asks for it, better every few seconds and after each flush. Dropped without [`stop`](WalStream::stop),
/// it leaves the connection unusable.
#[derive(Debug)]
pub struct WalStream<'a> {
    connection: &'a mut Connection,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Both sides send copy data.
    Streaming,
    /// The client's copy data has ended, and perhaps the server's; results up to ReadyForQuery follow.
    Ending(Option<TimelineEnd>),
    /// Over, with this last event.
    Over(WalEvent),
}

impl<'a> WalStream<'a> {
    /// Reads the first answer to START_REPLICATION.
    pub(super) async fn begin(connection: &'a mut Connection) -> Result<WalStream<'a>, ReplicationError> {
        loop {
            match connection.next_message().await? {
                BackendMessage::CopyBothResponse => {
                    return Ok(WalStream { connection, state: State::Streaming });
                }
                // Asked for the very end of an old timeline: there is nothing to stream, only the next timeline.
                BackendMessage::RowDescription(_) => {
                    return Ok(WalStream { connection, state: State::Ending(None) });
                }
                BackendMessage::Notice(notice) => log_notice(COMMAND, &notice),
                BackendMessage::Error(error) => return Err(connection.fail(COMMAND, error).await),
                message => {
                    return Err(WireError::UnexpectedMessage { during: COMMAND, tag: message.tag() }.into());
                }
            }
        }
    }

    /// The next event. After the last one ([`WalEvent::TimelineEnd`], [`WalEvent::ServerShutdown`],
    /// [`WalEvent::Stopped`]) it is given again.
    ///
    /// Cancel-safe: a call that is dropped while it waits loses nothing, so it may stand in a `select!`.
    ///
    /// # Errors
    /// [`ReplicationError`]; the stream is over then.
    pub async fn next(&mut self) -> Result<WalEvent, ReplicationError> {
        loop {
            if let State::Over(event) = &self.state {
                return Ok(event.clone());
            }
            self.connection.flush().await?;
            let message = self.connection.next_message().await?;
            if let Some(event) = self.take(message).await? {
                return Ok(event);
            }
        }
    }

    /// Tells the server how far the receiver has got. After the last event it does nothing.
    ///
    /// Cancel-safe: a status that was sent in part is completed by the next call of any kind.
    ///
    /// # Errors
    /// [`ReplicationError`]; the stream is over then.
    pub async fn send_status(&mut self, status: StandbyStatus) -> Result<(), ReplicationError> {
        self.send(status, false).await
    }

    /// [`send_status`](WalStream::send_status) that also asks the server for a keepalive at once: a way to find
    /// out whether it is still there.
    ///
    /// # Errors
    /// As [`send_status`](WalStream::send_status).
    pub async fn ping(&mut self, status: StandbyStatus) -> Result<(), ReplicationError> {
        self.send(status, true).await
    }

    /// Ends the stream from this side. WAL that was on its way is discarded. The connection can be used again.
    ///
    /// # Errors
    /// [`ReplicationError`].
    pub async fn stop(mut self) -> Result<Option<TimelineEnd>, ReplicationError> {
        if let State::Streaming = self.state {
            self.end_ours();
        }
        loop {
            if let State::Over(event) = self.state {
                return Ok(match event {
                    WalEvent::TimelineEnd { next, switch } => Some(TimelineEnd { next, switch }),
                    _ => None,
                });
            }
            self.next().await?;
        }
    }

    async fn send(&mut self, status: StandbyStatus, reply_requested: bool) -> Result<(), ReplicationError> {
        if let State::Streaming = self.state {
            status.encode(now(), reply_requested, self.connection.outbox());
            self.connection.flush().await?;
        }
        Ok(())
    }

    fn end_ours(&mut self) {
        frontend::copy_done(self.connection.outbox());
        self.state = State::Ending(None);
    }

    async fn take(&mut self, message: BackendMessage) -> Result<Option<WalEvent>, ReplicationError> {
        match (&mut self.state, message) {
            (State::Streaming, BackendMessage::CopyData(body)) => {
                Ok(Some(match StreamMessage::parse(body)? {
                    StreamMessage::XLogData { start, server_end, sent_at, bytes } => {
                        WalEvent::Data { start, bytes, server_end, sent_at }
                    }
                    StreamMessage::KeepAlive { server_end, sent_at, reply_requested } => {
                        WalEvent::KeepAlive { server_end, sent_at, reply_requested }
                    }
                }))
            }
            // The end of the timeline; the server waits for the same from here.
            (State::Streaming, BackendMessage::CopyDone) => {
                self.end_ours();
                Ok(None)
            }
            // A server that shuts down completes the command without ending the copy.
            (State::Streaming, BackendMessage::CommandComplete(_)) => {
                Ok(Some(self.over(WalEvent::ServerShutdown)))
            }
            (State::Ending(end), BackendMessage::DataRow(row)) => {
                *end = Some(TimelineEnd::parse(&row)?);
                Ok(None)
            }
            (
                State::Ending(_),
                BackendMessage::CopyData(_)
                | BackendMessage::CopyDone
                | BackendMessage::RowDescription(_)
                | BackendMessage::CommandComplete(_),
            ) => Ok(None),
            (State::Ending(end), BackendMessage::ReadyForQuery) => {
                let event = match *end {
                    Some(TimelineEnd { next, switch }) => WalEvent::TimelineEnd { next, switch },
                    None => WalEvent::Stopped,
                };
                self.connection.set_idle();
                Ok(Some(self.over(event)))
            }
            (_, BackendMessage::Notice(notice)) => {
                log_notice(COMMAND, &notice);
                Ok(None)
            }
            (_, BackendMessage::Error(error)) => Err(self.connection.fail(COMMAND, error).await),
            (_, message) => {
                Err(WireError::UnexpectedMessage { during: "streaming replication", tag: message.tag() }
                    .into())
            }
        }
    }

    fn over(&mut self, event: WalEvent) -> WalEvent {
        self.state = State::Over(event.clone());
        event
    }
}

/// The client's clock; a clock far out of range counts as the epoch, since the server only displays it.
fn now() -> PgTimestamp {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(unix.as_micros()).unwrap_or_default();
    PgTimestamp::from_unix_micros(micros).unwrap_or(PgTimestamp::from_micros(0))
}
