//! Real servers for barkeep's tests: PostgreSQL 13 to 18, an SSH server, Barman.
//!
//! Nothing here stands in for PostgreSQL. A [`Cluster`] is made by `initdb`, runs as an unprivileged user (also when
//! the tests run as root), listens on a port and a socket directory of its own, and is stopped by its process id when
//! it goes out of scope - or by a watchdog if the test process is killed.
//!
//! The programs come from `scripts/install-test-deps.sh`; see [`programs`]. A test states what it needs in its first
//! line and is skipped, visibly, on a machine that has not got it:
//!
//! ```
//! testkit::require_pg!(15);
//! let cluster = testkit::Cluster::builder(15).segment_size_mib(1).checksums(true).start();
//! cluster.execute("create table t as select generate_series(1, 10) as id");
//! assert_eq!(cluster.query_text("select count(*) from t"), ["10"]);
//! ```
//!
//! The environment variable `REQUIRE_PG=13,15,18` turns a skip into a failure; continuous integration sets it.
//!
//! Everything here panics on failure, with the log of the server concerned: a test has no use for an error value.

// This crate is test code: an unexpected failure must end the test with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod barman;
pub mod cluster;
mod dir;
pub mod port;
pub mod programs;
mod require;
pub mod sshd;
mod tls;
pub mod user;
pub mod verdicts;
pub mod wal;

pub use barman::{Barman, BarmanReceiver};
pub use cluster::{Cluster, ClusterBuilder, StartFailure, StopMode};
pub use dir::TestDir;
pub use programs::{barman_bin_dir, client_tool, reachable_binary};
pub use require::{notice_skipped, want_barman, want_chromium, want_pg, want_sshd};
pub use sshd::Sshd;
pub use tls::TlsFiles;
pub use user::{User, second_user, unprivileged_user, users_of_other_machines};
pub use verdicts::{CaseBackup, VerdictCase};

/// Runs `attempt` every few milliseconds until it gives a value; panics with `what` after `seconds`.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(std::time::Instant::now() < deadline, "waited {seconds} s in vain for: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// How often something that is being waited for is looked at.
pub(crate) const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(20);
