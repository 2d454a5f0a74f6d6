//! The answer as JSON.

use std::time::Duration;

use barkeep_catalog::BackupType;
use serde_json::{Map, Value, json};

use super::super::shown::{datetime, epoch, hourly, percent};
use super::console;
use super::facts::Facts;
use crate::output::text::{duration, size, size_u64};
use crate::output::{Report, Style};

/// Why the sums may mislead.
pub(super) const TIMELINES_WARNING: &str =
    "WAL information is inaccurate due to multiple timelines interacting with this backup";

impl Report for Facts<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let backup = self.backup;
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("backup_id", json!(backup.id.to_string()));
        if let Some(name) = &backup.backup_name {
            put("backup_name", json!(name));
        }
        if let Some(system_id) = &backup.system_id {
            put("system_id", json!(system_id));
        }
        put("status", json!(backup.status.as_str()));
        put(
            "server_information",
            json!({ "data_checksums": backup.data_checksums, "summarize_wal": backup.summarize_wal }),
        );
        if self.usable() {
            put("backup_type", json!(backup.backup_type().as_str()));
            put("postgresql_version", json!(backup.version));
            put("pgdata_directory", json!(backup.pgdata));
            if let Some(bytes) = backup.cluster_size {
                put("cluster_size", json!(size_u64(bytes)));
                put("cluster_size_bytes", json!(bytes));
            }
            put("tablespaces", tablespaces(self));
            put("base_backup_information", base_backup(self));
            put("wal_information", wal(self));
            put("catalog_information", catalog(self));
        } else if let Some(error) = &backup.error {
            put("error", json!(error));
        }
        if let Some(drill) = &self.drill {
            object.insert("drill_information".to_owned(), drill.json());
        }
        Value::Object(object)
    }

    fn console(&self, _: Style) -> String {
        console::render(self)
    }
}

fn tablespaces(facts: &Facts<'_>) -> Value {
    let spaces = facts.backup.tablespaces.iter();
    spaces.map(|space| json!({ "name": space.name, "oid": space.oid, "location": space.location })).collect()
}

fn base_backup(facts: &Facts<'_>) -> Value {
    let (backup, wal) = (facts.backup, facts.wal);
    let text = |value: Option<String>| json!(value);
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("backup_method", json!(backup.mode));
    put("encryption", json!(backup.encryption));
    put("compression", json!(backup.compression));
    put("backup_size", json!(size_u64(facts.stored_bytes())));
    put("backup_size_bytes", json!(facts.stored_bytes()));
    put("backup_size_with_wals", json!(size_u64(facts.stored_bytes_with_wal())));
    put("backup_size_with_wals_bytes", json!(facts.stored_bytes_with_wal()));
    put("wal_size", json!(size_u64(wal.own.bytes)));
    put("wal_size_bytes", json!(wal.own.bytes));
    put("wal_num", json!(wal.own.count));
    if let Some(saved) = wal.own.saved(backup.segment_size) {
        put("wal_compression_ratio", json!(percent(saved)));
    }
    if let Some(saved) = facts.saved() {
        put("resources_saved", json!(size(saved.bytes as f64)));
        put("resources_saved_bytes", json!(saved.bytes));
        put("resources_saved_percentage", json!(percent(saved.share)));
    }
    put("timeline", json!(backup.timeline.map(pgwal::TimelineId::as_u32)));
    put("begin_wal", text(backup.begin_wal.map(|wal| wal.to_string())));
    put("end_wal", text(backup.end_wal.map(|wal| wal.to_string())));
    put("begin_time", text(backup.begin_time.as_ref().map(datetime)));
    put("begin_time_timestamp", text(backup.begin_time.as_ref().map(epoch)));
    put("end_time", text(backup.end_time.as_ref().map(datetime)));
    put("end_time_timestamp", text(backup.end_time.as_ref().map(epoch)));
    put("begin_offset", json!(backup.begin_offset));
    put("end_offset", json!(backup.end_offset));
    put("begin_lsn", text(backup.begin_xlog.map(|lsn| lsn.to_string())));
    put("end_lsn", text(backup.end_xlog.map(|lsn| lsn.to_string())));
    if let Some(copy) = facts.copy() {
        let text = |seconds: f64| json!(duration(Duration::try_from_secs_f64(seconds).unwrap_or_default()));
        put("copy_time", text(copy.seconds));
        put("copy_time_seconds", json!(copy.seconds));
        if let Some(analysis) = copy.analysis_seconds {
            put("analysis_time", text(analysis));
            put("analysis_time_seconds", json!(analysis));
        }
        if let Some(rate) = copy.bytes_per_second {
            put("throughput", json!(format!("{}/s", size(rate))));
            put("throughput_bytes", json!(rate as u64));
        }
        put("number_of_workers", json!(copy.workers));
    }
    Value::Object(object)
}

fn wal(facts: &Facts<'_>) -> Value {
    let wal = facts.wal;
    let rate = wal.segments_per_second.filter(|_| wal.later.count > 0);
    let saved = wal.later.saved(facts.backup.segment_size);
    let timelines: Vec<String> = facts.timelines.iter().map(ToString::to_string).collect();
    let mut object = json!({
        "no_of_files": wal.later.count,
        "disk_usage": size_u64(wal.later.bytes),
        "disk_usage_bytes": wal.later.bytes,
        "wal_rate": rate.map_or(json!(0), |rate| json!(hourly(rate))),
        "wal_rate_per_second": rate.map_or(json!(0), |rate| json!(rate)),
        "compression_ratio": saved.map_or(json!(0), |saved| json!(percent(saved))),
        "last_available": wal.last.map(|name| name.to_string()),
        "timelines": timelines,
    });
    if let (false, Some(object)) = (facts.timelines.is_empty(), object.as_object_mut()) {
        object.insert("_WARNING".to_owned(), json!(TIMELINES_WARNING));
    }
    object
}

fn catalog(facts: &Facts<'_>) -> Value {
    let backup = facts.backup;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("retention_policy", json!(facts.retention()));
    put("previous_backup", json!(facts.previous_text()));
    put("next_backup", json!(facts.next_text()));
    if facts.streamed() {
        let children: Vec<String> = backup.children_backup_ids.iter().map(ToString::to_string).collect();
        put("children_backup_ids", if children.is_empty() { Value::Null } else { json!(children) });
    }
    if backup.backup_type() == BackupType::Incremental {
        put("root_backup_id", json!(facts.chain.last().map(ToString::to_string)));
        put("parent_backup_id", json!(backup.parent_backup_id.map(|id| id.to_string())));
        put("chain_size", json!(facts.chain.len()));
    }
    Value::Object(object)
}
