//! pgwal against real PostgreSQL servers.

#[cfg(feature = "sql")]
mod authentication;
#[cfg(feature = "sql")]
mod base_backup;
#[cfg(feature = "sql")]
mod commands;
#[cfg(feature = "sql")]
mod hosts;
mod receive;
#[cfg(feature = "sql")]
mod sql;
#[cfg(feature = "sql")]
mod tls;
#[cfg(feature = "sql")]
mod wal_stream;
mod waldump;
mod workload;
