//! What is told of a backup to those who want to hear of it.

use barkeep_catalog::{BackupInfo, Status};
use serde_json::{Map, Value};

use super::Stop;
use crate::context::ServerContext;
use crate::notify::{self, Notification};
use crate::output::text;

/// Notifies of what came of a backup.
pub(super) fn tell(server: &ServerContext, outcome: &Result<BackupInfo, Stop>) {
    if server.config.notify().is_none() {
        return;
    }
    let notification = match outcome {
        Ok(info) => taken(server.name(), info),
        Err(Stop::Failed(error) | Stop::Interrupted(error)) => failed(server.name(), &error.to_string()),
    };
    notify::tell(server, &notification);
}

fn taken(server: &str, info: &BackupInfo) -> Notification {
    let (id, status) = (info.id, info.status.as_str());
    let size = info.size.map(text::size_u64).unwrap_or_default();
    let mut facts = Map::new();
    facts.insert("backup_id".to_owned(), Value::from(id.to_string()));
    facts.insert("status".to_owned(), Value::from(status));
    facts.insert("size".to_owned(), info.size.map_or(Value::Null, Value::from));
    let time = |time: &Option<jiff::Zoned>| {
        time.as_ref().map_or(Value::Null, |time| Value::from(time.timestamp().to_string()))
    };
    facts.insert("begin_time".to_owned(), time(&info.begin_time));
    facts.insert("end_time".to_owned(), time(&info.end_time));
    let waits = match info.status {
        Status::WaitingForWals => "It becomes DONE when the WAL that it needs is archived.\n",
        _ => "",
    };
    Notification {
        event: "backup",
        good: true,
        subject: format!("barkeep: {server}: backup {id} taken ({size})"),
        text: format!(
            "Backup {id} of server {server} has been taken.\n\nStatus: {status}\nSize: {size}\n{waits}\nSee: barkeep show-backup {server} {id}\n"
        ),
        facts,
    }
}

fn failed(server: &str, error: &str) -> Notification {
    let mut facts = Map::new();
    facts.insert("status".to_owned(), Value::from(Status::Failed.as_str()));
    facts.insert("error".to_owned(), Value::from(crate::output::redact(error)));
    Notification {
        event: "backup",
        good: false,
        subject: format!("barkeep: {server}: backup FAILED"),
        text: format!(
            "The backup of server {server} has failed.\n\n{error}\n\nSee: barkeep check {server}\n"
        ),
        facts,
    }
}
