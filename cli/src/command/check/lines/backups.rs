//! Checks of the catalogue: its directories, its backups, its policy, its configuration.

use barkeep_catalog::gaps::{self, Gap};
use barkeep_catalog::index_store::Facts;
use barkeep_catalog::xlogdb::{self, LineFault};
use barkeep_catalog::{Backups, IndexStore, Status};
use jiff::{SignedDuration, Timestamp};

use super::wal::is_segment;
use super::{Line, Lines, Perf};
use crate::archive_stats::{ArchiveStats, WalOfBackup};
use crate::config::Interval;
use crate::context::ServerContext;
use crate::error::chain;
use crate::output::text::{self, duration, size_u64};
use crate::verdicts;

/// What the backup home holds. `Err` where it can't be read.
pub(in crate::command::check) struct Home {
    /// The backups, or why they can't be known.
    pub(super) backups: Result<Backups, String>,
    /// Whether the archive has no segment at all; `None` when it can't be read.
    pub(super) archive_empty: Option<bool>,
    /// The lines of the archive's list that say nothing.
    pub(super) list_faults: Vec<LineFault>,
    /// What recovery would miss, or why that can't be told.
    pub(super) gaps: Result<Vec<Gap>, String>,
    /// The archived segments that are known not to be sound, or why that can't be told.
    pub(super) doubtful: Result<Vec<Facts>, String>,
    /// Whether a backup waits for WAL.
    pub(super) waiting: bool,
    /// The WAL of the newest backup.
    newest: WalOfBackup,
    now: Timestamp,
}

impl Home {
    /// Reads what there is to read, all of it at once: the list, the directories and the indexes of a large archive take their
    /// time each.
    pub(in crate::command::check) fn read(server: &ServerContext, now: Timestamp) -> Self {
        let layout = server.layout();
        let (backups, gaps, list, doubtful) = std::thread::scope(|scope| {
            let list = scope.spawn(|| xlogdb::read(&layout));
            let doubtful = scope.spawn(|| IndexStore::of(&layout).doubtful());
            let backups = server.catalog().current().map_err(|error| error.to_string());
            let gaps = match &backups {
                Ok(backups) => gaps::find(&server.catalog(), backups),
                // Another line tells of that.
                Err(_) => Ok(None),
            };
            (backups, gaps, joined(list), joined(doubtful))
        });
        let (entries, list_faults) = match list {
            Ok(list) => (Some(list.entries), list.faults),
            Err(_) => (None, Vec::new()),
        };
        let newest = match (&backups, &entries) {
            (Ok(backups), Some(entries)) => backups
                .iter()
                .rev()
                .find(|backup| backup.status.is_usable())
                .map(|backup| ArchiveStats::new(entries).among(backups, backup)),
            _ => None,
        };
        let waiting = backups
            .as_ref()
            .is_ok_and(|backups| backups.iter().any(|backup| backup.status == Status::WaitingForWals));
        Home {
            waiting,
            list_faults,
            gaps: gaps
                .map(|found| found.map(|(gaps, _)| gaps).unwrap_or_default())
                .map_err(|error| chain(&error)),
            doubtful: doubtful.map_err(|error| chain(&error)),
            archive_empty: entries.map(|entries| !entries.iter().any(|entry| is_segment(entry.file))),
            newest: newest.unwrap_or_default(),
            backups,
            now,
        }
    }

    /// The data directory that the newest backup came from.
    pub(super) fn newest_pgdata(&self) -> Option<&str> {
        let backups = self.backups.as_ref().ok()?;
        backups.iter().rev().find_map(|backup| backup.pgdata.as_deref())
    }

