//! What scripts are told: environment variables by Barman's names.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use barkeep_catalog::{BackupId, BackupInfo, Backups, Layout};
use serde_json::{Map, Value};

/// The variables that tell of one event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<&'static str, OsString>,
}

/// A WAL file that is archived or deleted.
#[derive(Debug, Clone)]
pub(crate) struct WalFacts<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: &'a Path,
    pub(crate) size: u64,
    /// As `xlog.db` has it: seconds since 1970, with a fraction.
    pub(crate) time: &'a str,
    pub(crate) compression: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
}

/// A restore.
#[derive(Debug, Clone)]
pub(crate) struct Recovery<'a> {
    pub(crate) destination: &'a Path,
    /// Tablespaces that go elsewhere than they came from: name and place.
    pub(crate) tablespaces: BTreeMap<String, String>,
    pub(crate) remote_command: Option<&'a str>,
    /// Options of the restore, by Barman's names for them.
    pub(crate) options: Map<String, Value>,
}

impl Environment {
    /// What a script around the backup or the deletion of `info` is told, `previous` and `next` being the usable backups
    /// beside it.
    pub(crate) fn of_backup(
        layout: &Layout,
        info: &BackupInfo,
        previous: Option<BackupId>,
        next: Option<BackupId>,
    ) -> Self {
        let id = |id: Option<BackupId>| id.map(|id| id.to_string()).unwrap_or_default();
        let mut environment = Environment::default();
        environment.set("BARMAN_BACKUP_DIR", layout.backup(info.id));
        environment.set("BARMAN_BACKUP_ID", info.id.to_string());
        environment.set("BARMAN_BACKUP_INFO_PATH", layout.backup_info(info.id));
        environment.set("BARMAN_PREVIOUS_ID", id(previous));
        environment.set("BARMAN_NEXT_ID", id(next));
        environment.set("BARMAN_STATUS", info.status.as_str());
        environment.set("BARMAN_ERROR", info.error.as_deref().unwrap_or_default());
        environment
    }

    /// What a script around the backup `info` is told, its neighbours being looked up.
    pub(crate) fn of_backup_among(layout: &Layout, backups: &Backups, info: &BackupInfo) -> Self {
        let id = |backup: Option<&BackupInfo>| backup.map(|info| info.id);
        let (previous, next) = (backups.usable_before(info.id), backups.usable_after(info.id));
        Self::of_backup(layout, info, id(previous), id(next))
    }

    /// What a script around the archiving or deletion of a WAL file is told.
    pub(crate) fn of_wal(facts: &WalFacts<'_>) -> Self {
        let mut environment = Environment::default();
        environment.set("BARMAN_SEGMENT", facts.name);
        environment.set("BARMAN_FILE", facts.path);
        environment.set("BARMAN_SIZE", facts.size.to_string());
        environment.set("BARMAN_TIMESTAMP", facts.time);
        environment.set("BARMAN_COMPRESSION", facts.compression.unwrap_or_default());
        environment.set("BARMAN_ERROR", facts.error.unwrap_or_default());
        environment
    }

    /// The same, with what went wrong.
    pub(crate) fn with_error(mut self, error: &str) -> Self {
        self.set("BARMAN_ERROR", error);
        self
    }

    /// What a script around a restore of `info` is told.
    pub(crate) fn of_recovery(
        layout: &Layout,
        backups: &Backups,
        info: &BackupInfo,
        recovery: &Recovery<'_>,
    ) -> Self {
        let mut environment = Self::of_backup_among(layout, backups, info);
        let tablespaces =
            recovery.tablespaces.iter().map(|(name, to)| (name.clone(), Value::from(to.as_str())));
        environment.set("BARMAN_DESTINATION_DIRECTORY", recovery.destination);
        environment.set("BARMAN_TABLESPACES", python_json(&tablespaces.collect()));
        environment.set("BARMAN_REMOTE_COMMAND", recovery.remote_command.unwrap_or_default());
        environment.set("BARMAN_RECOVER_OPTIONS", python_json(&recovery.options));
        environment.set("BARMAN_ERROR", "");
        environment
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_os_str()))
    }

    fn set(&mut self, name: &'static str, value: impl AsRef<OsStr>) {
        // A variable cannot hold a null byte; nothing in a catalogue should.
        let value = value.as_ref();
        let clean = !value.as_encoded_bytes().contains(&0);
        self.variables.insert(name, if clean { value.to_owned() } else { OsString::new() });
    }
}

/// A flat object as Python writes it: spaces after commas and colons, ASCII alone. Nothing for an empty one.
fn python_json(object: &Map<String, Value>) -> String {
    if object.is_empty() {
        return String::new();
    }
    let entry =
        |(key, value): (&String, &Value)| format!("{}: {}", ascii(&Value::from(key.as_str())), ascii(value));
    // Keys come sorted.
    format!("{{{}}}", object.iter().map(entry).collect::<Vec<_>>().join(", "))
}

fn ascii(value: &Value) -> String {
    let text = value.to_string();
    if text.is_ascii() {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
        } else {
            let mut units = [0; 2];
            escaped.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_pythons() {
        let check = |value: Value, expected: &str| {
            assert_eq!(python_json(value.as_object().unwrap()), expected);
        };
        check(json!({}), "");
        check(
            json!({"target_time": "2026-11-22 10:00:00", "exclusive": true}),
            "{\"exclusive\": true, \"target_time\": \"2026-11-22 10:00:00\"}",
        );
        check(json!({"sp\"\u{e4}\u{1f600}": "/x"}), "{\"sp\\\"\\u00e4\\ud83d\\ude00\": \"/x\"}");
    }
}
