//! Ordinary SQL connections, by tokio-postgres, from the same connection strings as replication.
//!
//! tokio-postgres knows neither service files, `.pgpass`, `PG*` variables, `verify-full`, nor several other things
//! that a connection string can say. So the session is opened here, authentication included, and handed over when
//! it is ready: tokio-postgres sees a server that lets it in at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use crate::replication::{ConnInfo, ConnectError, Kind, Parts, Socket, connect as open};

pub use tokio_postgres;

/// Why there is no SQL session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// No host of the connection string would do.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session was open, and tokio-postgres could not take it over.
    #[error("the session could not be taken over: {0}")]
    HandOver(#[source] tokio_postgres::Error),
}

/// Opens an SQL session with the first host of `conninfo` that will do.
///
/// The task that drives the session is spawned on the current tokio runtime. It ends when the client is dropped.
///
/// # Errors
/// [`SqlError`], with what each host answered.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn connect(conninfo: &ConnInfo) -> Result<Client, SqlError> {
    let parts = open(conninfo, Kind::Sql).await?.into_parts();
    let mut config = Config::new();
    // Required by tokio-postgres; the server, which has heard the real one, never sees it.
    config.user("postgres").ssl_mode(SslMode::Disable);
    let (client, driver) =
        config.connect_raw(HandedOver::new(parts), NoTls).await.map_err(SqlError::HandOver)?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            // The client's calls fail too, and say so; this is for sessions that nobody was using.
            tracing::debug!(%error, "SQL connection ended");
        }
    });
    Ok(client)
}

/// An open session that answers a second startup message by itself.
struct HandedOver {
    socket: Socket,
    /// The answer to the startup message, and what the server has sent since.
    replay: BytesMut,
    /// The startup message, as far as it has been written; `None` once it was swallowed.
    startup: Option<BytesMut>,
}

impl HandedOver {
    fn new(parts: Parts) -> Self {
        let mut replay = BytesMut::new();
        let mut message = |tag: u8, body: &[u8]| {
            replay.put_u8(tag);
            // Bodies are parts of messages that were received, or shorter: far below 4 GiB.
            replay.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
            replay.put_slice(body);
        };
        message(b'R', &0_u32.to_be_bytes());
        for (name, value) in &parts.parameters {
            message(b'S', format!("{name}\0{value}\0").as_bytes());
        }
        message(b'K', &parts.cancel_key);
        message(b'Z', b"I");
        replay.extend_from_slice(&parts.received);
        HandedOver { socket: parts.socket, replay, startup: Some(BytesMut::new()) }
    }
}

impl AsyncRead for HandedOver {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.replay.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let len = this.replay.len().min(buf.remaining());
        buf.put_slice(&this.replay.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandedOver {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        /// The length field of a startup message counts itself.
        const LENGTH_LEN: usize = 4;
        let this = self.get_mut();
        let Some(startup) = &mut this.startup else { return Pin::new(&mut this.socket).poll_write(cx, buf) };
        // First the length field, then as much as it says.
        let wanted = match startup.first_chunk::<LENGTH_LEN>() {
            None => LENGTH_LEN,
            Some(length) => usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX),
        };
        let len = wanted.saturating_sub(startup.len()).min(buf.len());
        startup.extend_from_slice(buf.get(..len).unwrap_or_default());
        let known = startup.first_chunk::<LENGTH_LEN>().map(|length| u32::from_be_bytes(*length));
        if known.is_some_and(|length| startup.remaining() as u64 >= u64::from(length)) {
            this.startup = None;
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
