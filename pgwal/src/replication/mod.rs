//! Physical replication over tokio: connection strings, TLS, WAL streaming, base backups.
//!
//! [`Connection`] drives [`wire`](crate::wire) over a socket. It replaces `pg_receivewal`'s and `pg_basebackup`'s
//! use of libpq, and follows libpq's rules for everything a connection string can say.

mod backup;
mod connect;
mod connection;
pub mod conninfo;
mod error;
pub mod receive;
mod socket;
mod tls;
mod wal;

pub use backup::BaseBackupStream;
pub use connection::{Connection, Slot, SystemIdentity, TimelineHistory};
pub use conninfo::{ConnInfo, ConnInfoError};
pub use error::{Attempt, ConnectError, ConnectFailure, ReplicationError};
pub use tls::TlsError;
pub use wal::{WalEvent, WalStream};

pub use crate::wire::command::{BaseBackupOptions, ManifestChecksum, StartPhysical};
pub use crate::wire::{BackupEvent, ServerError, SqlState, StandbyStatus, Tablespace, TimelineEnd};

#[cfg(feature = "sql")]
pub(crate) use connect::{Kind, connect};
#[cfg(feature = "sql")]
pub(crate) use connection::Parts;
#[cfg(feature = "sql")]
pub(crate) use socket::Socket;
