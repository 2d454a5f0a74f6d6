//! The catalogue's formats against the program that defined them.

// Helpers of tests may panic as tests do; clippy's own exemption ends at functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod barman;
