//! The answers of `check`: for people, for programs, for Nagios.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::lines::{Line, Lines, Perf};
use crate::command::shown;
use crate::config::ServerConfig;
use crate::context::ServerContext;
use crate::output::{Format, Output, Report, Style};

/// A server and what was found.
#[derive(Debug)]
pub struct Checked {
    config: Arc<ServerConfig>,
    /// What was found, in order.
    pub lines: Vec<Line>,
    perf: Perf,
}

impl Checked {
    pub(super) fn new(server: &ServerContext, lines: Lines) -> Self {
        Checked { config: Arc::clone(&server.config), lines: lines.lines, perf: lines.perf }
    }

    pub(super) fn extend(&mut self, lines: Lines) {
        self.lines.extend(lines.lines);
    }

    /// Whether nothing is wrong.
    pub fn ok(&self) -> bool {
        self.lines.iter().all(|line| line.ok)
    }

    /// Tells the result. What programs read has exactly Barman's keys: what to do about failures comes beside them,
    /// as free text.
    pub(super) fn tell(&self, output: &Output) {
        output.report(self);
        if self.counts() && !self.ok() {
            output.mark_failed();
        }
        if output.style().format == Format::Json {
            let name = self.config.name();
            for line in &self.lines {
                for note in line.details.iter().chain(&line.cure) {
                    output.info(format!("{name}: {}: {note}", line.name));
                }
            }
            if let Some(pending) = self.pending() {
                output.info(format!("{name}: {PENDING}: {pending}"));
            }
        }
    }

    /// Whether its failures are the command's: those of a server that isn't operated are only told.
    fn counts(&self) -> bool {
        self.config.active()
    }

    /// The keys that are set and have no effect.
    fn pending(&self) -> Option<String> {
        let keys: Vec<&str> = self.config.pending().collect();
        if keys.is_empty() { None } else { Some(keys.join(", ")) }
    }
}

/// What is told of keys without effect: information, not a failure.
const PENDING: &str = "configuration keys without effect";

impl Report for Checked {
    fn server(&self) -> &str {
        self.config.name()
    }

    fn json(&self) -> Value {
        let entry = |line: &Line| (key(&line.name), json!({ "status": line.status(), "hint": line.hint }));
        Value::Object(self.lines.iter().map(entry).collect::<Map<_, _>>())
    }

    fn console(&self, style: Style) -> String {
        let mut text = shown::heading(&self.config);
        for line in &self.lines {
            let status = match (style.color, line.ok) {
                (false, _) => line.status().to_owned(),
                (true, true) => format!("\u{1b}[32m{}\u{1b}[0m", line.status()),
                (true, false) => format!("\u{1b}[31m{}\u{1b}[0m", line.status()),
            };
            text.push_str(&format!("\t{}: {status}{}\n", line.name, line.hint_in_brackets()));
            for note in line.details.iter().chain(&line.cure) {
                text.push_str(&format!("\t\t{note}\n"));
            }
        }
        if let Some(pending) = self.pending() {
            text.push_str(&format!("\t\t{PENDING}: {pending}\n"));
        }
        text
    }
}

/// The name of a line as a JSON key.
fn key(name: &str) -> String {
    name.to_lowercase().replace([' ', '-'], "_").replace('.', "")
}

/// The answers for Nagios, collected over all servers.
#[derive(Default)]
pub(super) struct Nagios {
    servers: Vec<String>,
    /// Server and the names of what failed.
    issues: Vec<(String, Vec<String>)>,
    perf: Vec<String>,
    details: Vec<String>,
    critical: bool,
}

impl Nagios {
    pub(super) fn add(&mut self, checked: &Checked) {
        let name = checked.config.name();
        self.servers.push(name.to_owned());
        self.perf
            .push(format!("{name}={}B {name}_wals={}B", checked.perf.backup_bytes, checked.perf.wal_bytes));
        let failed: Vec<&Line> = checked.lines.iter().filter(|line| !line.ok).collect();
        self.critical |= checked.counts() && !failed.is_empty();
        if !failed.is_empty() {
            self.issues.push((name.to_owned(), failed.iter().map(|line| line.name.clone()).collect()));
        }
        for line in failed {
            self.details.push(format!("{name}.{}: FAILED{}", line.name, line.hint_in_brackets()));
        }
    }

    pub(super) fn critical(&self) -> bool {
        self.critical
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let perf = if self.perf.is_empty() { String::new() } else { format!("|{}", self.perf.join(" ")) };
        let with_issues = |name: &&String| self.issues.iter().any(|(one, _)| one == *name);
        if !self.critical {
            let good: Vec<&str> =
                self.servers.iter().filter(|name| !with_issues(name)).map(String::as_str).collect();
            let ignored: String =
                self.issues.iter().map(|(name, _)| format!(" * IGNORING: {name}")).collect();
            return vec![match good.as_slice() {
                [] => format!("BARMAN OK - No server configured{ignored}"),
                [one] => format!("BARMAN OK - Ready to serve the Espresso backup for {one}{ignored}{perf}"),
                several => format!(
                    "BARMAN OK - Ready to serve the Espresso backup for {} servers * {}{ignored}{perf}",
                    several.len(),
                    several.join(" * ")
                ),
            }];
        }
        let issues: Vec<String> = self
            .issues
            .iter()
            .map(|(name, failed)| format!("{name} FAILED: {}", failed.join(", ")))
            .collect();
        let issues = issues.join(" * ");
        let first = match self.servers.as_slice() {
            [one] => format!("BARMAN CRITICAL - server {one} has issues * {issues}{perf}"),
            several => format!(
                "BARMAN CRITICAL - {} server out of {} have issues * {issues}{perf}",
                self.issues.len(),
                several.len()
            ),
        };
        std::iter::once(first).chain(self.details.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_barmans() {
        assert_eq!(key("receive-wal running"), "receive_wal_running");
        assert_eq!(key("PostgreSQL"), "postgresql");
    }
}
