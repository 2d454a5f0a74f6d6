//! Windows as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use barkeep_catalog::preflight::Transaction;
use barkeep_catalog::wal_map::Break;
use barkeep_catalog::windows::{Interval, TimelineWindows};
use pgwal::PgTimestamp;
use serde_json::{Value, json};

use super::gather::{Gathered, Shown};
use crate::output::{Report, Style, text};

/// Most restore points named on the console, of one interval.
const POINTS_TOLD_MAX: usize = 8;
/// Most backups named on the console, of one interval.
const BACKUPS_TOLD_MAX: usize = 6;

impl Report for Gathered {
    fn server(&self) -> &str {
        &self.server
    }

    fn json(&self) -> Value {
        json!({
            "segment_size": self.size.bytes(),
            "timelines": self.windows.timelines.iter().map(timeline_json).collect::<Vec<_>>(),
            "gaps": self.windows.gaps.iter().map(|gap| json!({
                "first": gap.first.to_string(), "last": gap.last.to_string(), "segments": gap.segments,
            })).collect::<Vec<_>>(),
            "damaged": self.windows.damaged.iter().map(|(segment, note)| json!({
                "segment": segment.to_string(), "note": note,
            })).collect::<Vec<_>>(),
            "missing_histories": self.windows.missing_histories.iter().map(|timeline| {
                format!("{:08X}.history", timeline.as_u32())
            }).collect::<Vec<_>>(),
            "stranded_backups": self.windows.stranded.iter().map(|stranded| json!({
                "backup_id": stranded.id.to_string(), "wal_ends": stranded.reach.to_string(),
                "needs": stranded.end.to_string(),
            })).collect::<Vec<_>>(),
            "backups": self.backups.iter().map(backup_json).collect::<Vec<_>>(),
            "newest": self.newest.as_ref().map(|newest| json!({
                "backup_id": newest.backup.to_string(),
                "timeline": newest.timeline.as_u32(),
                "archived": newest.archived.as_ref().map(transaction_json),
                "received": newest.received.as_ref().map(transaction_json),
            })),
            "rpo_seconds": self.loss_seconds(),
            "unindexed_segments": self.unindexed,
        })
    }

    fn console(&self, _style: Style) -> String {
        let mut lines = format!("Server {}:\n", self.server);
        let mut line = |depth: usize, line: String| {
            let _ = writeln!(lines, "{:1$}{line}", "", depth * 2);
        };
        let restorable = self.windows.timelines.iter().any(|timeline| !timeline.intervals.is_empty());
        if !restorable {
            line(1, "Nothing can be restored.".to_owned());
        }
        for timeline in &self.windows.timelines {
            line(1, heading(timeline));
            for interval in &timeline.intervals {
                self.tell_interval(interval, &mut line);
            }
            for (first, last) in &timeline.unreachable {
                line(2, format!("No backup leads to {first} - {last}"));
            }
        }
        for gap in &self.windows.gaps {
            line(
                1,
                match gap.segments {
                    1 => format!("Missing: {}", gap.first),
                    count => format!("Missing: {} - {} ({count} segments)", gap.first, gap.last),
                },
            );
        }
        for (segment, note) in &self.windows.damaged {
            line(1, format!("Damaged: {segment}: {note}"));
        }
        for timeline in &self.windows.missing_histories {
            line(
                1,
                format!(
                    "Missing: {:08X}.history: without it, recovery to the latest timeline silently stays on an older one",
                    timeline.as_u32()
                ),
            );
        }
        for stranded in &self.windows.stranded {
            line(
                1,
                format!(
                    "Backup {} can't be restored: its WAL ends at {}, and it needs all up to {}",
                    stranded.id, stranded.reach, stranded.end
                ),
            );
        }
        if self.unindexed > 0 {
            line(
                1,
                format!(
                    "{} segments are not indexed, so their commits are not known; read them with: barkeep windows --index {}",
                    self.unindexed, self.server
                ),
            );
        }
        self.tell_newest(&mut line);
        lines
    }
}

impl Gathered {
    fn tell_interval(&self, interval: &Interval, line: &mut impl FnMut(usize, String)) {
        line(2, format!("{} - {}", moment(interval.from_time), moment(interval.last_commit)));
        let xids = interval.xids.map_or_else(String::new, |(low, high)| format!(", xids {low} - {high}"));
        line(
            3,
            format!(
                "LSN {} - {}{xids}, {} commits in {} segments",
                interval.from, interval.to, interval.commits, interval.segments
            ),
        );
        let ids: Vec<String> =
            interval.backups.iter().rev().take(BACKUPS_TOLD_MAX).map(ToString::to_string).collect();
        let more = interval.backups.len().saturating_sub(BACKUPS_TOLD_MAX);
        let more = if more > 0 { format!(" and {more} older ones") } else { String::new() };
        line(3, format!("from {}{more}", ids.join(", ")));
        let points = &interval.restore_points;
        for point in points.iter().rev().take(POINTS_TOLD_MAX) {
            line(3, format!("restore point {:?}  {}  {}", point.name, point.time, point.lsn));
        }
        if points.len() > POINTS_TOLD_MAX {
            line(3, format!("and {} earlier restore points", points.len() - POINTS_TOLD_MAX));
        }
        if let Some(why) = end_in_words(&interval.ends) {
            line(3, format!("ends because {why}"));
        }
    }

