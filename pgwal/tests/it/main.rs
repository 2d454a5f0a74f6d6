//! pgwal against real PostgreSQL servers.

// Helpers of tests: an unexpected failure must end the test with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod activity;
#[cfg(feature = "sql")]
mod authentication;
#[cfg(feature = "sql")]
mod base_backup;
mod built;
#[cfg(feature = "sql")]
mod commands;
mod end_of_wal;
#[cfg(feature = "sql")]
mod hosts;
mod images;
mod index;
mod rare;
#[cfg(feature = "replication")]
mod receive;
mod seeds;
#[cfg(feature = "sql")]
mod sql;
#[cfg(feature = "sql")]
mod tls;
mod verify;
#[cfg(feature = "sql")]
mod wal_stream;
mod waldump;
mod walinspect;
mod workload;
