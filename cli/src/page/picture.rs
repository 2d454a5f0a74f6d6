//! The timelines of a server as a drawing: WAL written, a lane for each timeline with what can be restored, interruptions,
//! backups and restore points.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use barkeep_catalog::wal_map::Break;
use barkeep_catalog::windows::Interval;
use barkeep_retention::Verdict;
use pgwal::TimelineId;

use super::axis::{Axis, unix};
use super::{escape, seconds};
use crate::command::windows::end_in_words;
use crate::command::windows::gather::Gathered;
use crate::output::text;

/// Heights, in pixels.
const RATE_HEIGHT: f64 = 64.0;
const LANE_HEIGHT: f64 = 46.0;
const BAR_HEIGHT: f64 = 18.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;
/// Columns of the WAL's course.
const COLUMNS: usize = 120;
/// Most marks of one kind in a lane.
const MARKS_MAX: usize = 400;
/// The narrowest bar that can be seen, in pixels.
const BAR_MIN: f64 = 3.0;
/// Half of what a character of a label takes, in pixels.
const MARK_HALF_WIDTH: f64 = 3.6;

/// Draws a server's timelines, `width` pixels wide.
pub(super) fn draw(page: &mut String, gathered: &Gathered, width: f64, class: &str) {
    let now = gathered.now.as_second() as f64;
    let left = if width < 600.0 { 30.0 } else { 90.0 };
    let moments = moments(gathered).chain([now]);
    let Some(axis) = Axis::of(moments, left, width - 8.0) else { return };
    let lanes: BTreeMap<TimelineId, f64> = gathered
        .windows
        .timelines
        .iter()
        .zip(0_u32..)
        .map(|(timeline, at)| (timeline.timeline, TOP + RATE_HEIGHT + f64::from(at) * LANE_HEIGHT))
        .collect();
    let lanes_end = TOP + RATE_HEIGHT + lanes.len() as f64 * LANE_HEIGHT;
    let height = lanes_end + BOTTOM;
    let _ = writeln!(
        page,
        "<svg class=\"{class}\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         role=\"img\" aria-label=\"Timelines of {}\">",
        escape(&gathered.server)
    );
    scale(page, &axis, lanes_end);
    rate(page, gathered, &axis);
    for timeline in &gathered.windows.timelines {
        let Some(y) = lanes.get(&timeline.timeline) else { continue };
        let label = if width < 600.0 {
            timeline.timeline.to_string()
        } else {
            format!("Timeline {}", timeline.timeline)
        };
        let _ = writeln!(page, "<text class=\"lane\" x=\"2\" y=\"{:.0}\">{label}</text>", y + 31.0);
        if let Some((parent, _)) = timeline.parent
            && let Some(parent) = lanes.get(&parent)
            && let Some(first) = timeline.intervals.first().and_then(|interval| interval.from_time)
        {
            let x = axis.x(unix(first));
            let _ = writeln!(
                page,
                "<path class=\"branch\" d=\"M{x:.1} {:.1}V{:.1}\"/>",
                parent + 18.0 + BAR_HEIGHT,
                y + 18.0
            );
        }
        for (place, interval) in timeline.intervals.iter().enumerate() {
            bar(page, gathered, &axis, *y, interval, timeline.intervals.get(place + 1));
        }
        points(page, &axis, *y, &timeline.intervals);
        backups(page, gathered, &axis, *y, timeline.timeline);
    }
    if let Some(begin) = gathered.window_begin {
        let x = axis.x(begin.as_second() as f64);
        let _ = writeln!(
            page,
            "<g class=\"window\"><path d=\"M{x:.1} {TOP}V{lanes_end:.0}\"/><text x=\"{:.1}\" y=\"{:.0}\">kept from here</text></g>",
            x + 3.0,
            TOP + 10.0
        );
    }
    page.push_str("</svg>\n");
}

/// All moments that are drawn, in seconds since 1970.
fn moments(gathered: &Gathered) -> impl Iterator<Item = f64> + '_ {
    let ended = gathered.backups.iter().filter_map(|backup| backup.start.end_time);
    let intervals = gathered.windows.timelines.iter().flat_map(|timeline| &timeline.intervals);
    let ends = intervals.flat_map(|interval| [interval.from_time, interval.last_commit]).flatten();
    ended.chain(ends).map(unix)
}

fn scale(page: &mut String, axis: &Axis, bottom: f64) {
    for (x, text) in axis.marks() {
        // The last one may not fit around its mark.
        let middle = x.min(axis.right - text.len() as f64 * MARK_HALF_WIDTH);
        let _ = writeln!(
            page,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom:.0}\"/><text class=\"mark\" x=\"{middle:.1}\" y=\"{:.0}\">{text}</text>",
            bottom + 16.0
        );
    }
    let _ = writeln!(page, "<text class=\"day\" x=\"2\" y=\"12\">{} UTC</text>", axis.first_day());
}

