//! Against a real SSH server.

// This is test code: an unexpected failure must end the test with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ssh;
