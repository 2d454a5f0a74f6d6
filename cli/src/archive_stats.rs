//! How much WAL belongs to a backup: the sums that lists and reports show.
//!
//! A backup's own WAL runs from its begin to its end; what follows, up to the end of the next backup, is what would let
//! recovery go on from it. Only complete segments of the backup's timeline count. The list of archived files is sorted
//! and summed once, so that each question costs two binary searches however many backups ask.

use barkeep_catalog::xlogdb::WalEntry;
use barkeep_catalog::{BackupInfo, Backups};
use pgwal::{SegmentName, SegmentSize, WalFile};

/// The archived segments in name order, with running totals.
#[derive(Debug, Default)]
pub struct ArchiveStats {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    name: SegmentName,
    time: f64,
    /// The bytes of this segment and all before it.
    total: u64,
}

/// The WAL of one backup.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WalOfBackup {
    /// From its begin to its end.
    pub own: WalSum,
    /// After its end, up to the end of the next backup.
    pub later: WalSum,
    /// The newest of these.
    pub last: Option<SegmentName>,
    /// When that one was written, in seconds since 1970.
    pub last_time: Option<f64>,
    /// Segments a second between the first and the last; `None` when there is nothing to measure.
    pub segments_per_second: Option<f64>,
}

/// So many files, so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalSum {
    /// How many segments.
    pub count: u64,
    /// Their size as stored, in bytes.
    pub bytes: u64,
}

impl WalSum {
    /// What compression saved, from 0 to 1; `None` when nothing was saved.
    pub fn saved(self, size: SegmentSize) -> Option<f64> {
        let plain = self.count.checked_mul(size.bytes()).filter(|plain| *plain > 0)?;
        Some(1.0 - self.bytes as f64 / plain as f64).filter(|saved| *saved > 0.0)
    }
}

impl ArchiveStats {
    /// Sums up a list of archived files.
    pub fn new(entries: &[WalEntry]) -> Self {
        let complete = |entry: &WalEntry| match entry.file {
            WalFile::Segment(name) => Some(Segment { name, time: entry.time, total: entry.size }),
            WalFile::Partial(_) | WalFile::Label { .. } | WalFile::History(_) => None,
        };
        let mut segments: Vec<Segment> = entries.iter().filter_map(complete).collect();
        // Archived in order, as a rule: then this is one pass.
        segments.sort_by_key(|segment| segment.name);
        let mut total = 0;
        for segment in &mut segments {
            total = segment.total.saturating_add(total);
            segment.total = total;
        }
        ArchiveStats { segments }
    }

    /// Whether nothing is archived.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The WAL of a backup, up to the end of the next one if there is one.
    pub fn of(&self, backup: &BackupInfo, next: Option<&BackupInfo>) -> WalOfBackup {
        let (Some(begin), Some(end)) = (backup.begin_wal, backup.end_wal) else {
            return WalOfBackup::default();
        };
        let first = self.segments.partition_point(|segment| segment.name < begin);
        let after_own = self.segments.partition_point(|segment| segment.name <= end).max(first);
        let on_timeline =
            self.segments.partition_point(|segment| segment.name.timeline() <= begin.timeline());
        let limit = match next.and_then(|next| next.end_wal) {
            Some(limit) => self.segments.partition_point(|segment| segment.name <= limit).min(on_timeline),
            None => on_timeline,
        };
        let (after_own, limit) = (after_own.min(limit).max(first), limit.max(first));
        let own = self.sum(first, after_own);
        let later = self.sum(after_own, limit);
        let last = if limit > first { self.segments.get(limit - 1) } else { None };
        let begins = self.segments.get(first).filter(|segment| segment.name == begin);
        let seconds = begins.zip(last).map(|(first, last)| last.time - first.time);
        let rate = seconds.filter(|seconds| *seconds > 0.0);
        WalOfBackup {
            own,
            later,
            last: last.map(|segment| segment.name),
            last_time: last.map(|segment| segment.time),
            segments_per_second: rate.map(|seconds| (own.count + later.count) as f64 / seconds),
        }
    }

    /// The WAL of a backup among the others of its server.
    pub fn among(&self, backups: &Backups, backup: &BackupInfo) -> WalOfBackup {
        self.of(backup, backups.usable_after(backup.id))
    }

