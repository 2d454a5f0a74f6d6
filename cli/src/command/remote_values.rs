//! What a running server says of itself, key by key as Barman shows it.
//!
//! Which keys there are depends on what was asked, and on whether there was an answer.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::config_values::Spelling;
use super::shown::{datetime, on_off};
use crate::config::{BackupMethod, ServerConfig};
use crate::live::{Answer, Archiver, Live, Slot, Sql, Streaming};

type Values = BTreeMap<String, Value>;

/// The server's own account of itself; nothing for one that isn't asked.
pub(super) fn of_live(config: &ServerConfig, live: &Live, spelling: Spelling) -> Values {
    let mut values = Values::new();
    if config.passive() || !config.active() {
        return values;
    }
    let sql = live.sql.known();
    of_sql(&mut values, sql, spelling);
    if let Some(streaming) = &live.streaming {
        of_streaming(&mut values, sql, streaming);
    }
    let compatible = json!(sql.map(|_| true));
    if config.streaming_archiver() {
        for (key, value) in built_in(&compatible) {
            values.insert(format!("pg_receivexlog_{key}"), value);
        }
        values.insert("pg_receivexlog_supports_slots".to_owned(), compatible.clone());
        values.insert(
            "pg_receivexlog_synchronous".to_owned(),
            json!(sql.map(|sql| is_synchronous(config, sql))),
        );
    }
    if config.archiver() {
        let setting = |name: &str| json!(sql.and_then(|sql| sql.setting(name)));
        values.insert("archive_mode".to_owned(), setting("archive_mode"));
        values.insert("archive_command".to_owned(), setting("archive_command"));
        if let Some(archiver) = sql.and_then(|sql| sql.archiver.as_ref()) {
            of_archiver(&mut values, archiver, spelling);
        }
    }
    if config.backup_method() == BackupMethod::Postgres {
        for (key, value) in built_in(&compatible) {
            values.insert(format!("pg_basebackup_{key}"), value);
        }
        for key in ["bwlimit", "tbls_mapping"] {
            values.insert(format!("pg_basebackup_{key}"), json!(true));
        }
    }
    values
}

/// The program that speaks the replication protocol is this one.
fn built_in(compatible: &Value) -> [(&'static str, Value); 4] {
    let path = std::env::current_exe().ok().map(|path| path.display().to_string());
    [
        ("installed", json!(true)),
        ("path", json!(path)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("compatible", compatible.clone()),
    ]
}

/// Whether the server waits for the receiver before it confirms a commit.
fn is_synchronous(config: &ServerConfig, sql: &Sql) -> bool {
    let names = sql.synchronous_standby_names();
    names.iter().any(|name| name == "*" || name == config.streaming_archiver_name())
}

fn of_sql(values: &mut Values, sql: Option<&Sql>, spelling: Spelling) {
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    put(
        "data_directory",
        json!(
            sql.filter(|sql| sql.may_back_up && sql.may_monitor)
                .and_then(|sql| sql.setting("data_directory"))
        ),
    );
    put("server_txt_version", json!(sql.map(|sql| &sql.version_text)));
    put("is_superuser", json!(sql.map(|sql| sql.is_superuser)));
    put("is_in_recovery", json!(sql.map(|sql| sql.in_recovery)));
    put("current_xlog", json!(sql.and_then(Sql::current_segment).map(|segment| segment.to_string())));
    put("replication_slot_support", json!(sql.map(|_| true)));
    put("replication_slot", json!(sql.and_then(|sql| sql.slot.as_ref()).map(|slot| of_slot(slot, spelling))));
    put("synchronous_standby_names", json!(sql.map(Sql::synchronous_standby_names)));
    put("postgres_systemid", json!(sql.and_then(|sql| sql.system_id.as_ref())));
    put("version_supported", json!(sql.map(|sql| sql.version >= 130_000)));
    let Some(sql) = sql else { return };
    for key in [
        "config_file",
        "data_checksums",
        "hba_file",
        "hot_standby",
        "ident_file",
        "max_replication_slots",
        "max_wal_senders",
        "wal_compression",
        "wal_keep_size",
        "wal_level",
    ] {
        put(key, json!(sql.setting(key)));
    }
    for key in ["archive_timeout", "checkpoint_timeout"] {
        put(key, json!(sql.setting(key).and_then(|text| text.parse::<i64>().ok())));
    }
    put("xlog_segment_size", json!(sql.segment_size().map(pgwal::SegmentSize::bytes)));
    put("has_backup_privileges", json!(sql.may_back_up && sql.may_monitor));
    put("has_monitoring_privileges", json!(sql.may_monitor));
    put("current_lsn", json!(sql.position.map(|lsn| lsn.to_string())));
    let size = match spelling {
        Spelling::Show => json!(sql.size_bytes.map(|bytes| bytes.to_string())),
        Spelling::Diagnose => json!(sql.size_bytes.map(|bytes| bytes as f64)),
    };
    put("current_size", size);
}

fn of_streaming(values: &mut Values, sql: Option<&Sql>, answer: &Answer<Streaming>) {
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    let streaming = answer.known();
    put("connection_error", json!(answer.failure()));
    put("streaming", json!(streaming.map(|_| true)));
    put("streaming_supported", json!(streaming.map(|_| true)));
    put("streaming_systemid", json!(streaming.map(|streaming| &streaming.system_id)));
    put("timeline", json!(streaming.map(|streaming| streaming.timeline.as_u32())));
    put("xlogpos", json!(streaming.map(|streaming| streaming.position.to_string())));
    put("version_supported", json!(streaming.map(|_| sql.is_none_or(|sql| sql.version >= 130_000))));
}

fn of_archiver(values: &mut Values, archiver: &Archiver, spelling: Spelling) {
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    let time = |time: Option<Timestamp>| {
        let text = time.map(|time| datetime(&time.to_zoned(jiff::tz::TimeZone::system())));
        json!(match spelling {
            Spelling::Show => text,
            Spelling::Diagnose => text.map(|text| text.replacen(' ', "T", 1)),
        })
    };
    put("archived_count", json!(archiver.archived_count));
    put("last_archived_wal", json!(archiver.last_archived));
    put("last_archived_time", time(archiver.last_archived_time));
    put("failed_count", json!(archiver.failed_count));
    put("last_failed_wal", json!(archiver.last_failed));
    put("last_failed_time", time(archiver.last_failed_time));
    put("stats_reset", time(archiver.since));
    put("is_archiving", json!(archiver.works));
    put("current_archived_wals_per_second", json!(archiver.per_second));
}

/// A named tuple: Python's text of it, or its members.
fn of_slot(slot: &Slot, spelling: Spelling) -> Value {
    let lsn = slot.restart_lsn.map(|lsn| lsn.to_string());
    match spelling {
        Spelling::Diagnose => json!([slot.name, slot.active, lsn]),
        Spelling::Show => {
            let lsn = lsn.map_or_else(|| "None".to_owned(), |lsn| format!("'{lsn}'"));
            let active = on_off(slot.active);
            json!(format!("Record(slot_name='{}', active={active}, restart_lsn={lsn})", slot.name))
        }
    }
}
