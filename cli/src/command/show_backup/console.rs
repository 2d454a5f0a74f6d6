//! The answer as text.

use std::fmt::Display;
use std::time::Duration;

use barkeep_catalog::BackupType;

use super::super::shown::{datetime, hourly, percent};
use super::facts::Facts;
use crate::output::text::{duration, size, size_u64};

/// Lines of names and values in two depths.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("  {name:<23}: {value}\n"));
    }

    fn line(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("    {name:<21}: {value}\n"));
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }

    fn section(&mut self, title: &str) {
        self.text.push_str(&format!("  {title}:\n"));
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }
}

pub(super) fn render(facts: &Facts<'_>) -> String {
    let mut page = Page::default();
    let backup = facts.backup;
    page.text.push_str(&format!("Backup {}:\n", backup.id));
    if let Some(name) = &backup.backup_name {
        page.head("Backup Name", name);
    }
    page.head("Server Name", facts.server);
    if let Some(system_id) = &backup.system_id {
        page.head("System Id", system_id);
    }
    page.head("Status", backup.status.as_str());
    if facts.usable() {
        server_head(&mut page, facts);
    }
    page.blank();
    if backup.data_checksums.is_some() || backup.summarize_wal.is_some() {
        page.section("Server information");
        page.optional("Checksums", backup.data_checksums.as_deref());
        page.optional("WAL summarizer", backup.summarize_wal.as_deref());
        page.blank();
    }
    if facts.usable() {
        tablespaces(&mut page, facts);
        base_backup(&mut page, facts);
        page.blank();
        wal(&mut page, facts);
        page.blank();
        catalog(&mut page, facts);
    } else if let Some(error) = &backup.error {
        page.head("Error", error);
    }
    if let Some(drill) = &facts.drill {
        page.blank();
        page.section("Drill information");
        page.line("Last drill", drill.text());
        page.line("Target", &drill.drill.target);
        if let Some(commit) = &drill.drill.last_commit {
            page.line(
                "Last commit",
                format!("{} at {} (transaction {})", commit.time, commit.lsn, commit.xid),
            );
        }
        drill.drill.faults.iter().for_each(|fault| page.line("Fault", fault));
    }
    page.text
}

fn server_head(page: &mut Page, facts: &Facts<'_>) {
    if let Some(version) = facts.backup.version {
        page.head("PostgreSQL Version", version);
    }
    if let Some(pgdata) = &facts.backup.pgdata {
        page.head("PGDATA directory", pgdata);
    }
    if let Some(bytes) = facts.backup.cluster_size {
        page.head("Estimated Cluster Size", size_u64(bytes));
    }
}

fn tablespaces(page: &mut Page, facts: &Facts<'_>) {
    if facts.backup.tablespaces.is_empty() {
        return;
    }
    page.section("Tablespaces");
    for tablespace in &facts.backup.tablespaces {
        page.line(&tablespace.name, format!("{} (oid: {})", tablespace.location, tablespace.oid));
    }
    page.blank();
}

fn base_backup(page: &mut Page, facts: &Facts<'_>) {
    let (backup, wal) = (facts.backup, facts.wal);
    page.section("Base backup information");
    page.optional("Backup Method", backup.mode.as_deref());
    page.optional("Encryption", backup.encryption.as_deref());
    if facts.streamed() {
        page.line("Backup Type", backup.backup_type().as_str());
    }
    // What is zero is left out, as it is while the backup waits for its WAL.
    if facts.stored_bytes() > 0 {
        let with_wal = match wal.own.bytes {
            0 => String::new(),
            _ => format!(" ({} with WALs)", size_u64(facts.stored_bytes_with_wal())),
        };
        page.line("Backup Size", size_u64(facts.stored_bytes()) + &with_wal);
    }
    page.optional("Backup Compression", backup.compression.as_deref().filter(|name| *name != "none"));
    page.optional("WAL Size", Some(wal.own.bytes).filter(|bytes| *bytes > 0).map(size_u64));
    if let Some(saved) = facts.saved() {
        page.line("Resources saved", format!("{} ({})", size(saved.bytes as f64), percent(saved.share)));
    }
    page.optional("Timeline", backup.timeline);
    page.optional("Begin WAL", backup.begin_wal);
    page.optional("End WAL", backup.end_wal);
    page.optional("Number of WALs", Some(wal.own.count).filter(|count| *count > 0));
    page.optional("WAL compression ratio", wal.own.saved(backup.segment_size).map(percent));
    page.optional("Begin time", backup.begin_time.as_ref().map(datetime));
    page.optional("End time", backup.end_time.as_ref().map(datetime));
    copy(page, facts);
    page.optional("Begin Offset", backup.begin_offset);
    page.optional("End Offset", backup.end_offset);
    page.optional("Begin LSN", backup.begin_xlog);
    page.optional("End LSN", backup.end_xlog);
}

fn copy(page: &mut Page, facts: &Facts<'_>) {
    let Some(copy) = facts.copy() else { return };
    let text = |seconds: f64| duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let mut time = text(copy.seconds);
    if let Some(analysis) = copy.analysis_seconds {
        time.push_str(&format!(" + {} startup", text(analysis)));
    }
    page.line("Copy time", time);
    if let Some(rate) = copy.bytes_per_second {
        let jobs = if copy.workers > 1 { format!(" ({} jobs)", copy.workers) } else { String::new() };
        page.line("Estimated throughput", format!("{}/s{jobs}", size(rate)));
    }
}

fn wal(page: &mut Page, facts: &Facts<'_>) {
    let wal = facts.wal;
    page.section("WAL information");
    page.line("Number of files", wal.later.count);
    page.line("Disk usage", size_u64(wal.later.bytes));
    if wal.later.count > 0 {
        page.optional("WAL rate", wal.segments_per_second.map(hourly));
        page.optional("Compression ratio", wal.later.saved(facts.backup.segment_size).map(percent));
    }
    page.line("Last available", wal.last.map_or_else(|| "None".to_owned(), |last| last.to_string()));
    if !facts.timelines.is_empty() {
        let timelines: Vec<String> = facts.timelines.iter().map(ToString::to_string).collect();
        page.line("Reachable timelines", timelines.join(", "));
    }
}

fn catalog(page: &mut Page, facts: &Facts<'_>) {
    let backup = facts.backup;
    page.section("Catalog information");
    page.line("Retention Policy", facts.retention());
    page.line("Previous Backup", facts.previous_text());
    page.line("Next Backup", facts.next_text());
    if !facts.timelines.is_empty() {
        page.blank();
        page.text.push_str(&format!("WARNING: {}\n", super::json::TIMELINES_WARNING));
    }
    if let (BackupType::Incremental, Some(root)) = (backup.backup_type(), facts.chain.last()) {
        page.line("Root Backup", root);
        page.optional("Parent Backup", backup.parent_backup_id);
        page.line("Backup chain size", facts.chain.len());
    }
    if !backup.children_backup_ids.is_empty() {
        let children: Vec<String> = backup.children_backup_ids.iter().map(ToString::to_string).collect();
        page.line("Children Backup(s)", children.join(","));
    }
}
