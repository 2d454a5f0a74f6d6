//! pgwal against real PostgreSQL servers.
#![cfg(feature = "sql")]

mod authentication;
mod base_backup;
mod commands;
mod hosts;
mod sql;
mod tls;
mod wal_stream;
mod waldump;
mod workload;
