//! The checks themselves, in the order in which Barman shows them.
//!
//! Names and hints are Barman's, so that what reads them goes on working; what to do about a failure is beside them, in a line of
//! its own. Looking changes nothing but that missing directories are made.

mod archive;
mod backups;
mod copying;
mod drill;
mod server;
mod wal;

use std::time::{Duration, Instant};

pub(in crate::command) use archive::summary as gap_summary;
pub(super) use backups::Home;
use jiff::Timestamp;

use super::Scope;
use crate::config::BackupMethod;
use crate::context::ServerContext;
use crate::live::Live;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The question, by Barman's name.
    pub name: String,
    /// Whether all is well.
    pub ok: bool,
    /// More about it; may be empty.
    pub hint: String,
    /// Still more, a line each.
    pub details: Vec<String>,
    /// What to do about a failure.
    pub cure: Option<String>,
}

/// Figures for monitoring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Perf {
    /// The size of the newest backup, in bytes.
    pub backup_bytes: u64,
    /// The size of the WAL after it, in bytes.
    pub wal_bytes: u64,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    pub(super) perf: Perf,
}

impl Line {
    /// `OK` or `FAILED`.
    pub const fn status(&self) -> &'static str {
        if self.ok { "OK" } else { "FAILED" }
    }

    /// The hint as it follows the status.
    pub fn hint_in_brackets(&self) -> String {
        if self.hint.is_empty() { String::new() } else { format!(" ({})", self.hint) }
    }
}

impl Lines {
    fn put(&mut self, name: impl Into<String>, ok: bool, hint: impl Into<String>) {
        self.lines.push(Line { name: name.into(), ok, hint: hint.into(), details: Vec::new(), cure: None });
    }

    fn ok(&mut self, name: impl Into<String>) {
        self.put(name, true, "");
    }

    fn failed(&mut self, name: impl Into<String>, hint: impl Into<String>, cure: impl Into<String>) {
        self.judge(name, false, hint, cure);
    }

    /// A verdict with a hint either way, and a cure for the case that it is bad.
    fn judge(&mut self, name: impl Into<String>, ok: bool, hint: impl Into<String>, cure: impl Into<String>) {
        let cure = if ok { None } else { Some(cure.into()) };
        self.lines.push(Line { name: name.into(), ok, hint: hint.into(), details: Vec::new(), cure });
    }
}

/// The time that a check may still take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    pub(super) fn after(limit: Option<Duration>) -> Self {
        Deadline(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// How long is left; `None` for ever.
    fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }
}

/// Checks what takes long: reads the whole archive.
pub(super) fn deep(server: &ServerContext) -> Lines {
    let mut lines = Lines::default();
    archive::deep(&mut lines, server);
    lines
}

/// Checks everything, by what the home and the server have told.
pub(super) fn all(
    server: &ServerContext,
    home: &Home,
    live: &Live,
    now: Timestamp,
    deadline: Deadline,
    scope: Scope,
) -> Lines {
    let mut lines = Lines::default();
    let config = &server.config;
    let operated = config.active() && !config.passive();
    wal::archive(&mut lines, server, home);
    archive::list(&mut lines, server, home);
    archive::completeness(&mut lines, home);
    archive::soundness(&mut lines, server, home);
    wal::queues(&mut lines, server);
    if operated {
        server::connections(&mut lines, server, live);
        server::replication_slot(&mut lines, server, live);
    }
    backups::directories(&mut lines, server);
    backups::lines(&mut lines, server, home, now);
    let finds_out_itself = scope == Scope::BeforeBackup && config.backup_method() == BackupMethod::Rsync;
    let in_time =
        finds_out_itself || !config.active() || copying::lines(&mut lines, server, live, home, deadline);
    backups::configuration(&mut lines, server);
    server::identity(&mut lines, server, live);
    if operated {
        wal::receiver(&mut lines, server, live);
        server::archiving(&mut lines, server, live);
    }
    wal::errors(&mut lines, server);
    // A backup that fails its drill is all the more reason to take another.
    if scope == Scope::Everything {
        drill::lines(&mut lines, server, now);
    }
    if live.timed_out() || !in_time {
        let name = server.name();
        lines.failed(
            "check timeout",
            "barkeep check command timed out",
            format!(
                "see what keeps '{name}' from answering, or allow more time: check_timeout, --check-timeout"
            ),
        );
    }
    lines
}
