//! The testkit's promises, with every version of PostgreSQL that is installed.

mod clusters;
mod peers;
