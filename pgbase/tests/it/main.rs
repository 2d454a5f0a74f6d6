//! Backups and restores of real servers.

// Helpers of tests: an unexpected failure must end the test with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backup;
mod restore;
