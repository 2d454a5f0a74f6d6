//! The answers of `check`: for people, for programs, for Nagios.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::lines::{Line, Lines, Perf};
use crate::command::shown;
use crate::config::ServerConfig;
use crate::context::ServerContext;
use crate::output::{Report, Style};

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

    /// Whether nothing is wrong.
    pub fn ok(&self) -> bool {
        self.lines.iter().all(|line| line.ok)
    }
}

impl Report for Checked {
    fn server(&self) -> &str {
        self.config.name()
    }

    fn json(&self) -> Value {
        let entry = |line: &Line| {
            let mut object = json!({ "status": line.status(), "hint": line.hint });
            if let (false, Some(object)) = (line.details.is_empty(), object.as_object_mut()) {
                object.insert("details".to_owned(), json!(line.details));
            }
            (key(&line.name), object)
        };
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
            for detail in &line.details {
                text.push_str(&format!("\t\t{detail}\n"));
            }
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
}

impl Nagios {
    pub(super) fn add(&mut self, checked: &Checked) {
        let name = checked.config.name();
        self.servers.push(name.to_owned());
        self.perf
            .push(format!("{name}={}B {name}_wals={}B", checked.perf.backup_bytes, checked.perf.wal_bytes));
        let failed: Vec<&Line> = checked.lines.iter().filter(|line| !line.ok).collect();
        if !failed.is_empty() {
            self.issues.push((name.to_owned(), failed.iter().map(|line| line.name.clone()).collect()));
        }
        for line in failed {
            self.details.push(format!("{name}.{}: FAILED{}", line.name, line.hint_in_brackets()));
        }
    }

    pub(super) fn critical(&self) -> bool {
        !self.issues.is_empty()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let perf = self.perf.join(" ");
        let issues: Vec<String> = self
            .issues
            .iter()
            .map(|(name, failed)| format!("* {name} FAILED: {}", failed.join(", ")))
            .collect();
        let first = match (self.servers.as_slice(), self.issues.as_slice()) {
            ([], _) => "BARMAN OK - No server configured".to_owned(),
            ([one], []) => format!("BARMAN OK - Ready to serve the Espresso backup for {one}|{perf}"),
            (several, []) => format!(
                "BARMAN OK - Ready to serve the Espresso backup for {} servers * {}|{perf}",
                several.len(),
                several.join(" * ")
            ),
            ([one], _) => format!("BARMAN CRITICAL - server {one} has issues {}|{perf}", issues.join(" ")),
            (several, with_issues) => format!(
                "BARMAN CRITICAL - {} server out of {} have issues {}|{perf}",
                with_issues.len(),
                several.len(),
                issues.join(" ")
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