    fn sum(&self, from: usize, to: usize) -> WalSum {
        let before =
            |at: usize| at.checked_sub(1).and_then(|at| self.segments.get(at)).map_or(0, |s| s.total);
        WalSum { count: (to - from) as u64, bytes: before(to).saturating_sub(before(from)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barkeep_catalog::xlogdb;
    use proptest::prelude::*;

    fn backup(begin: &str, end: &str) -> BackupInfo {
        let mut info = BackupInfo::new("20260101T000000".parse().unwrap(), "main");
        info.begin_wal = begin.parse().ok();
        info.end_wal = end.parse().ok();
        info
    }

    fn segment(timeline: u32, number: u32) -> String {
        format!("{timeline:08X}00000000{number:08X}")
    }

    fn stats(lines: &[(u32, u32, u64)]) -> ArchiveStats {
        let lines = lines.iter().map(|(timeline, number, size)| {
            format!("{}\t{size}\t{}.5\tNone\tNone\n", segment(*timeline, *number), number * 10)
        });
        ArchiveStats::new(&xlogdb::parse(lines.collect::<String>().as_bytes()).entries)
    }

    #[test]
    fn sums_stop_at_the_next_backup_and_stay_on_the_timeline() {
        let stats = stats(&[(1, 2, 10), (1, 3, 20), (1, 4, 30), (1, 5, 40), (2, 4, 500), (2, 5, 500)]);
        let wal = stats.of(&backup(&segment(1, 2), &segment(1, 3)), None);
        assert_eq!(wal.own, WalSum { count: 2, bytes: 30 });
        assert_eq!(wal.later, WalSum { count: 2, bytes: 70 });
        assert_eq!(wal.last.map(|name| name.to_string()), Some(segment(1, 5)));
        assert_eq!(wal.segments_per_second, Some(4.0 / 30.0));
        let next = backup(&segment(1, 4), &segment(1, 4));
        let wal = stats.of(&backup(&segment(1, 2), &segment(1, 3)), Some(&next));
        assert_eq!(wal.later, WalSum { count: 1, bytes: 30 });
        let next = backup(&segment(2, 4), &segment(2, 4));
        let wal = stats.of(&backup(&segment(1, 2), &segment(1, 3)), Some(&next));
        assert_eq!(wal.later.count, 2);
    }

    #[test]
    fn a_missing_beginning_leaves_no_rate() {
        let stats = stats(&[(1, 3, 20), (1, 4, 30)]);
        let wal = stats.of(&backup(&segment(1, 2), &segment(1, 3)), None);
        assert_eq!((wal.own.count, wal.later.count, wal.segments_per_second), (1, 1, None));
        assert_eq!(stats.of(&backup("", ""), None), WalOfBackup::default());
        assert_eq!(
            ArchiveStats::default().of(&backup(&segment(1, 2), &segment(1, 3)), None),
            WalOfBackup::default()
        );
    }

    #[test]
    fn what_compression_saved() {
        let sum = WalSum { count: 2, bytes: 16 << 20 };
        assert_eq!(sum.saved(SegmentSize::DEFAULT), Some(0.5));
        assert_eq!(WalSum { count: 1, bytes: 16 << 20 }.saved(SegmentSize::DEFAULT), None);
        assert_eq!(WalSum::default().saved(SegmentSize::DEFAULT), None);
    }

    proptest! {
        #[test]
        fn agrees_with_walking_the_list(
            lines in prop::collection::vec((1u32..3, 0u32..30, 0u64..100), 0..40),
            begin in 0u32..30, length in 0u32..5, next in prop::option::of(0u32..40),
        ) {
            let backup = backup(&segment(1, begin), &segment(1, begin + length));
            let next = next.map(|at| self::backup(&segment(1, at), &segment(1, at)));
            let limit = next.as_ref().map_or(u32::MAX, |next| {
                u32::try_from(next.end_wal.unwrap().number(SegmentSize::DEFAULT).unwrap()).unwrap()
            });
            let counts = |from: u32, to: u32| {
                let matching = lines.iter().filter(|(t, n, _)| *t == 1 && *n >= from && *n <= to && *n <= limit);
                matching.fold(WalSum::default(), |sum, (.., size)| WalSum { count: sum.count + 1, bytes: sum.bytes + size })
            };
            let wal = stats(&lines).of(&backup, next.as_ref());
            prop_assert_eq!(wal.own, counts(begin, begin + length));
            prop_assert_eq!(wal.later, counts(begin + length + 1, u32::MAX));
        }
    }
}
