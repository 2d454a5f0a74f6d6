//! `diagnose`: everything that helps to find out what is wrong, as one JSON text.

mod backups;
mod system;

use std::collections::BTreeMap;

use barkeep_catalog::{Layout, xlogdb};
use pgwal::WalFile;
use serde_json::{Map, Value, json};

pub(super) use backups::record;

use super::config_values::{self, Spelling};
use super::remote_values;
use crate::args::DiagnoseArgs;
use crate::config::Config;
use crate::context::{Context, ServerContext};
use crate::error::CommandError;
use crate::live::Live;
use crate::output::text;

/// Tells all. Works in spite of conflicts between servers, and tells of them.
///
/// # Errors
/// When the event loop can't be started; what is wrong with a server is in its part of the answer.
pub fn run(context: &mut Context, args: &DiagnoseArgs) -> Result<(), CommandError> {
    let with_source = args.show_config_source;
    let mut servers = Map::new();
    for server in context.all_servers() {
        let report = server_report(context, &server, with_source)?;
        servers.insert(server.name().to_owned(), report);
    }
    let config = context.config();
    let models: Map<String, Value> = config
        .models
        .values()
        .map(|model| {
            let values = config_values::of_model(model, Spelling::Diagnose);
            (model.name().to_owned(), json!({ "config": sourced(config, model.name(), values, with_source) }))
        })
        .collect();
    let mut report = json!({
        "global": { "config": global_config(config, with_source), "system_info": system::info(context.now()) },
        "servers": servers,
        "models": models,
    });
    crate::output::redact_json(&mut report);
    let mut rendered = String::new();
    text::json_indented(&report, 0, &mut rendered);
    context.output().answer(&rendered);
    Ok(())
}

fn server_report(
    context: &mut Context,
    server: &ServerContext,
    with_source: bool,
) -> Result<Value, CommandError> {
    let live = Live::ask_patiently(context, server)?;
    let config = &server.config;
    let mut values = config_values::of_server(config, Spelling::Diagnose);
    // Barman shows here what the connections said of the configuration.
    let status = remote_values::of_live(config, &live, Spelling::Diagnose);
    let mut messages = config.faults().to_vec();
    let backups = backups::all(server, &mut messages);
    values.insert("disabled".to_owned(), json!(config.disabled()));
    let mut sourced_values = sourced(context.config(), server.name(), values, with_source);
    if let (true, Some(model)) = (with_source, config.active_model()) {
        attribute_to_model(context.config(), model, &mut sourced_values);
    }
    Ok(json!({
        "active_model": config.active_model(),
        "backups": backups,
        "config": sourced_values,
        "msg_list": messages,
        "status": status,
        "wals": { "last_archived_wal_per_timeline": newest_wal(&server.layout()) },
    }))
}

fn global_config(config: &Config, with_source: bool) -> Value {
    let global = &config.global;
    let mut values: BTreeMap<String, Value> =
        global.options.iter().map(|(key, text)| (key.clone(), json!(text))).collect();
    values.insert("barman_lock_directory".to_owned(), json!(global.lock_directory.display().to_string()));
    values.insert("lock_directory_cleanup".to_owned(), json!(global.lock_directory_cleanup));
    let queue = global.config_changes_queue.display().to_string();
    values.insert("config_changes_queue".to_owned(), json!(queue));
    let mut values = sourced(config, "barman", values, with_source);
    values.insert("errors_list".to_owned(), json!(config.conflicts));
    Value::Object(values)
}

/// The values, each with the file it comes from when that is asked for.
fn sourced(
    config: &Config,
    section: &str,
    values: BTreeMap<String, Value>,
    with_source: bool,
) -> Map<String, Value> {
    let with = |(key, value): (String, Value)| {
        let value = if with_source {
            json!({ "source": source(config, section, &key), "value": value })
        } else {
            value
        };
        (key, value)
    };
    values.into_iter().map(with).collect()
}

fn source(config: &Config, section: &str, key: &str) -> String {
    config.file_of(section, key).map_or_else(|| "default".to_owned(), |path| path.display().to_string())
}

/// What a model in force has set comes from the model's file.
fn attribute_to_model(config: &Config, model: &str, values: &mut Map<String, Value>) {
    let overridden = config.models.get(model).into_iter().flat_map(|model| model.overrides());
    for (key, _) in overridden {
        if let Some(Value::Object(value)) = values.get_mut(key) {
            value.insert("source".to_owned(), json!(source(config, model, key)));
        }
    }
}

/// The newest segment of each timeline, by what the archive holds rather than by what its list says.
fn newest_wal(layout: &Layout) -> Value {
    let mut newest = BTreeMap::new();
    for (file, path) in xlogdb::archived_files(layout).unwrap_or_default() {
        if let WalFile::Segment(segment) = file {
            newest.insert(segment.timeline(), (file, path));
        }
    }
    let entry = |(timeline, (file, path)): (pgwal::TimelineId, (WalFile, std::path::PathBuf))| {
        let entry = xlogdb::WalEntry::of_file(file, &path).ok()?;
        let facts = json!({
            "name": file.to_string(),
            "size": entry.size,
            "time": entry.time,
            "compression": entry.compression,
            "encryption": entry.encryption,
        });
        Some((format!("{:08X}", timeline.as_u32()), facts))
    };
    Value::Object(newest.into_iter().filter_map(entry).collect())
}
