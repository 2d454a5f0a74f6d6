//! What is missing in the archive.

use std::collections::BTreeMap;

use pgwal::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

use crate::{BackupInfo, Backups, Catalog, CatalogError, Keep, Layout, Status, wal, xlogdb};

/// Most segments that a range may have, so that a wrong name does not cost an hour: 16 TiB of WAL in the usual segments.
pub const RANGE_SEGMENTS_MAX: u64 = 1 << 20;

/// Segments that are missing one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first that is missing.
    pub first: SegmentName,
    /// The last that is missing.
    pub last: SegmentName,
    /// How many there are.
    pub segments: u64,
}

impl Gap {
    /// The segments that are missing, in order.
    pub fn segments(self, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
        let last = self.last;
        std::iter::successors(Some(self.first), move |segment| {
            segment.next(size).filter(|next| *next <= last)
        })
    }
}

/// Finds what recovery would miss: between the segments that are archived, from the oldest backup on that is kept for
/// recovery, and behind the last of them up to where a finished backup ends; of backups that are kept for themselves, within their
/// own WAL. By the files, not by the list. What has arrived and is not archived yet is not missing. The segment size comes with it;
/// `None` when there is neither backup nor WAL.
///
/// # Errors
/// When the archive or an annotation can't be read.
pub fn find(catalog: &Catalog, backups: &Backups) -> Result<Option<(Vec<Gap>, SegmentSize)>, CatalogError> {
    let layout = catalog.layout();
    let newest = backups.iter().next_back().map(|backup| backup.segment_size);
    let Some(size) = (match newest {
        Some(size) => Some(size),
        None => wal::archive_segment_size(layout)?,
    }) else {
        return Ok(None);
    };
    let present = xlogdb::archived_segments(layout)?;
    let mut gaps = Vec::new();
    let (mut from, mut oldest) = (None, None);
    for backup in backups.iter().filter(|backup| backup.status.is_usable()) {
        let (Some(begin), Some(end)) = (backup.begin_wal, backup.end_wal) else { continue };
        if catalog.kept(backup.id)?.map(|kept| kept.keep) != Some(Keep::Standalone) {
            (from, oldest) = (begin.first_lsn(size), Some(backup.id));
            break;
        }
        // A backup that still waits has its own way of telling.
        if backup.status == Status::Done && begin.timeline() == end.timeline() {
            let within = |segment: &&SegmentName| (begin..=end).contains(*segment);
            let mut own: Vec<SegmentName> = present.iter().filter(within).copied().collect();
            // The ends count as there, so that what is missing lies between; if they are not, they are looked for below.
            own.extend([begin.previous(size), end.next(size)].into_iter().flatten());
            own.sort_unstable();
            own.dedup();
            gaps.extend(gaps_in(&own, size, begin.first_lsn(size), |_| None));
        }
    }
    if from.is_some() || backups.iter().all(|backup| !backup.status.is_usable()) {
        let history = |timeline| wal::history(layout, timeline).ok().flatten();
        gaps.extend(gaps_in(&present, size, from, history));
    }
    if let Some(oldest) = oldest {
        let finished = backups.by_id.range(oldest..).map(|(_, backup)| backup);
        gaps.extend(lost_ends(&present, size, finished.filter(|backup| backup.status == Status::Done)));
    }
    Ok(Some((not_on_the_way(layout, gaps, size, &present), size)))
}

/// A range of segments that can't be looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// A name can't belong to a cluster with segments of this size.
    #[error("no cluster with WAL segments of {size} has a segment {segment}")]
    Name {
        /// The segment.
        segment: SegmentName,
        /// The size.
        size: SegmentSize,
    },
    /// It is longer than any archive.
    #[error("there are {segments} segments from {first} to {last}: more than any archive holds")]
    TooLong {
        /// The first.
        first: SegmentName,
        /// The last.
        last: SegmentName,
        /// How many.
        segments: u64,
    },
}

/// The segments from `first` to `last` (of one timeline) that are not in the archive, by looking for each file.
///
/// # Errors
/// When the range makes no sense.
pub fn missing_between(
    layout: &Layout,
    first: SegmentName,
    last: SegmentName,
    size: SegmentSize,
) -> Result<Vec<SegmentName>, RangeError> {
    let number = |segment: SegmentName| segment.number(size).ok_or(RangeError::Name { segment, size });
    let segments = number(last)?.saturating_sub(number(first)?).saturating_add(1);
    if segments > RANGE_SEGMENTS_MAX {
        return Err(RangeError::TooLong { first, last, segments });
    }
    let all = Gap { first, last, segments }.segments(size);
    Ok(all.filter(|segment| !layout.wal(&WalFile::Segment(*segment)).exists()).collect())
}

