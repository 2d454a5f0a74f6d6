//! Skipping a test visibly where its servers are missing, and failing it where they were promised.

use std::io::Write as _;

use crate::programs;

/// Leaves the test early, with a visible notice, when PostgreSQL of this major version is missing. Panics if the
/// environment variable `REQUIRE_PG` lists the version.
#[macro_export]
macro_rules! require_pg {
    ($($major:expr),+ $(,)?) => {
        $(if !$crate::want_pg($major) { return; })+
    };
}

/// Leaves the test early, with a visible notice, when Barman is missing. Panics if `REQUIRE_BARMAN` is set.
#[macro_export]
macro_rules! require_barman {
    () => {
        if !$crate::want_barman() {
            return;
        }
    };
}

/// Leaves the test early, with a visible notice, when no OpenSSH server is found. Panics if `REQUIRE_SSHD` is set.
#[macro_export]
macro_rules! require_sshd {
    () => {
        if !$crate::want_sshd() {
            return;
        }
    };
}

/// Leaves the test early, with a visible notice, when Chromium is missing. Panics if `REQUIRE_CHROMIUM` is set.
#[macro_export]
macro_rules! require_chromium {
    () => {
        if !$crate::want_chromium() {
            return;
        }
    };
}

/// Whether a test of PostgreSQL `major` can run. Says so on standard error if not; panics if `REQUIRE_PG` lists it.
#[must_use]
pub fn want_pg(major: u32) -> bool {
    if programs::server_bin_dir(major).is_some() {
        return true;
    }
    let required = std::env::var("REQUIRE_PG").unwrap_or_default();
    let is_required = required.split([',', ' ']).any(|word| word.trim().parse() == Ok(major));
    assert!(!is_required, "REQUIRE_PG lists PostgreSQL {major}, but no server of it was found; {HOW_TO}");
    notice_skipped(&format!("PostgreSQL {major}"));
    false
}

/// Whether a test against Barman can run. Says so on standard error if not; panics if `REQUIRE_BARMAN` is set.
#[must_use]
pub fn want_barman() -> bool {
    want(programs::barman_bin_dir().is_some(), "Barman", "REQUIRE_BARMAN")
}

/// Whether a test over SSH can run. Says so on standard error if not; panics if `REQUIRE_SSHD` is set.
#[must_use]
pub fn want_sshd() -> bool {
    want(programs::sshd().is_some(), "an OpenSSH server", "REQUIRE_SSHD")
}

/// Whether a test in a browser can run. Says so on standard error if not; panics if `REQUIRE_CHROMIUM` is set.
#[must_use]
pub fn want_chromium() -> bool {
    want(programs::chromium().is_some(), "Chromium", "REQUIRE_CHROMIUM")
}

/// Says on standard error that the running test is skipped, because `missing` is missing.
pub fn notice_skipped(missing: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED: {} needs {missing}; {HOW_TO}\n", thread.name().unwrap_or("a test"));
    // Not `eprintln!`: the test harness would swallow that for a test that passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn want(found: bool, what: &str, variable: &str) -> bool {
    if found {
        return true;
    }
    assert!(
        std::env::var_os(variable).is_none_or(|value| value.is_empty()),
        "{variable} is set, but {what} was not found; {HOW_TO}"
    );
    notice_skipped(what);
    false
}

const HOW_TO: &str = "run scripts/install-test-deps.sh";
