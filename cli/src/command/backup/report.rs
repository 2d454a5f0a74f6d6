//! What a backup says at its end.

use std::time::Duration;

use barkeep_catalog::{BackupInfo, Status, backup_info};
use serde_json::{Value, json};

use crate::context::ServerContext;
use crate::output::text;

/// The copy is complete and durable.
pub(super) fn copied(server: &ServerContext, info: &BackupInfo, elapsed: Duration) {
    let output = &server.output;
    let copy_seconds =
        info.copy_stats.as_ref().and_then(|stats| stats.get("copy_time")?.as_f64()).unwrap_or(0.0);
    let copy_time = Duration::try_from_secs_f64(copy_seconds).unwrap_or_default();
    output.info(format!("Copy done (time: {})", super::seconds(copy_time)));
    output.info("Finalising the backup.");
    if let Some(size) = info.size {
        output.info(format!("Backup size: {}", text::size_u64(size)));
    }
    if let (Some(lsn), Some(wal), Some(offset)) = (info.end_xlog, info.end_wal, info.end_offset) {
        output.info(format!("Backup end at LSN: {lsn} ({wal}, {offset:08X})"));
    }
    if let Some(begin_time) = &info.begin_time {
        let begin = begin_time.strftime("%Y-%m-%d %H:%M:%S%.6f");
        output.info(format!(
            "Backup completed (start time: {begin}, elapsed time: {})",
            super::seconds(elapsed)
        ));
    }
}

/// The record as it stands, for programs; for people a word if WAL is missing still.
pub(super) fn finished(server: &ServerContext, info: &BackupInfo) {
    for (key, value) in fields(info) {
        server.output.set(&key, value);
    }
    if info.status == Status::WaitingForWals {
        server.output.warning(format!(
            "IMPORTANT: this backup is classified as WAITING_FOR_WALS, meaning that barkeep has not received yet all \
             the required WAL files for the backup consistency. It becomes DONE when they arrive: \
             barkeep receive-wal, or archive_command, and barkeep cron see to that for server '{}'.",
            server.config.name()
        ));
    }
}

/// The record's keys as JSON: flat, numbers as numbers, times as `Sun Nov 22 10:15:39 2026`.
fn fields(info: &BackupInfo) -> Vec<(String, Value)> {
    let Ok(rendered) = backup_info::render(info) else { return Vec::new() };
    let mut fields = vec![("backup_id".to_owned(), json!(info.id.to_string()))];
    for (key, text) in rendered.lines().filter_map(|line| line.split_once('=')) {
        let value = match key {
            "begin_time" => info.begin_time.as_ref().map_or(Value::Null, ctime),
            "end_time" => info.end_time.as_ref().map_or(Value::Null, ctime),
            "copy_stats" => copy_stats(info),
            "tablespaces" => tablespaces(info),
            "begin_offset" | "end_offset" | "cluster_size" | "deduplicated_size" | "size" | "timeline"
            | "version" | "xlog_segment_size" => text.parse::<u64>().map_or(Value::Null, Value::from),
            _ if text == "None" => Value::Null,
            _ => Value::from(text),
        };
        fields.push((key.to_owned(), value));
    }
    fields
}

fn ctime(time: &jiff::Zoned) -> Value {
    Value::from(time.strftime("%a %b %e %H:%M:%S %Y").to_string())
}

fn copy_stats(info: &BackupInfo) -> Value {
    let Some(stats) = &info.copy_stats else { return Value::Null };
    let number = |key: &str| stats.get(key).and_then(|value| value.as_f64());
    json!({ "copy_time": number("copy_time"), "total_time": number("total_time") })
}

fn tablespaces(info: &BackupInfo) -> Value {
    if info.tablespaces.is_empty() {
        return Value::Null;
    }
    info.tablespaces
        .iter()
        .map(|tablespace| json!([tablespace.name, tablespace.oid, tablespace.location]))
        .collect()
}