/// The gaps in a set of segments, which are in order: between the first and the last of each timeline, and where a timeline begins at the end
/// of another, of which `history` tells. Segments before `from`, by position, are not looked for.
pub fn gaps_in(
    present: &[SegmentName],
    size: SegmentSize,
    from: Option<Lsn>,
    mut history: impl FnMut(TimelineId) -> Option<History>,
) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut before: Option<SegmentName> = None;
    let wanted =
        |segment: &SegmentName| segment.end_lsn(size).is_some_and(|end| from.is_none_or(|from| end > from));
    for segment in present.iter().copied().filter(|segment| segment.number(size).is_some()) {
        let expected = match before {
            Some(before) if before.timeline() == segment.timeline() => before.next(size),
            _ => first_of(segment, size, &mut history, from, present),
        };
        if let Some(expected) = expected.filter(|expected| *expected < segment) {
            gaps.extend(gap(expected, segment, size, &wanted));
        }
        before = Some(segment);
    }
    gaps
}

/// What is missing behind the last archived segment of each timeline: a finished backup had all its WAL once.
fn lost_ends<'a>(
    present: &[SegmentName],
    size: SegmentSize,
    finished: impl Iterator<Item = &'a BackupInfo>,
) -> Vec<Gap> {
    let mut ranges: BTreeMap<TimelineId, (SegmentName, SegmentName)> = BTreeMap::new();
    for backup in finished {
        let (Some(begin), Some(end)) = (backup.begin_wal, backup.end_wal) else { continue };
        if begin.timeline() == end.timeline() {
            let range = ranges.entry(end.timeline()).or_insert((begin, end));
            *range = (range.0.min(begin), range.1.max(end));
        }
    }
    let lost = |(timeline, (begin, end)): (TimelineId, (SegmentName, SegmentName))| {
        let last = present.iter().rfind(|segment| segment.timeline() == timeline);
        let first = last.map_or(Some(begin), |last| last.next(size))?.max(begin);
        let segments = end.number(size)?.checked_sub(first.number(size)?)? + 1;
        Some(Gap { first, last: end, segments })
    };
    ranges.into_iter().filter_map(lost).collect()
}

/// What a timeline's first segment should be: the one in which it leaves its parent, where the parent's WAL is there.
fn first_of(
    segment: SegmentName,
    size: SegmentSize,
    history: &mut impl FnMut(TimelineId) -> Option<History>,
    from: Option<Lsn>,
    present: &[SegmentName],
) -> Option<SegmentName> {
    let timeline = segment.timeline();
    let from = from.map(|from| SegmentName::at(timeline, from, size));
    if timeline == TimelineId::FIRST {
        return from;
    }
    let begin = history(timeline)?.begin()?;
    let first = SegmentName::at(timeline, begin, size);
    // Of a timeline whose parent is not archived, only what is there counts.
    let parent_is_there = present.iter().any(|other| other.timeline() < timeline);
    if parent_is_there { Some(from.map_or(first, |from| from.max(first))) } else { None }
}

fn gap(
    first: SegmentName,
    present: SegmentName,
    size: SegmentSize,
    wanted: &impl Fn(&SegmentName) -> bool,
) -> Option<Gap> {
    let last = present.previous(size)?;
    let mut first = first;
    while !wanted(&first) {
        first = first.next(size).filter(|next| *next <= last)?;
    }
    let segments = last.number(size)?.checked_sub(first.number(size)?)? + 1;
    Some(Gap { first, last, segments })
}

/// Leaves out of gaps what has arrived and is not archived yet, and what is being received.
fn not_on_the_way(layout: &Layout, gaps: Vec<Gap>, size: SegmentSize, present: &[SegmentName]) -> Vec<Gap> {
    let mut left = Vec::new();
    for gap in gaps {
        // A long gap is one: not each of its files is looked for.
        if gap.segments > RANGE_SEGMENTS_MAX {
            left.push(gap);
            continue;
        }
        for segment in gap.segments(size) {
            if wal::exists(layout, WalFile::Segment(segment)) || is_being_received(layout, segment, present) {
                continue;
            }
            match left.last_mut() {
                Some(Gap { last, segments, .. }) if last.next(size) == Some(segment) => {
                    *last = segment;
                    *segments += 1;
                }
                _ => left.push(Gap { first: segment, last: segment, segments: 1 }),
            }
        }
    }
    left
}

