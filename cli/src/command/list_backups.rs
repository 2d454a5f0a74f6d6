//! `list-backups`: the backups of servers, newest first.

use barkeep_catalog::{BackupInfo, Status, xlogdb};
use barkeep_retention::Verdict;
use serde_json::{Map, Value, json};

use super::shown::{LastDrill, ctime, epoch};
use crate::archive_stats::ArchiveStats;
use crate::args::ListBackupsArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::text::size_u64;
use crate::output::{Report, Style};
use crate::verdicts::Verdicts;

struct List<'a> {
    server: &'a str,
    lines: Vec<Line>,
    minimal: bool,
    drills: bool,
}

struct Line {
    id: String,
    name: Option<String>,
    kind: &'static str,
    status: Status,
    drill: Option<LastDrill>,
    /// Of usable backups only.
    detail: Option<Detail>,
}

struct Detail {
    end_time: Option<jiff::Zoned>,
    /// The backup with the WAL it needs, in bytes.
    size: u64,
    /// The WAL after it, in bytes.
    wal_size: u64,
    verdict: Option<Verdict>,
}

/// Lists the backups of the servers. A record that can't be read is an error that is told, and hides no other backup.
///
/// # Errors
/// When a server is unknown, or its catalogue can't be read.
pub fn run(context: &mut Context, args: &ListBackupsArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Query)? {
        let backups = server.catalog().current()?;
        for fault in &backups.faults {
            server.output.error(fault.to_string());
        }
        let lines = if args.minimal {
            backups.iter().rev().map(|backup| Line::new(backup, None, None)).collect()
        } else {
            detailed(context, &server, &backups)?
        };
        let list = List { server: server.name(), lines, minimal: args.minimal, drills: args.drills };
        context.output().report(&list);
    }
    Ok(())
}

fn detailed(
    context: &Context,
    server: &ServerContext,
    backups: &barkeep_catalog::Backups,
) -> Result<Vec<Line>, CommandError> {
    // The list of archived files may be large, and says nothing where there is no backup.
    let wals = match backups.by_id.is_empty() {
        true => ArchiveStats::default(),
        false => ArchiveStats::new(&xlogdb::read(&server.layout())?.entries),
    };
    let verdicts = Verdicts::judge(server, backups, context.now())?;
    let detail = |backup: &BackupInfo| {
        let wal = wals.among(backups, backup);
        Detail {
            end_time: backup.end_time.clone(),
            size: backup.size.unwrap_or(0).saturating_add(wal.own.bytes),
            wal_size: wal.later.bytes,
            verdict: verdicts.of(backup.id).map(|judgement| judgement.verdict),
        }
    };
    let catalog = server.catalog();
    let line = |backup: &BackupInfo| {
        let detail = backup.status.is_usable().then(|| detail(backup));
        Line::new(backup, detail, LastDrill::of(&catalog, backup.id))
    };
    Ok(backups.iter().rev().map(line).collect())
}

impl Line {
    fn new(backup: &BackupInfo, detail: Option<Detail>, drill: Option<LastDrill>) -> Self {
        Line {
            id: backup.id.to_string(),
            name: backup.backup_name.clone(),
            kind: backup.backup_type().as_str(),
            status: backup.status,
            drill,
            detail,
        }
    }

    fn console(&self, server: &str) -> String {
        let mut line = format!("{server} {}", self.id);
        if let Some(name) = &self.name {
            line.push_str(&format!(" '{name}'"));
        }
        line.push_str(&format!(" - {} - ", self.kind[..1].to_uppercase()));
        let Some(detail) = &self.detail else { return line + self.status.as_str() };
        if let Some(end_time) = &detail.end_time {
            line.push_str(&ctime(end_time));
        }
        line.push_str(&format!(
            " - Size: {} - WAL Size: {}",
            size_u64(detail.size),
            size_u64(detail.wal_size)
        ));
        if self.status == Status::WaitingForWals {
            line.push_str(" - WAITING_FOR_WALS");
        }
        if let Some(verdict) = detail.special_verdict() {
            line.push_str(&format!(" - {verdict}"));
        }
        line
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("backup_id".to_owned(), json!(self.id));
        if let Some(name) = &self.name {
            object.insert("backup_name".to_owned(), json!(name));
        }
        object.insert("backup_type".to_owned(), json!(self.kind));
        object.insert("status".to_owned(), json!(self.status.as_str()));
        if let Some(detail) = &self.detail {
            let end = detail.end_time.as_ref();
            let values = [
                ("end_time", json!(end.map(ctime))),
                ("end_time_timestamp", json!(end.map(epoch))),
                ("retention_status", json!(detail.special_verdict().map_or("-", Verdict::as_str))),
                ("size", json!(size_u64(detail.size))),
                ("size_bytes", json!(detail.size)),
                ("wal_size", json!(size_u64(detail.wal_size))),
                ("wal_size_bytes", json!(detail.wal_size)),
            ];
            object.extend(values.map(|(key, value)| (key.to_owned(), value)));
        }
        if let Some(drill) = &self.drill {
            object.insert("drill".to_owned(), drill.json());
        }
        Value::Object(object)
    }
}

impl Detail {
    /// The verdict, unless it is the one that needs no mention.
    fn special_verdict(&self) -> Option<Verdict> {
        self.verdict.filter(|verdict| !matches!(verdict, Verdict::Valid | Verdict::None))
    }
}

impl Report for List<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        match self.minimal {
            true => self.lines.iter().map(|line| line.id.clone()).collect(),
            false => self.lines.iter().map(Line::json).collect(),
        }
    }

    fn console(&self, _: Style) -> String {
        let text = |line: &Line| {
            if self.minimal {
                return line.id.clone();
            }
            // Barman's line is Barman's: what it does not have is told to who asks for it.
            let drill = line.drill.as_ref().filter(|_| self.drills);
            let drill = drill.map(|drill| format!(" - Drill: {}", drill.text())).unwrap_or_default();
            line.console(self.server) + &drill
        };
        self.lines.iter().map(|line| text(line) + "\n").collect()
    }
}
