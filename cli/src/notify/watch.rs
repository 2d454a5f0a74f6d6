//! Checks that turn bad, or good again.

use std::path::PathBuf;

use barkeep_transport::durable;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Notification;
use crate::command::check::Line;
use crate::context::ServerContext;
use crate::error::chain;

/// Where the last state of a server is kept, below its directory.
const STATE_FILE: &str = ".barkeep/check-state.json";
/// The most of it that is read, in bytes.
const STATE_BYTES_MAX: u64 = 64 * 1024;

/// What the last check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckState {
    /// The names of the lines that failed.
    pub(crate) failed: Vec<String>,
    /// The names of those that passed.
    #[serde(default)]
    pub(crate) passed: Vec<String>,
}

/// What the last check of a server said; `None` when there was none, or it is not known.
pub(crate) fn check_state(server: &ServerContext) -> Option<CheckState> {
    read(server)
}

/// Takes note of what a check of a server has found, and notifies when that is news: it was good and is bad, or the other
/// way round. A first check that is good is no news.
pub(crate) fn note_check(server: &ServerContext, lines: &[Line]) {
    let is_watched = server.config.notify().is_some();
    // Nobody asked for it where there is no home yet.
    if !is_watched && !server.layout().private().is_dir() {
        return;
    }
    let failed: Vec<&Line> = lines.iter().filter(|line| !line.ok).collect();
    let names = |ok: bool| lines.iter().filter(|line| line.ok == ok).map(|line| line.name.clone()).collect();
    let now = CheckState { failed: names(false), passed: names(true) };
    let before = read(server);
    if before.as_ref() == Some(&now) {
        return;
    }
    if let Err(error) = write(server, &now) {
        if !is_watched {
            tracing::debug!(error, "the state of the check can't be kept");
            return;
        }
        // Without a memory every check would be news.
        server
            .output
            .warning(format!("The state of the check can't be kept, so nobody is notified: {error}"));
        return;
    }
    let was_good = before.is_none_or(|before| before.failed.is_empty());
    let is_good = now.failed.is_empty();
    if is_watched && was_good != is_good {
        super::tell(server, &notification(server.name(), &failed));
    }
}

fn notification(server: &str, failed: &[&Line]) -> Notification {
    let good = failed.is_empty();
    let names: Vec<&str> = failed.iter().map(|line| line.name.as_str()).collect();
    let (subject, text) = if good {
        let subject = format!("barkeep: {server}: check is good again");
        (subject, format!("All checks of server {server} pass again.\n"))
    } else {
        let line = |line: &&Line| {
            format!(
                "- {}{}\n",
                line.name,
                if line.hint.is_empty() { String::new() } else { format!(": {}", line.hint) }
            )
        };
        let lines: String = failed.iter().map(line).collect();
        let subject = format!("barkeep: {server}: check FAILED: {}", names.join(", "));
        (
            subject,
            format!("Server {server} does not pass its checks:\n\n{lines}\nSee: barkeep check {server}\n"),
        )
    };
    let details: Vec<Value> =
        failed.iter().map(|line| json!({ "name": line.name, "hint": line.hint })).collect();
    let mut facts = Map::new();
    facts.insert("status".to_owned(), Value::from(if good { "OK" } else { "FAILED" }));
    facts.insert("failed".to_owned(), Value::from(details));
    Notification { event: "check", good, subject, text, facts }
}

fn path(server: &ServerContext) -> PathBuf {
    server.config.backup_directory().join(STATE_FILE)
}

/// A state that can't be read is none.
fn read(server: &ServerContext) -> Option<CheckState> {
    let path = path(server);
    let size = path.metadata().ok()?.len();
    if size > STATE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn write(server: &ServerContext, state: &CheckState) -> Result<(), String> {
    let path = path(server);
    let text = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
    }
    durable::write(&path, &text).map_err(|error| chain(&error))
}