    /// How long ago the newest WAL of the newest backup was written.
    fn wal_age(&self) -> Option<SignedDuration> {
        let written = self.newest.last_time?;
        let now = self.now.as_microsecond() as f64 / 1e6;
        Some(SignedDuration::try_from_secs_f64(now - written).unwrap_or_default())
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether the server's directories are there, or can be made.
pub(super) fn directories(lines: &mut Lines, server: &ServerContext) {
    if server.config.disabled() {
        return;
    }
    match server.catalog().create_directories() {
        Ok(()) => lines.ok("directories"),
        Err(error) => lines.failed(
            "directories",
            chain(&error),
            "make it, and give it to the user that barkeep runs as (barman_user)",
        ),
    }
}

/// Whether there are enough good backups, recent enough.
pub(super) fn lines(lines: &mut Lines, server: &ServerContext, home: &Home, now: Timestamp) {
    let config = &server.config;
    match verdicts::policy(config) {
        Ok(_) => lines.ok("retention policy settings"),
        Err(error) => {
            lines.failed("retention policy settings", "see log", format!("correct retention_policy: {error}"))
        }
    }
    let backups = match &home.backups {
        Ok(backups) => backups,
        Err(error) => return lines.failed("catalogue", error.clone(), "make it readable to barman_user"),
    };
    records(lines, backups);
    let newest = backups.iter().rev().find(|backup| backup.status.is_usable());
    let age =
        newest.and_then(|backup| backup.end_time.as_ref()).map(|end| now.duration_since(end.timestamp()));
    backup_age(lines, config.last_backup_maximum_age(), age);
    let bytes = newest.and_then(|backup| backup.size).unwrap_or(0);
    match config.last_backup_minimum_size() {
        Some(minimum) => lines.judge(
            "backup minimum size",
            bytes >= minimum,
            format!(
                "last backup size {} {} {} minimum",
                size_u64(bytes),
                if bytes >= minimum { ">" } else { "<" },
                size_u64(minimum)
            ),
            "see whether data is missing at the server, or lower last_backup_minimum_size",
        ),
        None => lines.put("backup minimum size", true, size_u64(bytes)),
    }
    if let Some(how) = config.encryption() {
        lines.failed(
            "encryption",
            format!("encryption = {how} is not available in barkeep"),
            "nothing is stored unencrypted instead: set encryption = none, or leave this server to Barman",
        );
    }
    wal_age(lines, config.last_wal_maximum_age(), home.wal_age());
    lines.put("wal size", true, size_u64(home.newest.later.bytes));
    lines.perf = Perf { backup_bytes: bytes, wal_bytes: home.newest.later.bytes };
    match config.compression() {
        Some("custom") => lines.failed(
            "compression settings",
            "compression = custom is not available in barkeep",
            "choose another: gzip, bzip2, xz, zstd, lz4, snappy",
        ),
        _ => lines.ok("compression settings"),
    }
    let failed = backups.iter().filter(|backup| backup.status == Status::Failed).count();
    lines.judge(
        "failed backups",
        failed == 0,
        format!("there are {failed} failed backups"),
        format!(
            "see why: barkeep show-backup {0} last-failed; then: barkeep delete {0} last-failed",
            server.name()
        ),
    );
    let done = backups.iter().filter(|backup| backup.status == Status::Done && backup.is_root()).count();
    let minimum = config.minimum_redundancy();
    lines.judge(
        "minimum redundancy requirements",
        done >= minimum as usize,
        format!("have {done} non-incremental backups, expected at least {minimum}"),
        format!("take one: barkeep backup {}", server.name()),
    );
}

/// Records that can't be read, or not by Barman. Told only when there are any.
fn records(lines: &mut Lines, backups: &Backups) {
    let (wrong, foreign) = (backups.faults.len(), backups.unknown_keys.len());
    let hint = match (wrong, foreign) {
        (0, 0) => return,
        (wrong, 0) => format!("{wrong} cannot be read"),
        (0, foreign) => format!("{foreign} cannot be read by Barman"),
        (wrong, foreign) => format!("{wrong} cannot be read, and {foreign} not by Barman"),
    };
    let foreign = backups.unknown_keys.iter().map(|(id, keys)| {
        format!("the record of backup {id} has keys that Barman does not know: {}", keys.join(", "))
    });
    lines.lines.push(Line {
        name: "backup records".to_owned(),
        ok: wrong == 0,
        hint,
        details: backups.faults.iter().map(ToString::to_string).chain(foreign).collect(),
        cure: (wrong > 0)
            .then(|| "mend the named lines, or move the files away; no other backup is affected".to_owned()),
    });
}

/// The contradictions that disable a server. Told only when there are any.
pub(super) fn configuration(lines: &mut Lines, server: &ServerContext) {
    let faults = server.config.faults();
    if !faults.is_empty() {
        lines.lines.push(Line {
            name: "configuration".to_owned(),
            ok: false,
            hint: String::new(),
            details: faults.to_vec(),
            cure: Some("correct the configuration; until then nothing is done with this server".to_owned()),
        });
    }
}

fn backup_age(lines: &mut Lines, limit: Option<Interval>, age: Option<SignedDuration>) {
    const NAME: &str = "backup maximum age";
    let Some(limit) = limit else { return lines.put(NAME, true, "no last_backup_maximum_age provided") };
    let text = age.map_or_else(|| "No available backups".to_owned(), text::age);
    let hint = format!("interval provided: {}, latest backup age: {text}", duration(limit.duration()));
    lines.judge(
        NAME,
        age.is_some_and(|age| within(age, limit)),
        hint,
        "take a backup, and see why the scheduled one is missing",
    );
}

fn wal_age(lines: &mut Lines, limit: Option<Interval>, age: Option<SignedDuration>) {
    const NAME: &str = "wal maximum age";
    const CURE: &str = "see whether WAL arrives: cron, receive-wal, archive_command; an idle server may need archive_timeout";
    let Some(limit) = limit else { return lines.put(NAME, true, "no last_wal_maximum_age provided") };
    match age {
        None => lines.failed(NAME, "No WAL files archived for last backup", CURE),
        Some(age) => {
            let hint = format!(
                "interval provided: {}, latest wal age: {}",
                duration(limit.duration()),
                text::age(age)
            );
            lines.judge(NAME, within(age, limit), hint, CURE);
        }
    }
}

/// Whether something is not older than is allowed; what the clocks place in the future is not.
fn within(age: SignedDuration, limit: Interval) -> bool {
    age.is_negative() || age.unsigned_abs() <= limit.duration()
}
