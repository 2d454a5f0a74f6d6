//! `status`: how servers and their backups are doing.

use barkeep_catalog::{Status, gaps};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::check::gap_summary;
use super::shown::{ctime, hourly, on_off};
use crate::args::ServersArgs;
use crate::config::ServerConfig;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::live::{Archiver, Live, Sql};
use crate::output::text::size_u64;
use crate::output::{Report, Style};
use crate::verdicts;

/// A server and its lines.
struct Overview {
    server: String,
    lines: Vec<Line>,
}

/// A code for programs, words for people, and the value.
struct Line {
    code: &'static str,
    description: &'static str,
    message: String,
}

/// Shows the status of the servers. A server that does not answer is a line of its status, not a failure.
///
/// # Errors
/// When a server is unknown, or its catalogue can't be read.
pub fn run(context: &mut Context, args: &ServersArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Query)? {
        let live = Live::ask_patiently(context, &server)?;
        let mut overview = Overview { server: server.name().to_owned(), lines: Vec::new() };
        overview.configuration(&server.config);
        overview.postgresql(&server.config, &live);
        overview.backups(&server)?;
        context.output().report(&overview);
    }
    Ok(())
}

impl Overview {
    fn put(&mut self, code: &'static str, description: &'static str, message: impl Into<String>) {
        self.lines.push(Line { code, description, message: message.into() });
    }

    fn configuration(&mut self, config: &ServerConfig) {
        if let Some(description) = config.description() {
            self.put("description", "Description", description);
        }
        self.put("active", "Active", on_off(config.active()));
        self.put("disabled", "Disabled", on_off(config.disabled()));
        self.put("active_model", "Active configuration model", config.active_model().unwrap_or("None"));
    }

    fn postgresql(&mut self, config: &ServerConfig, live: &Live) {
        if config.active() && !config.passive() {
            match live.sql.known() {
                Some(sql) => self.server(config, sql),
                None => {
                    self.put("pg_version", "PostgreSQL version", "FAILED trying to get PostgreSQL version")
                }
            }
        }
        self.put("passive_node", "Passive node", on_off(config.passive()));
    }

    fn server(&mut self, config: &ServerConfig, sql: &Sql) {
        self.put("pg_version", "PostgreSQL version", &sql.version_text);
        let state = if sql.in_recovery { "in archive recovery" } else { "in production" };
        self.put("is_in_recovery", "Cluster state", state);
        if let Some(bytes) = sql.size_bytes {
            self.put("current_size", "Current data size", size_u64(bytes));
        }
        if let Some(directory) = sql.setting("data_directory") {
            self.put("data_directory", "PostgreSQL Data directory", directory);
        }
        if let Some(segment) = sql.current_segment() {
            self.put("current_xlog", "Current WAL segment", segment.to_string());
        }
        if config.archiver() {
            if let Some(command) = sql.setting("archive_command") {
                self.put("archive_command", "PostgreSQL 'archive_command' setting", command);
            }
            if let Some(archiver) = &sql.archiver {
                self.archiver(archiver);
            }
        }
    }

    fn archiver(&mut self, archiver: &Archiver) {
        let at = |name: &str, time: Option<Timestamp>| match time {
            Some(time) => format!("{name}{}", ctime(&time.to_zoned(TimeZone::system()))),
            None => name.trim_end().to_owned(),
        };
        let last = archiver.last_archived.as_deref().map_or_else(
            || "No WAL segment shipped yet".to_owned(),
            |name| at(&format!("{name}, at "), archiver.last_archived_time),
        );
        self.put("last_archived_wal", "Last archived WAL", last);
        let mut failures = archiver.failed_count.to_string();
        if let Some(name) = &archiver.last_failed {
            failures.push_str(&format!(" ({})", at(&format!("{name} at "), archiver.last_failed_time)));
        }
        self.put("failed_count", "Failures of WAL archiver", failures);
        if let Some(rate) = archiver.per_second.filter(|_| archiver.last_archived.is_some()) {
            self.put("server_archived_wals_per_hour", "Server WAL archiving rate", hourly(rate));
        }
    }

    fn backups(&mut self, server: &ServerContext) -> Result<(), CommandError> {
        let config = &server.config;
        let policy = match verdicts::policy(config) {
            Ok(Some(decree)) => format!(
                "enforced (mode: auto, retention: {}, WAL retention: {})",
                decree.policy,
                verdicts::wal_policy(config)
            ),
            Ok(None) => "not enforced".to_owned(),
            Err(error) => {
                server.output.warning(error.to_string());
                "not enforced".to_owned()
            }
        };
        self.put("retention_policies", "Retention policies", policy);
        let backups = server.catalog().current()?;
        for fault in &backups.faults {
            server.output.error(fault.to_string());
        }
        let done = backups.iter().filter(|backup| backup.status == Status::Done).count();
        self.put("backups_number", "No. of available backups", done.to_string());
        let usable: Vec<_> = backups.iter().filter(|backup| backup.status.is_usable()).collect();
        let id = |backup: Option<&&barkeep_catalog::BackupInfo>| {
            backup.map_or_else(|| "None".to_owned(), |backup| backup.id.to_string())
        };
        self.put("first_backup", "First available backup", id(usable.first()));
        self.put("last_backup", "Last available backup", id(usable.last()));
        match gaps::find(&server.catalog(), &backups) {
            Ok(Some((gaps, _))) if !gaps.is_empty() => {
                self.put("missing_wals", "Missing WAL", gap_summary(&gaps));
            }
            Ok(_) => {}
            Err(error) => {
                server.output.warning(format!("gaps in the WAL archive cannot be looked for: {error}"))
            }
        }
        let done = backups.iter().filter(|backup| backup.status == Status::Done && backup.is_root()).count();
        let minimum = config.minimum_redundancy();
        let verdict = if done >= minimum as usize { "satisfied" } else { "FAILED" };
        self.put(
            "minimum_redundancy",
            "Minimum redundancy requirements",
            format!("{verdict} ({done}/{minimum})"),
        );
        if let Some(primary) = config.text("primary_ssh_command") {
            self.put("primary_ssh_command", "SSH command to primary server", primary);
        }
        Ok(())
    }
}

impl Report for Overview {
    fn server(&self) -> &str {
        &self.server
    }

    fn json(&self) -> Value {
        let entry = |line: &Line| {
            (line.code.to_owned(), json!({ "description": line.description, "message": line.message }))
        };
        Value::Object(self.lines.iter().map(entry).collect::<Map<_, _>>())
    }

    fn console(&self, _: Style) -> String {
        let lines = self.lines.iter().map(|line| format!("\t{}: {}\n", line.description, line.message));
        // Whether it is active is one of the lines.
        std::iter::once(format!("Server {}:\n", self.server)).chain(lines).collect()
    }
}
