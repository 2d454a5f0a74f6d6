//! The barkeep program as its users meet it: run as a process, against real servers and real homes.

// Helpers of tests may panic as tests do; clippy's own exemption ends at functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backup;
mod barman_interop;
mod command_line;
mod configuration;
mod pitr;
mod receive_wal;
mod restore_scene;
mod support;
mod switch_wal;