    fn tell_newest(&self, line: &mut impl FnMut(usize, String)) {
        let Some(newest) = &self.newest else { return };
        match newest.archived.or(newest.received) {
            None => line(1, format!("No commit was archived since backup {}", newest.backup)),
            Some(commit) => {
                line(
                    1,
                    format!(
                        "Newest commit: transaction {} at {} (from backup {}, timeline {})",
                        commit.xid, commit.time, newest.backup, newest.timeline
                    ),
                );
                if let Some(received) = newest.received.filter(|received| *received != commit) {
                    line(
                        1,
                        format!(
                            "With the segment that is being received (restore --partial-wal): transaction {} at {}",
                            received.xid, received.time
                        ),
                    );
                }
            }
        }
        if let Some(seconds) = self.loss_seconds() {
            let ago = text::duration(Duration::from_secs(seconds.unsigned_abs()));
            line(1, format!("If the server were lost now, commits of the last {ago} could be missing"));
        }
    }
}

fn heading(windows: &TimelineWindows) -> String {
    let parent = windows
        .parent
        .map_or_else(String::new, |(timeline, lsn)| format!(" (left timeline {timeline} at {lsn})"));
    format!("Timeline {}{parent}:", windows.timeline)
}

fn moment(time: Option<PgTimestamp>) -> String {
    time.map_or_else(|| "(no commit)".to_owned(), |time| time.to_string())
}

/// Why an interval ends; nothing for the end of what is archived.
pub(crate) fn end_in_words(ends: &Break) -> Option<String> {
    match ends {
        Break::End => None,
        Break::Missing { first, later: 0 } => Some(format!("{first} is missing")),
        Break::Missing { first, later } => {
            Some(format!("{first} is missing, so that {later} later segments are of no use from here"))
        }
        Break::Damaged { segment, note } if note.is_empty() => Some(format!("{segment} is damaged")),
        Break::Damaged { segment, note } => Some(format!("{segment} is damaged: {note}")),
    }
}

fn timeline_json(windows: &TimelineWindows) -> Value {
    json!({
        "timeline": windows.timeline.as_u32(),
        "parent": windows.parent.map(|(timeline, lsn)| {
            json!({"timeline": timeline.as_u32(), "lsn": lsn.to_string()})
        }),
        "intervals": windows.intervals.iter().map(interval_json).collect::<Vec<_>>(),
        "unreachable": windows.unreachable.iter().map(|(first, last)| {
            json!({"first": first.to_string(), "last": last.to_string()})
        }).collect::<Vec<_>>(),
    })
}

fn interval_json(interval: &Interval) -> Value {
    let time = |time: Option<PgTimestamp>| time.map(|time| time.to_string());
    json!({
        "from_lsn": interval.from.to_string(),
        "from_time": time(interval.from_time),
        "to_lsn": interval.to.to_string(),
        "last_commit_time": time(interval.last_commit),
        "last_commit_end_lsn": interval.last_commit_end.map(|lsn| lsn.to_string()),
        "xids": interval.xids.map(|(low, high)| json!({"low": low, "high": high})),
        "commits": interval.commits,
        "backups": interval.backups.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "first_segment": interval.first.to_string(),
        "last_segment": interval.last.to_string(),
        "segments": interval.segments,
        "unindexed_segments": interval.unindexed,
        "ends": end_in_words(&interval.ends),
        "restore_points": interval.restore_points.iter().map(|point| json!({
            "name": point.name, "lsn": point.lsn.to_string(), "time": point.time.to_string(),
        })).collect::<Vec<_>>(),
    })
}

fn backup_json(shown: &Shown) -> Value {
    json!({
        "backup_id": shown.start.id.to_string(),
        "timeline": shown.start.timeline.as_u32(),
        "end_lsn": shown.start.end.to_string(),
        "end_time": shown.start.end_time.map(|time| time.to_string()),
        "retention": shown.verdict.map(|verdict| verdict.to_string()),
        "drill": shown.drill.as_ref().map(|drill| {
            json!({"at": drill.at.to_string(), "passed": drill.faults.is_empty()})
        }),
    })
}

/// A commit, for programs.
pub(crate) fn transaction_json(transaction: &Transaction) -> Value {
    json!({
        "xid": transaction.xid,
        "time": transaction.time.to_string(),
        "lsn": transaction.lsn.to_string(),
        "end_lsn": transaction.end.to_string(),
    })
}
