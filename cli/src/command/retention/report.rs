//! What `retention` tells, as text and as JSON.

use barkeep_catalog::{BackupId, Status};
use barkeep_retention::{Fate, Verdict};
use jiff::{Timestamp, Zoned};
use pgwal::{Lsn, SegmentSize, TimelineId};
use serde_json::{Value, json};

use super::{chart, needed_by, told};
use crate::command::shown::{ctime, epoch};
use crate::output::Style;
use crate::output::text::size_u64;

/// The answer.
pub(super) struct Report<'a> {
    pub(super) server: &'a str,
    /// The policy; `None` when none is in force.
    pub(super) policy: Option<String>,
    pub(super) wal_policy: String,
    pub(super) minimum_redundancy: u32,
    /// The moment of judgement.
    pub(super) now: Timestamp,
    pub(super) is_now: bool,
    /// Where the longest recovery window begins.
    pub(super) window_begin: Option<Timestamp>,
    /// In the order of their identifiers.
    pub(super) backups: Vec<BackupLine>,
    /// In name order.
    pub(super) wal: Vec<WalLine>,
    /// Why all WAL stays.
    pub(super) all_wal_kept: Option<String>,
    pub(super) segment_size: Option<SegmentSize>,
    pub(super) explain: bool,
}

/// A backup.
pub(super) struct BackupLine {
    pub(super) id: BackupId,
    pub(super) name: Option<String>,
    pub(super) kind: &'static str,
    pub(super) status: Status,
    pub(super) timeline: Option<TimelineId>,
    pub(super) begin: Option<Lsn>,
    pub(super) end_time: Option<Zoned>,
    /// What it occupies by itself.
    pub(super) bytes: u64,
    pub(super) verdict: Verdict,
    pub(super) reason: String,
    pub(super) until: Option<Timestamp>,
    pub(super) goes: bool,
}

/// Files of the archive that follow each other and share their fate.
pub(super) struct WalLine {
    pub(super) timeline: TimelineId,
    pub(super) first: String,
    pub(super) last: String,
    pub(super) first_number: Option<u64>,
    pub(super) last_number: Option<u64>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) fate: Fate<BackupId>,
    pub(super) goes: bool,
    pub(super) reason: String,
}

/// So many things, so many bytes.
#[derive(Default, Clone, Copy)]
struct Sum {
    count: u64,
    bytes: u64,
}

impl Sum {
    fn of(parts: impl Iterator<Item = (u64, u64)>) -> Self {
        parts.fold(Sum::default(), |sum, (count, bytes)| Sum {
            count: sum.count + count,
            bytes: sum.bytes.saturating_add(bytes),
        })
    }
}

const fn action(goes: bool) -> &'static str {
    if goes { "goes" } else { "stays" }
}

impl Report<'_> {
    fn backups_that(&self, go: bool) -> Sum {
        Sum::of(self.backups.iter().filter(|line| line.goes == go).map(|line| (1, line.bytes)))
    }

    fn wal_that(&self, goes: bool) -> Sum {
        Sum::of(self.wal.iter().filter(|line| line.goes == goes).map(|line| (line.files, line.bytes)))
    }

    fn heading(&self) -> String {
        let policy = self.policy.as_deref().unwrap_or("no retention policy");
        let moment = if self.is_now { "now" } else { "as of" };
        format!(
            "Server {}: {policy}, minimum redundancy {}, WAL: {}, {moment} {}\n",
            self.server,
            self.minimum_redundancy,
            self.wal_policy,
            told(self.now)
        )
    }

    fn conclusion(&self) -> String {
        let (backups, wal) = (self.backups_that(true), self.wal_that(true));
        let (kept, kept_wal) = (self.backups_that(false), self.wal_that(false));
        let files = |sum: Sum| format!("{} WAL files ({})", sum.count, size_u64(sum.bytes));
        let mut text = format!(
            "Stays: {} backups ({}), {}\nGoes:  {} backups ({}), {}: frees {}\n",
            kept.count,
            size_u64(kept.bytes),
            files(kept_wal),
            backups.count,
            size_u64(backups.bytes),
            files(wal),
            size_u64(backups.bytes.saturating_add(wal.bytes))
        );
        if let Some(why) = &self.all_wal_kept {
            text.push_str(&format!("All WAL stays for now: {why}\n"));
        }
        if backups.count == 0 && wal.count > 0 && self.wal_policy == "MAIN" {
            text.push_str("WAL goes together with the next backup that does\n");
        }
        text
    }

    fn reasons(&self) -> String {
        let mut text = "\nBackups:\n".to_owned();
        for line in &self.backups {
            let until = line.until.map(|until| format!(", until {}", told(until))).unwrap_or_default();
            text.push_str(&format!("  {} {}{until}: {}\n", line.id, action(line.goes), line.reason));
        }
        text.push_str("\nWAL:\n");
        for line in &self.wal {
            let range = match line.files {
                1 => line.first.clone(),
                files => format!("{} .. {} ({files} files)", line.first, line.last),
            };
            text.push_str(&format!(
                "  {range} {}, {}: {}\n",
                action(line.goes),
                size_u64(line.bytes),
                line.reason
            ));
        }
        text
    }
}

impl crate::output::Report for Report<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let backups = self.backups.iter().map(BackupLine::json).collect::<Vec<_>>();
        let wals = self.wal.iter().map(WalLine::json).collect::<Vec<_>>();
        let (gone, gone_wal) = (self.backups_that(true), self.wal_that(true));
        json!({
            "retention_policy": self.policy,
            "wal_retention_policy": self.wal_policy,
            "minimum_redundancy": self.minimum_redundancy,
            "at": self.now.to_string(),
            "window_begin": self.window_begin.map(|begin| begin.to_string()),
            "backups": backups,
            "wals": wals,
            "all_wal_kept": self.all_wal_kept,
            "frees": {
                "backups": gone.count,
                "backup_bytes": gone.bytes,
                "wal_files": gone_wal.count,
                "wal_bytes": gone_wal.bytes,
                "bytes": gone.bytes.saturating_add(gone_wal.bytes),
            },
        })
    }

    fn console(&self, _: Style) -> String {
        let mut text = self.heading();
        if !self.backups.is_empty() {
            text.push('\n');
            text.push_str(&chart::draw(self));
            text.push('\n');
        }
        text.push_str(&self.conclusion());
        if self.explain {
            text.push_str(&self.reasons());
        }
        text
    }
}

impl BackupLine {
    fn json(&self) -> Value {
        json!({
            "backup_id": self.id.to_string(),
            "backup_name": self.name,
            "backup_type": self.kind,
            "status": self.status.as_str(),
            "end_time": self.end_time.as_ref().map(ctime),
            "end_time_timestamp": self.end_time.as_ref().map(epoch),
            "retention_status": self.verdict.as_str(),
            "action": action(self.goes),
            "reason": self.reason,
            "until": self.until.map(|until| until.to_string()),
            "size_bytes": self.bytes,
        })
    }
}

impl WalLine {
    fn json(&self) -> Value {
        json!({
            "timeline": self.timeline.as_u32(),
            "begin_wal": self.first,
            "end_wal": self.last,
            "files": self.files,
            "bytes": self.bytes,
            "action": action(self.goes),
            "reason": self.reason,
            "needed_by": needed_by(&self.fate).map(|id| id.to_string()),
        })
    }
}
