//! Keys and values as Barman shows them: Python's text of Python's values.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::command::shown::{datetime, on_off};
use crate::config::{BackupMethod, ServerConfig, Value as Setting};
use crate::live::{Archiver, Live, Sql};

type Values = BTreeMap<String, Value>;

/// What the configuration says.
pub(super) fn of_configuration(values: &mut Values, config: &ServerConfig) {
    for (key, setting) in config.settings() {
        values.insert(key.to_owned(), setting_value(key, &setting.value));
    }
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    put("name", json!(config.name()));
    put("active_model", json!(config.active_model()));
    put("disabled", json!(config.disabled()));
    put("passive_node", json!(config.passive()));
    put("minimum_redundancy", json!(config.minimum_redundancy()));
    if matches!(crate::verdicts::policy(config), Ok(Some(_))) {
        put("wal_retention_policy", json!("MAIN"));
    }
    if config.backup_method() == BackupMethod::Postgres {
        // The method allows nothing else.
        put("backup_options", json!("BackupOptions({'concurrent_backup'})"));
    }
}

/// What the server says; a server that does not answer has these keys without values.
pub(super) fn of_server(values: &mut Values, live: &Live) {
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    let sql = live.sql.known();
    let setting = |name: &str| json!(sql.and_then(|sql| sql.setting(name)));
    let streaming = live.streaming.as_ref().and_then(crate::live::Answer::known);
    let error = live.sql.failure().or_else(|| live.streaming.as_ref()?.failure());
    put("connection_error", json!(error));
    for key in [
        "archive_command",
        "archive_mode",
        "config_file",
        "data_directory",
        "hba_file",
        "hot_standby",
        "ident_file",
        "max_replication_slots",
        "max_wal_senders",
        "wal_compression",
        "wal_keep_size",
        "wal_level",
    ] {
        put(key, setting(key));
    }
    let number = |name: &str| json!(sql.and_then(|sql| sql.setting(name)?.parse::<i64>().ok()));
    put("archive_timeout", number("archive_timeout"));
    put("checkpoint_timeout", number("checkpoint_timeout"));
    put("data_checksums", setting("data_checksums"));
    put("xlog_segment_size", json!(sql.and_then(Sql::segment_size).map(pgwal::SegmentSize::bytes)));
    put("server_txt_version", json!(sql.map(|sql| &sql.version_text)));
    put("version_supported", json!(sql.map(|sql| sql.version >= 130_000)));
    put("is_superuser", json!(sql.map(|sql| sql.is_superuser)));
    put("has_backup_privileges", json!(sql.map(|sql| sql.may_back_up)));
    put("has_monitoring_privileges", json!(sql.map(|sql| sql.may_monitor)));
    put("is_in_recovery", json!(sql.map(|sql| sql.in_recovery)));
    put("current_lsn", json!(sql.and_then(|sql| sql.position).map(|lsn| lsn.to_string())));
    put("current_xlog", json!(sql.and_then(Sql::current_segment).map(|segment| segment.to_string())));
    put("current_size", json!(sql.and_then(|sql| sql.size_bytes).map(|bytes| bytes.to_string())));
    put("postgres_systemid", json!(sql.and_then(|sql| sql.system_id.as_ref())));
    put("synchronous_standby_names", json!(sql.map(Sql::synchronous_standby_names)));
    put("replication_slot_support", json!(sql.map(|_| true)));
    put("replication_slot", json!(sql.and_then(slot)));
    put("streaming", json!(streaming.map(|_| true)));
    put("streaming_supported", json!(streaming.map(|_| true)));
    put("streaming_systemid", json!(streaming.map(|streaming| &streaming.system_id)));
    put("timeline", json!(streaming.map(|streaming| streaming.timeline.as_u32())));
    put("xlogpos", json!(streaming.map(|streaming| streaming.position.to_string())));
    if let Some(archiver) = sql.and_then(|sql| sql.archiver.as_ref()) {
        of_archiver(values, archiver);
    }
}

fn of_archiver(values: &mut Values, archiver: &Archiver) {
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    let time = |time: Option<Timestamp>| {
        json!(time.map(|time| datetime(&time.to_zoned(jiff::tz::TimeZone::system()))))
    };
    put("archived_count", json!(archiver.archived_count));
    put("last_archived_wal", json!(archiver.last_archived));
    put("last_archived_time", time(archiver.last_archived_time));
    put("failed_count", json!(archiver.failed_count));
    put("last_failed_wal", json!(archiver.last_failed));
    put("last_failed_time", time(archiver.last_failed_time));
    put("stats_reset", time(archiver.since));
    put("is_archiving", json!(archiver.works()));
    put("current_archived_wals_per_second", json!(archiver.per_second));
}

fn slot(sql: &Sql) -> Option<String> {
    let slot = sql.slot.as_ref()?;
    let restart = slot.restart_lsn.map_or_else(|| "None".to_owned(), |lsn| format!("'{lsn}'"));
    let active = on_off(slot.active);
    Some(format!("Record(slot_name='{}', active={active}, restart_lsn={restart})", slot.name))
}

fn setting_value(key: &str, setting: &Setting) -> Value {
    match (key, setting) {
        ("backup_options", setting) => json!(options("BackupOptions", setting)),
        ("recovery_options", setting) => json!(options("RecoveryOptions", setting)),
        ("last_backup_maximum_age", Setting::Unset) => json!("None"),
        (_, Setting::Unset) => Value::Null,
        (_, Setting::Text(text)) => json!(text),
        (_, Setting::Integer(number)) => json!(number),
        (_, Setting::Boolean(on)) => json!(on),
        (_, Setting::Size(bytes)) => json!(bytes),
        (_, Setting::List(words)) => json!(words),
        (_, Setting::Interval(interval)) => json!(timedelta(interval.duration())),
    }
}

/// A set of words as `Name({'a', 'b'})`.
fn options(name: &str, setting: &Setting) -> String {
    match setting {
        Setting::List(words) if !words.is_empty() => {
            let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            format!("{name}({{{}}})", words.join(", "))
        }
        _ => format!("{name}()"),
    }
}

/// Python's text of a `timedelta`.
fn timedelta(time: Duration) -> String {
    let (days, seconds) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    let clock = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match days {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

/// Python's text of a value.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(on) => on_off(*on).to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let item = |value: &Value| match value {
                Value::String(text) => format!("'{text}'"),
                other => text(other),
            };
            format!("[{}]", values.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_python_prints_them() {
        assert_eq!(text(&json!(null)), "None");
        assert_eq!(text(&json!(true)), "True");
        assert_eq!(text(&json!(["", "a"])), "['', 'a']");
        assert_eq!(timedelta(Duration::from_secs(14 * 86_400)), "14 days, 0:00:00");
        assert_eq!(timedelta(Duration::from_secs(3600)), "1:00:00");
        assert_eq!(
            options("RecoveryOptions", &Setting::List(vec!["get-wal".into()])),
            "RecoveryOptions({'get-wal'})"
        );
        assert_eq!(options("RecoveryOptions", &Setting::Unset), "RecoveryOptions()");
    }
}