/// How much WAL was written, over all timelines.
fn rate(page: &mut String, gathered: &Gathered, axis: &Axis) {
    let mut columns = [0.0_f64; COLUMNS];
    let width = (axis.right - axis.left) / COLUMNS as f64;
    let column = |seconds: f64| {
        let at = (axis.x(seconds) - axis.left) / width;
        (at.max(0.0) as usize).min(COLUMNS - 1)
    };
    let (mut total, mut longest) = (0.0_f64, 0.0_f64);
    for interval in gathered.windows.timelines.iter().flat_map(|timeline| &timeline.intervals) {
        for pair in interval.course.windows(2) {
            let [(from, start), (to, end)] = pair else { continue };
            let bytes = end.bytes_since(*start).unwrap_or_default() as f64;
            let (first, last) = (column(unix(*from)), column(unix(*to)));
            let share = bytes / (last.saturating_sub(first) + 1) as f64;
            columns.iter_mut().take(last + 1).skip(first).for_each(|column| *column += share);
            total += bytes;
            longest = longest.max(unix(*to) - unix(*from));
        }
    }
    let peak = columns.iter().copied().fold(0.0, f64::max);
    if peak <= 0.0 {
        return;
    }
    let base = TOP + RATE_HEIGHT - 4.0;
    let mut path = format!("M{:.1} {base:.1}", axis.left);
    for (at, bytes) in columns.iter().enumerate() {
        let (x, y) = (axis.left + at as f64 * width, base - bytes / peak * (RATE_HEIGHT - 16.0));
        let _ = write!(path, "L{x:.1} {y:.1}L{:.1} {y:.1}", x + width);
    }
    let _ = writeln!(
        page,
        "<path class=\"rate\" d=\"{path}L{:.1} {base:.1}Z\"><title>{} of WAL</title></path>\
         <text class=\"day\" x=\"{:.1}\" y=\"12\" text-anchor=\"end\">WAL: {} in all</text>",
        axis.right,
        text::size(total),
        axis.right,
        text::size(total)
    );
}

fn bar(
    page: &mut String,
    gathered: &Gathered,
    axis: &Axis,
    y: f64,
    interval: &Interval,
    next: Option<&Interval>,
) {
    let Some(from) = interval.from_time.or(interval.last_commit) else { return };
    // A backup that ended after the last commit can be restored too.
    let newest = gathered.backups.iter().find(|backup| interval.backups.last() == Some(&backup.start.id));
    let ended = newest.filter(|backup| interval.from <= backup.start.end);
    let to =
        interval.last_commit.max(ended.and_then(|backup| backup.start.end_time)).unwrap_or(from).max(from);
    let x = axis.x(unix(from));
    let width = (axis.x(unix(to)) - x).max(BAR_MIN);
    let top = y + 18.0;
    let _ = writeln!(
        page,
        "<rect class=\"interval\" x=\"{x:.1}\" y=\"{top:.0}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\">\
         <title>{} to {}, LSN {} to {}, {} commits</title></rect>",
        seconds(from),
        seconds(to),
        interval.from,
        interval.to,
        interval.commits
    );
    if interval.ends == Break::End {
        return;
    }
    let until = next.and_then(|next| next.from_time).map_or(axis.right, |next| axis.x(unix(next)));
    let begin = x + width;
    let _ = writeln!(
        page,
        "<rect class=\"gap\" x=\"{begin:.1}\" y=\"{top:.0}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\"><title>{}</title></rect>",
        (until - begin).max(BAR_MIN),
        escape(&end_in_words(&interval.ends).unwrap_or_default())
    );
}

fn points(page: &mut String, axis: &Axis, y: f64, intervals: &[Interval]) {
    let all = intervals.iter().flat_map(|interval| &interval.restore_points);
    for point in all.take(MARKS_MAX) {
        let x = axis.x(unix(point.time));
        let _ = writeln!(
            page,
            "<path class=\"point\" d=\"M{x:.1} {:.1}l-4 -8h8z\"><title>restore point {}, {}</title></path>",
            y + 17.0,
            escape(&point.name),
            seconds(point.time)
        );
    }
}

fn backups(page: &mut String, gathered: &Gathered, axis: &Axis, y: f64, timeline: TimelineId) {
    let here = gathered.backups.iter().filter(|backup| backup.start.timeline == timeline);
    for backup in here.rev().take(MARKS_MAX) {
        let Some(time) = backup.start.end_time else { continue };
        let class = if backup.verdict == Some(Verdict::Obsolete) { "obsolete" } else { "backup" };
        let verdict = backup.verdict.map(|verdict| format!(", {verdict}")).unwrap_or_default();
        let _ = writeln!(
            page,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.0}\" r=\"5\"><title>backup {}, {}{}</title></circle>",
            axis.x(unix(time)),
            y + 18.0 + BAR_HEIGHT / 2.0,
            backup.start.id,
            seconds(time),
            escape(&verdict)
        );
    }
}
