//! What can be restored: for every timeline, the intervals that recovery reaches, and from which backups.
//!
//! Pure questions to a [`WalMap`]; the intervals of pre-flight and of this page are the same [walk](WalMap::walk).

use pgwal::index::RestorePoint;
use pgwal::{Lsn, PgTimestamp, SegmentName, TimelineId};

use crate::BackupId;
use crate::wal_map::{Break, Known, Run, Start, WalMap};

/// Most points of an interval's course, for drawing.
const COURSE_POINTS_MAX: usize = 240;
/// Most restore points listed of one interval.
const RESTORE_POINTS_MAX: usize = 1000;

/// All that can be restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// By timeline.
    pub timelines: Vec<TimelineWindows>,
    /// Segments that are missing between others of their timeline.
    pub gaps: Vec<MissingRange>,
    /// Segments that recovery can't get through, and why.
    pub damaged: Vec<(SegmentName, String)>,
    /// Timelines with WAL and without a history file: the server would silently stay on an older one.
    pub missing_histories: Vec<TimelineId>,
    /// Backups that can't become consistent: the WAL they need is not there.
    pub stranded: Vec<Stranded>,
}

/// One timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineWindows {
    /// Which.
    pub timeline: TimelineId,
    /// What it left, and where; `None` for the first, or where that is not known.
    pub parent: Option<(TimelineId, Lsn)>,
    /// What can be restored on it, in order.
    pub intervals: Vec<Interval>,
    /// WAL of it that is archived and that no backup leads to.
    pub unreachable: Vec<(SegmentName, SegmentName)>,
}

/// Consecutive moments that can be restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Interval {
    /// The first position.
    pub from: Lsn,
    /// Its moment: the end of the backup that it begins with, or the first commit after it.
    pub from_time: Option<PgTimestamp>,
    /// Where the WAL ends.
    pub to: Lsn,
    /// The latest commit.
    pub last_commit: Option<PgTimestamp>,
    /// The end of its record.
    pub last_commit_end: Option<Lsn>,
    /// The lowest and highest transaction that committed.
    pub xids: Option<(u32, u32)>,
    /// How many did.
    pub commits: u64,
    /// The backups that it can be restored from, oldest first.
    pub backups: Vec<BackupId>,
    /// The first segment of this timeline that is needed.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
    /// How many of them have no index, so that what they hold is not known.
    pub unindexed: u64,
    /// Why it ends.
    pub ends: Break,
    /// Restore points, in order; the first thousand.
    pub restore_points: Vec<RestorePoint>,
    /// Moments and how much WAL there was by then, for drawing.
    pub course: Vec<(PgTimestamp, Lsn)>,
}

/// Missing segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingRange {
    /// The first.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
}

/// A backup without the WAL that makes it consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// Which.
    pub id: BackupId,
    /// Where its WAL ends.
    pub reach: Lsn,
    /// Where it would be consistent.
    pub end: Lsn,
}

/// Works out what can be restored.
pub fn windows(map: &WalMap, backups: &[Start]) -> Windows {
    let mut timelines: Vec<TimelineId> = map.timelines().into_iter().collect();
    timelines.extend(backups.iter().map(|backup| backup.timeline));
    timelines.sort_unstable();
    timelines.dedup();
    let mut stranded = Vec::new();
    let windows = timelines
        .into_iter()
        .map(|timeline| of_timeline(map, timeline, backups, &mut stranded))
        .filter(|windows| !windows.intervals.is_empty() || map.runs_of(windows.timeline).next().is_some())
        .collect();
    let damaged = map.runs().iter().filter_map(|run| match &run.break_after {
        Break::Damaged { segment, note } => Some((*segment, note.clone())),
        _ => None,
    });
    Windows {
        timelines: windows,
        gaps: gaps(map),
        damaged: damaged.collect(),
        missing_histories: map.missing_histories(),
        stranded,
    }
}

impl Windows {
    /// The interval with the newest commit on the timeline that a plain restore of the newest backup follows: what is
    /// there if the server is lost now.
    pub fn newest(&self) -> Option<(&TimelineWindows, &Interval)> {
        let all = self
            .timelines
            .iter()
            .flat_map(|timeline| timeline.intervals.last().map(|interval| (timeline, interval)));
        all.max_by_key(|(timeline, interval)| {
            let newest_backup = interval.backups.last().copied();
            (newest_backup, timeline.timeline, interval.to)
        })
    }
}

/// A run that backups lead to.
struct Reached {
    /// Its place in [`WalMap::runs`].
    run: usize,
    /// The first position that can be restored.
    from: Lsn,
    time: Option<PgTimestamp>,
    /// Each with its end.
    backups: Vec<(Lsn, BackupId)>,
}