/// Whether more is to come of a segment that there is a part of: where a later one is archived, the part was left behind.
fn is_being_received(layout: &Layout, segment: SegmentName, present: &[SegmentName]) -> bool {
    let later = present.get(present.partition_point(|archived| *archived <= segment));
    later.is_none_or(|later| later.timeline() != segment.timeline())
        && layout.streaming.join(WalFile::Partial(segment).to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn segment(timeline: u32, number: u64) -> SegmentName {
        let lsn = Lsn::from_u64(number * SIZE.bytes());
        SegmentName::at(TimelineId::new(timeline).unwrap(), lsn, SIZE)
    }

    #[test]
    fn a_finished_backup_had_its_wal_once() {
        let backup = |day: u32, begin: u64, end: u64| {
            let mut info = BackupInfo::new(format!("202601{day:02}T000000").parse().unwrap(), "pg");
            (info.begin_wal, info.end_wal) = (Some(segment(1, begin)), Some(segment(1, end)));
            info
        };
        let lost = |present: &[u64], backups: &[BackupInfo]| {
            let present: Vec<_> = present.iter().map(|number| segment(1, *number)).collect();
            lost_ends(&present, SIZE, backups.iter())
        };
        let backups = [backup(1, 2, 3), backup(2, 5, 7)];
        let gap = |first, last| Gap {
            first: segment(1, first),
            last: segment(1, last),
            segments: last - first + 1,
        };
        assert_eq!(lost(&[], &backups), [gap(2, 7)]);
        assert_eq!(lost(&[1], &backups), [gap(2, 7)]);
        assert_eq!(lost(&[0], &backups), [gap(2, 7)]);
        assert_eq!(lost(&[2, 3, 4, 5], &backups), [gap(6, 7)]);
        assert_eq!(lost(&[2, 3, 4, 5, 6, 7], &backups), []);
        assert_eq!(lost(&[9], &backups), []);
        assert_eq!(lost(&[2], &[]), []);
    }

    /// Gaps as timeline, first and last number.
    #[track_caller]
    fn check(present: &[(u32, u64)], from: Option<u64>, expected: &[(u32, u64, u64)]) {
        let present: Vec<_> = present.iter().map(|(timeline, number)| segment(*timeline, *number)).collect();
        let history = |timeline: TimelineId| {
            let switch = format!("1\t0/{:X}\tno reason\n", 5 * SIZE.bytes() + 64);
            (timeline.as_u32() == 2).then(|| History::parse(timeline, switch.as_bytes()).unwrap())
        };
        let from = from.map(|number| Lsn::from_u64(number * SIZE.bytes() + 40));
        let found: Vec<_> = gaps_in(&present, SIZE, from, history)
            .into_iter()
            .map(|gap| {
                let number = |segment: SegmentName| segment.number(SIZE).unwrap();
                assert_eq!(gap.segments, number(gap.last) - number(gap.first) + 1);
                (gap.first.timeline().as_u32(), number(gap.first), number(gap.last))
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn gaps_are_between_the_first_and_the_last_of_a_timeline() {
        check(&[], None, &[]);
        check(&[(1, 7), (1, 8), (1, 9)], None, &[]);
        check(&[(1, 7), (1, 9), (1, 13)], None, &[(1, 8, 8), (1, 10, 12)]);
        check(&[(1, 4095), (1, 4096)], None, &[]);
        check(&[(1, 4095), (1, 4098)], None, &[(1, 4096, 4097)]);
    }

    #[test]
    fn what_no_backup_needs_is_not_missed() {
        check(&[(1, 1), (1, 5), (1, 9)], Some(7), &[(1, 7, 8)]);
        check(&[(1, 9)], Some(7), &[(1, 7, 8)]);
        check(&[(1, 1), (1, 5)], Some(5), &[]);
    }

    #[test]
    fn a_timeline_begins_where_its_history_says() {
        check(&[(1, 3), (1, 4), (2, 5), (2, 6)], None, &[]);
        check(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 5)], None, &[]);
        check(&[(1, 4), (2, 7)], None, &[(2, 5, 6)]);
        // Neither where nothing is known of it, nor where what it left is not kept.
        check(&[(1, 4), (3, 7)], None, &[]);
        check(&[(2, 7)], None, &[]);
        check(&[(1, 4), (2, 8)], Some(7), &[(2, 7, 7)]);
    }
}
