//! The checks themselves, in the order in which Barman shows them.
//!
//! Names are Barman's, where the question still makes sense. No external program is needed, so the lines about
//! `pg_basebackup`, `pg_receivewal` and `rsync` are gone. Looking changes nothing but that missing directories are made.

mod backups;
mod server;
mod wal;

use jiff::Timestamp;

use crate::context::ServerContext;
use crate::live::Live;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The question, by Barman's name.
    pub name: String,
    /// Whether all is well.
    pub ok: bool,
    /// More about it, or what to do; may be empty.
    pub hint: String,
    /// Still more, a line each.
    pub details: Vec<String>,
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
        self.lines.push(Line { name: name.into(), ok, hint: hint.into(), details: Vec::new() });
    }

    fn ok(&mut self, name: impl Into<String>) {
        self.put(name, true, "");
    }

    fn failed(&mut self, name: impl Into<String>, hint: impl Into<String>) {
        self.put(name, false, hint);
    }
}

/// Checks everything.
pub(super) fn all(server: &ServerContext, live: &Live, now: Timestamp) -> Lines {
    let mut lines = Lines::default();
    let config = &server.config;
    let operated = config.active() && !config.passive();
    let home = backups::Home::read(server, now);
    wal::archive(&mut lines, server, &home);
    wal::queues(&mut lines, server);
    if operated {
        server::connections(&mut lines, server, live);
        server::replication_slot(&mut lines, server, live);
    }
    backups::directories(&mut lines, server);
    backups::lines(&mut lines, server, &home, now);
    backups::configuration(&mut lines, server);
    if operated {
        server::identity(&mut lines, server, live);
        wal::receiver(&mut lines, server);
        server::archiving(&mut lines, server, live);
    }
    wal::errors(&mut lines, server);
    if live.timed_out() {
        lines.failed("check timeout", "barkeep check command timed out");
    }
    lines
}