fn of_timeline(
    map: &WalMap,
    timeline: TimelineId,
    backups: &[Start],
    stranded: &mut Vec<Stranded>,
) -> TimelineWindows {
    let history = map.history(timeline);
    let begin = history.begin();
    let mut reached: Vec<Reached> = Vec::new();
    for backup in backups.iter().filter(|backup| backup.is_on(&history)) {
        let walk = map.walk(backup, &history);
        if walk.reach < backup.end {
            if backup.timeline == timeline {
                stranded.push(Stranded { id: backup.id, reach: walk.reach, end: backup.end });
            }
            continue;
        }
        let Some((_, last)) = walk.stretches.last() else { continue };
        let Some((place, _)) = map.runs_of(timeline).find(|(_, run)| (run.first..=run.last).contains(last))
        else {
            continue;
        };
        let inherited = begin.filter(|begin| *begin > backup.end);
        let from = inherited.unwrap_or(backup.end);
        let time = if inherited.is_some() { None } else { backup.end_time };
        match reached.iter_mut().find(|reached| reached.run == place) {
            Some(reached) => {
                if from < reached.from {
                    (reached.from, reached.time) = (from, time);
                }
                reached.backups.push((backup.end, backup.id));
            }
            None => {
                reached.push(Reached { run: place, from, time, backups: vec![(backup.end, backup.id)] });
            }
        }
    }
    reached.sort_unstable_by_key(|reached| reached.run);
    let intervals: Vec<Interval> = reached
        .into_iter()
        .filter_map(|mut reached| {
            reached.backups.sort_unstable();
            let ids = reached.backups.into_iter().map(|(_, id)| id).collect();
            interval(map, map.runs().get(reached.run)?, reached.from, reached.time, ids)
        })
        .collect();
    let unreachable = map
        .runs_of(timeline)
        .filter_map(|(_, run)| {
            let (first, last) = (map.at(run.first)?.name, map.at(run.last)?.name);
            let covered = intervals.iter().any(|interval| interval.last == last);
            (!covered).then_some((first, last))
        })
        .collect();
    let parent = history.entries().last().map(|entry| (entry.timeline, entry.end));
    TimelineWindows { timeline, parent, intervals, unreachable }
}

fn interval(
    map: &WalMap,
    run: &Run,
    from: Lsn,
    from_time: Option<PgTimestamp>,
    backups: Vec<BackupId>,
) -> Option<Interval> {
    let number = from.as_u64() / map.size.bytes();
    let skipped = usize::try_from(number.saturating_sub(run.first_number)).ok()?;
    let first = run.first.saturating_add(skipped).min(run.last);
    let known = map.segments().get(first..=run.last)?;
    let mut interval = Interval {
        from,
        from_time,
        to: run.end,
        last_commit: None,
        last_commit_end: None,
        xids: None,
        commits: 0,
        backups,
        first: known.first()?.name,
        last: known.last()?.name,
        segments: known.len() as u64,
        unindexed: 0,
        ends: with_later(map, run),
        restore_points: Vec::new(),
        course: course(known),
    };
    for index in known.iter().filter_map(|known| known.index.as_ref()) {
        interval.commits += index.commits.count;
        interval.xids = merge(interval.xids, index.commits.xids);
        interval.last_commit = index.commits.times.map(|(_, last)| last).or(interval.last_commit);
        interval.last_commit_end = index.commits.last_end.or(interval.last_commit_end);
        let later = index.restore_points.entries.iter().filter(|point| point.lsn >= from);
        let room = RESTORE_POINTS_MAX.saturating_sub(interval.restore_points.len());
        interval.restore_points.extend(later.take(room).cloned());
        if interval.from_time.is_none() {
            interval.from_time = index.commits.times.map(|(first, _)| first);
        }
    }
    interval.unindexed = known.iter().filter(|known| known.index.is_none()).count() as u64;
    // A commit that counts is after the interval's first position.
    if interval.last_commit_end.is_some_and(|end| end <= from) {
        (interval.last_commit, interval.last_commit_end) = (None, None);
    }
    Some(interval)
}

/// A run's end, with how many segments behind it are of no use.
fn with_later(map: &WalMap, run: &Run) -> Break {
    match &run.break_after {
        Break::Missing { first, .. } => {
            let later = map
                .runs_of(run.timeline)
                .filter(|(_, other)| other.first > run.last)
                .map(|(_, other)| other.last - other.first + 1)
                .sum();
            Break::Missing { first: *first, later }
        }
        other => other.clone(),
    }
}

/// At most so many points, evenly spread over the segments.
fn course(known: &[Known]) -> Vec<(PgTimestamp, Lsn)> {
    let step = known.len().div_ceil(COURSE_POINTS_MAX).max(1);
    let last = known.len().saturating_sub(1);
    let points = known.iter().enumerate().filter(|(place, _)| place % step == 0 || *place == last);
    points
        .filter_map(|(_, known)| {
            let index = known.index.as_ref()?;
            let (_, time) = index.commits.times.or(index.aborts.times)?;
            Some((time, index.end))
        })
        .collect()
}

fn gaps(map: &WalMap) -> Vec<MissingRange> {
    let mut gaps = Vec::new();
    for pair in map.runs().windows(2) {
        let [before, after] = pair else { continue };
        let segments = after.first_number.saturating_sub(before.last_number + 1);
        if before.timeline != after.timeline || segments == 0 {
            continue;
        }
        let name = |number: u64| {
            SegmentName::at(before.timeline, Lsn::from_u64(number.saturating_mul(map.size.bytes())), map.size)
        };
        let (first, last) = (name(before.last_number + 1), name(after.first_number - 1));
        gaps.push(MissingRange { first, last, segments });
    }
    gaps
}

/// A range of transaction numbers that holds both, in the order of a 32-bit ring.
fn merge(one: Option<(u32, u32)>, other: Option<(u32, u32)>) -> Option<(u32, u32)> {
    let (Some((low, high)), Some((other_low, other_high))) = (one, other) else { return one.or(other) };
    let before = |a: u32, b: u32| (a.wrapping_sub(b) as i32) < 0;
    let low = if before(other_low, low) { other_low } else { low };
    let high = if before(high, other_high) { other_high } else { high };
    Some((low, high))
}

#[cfg(test)]
mod tests;
