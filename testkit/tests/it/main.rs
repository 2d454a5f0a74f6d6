//! The testkit's promises, with every version of PostgreSQL that is installed; and the house rules of the workspace.

// Helpers of tests may panic as tests do; clippy's own exemption ends at functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod clusters;
mod peers;
