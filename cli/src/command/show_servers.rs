//! `show-servers`: the configuration and the state of servers, key by key.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config_values::{self, Spelling, python_text};
use super::remote_values;
use super::shown::heading;
use crate::args::ServersArgs;
use crate::config::Interval;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::live::Live;
use crate::output::text::{self, duration};
use crate::output::{Report, Style};

struct Sheet {
    heading: String,
    server: String,
    values: BTreeMap<String, Value>,
}

/// Shows the servers.
///
/// # Errors
/// When a server is unknown.
pub fn run(context: &mut Context, args: &ServersArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Query)? {
        let live = Live::ask_patiently(context, &server)?;
        let config = &server.config;
        let mut values = config_values::of_server(config, Spelling::Show);
        values.insert("active_model".to_owned(), json!(config.active_model()));
        values.insert("passive_node".to_owned(), json!(config.passive()));
        if let Some(limit) = config.last_backup_maximum_age() {
            values.insert("last_backup_maximum_age".to_owned(), json!(backup_age(context, &server, limit)));
        }
        values.extend(remote_values::of_live(config, &live, Spelling::Show));
        let sheet = Sheet { heading: heading(config), server: server.name().to_owned(), values };
        context.output().report(&sheet);
    }
    Ok(())
}

/// The limit, and how old the newest backup is.
fn backup_age(context: &Context, server: &ServerContext, limit: Interval) -> String {
    let backups = server.catalog().current().unwrap_or_default();
    let newest = backups.iter().rev().find(|backup| backup.status.is_usable());
    let age = newest
        .and_then(|backup| backup.end_time.as_ref())
        .map(|end| context.now().duration_since(end.timestamp()));
    let told = age.map_or_else(|| "No available backups".to_owned(), text::age);
    let limit_text = duration(limit.duration());
    match age {
        Some(age) if age.is_negative() || age.unsigned_abs() <= limit.duration() => {
            format!("{limit_text} (latest backup: {told} )")
        }
        _ => format!("{limit_text} (WARNING! latest backup is {told} old)"),
    }
}

impl Report for Sheet {
    fn server(&self) -> &str {
        &self.server
    }

    fn json(&self) -> Value {
        Value::Object(self.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn console(&self, _: Style) -> String {
        let lines = self.values.iter().map(|(key, value)| format!("\t{key}: {}\n", python_text(value)));
        std::iter::once(self.heading.clone()).chain(lines).collect()
    }
}
