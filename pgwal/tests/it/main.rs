//! pgwal against real PostgreSQL servers.

// Helpers of tests: an unexpected failure must end the test with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "sql")]
mod authentication;
#[cfg(feature = "sql")]
mod base_backup;
#[cfg(feature = "sql")]
mod commands;
#[cfg(feature = "sql")]
mod hosts;
#[cfg(feature = "replication")]
mod receive;
#[cfg(feature = "sql")]
mod sql;
#[cfg(feature = "sql")]
mod tls;
#[cfg(feature = "sql")]
mod wal_stream;
mod built;
mod end_of_wal;
mod images;
mod index;
mod verify;
mod waldump;
mod walinspect;
mod workload;
