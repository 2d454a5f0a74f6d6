//! Backups and their WAL on a line of time: what a person takes in at a glance.
//!
//! ```text
//!                                               2026-10-16                          2026-11-25
//!                                               window                       [===============]
//! 20261016T120000  OBSOLETE          25.5 MiB   x---------
//! 20261105T120000  VALID             25.6 MiB             o=================
//! 20261124T120000  VALID             25.6 MiB                               o================
//! ```
//!
//! A backup is `o` when it stays and `x` when it goes, `?` when it is not judged; the WAL from it up to the next one is `=`
//! when all of it stays, `-` when all of it goes, `~` when some of it does.

use jiff::Timestamp;

use super::report::{BackupLine, Report};
use crate::output::text::size_u64;
use barkeep_retention::Verdict;

/// Columns of the line of time.
const WIDTH: usize = 60;
/// Columns of what stands before it.
const LABEL_WIDTH: usize = 48;

/// The line of time.
struct Axis {
    begin: Timestamp,
    end: Timestamp,
}

impl Axis {
    /// From the oldest thing shown to the newest.
    fn of(report: &Report<'_>) -> Self {
        let moments = report.backups.iter().filter_map(end_of).chain(report.window_begin);
        let moments: Vec<Timestamp> = moments.chain([report.now]).collect();
        // There is one moment at least.
        let begin = moments.iter().min().copied().unwrap_or(report.now);
        Axis { begin, end: moments.iter().max().copied().unwrap_or(report.now) }
    }

    /// The column of a moment.
    fn column(&self, moment: Timestamp) -> usize {
        let length = self.end.duration_since(self.begin).as_secs_f64();
        if length <= 0.0 {
            return 0;
        }
        let share = moment.duration_since(self.begin).as_secs_f64() / length;
        ((share.clamp(0.0, 1.0) * (WIDTH - 1) as f64).round()) as usize
    }

    fn dates(&self) -> String {
        let day = |moment: Timestamp| moment.strftime("%Y-%m-%d %H:%M").to_string();
        let (begin, end) = (day(self.begin), day(self.end));
        let gap = WIDTH.saturating_sub(begin.len() + end.len());
        format!("{}{begin}{}{end}\n", " ".repeat(LABEL_WIDTH), " ".repeat(gap))
    }
}

fn end_of(line: &BackupLine) -> Option<Timestamp> {
    line.end_time.as_ref().map(jiff::Zoned::timestamp)
}

/// Draws the chart.
pub(super) fn draw(report: &Report<'_>) -> String {
    let axis = Axis::of(report);
    let mut text = axis.dates();
    if let Some(begin) = report.window_begin {
        let (from, to) = (axis.column(begin), axis.column(report.now));
        let inside = "=".repeat(to.saturating_sub(from + 1));
        text.push_str(&format!("{:LABEL_WIDTH$}{}[{inside}]\n", "window", " ".repeat(from)));
    }
    for (index, line) in report.backups.iter().enumerate() {
        let verdict = match line.verdict {
            Verdict::None => line.status.as_str(),
            verdict => verdict.as_str(),
        };
        let label = format!("{}  {verdict:<16} {:>11}", line.id, size_u64(line.bytes));
        text.push_str(format!("{label:LABEL_WIDTH$}{}", bar(report, &axis, index)).trim_end());
        text.push('\n');
    }
    text
}

/// A backup and its WAL.
fn bar(report: &Report<'_>, axis: &Axis, index: usize) -> String {
    let line = &report.backups[index];
    let Some(end) = end_of(line) else { return String::new() };
    let at = axis.column(end);
    let mark = match (line.goes, line.verdict) {
        (true, _) => 'x',
        (false, Verdict::None) => '?',
        (false, _) => 'o',
    };
    let next = report.backups[index + 1..].iter().find_map(end_of).unwrap_or(report.now);
    let length = axis.column(next).saturating_sub(at).max(1) - 1;
    let wal = wal_mark(report, index).map(|mark| mark.to_string().repeat(length)).unwrap_or_default();
    format!("{}{mark}{wal}", " ".repeat(at))
}

/// What becomes of the WAL between a backup and the next one of its timeline; `None` when there is none.
fn wal_mark(report: &Report<'_>, index: usize) -> Option<char> {
    let line = &report.backups[index];
    let size = report.segment_size?;
    let number = |lsn: pgwal::Lsn| lsn.as_u64() / size.bytes();
    let from = number(line.begin?);
    let later = report.backups[index + 1..].iter().filter(|other| other.timeline == line.timeline);
    let to = later.filter_map(|other| other.begin).map(number).filter(|next| *next > from).min();
    let of_it = |wal: &&super::report::WalLine| {
        Some(wal.timeline) == line.timeline
            && wal.last_number.is_some_and(|last| last >= from)
            && wal.first_number.is_some_and(|first| to.is_none_or(|to| first < to))
    };
    let (mut stays, mut goes) = (false, false);
    for wal in report.wal.iter().filter(of_it) {
        stays |= !wal.goes;
        goes |= wal.goes;
    }
    match (stays, goes) {
        (true, false) => Some('='),
        (false, true) => Some('-'),
        (true, true) => Some('~'),
        (false, false) => None,
    }
}
