//! The records of a server's backups, key by key.

use barkeep_catalog::literal::Literal;
use barkeep_catalog::{BackupInfo, backup_info};
use serde_json::{Map, Value, json};

use crate::command::shown::isoformat;
use crate::context::ServerContext;

/// The keys whose values are numbers.
const NUMBERS: [&str; 8] = [
    "begin_offset",
    "cluster_size",
    "deduplicated_size",
    "end_offset",
    "size",
    "timeline",
    "version",
    "xlog_segment_size",
];
/// The keys whose values are Python's notation of something.
const LITERALS: [&str; 4] = ["copy_stats", "included_files", "snapshots_info", "tablespaces"];

/// All backups of a server; what can't be read goes into `messages`.
pub(super) fn all(server: &ServerContext, messages: &mut Vec<String>) -> Value {
    let backups = match server.catalog().current() {
        Ok(backups) => backups,
        Err(error) => {
            messages.push(error.to_string());
            return json!({});
        }
    };
    messages.extend(backups.faults.iter().map(ToString::to_string));
    let entry = |backup: &BackupInfo| match record(backup) {
        Ok(record) => Some((backup.id.to_string(), record)),
        Err(error) => {
            messages.push(format!("backup {}: {error}", backup.id));
            None
        }
    };
    Value::Object(backups.iter().filter_map(entry).collect())
}

/// A record, through its text: what is there as a key is there as a key.
pub(in crate::command) fn record(backup: &BackupInfo) -> Result<Value, backup_info::Unrepresentable> {
    let text = backup_info::render(backup)?;
    let entry = |(key, text): (&str, &str)| (key.to_owned(), value(backup, key, text));
    let mut record: Map<String, Value> =
        text.lines().filter_map(|line| line.split_once('=')).map(entry).collect();
    record.insert("backup_id".to_owned(), json!(backup.id.to_string()));
    Ok(Value::Object(record))
}

fn value(backup: &BackupInfo, key: &str, text: &str) -> Value {
    match key {
        _ if text == "None" => Value::Null,
        "begin_time" => json!(backup.begin_time.as_ref().map(isoformat)),
        "end_time" => json!(backup.end_time.as_ref().map(isoformat)),
        "children_backup_ids" => text.split(',').collect(),
        _ if NUMBERS.contains(&key) => number(text),
        _ if LITERALS.contains(&key) => {
            Literal::parse(text).map_or(json!(text), |literal| of_literal(&literal))
        }
        _ => json!(text),
    }
}

fn of_literal(literal: &Literal) -> Value {
    match literal {
        Literal::None => Value::Null,
        Literal::Bool(on) => json!(on),
        Literal::Number(text) => number(text),
        Literal::Text(text) => json!(text),
        Literal::List(items) | Literal::Tuple(items) => items.iter().map(of_literal).collect(),
        Literal::Dict(entries) => {
            let key = |key: &Literal| key.as_text().map_or_else(|| key.to_string(), str::to_owned);
            Value::Object(entries.iter().map(|(name, value)| (key(name), of_literal(value))).collect())
        }
    }
}

fn number(text: &str) -> Value {
    let whole = text.parse::<i64>().map(|number| json!(number));
    whole.or_else(|_| text.parse::<f64>().map(|number| json!(number))).unwrap_or_else(|_| json!(text))
}
