//! PostgreSQL's replication protocol without sockets: bytes in, messages out (protocol 3.0).
//!
//! Everything here takes `&[u8]` or [`bytes::Bytes`] and returns values; nothing reads, writes, waits or panics on any
//! input. [`Inbox`] cuts a byte stream into frames, [`BackendMessage`] gives them meaning, [`Auth`] answers the
//! server's authentication requests, [`StreamMessage`] and [`BackupReader`] read what START_REPLICATION and
//! BASE_BACKUP send, [`StandbyStatus`] and [`command`] write what a client says. The formats are those of
//! PostgreSQL's manual, "Frontend/Backend Protocol" and "Streaming Replication Protocol", for majors 13 to 18.

mod auth;
mod backup;
mod certificate;
pub mod command;
pub(crate) mod der;
mod error;
pub mod frontend;
mod inbox;
mod message;
mod reader;
mod server_error;
mod stream;

pub use auth::{Auth, AuthError, AuthMethod, AuthProgress, ChannelBinding, Credentials};
pub use backup::{BackupDialect, BackupEvent, BackupReader, Tablespace};
pub use certificate::tls_server_end_point;
pub use error::WireError;
pub use inbox::{FRAME_LEN_MAX, Frame, Inbox};
pub use message::{AuthRequest, BackendMessage, TextRow};
pub use server_error::{ServerError, SqlState};
pub use stream::{StandbyStatus, StreamMessage, TimelineEnd};
