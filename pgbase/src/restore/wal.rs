//! Which WAL a restore needs: one unbroken chain of segments, along one timeline, from the backup's start to its target.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgwal::{History, Lsn, SegmentName, SegmentSize, TargetKind, TargetTimeline, TimelineId, WalFile};

use super::BackupFacts;

/// How many segments after the one of an LSN target are taken along.
///
/// Recovery stops at the first record that *starts* at or after the target, and has to read that record: it may be in
/// the segment after.
const SEGMENTS_AFTER_LSN_TARGET: u64 = 1;

/// A WAL file at hand, compressed or not.
///
/// An archive has a hundred thousand of them: they share the path of their directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvailableWal {
    /// What it is, and the name of its file.
    pub file: WalFile,
    /// The directory in which it is.
    pub directory: Arc<Path>,
}

impl AvailableWal {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.file.to_string())
    }
}

/// A WAL file to place, under its plain name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCopy {
    /// Where it comes from.
    pub source: AvailableWal,
    /// What is known of its size.
    pub kind: WalKind,
}

impl WalCopy {
    /// The name it gets: a partial segment's is that of the whole one.
    pub fn name(&self) -> String {
        match (self.kind, self.source.file.segment()) {
            (WalKind::Segment | WalKind::Partial, Some(segment)) => segment.to_string(),
            _ => self.source.file.to_string(),
        }
    }
}

/// What a WAL file's decompressed size has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalKind {
    /// A segment: exactly the cluster's segment size.
    Segment,
    /// A segment that was never completed: filled up with zeros to the segment size, as the server expects.
    Partial,
    /// A history file: small.
    History,
}

/// The WAL of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSelection {
    /// The files, in the order that recovery reads them; history files first.
    pub files: Vec<WalCopy>,
    /// The last segment of the unbroken chain; `None` when there is none at all.
    pub last: Option<SegmentName>,
    /// Where the chain ends: nothing after this position can be reached.
    pub reach: Lsn,
    /// The first segment that is missing although later ones exist, and how many of those there are.
    pub gap: Option<(SegmentName, usize)>,
}

/// The timeline that a restore follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTimeline {
    /// Its history, down to the backup's timeline.
    pub history: History,
    /// What `recovery_target_timeline` has to say; `None` when the server's default does it.
    pub setting: Option<TargetTimeline>,
    /// A newer timeline that the server would have tried by itself and failed: it does not descend from the backup.
    pub passed_over: Option<TimelineId>,
}

/// A timeline that the backup can't be recovered along.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimelineError {
    /// Nothing is known of it. The server itself would silently stop at an older one.
    #[error("timeline {timeline} is not in the archive: there is no history file {timeline:08X}.history", timeline = timeline.as_u32())]
    Unknown {
        /// The timeline asked for.
        timeline: TimelineId,
    },
    /// It left the backup's ancestry before the backup ended.
    #[error(
        "timeline {timeline} does not pass through this backup, which ends at {end} on timeline {backup_timeline}"
    )]
    NotDescendant {
        /// The timeline asked for.
        timeline: TimelineId,
        /// The backup's timeline.
        backup_timeline: TimelineId,
        /// Where the backup ends.
        end: Lsn,
    },
}

/// Finds the timeline to recover along, as the server will but with its failures foreseen.
///
/// Without a wish, or for `latest`, that is the newest timeline that descends from the backup. The server's own search
/// counts upwards from the backup's timeline until a history file is missing, and takes no account of descent; where it
/// would go astray, the timeline is named in the setting.
///
/// # Errors
/// When the timeline asked for is unknown or does not descend from the backup.
pub fn resolve_timeline(
    backup: &BackupFacts,
    wish: Option<TargetTimeline>,
    histories: &[History],
) -> Result<ResolvedTimeline, TimelineError> {
    let find = |timeline| histories.iter().find(|history| history.timeline() == timeline);
    let own = || find(backup.timeline).cloned().unwrap_or_else(|| History::root(backup.timeline));
    match wish {
        Some(TargetTimeline::Current) => {
            Ok(ResolvedTimeline { history: own(), setting: wish, passed_over: None })
        }
        Some(TargetTimeline::Id(timeline)) if timeline == backup.timeline => {
            Ok(ResolvedTimeline { history: own(), setting: wish, passed_over: None })
        }
        Some(TargetTimeline::Id(timeline)) => {
            let history = find(timeline).ok_or(TimelineError::Unknown { timeline })?.clone();
            if !descends(backup, &history) {
                let (backup_timeline, end) = (backup.timeline, backup.end);
                return Err(TimelineError::NotDescendant { timeline, backup_timeline, end });
            }
            Ok(ResolvedTimeline { history, setting: wish, passed_over: None })
        }
        None | Some(TargetTimeline::Latest) => {
            let newest = histories
                .iter()
                .filter(|history| history.timeline() > backup.timeline && descends(backup, history))
                .max_by_key(|history| history.timeline());
            let history = newest.cloned().unwrap_or_else(own);
            let servers_choice = newest_by_counting(backup.timeline, histories);
            if servers_choice == history.timeline() {
                return Ok(ResolvedTimeline { history, setting: wish, passed_over: None });
            }
            let setting = Some(TargetTimeline::Id(history.timeline()));
            let passed_over = (servers_choice > history.timeline()).then_some(servers_choice);
            Ok(ResolvedTimeline { history, setting, passed_over })
        }
    }
}

/// Whether the whole backup lies on this history.
fn descends(backup: &BackupFacts, history: &History) -> bool {
    history.includes(backup.timeline) && history.end_of(backup.timeline).is_none_or(|left| left >= backup.end)
}

/// The server's `findNewestTimeLine`.
fn newest_by_counting(from: TimelineId, histories: &[History]) -> TimelineId {
    let known: BTreeSet<TimelineId> = histories.iter().map(History::timeline).collect();
    let mut newest = from;
    while let Some(next) = newest.as_u32().checked_add(1).and_then(TimelineId::new)
        && known.contains(&next)
    {
        newest = next;
    }
    newest
}

/// Picks the WAL for a restore along `history`: the segments from the backup's start up to what the target needs, as
/// far as they follow one another without a gap.
///
/// `until` is where recovery is known to stop reading; without it, that is judged by the target.
///
/// Every history file is taken, not only those on the path: from them the server learns which timeline numbers are in
/// use, and so never gives a number twice.
pub fn select_wal(
    backup: &BackupFacts,
    history: &History,
    target: Option<&TargetKind>,
    until: Option<Lsn>,
    available: &[AvailableWal],
    partials: bool,
) -> WalSelection {
    let size = backup.segment_size;
    let segments = segments_on(history, size, available, partials);
    let (begin, stop) = (segment_number(backup.begin, size), last_number(backup, target, until));
    let mut files = history_files(available);
    let mut selection = WalSelection { files: Vec::new(), last: None, reach: backup.begin, gap: None };
    let newest = segments.last().map_or(0, |version| version.number);
    let mut rest = &segments[segments.partition_point(|version| version.number < begin)..];
    let mut number = begin;
    while number <= stop {
        let wanted = segment_at(history, number, size);
        let versions;
        (versions, rest) = rest.split_at(rest.iter().take_while(|version| version.number == number).count());
        let complete = versions.iter().any(|version| version.segment == wanted);
        // An older timeline's copy ends at the switch: it will do only where nothing follows.
        if versions.is_empty() || (!complete && newest > number) {
            selection.gap = gap_before_later(rest, stop, wanted);
            break;
        }
        files.extend(
            versions.iter().map(|version| WalCopy { source: version.wal.clone(), kind: version.kind }),
        );
        selection.last = versions.iter().map(|version| version.segment).max();
        selection.reach = wanted.end_lsn(size).unwrap_or(Lsn::MAX);
        number += 1;
    }
    selection.files = files;
    selection
}

/// One timeline's copy of a segment.
#[derive(Debug)]
struct Version<'a> {
    number: u64,
    segment: SegmentName,
    kind: WalKind,
    wal: &'a AvailableWal,
}

/// The segments that recovery along `history` may read, by number; a complete one is preferred to a partial one, and
/// of two alike the first listed.
fn segments_on<'a>(
    history: &History,
    size: SegmentSize,
    available: &'a [AvailableWal],
    partials: bool,
) -> Vec<Version<'a>> {
    let version = |wal: &'a AvailableWal| {
        let (segment, kind) = match wal.file {
            WalFile::Segment(segment) => (segment, WalKind::Segment),
            WalFile::Partial(segment) if partials => (segment, WalKind::Partial),
            _ => return None,
        };
        let number = segment.number(size).filter(|_| history.uses(segment, size))?;
        Some(Version { number, segment, kind, wal })
    };
    let mut versions: Vec<Version<'a>> = available.iter().filter_map(version).collect();
    versions.sort_by_key(|version| (version.number, version.segment, version.kind));
    versions.dedup_by_key(|version| version.segment);
    versions
}

fn history_files(available: &[AvailableWal]) -> Vec<WalCopy> {
    let mut seen = BTreeSet::new();
    available
        .iter()
        .filter(|wal| matches!(wal.file, WalFile::History(timeline) if seen.insert(timeline)))
        .map(|wal| WalCopy { source: wal.clone(), kind: WalKind::History })
        .collect()
}

fn segment_number(lsn: Lsn, size: SegmentSize) -> u64 {
    lsn.as_u64() / size.bytes()
}

/// The number of the last segment that the target needs.
fn last_number(backup: &BackupFacts, target: Option<&TargetKind>, until: Option<Lsn>) -> u64 {
    let size = backup.segment_size;
    let ending_at = |lsn: Lsn| segment_number(Lsn::from_u64(lsn.as_u64().saturating_sub(1)), size);
    let end = ending_at(backup.end);
    if let Some(until) = until {
        return end.max(ending_at(until));
    }
    match target {
        Some(TargetKind::Immediate) => end,
        Some(TargetKind::Lsn(lsn)) => end.max(segment_number(*lsn, size) + SEGMENTS_AFTER_LSN_TARGET),
        // Without an index of the WAL, a time, a transaction or a name may be anywhere.
        Some(TargetKind::Time(_) | TargetKind::Xid(_) | TargetKind::Name(_)) | None => {
            u64::MAX / size.bytes()
        }
    }
}

/// The newest timeline's copy of a segment: the one that holds all of it that counts.
fn segment_at(history: &History, number: u64, size: SegmentSize) -> SegmentName {
    let first = Lsn::from_u64(number.saturating_mul(size.bytes()));
    let last = first.checked_add(size.bytes() - 1).unwrap_or(Lsn::MAX);
    SegmentName::at(history.timeline_at(last), first, size)
}

/// How many numbers up to `stop` there are in `later`, if any.
fn gap_before_later(later: &[Version<'_>], stop: u64, missing: SegmentName) -> Option<(SegmentName, usize)> {
    let upto_stop = later.iter().take_while(|version| version.number <= stop);
    let mut numbers: Vec<u64> = upto_stop.map(|version| version.number).collect();
    numbers.dedup();
    (!numbers.is_empty()).then_some((missing, numbers.len()))
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{backup, history, wal};
    use super::*;

    fn names(selection: &WalSelection) -> Vec<String> {
        selection.files.iter().map(WalCopy::name).collect()
    }

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn the_chain_runs_from_the_backups_start_to_the_end_of_the_archive() {
        let available = wal(&[
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000004",
        ]);
        let selection =
            select_wal(&backup(), &History::root(TimelineId::FIRST), None, None, &available, false);
        assert_eq!(
            names(&selection),
            ["000000010000000000000002", "000000010000000000000003", "000000010000000000000004"]
        );
        assert_eq!(selection.reach, Lsn::from_u64(0x500_0000));
        assert_eq!(selection.gap, None);
    }

    #[test]
    fn immediate_and_lsn_targets_take_no_more_than_they_read() {
        let available: Vec<_> =
            (2..20).flat_map(|number| wal(&[&format!("0000000100000000000000{number:02X}")])).collect();
        let count = |target: TargetKind| {
            let root = History::root(TimelineId::FIRST);
            select_wal(&backup(), &root, Some(&target), None, &available, false).files.len()
        };
        let until = |lsn: u64| {
            let root = History::root(TimelineId::FIRST);
            let target = Some(&TargetKind::Xid(5));
            select_wal(&backup(), &root, target, Some(Lsn::from_u64(lsn)), &available, false).files.len()
        };
        assert_eq!((until(0x100_0000), until(0x500_0000), until(0x500_0001)), (2, 3, 4));
        assert_eq!(count(TargetKind::Immediate), 2);
        assert_eq!(count(TargetKind::Lsn(Lsn::from_u64(0x500_0010))), 5);
        assert_eq!(count(TargetKind::Xid(5)), 18);
    }

    #[test]
    fn a_gap_ends_the_chain_and_is_named() {
        let available = wal(&[
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000005",
            "000000010000000000000006",
        ]);
        let selection =
            select_wal(&backup(), &History::root(TimelineId::FIRST), None, None, &available, false);
        assert_eq!(selection.files.len(), 2);
        assert_eq!(selection.gap, Some(("000000010000000000000004".parse().unwrap(), 2)));
    }

    #[test]
    fn only_timelines_on_the_path_are_followed_but_every_history_is_shipped() {
        let available = wal(&[
            "00000002.history",
            "00000003.history",
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004",
            "000000020000000000000004",
            "000000020000000000000005",
            "000000030000000000000004",
            "000000010000000000000005",
        ]);
        let path = history(2, "1\t0/4000100\tx\n");
        let selection = select_wal(&backup(), &path, None, None, &available, false);
        assert_eq!(
            names(&selection),
            [
                "00000002.history",
                "00000003.history",
                "000000010000000000000002",
                "000000010000000000000003",
                "000000010000000000000004",
                "000000020000000000000004",
                "000000020000000000000005",
            ]
        );
    }

    #[test]
    fn an_old_timelines_copy_of_the_switch_segment_does_not_bridge_to_the_new_one() {
        let available = wal(&[
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004",
            "000000020000000000000005",
        ]);
        let path = history(2, "1\t0/4000100\tx\n");
        let selection = select_wal(&backup(), &path, None, None, &available, false);
        assert_eq!(selection.gap, Some(("000000020000000000000004".parse().unwrap(), 1)));
        // With nothing after it, it is as far as one gets.
        let selection = select_wal(&backup(), &path, None, None, &available[..3], false);
        assert_eq!(selection.last, Some("000000010000000000000004".parse().unwrap()));
        assert_eq!(selection.gap, None);
    }

    #[test]
    fn partial_segments_come_only_when_asked_for_and_under_their_full_name() {
        let available = wal(&[
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004.partial",
            "000000010000000000000003.partial",
        ]);
        let root = History::root(TimelineId::FIRST);
        assert_eq!(select_wal(&backup(), &root, None, None, &available, false).files.len(), 2);
        let selection = select_wal(&backup(), &root, None, None, &available, true);
        assert_eq!(selection.files.len(), 3);
        assert_eq!(selection.files[1].kind, WalKind::Segment);
        assert_eq!(selection.files[2].name(), "000000010000000000000004");
        assert_eq!(selection.files[2].kind, WalKind::Partial);
    }

    #[test]
    fn the_newest_descendant_is_followed_even_where_the_server_would_stray() {
        // Timeline 2 left before the backup ended; timeline 4 descends from it by 3, and 3 has no file of its own.
        let histories = [
            history(2, "1\t0/2000000\tx\n"),
            history(4, "1\t0/4000100\tx\n3\t0/5000000\tx\n"),
            history(5, "1\t0/2000000\tx\n2\t0/3000000\tx\n"),
        ];
        let resolved = resolve_timeline(&backup(), None, &histories).unwrap();
        assert_eq!(resolved.history.timeline(), tli(4));
        assert_eq!(resolved.setting, Some(TargetTimeline::Id(tli(4))));

        // The server would pick 2 and refuse to start.
        let resolved = resolve_timeline(&backup(), None, &histories[..1]).unwrap();
        assert_eq!(resolved.history.timeline(), tli(1));
        assert_eq!(resolved.setting, Some(TargetTimeline::Id(tli(1))));
        assert_eq!(resolved.passed_over, Some(tli(2)));

        // One promotion: the default does it.
        let resolved = resolve_timeline(&backup(), None, &[history(2, "1\t0/4000100\tx\n")]).unwrap();
        assert_eq!((resolved.history.timeline(), resolved.setting), (tli(2), None));
    }

    #[test]
    fn a_timeline_that_cannot_be_followed_is_refused() {
        let wish = |number| Some(TargetTimeline::Id(tli(number)));
        let histories = [history(2, "1\t0/2000000\tx\n")];
        assert_eq!(
            resolve_timeline(&backup(), wish(7), &histories),
            Err(TimelineError::Unknown { timeline: tli(7) })
        );
        assert!(matches!(
            resolve_timeline(&backup(), wish(2), &histories),
            Err(TimelineError::NotDescendant { .. })
        ));
        assert!(resolve_timeline(&backup(), wish(1), &histories).is_ok());
        assert!(resolve_timeline(&backup(), Some(TargetTimeline::Current), &histories).is_ok());
    }

    mod laws {
        use super::*;
        use proptest::prelude::*;

        /// Some segments 0 to 15 of timelines 1 and 2, in any order.
        fn archive() -> impl Strategy<Value = Vec<AvailableWal>> {
            proptest::collection::vec((1u32..=2, 0u32..16, any::<bool>()), 0..40).prop_map(|files| {
                files
                    .into_iter()
                    .flat_map(|(timeline, number, partial)| {
                        let suffix = if partial { ".partial" } else { "" };
                        wal(&[&format!("{timeline:08X}00000000{number:08X}{suffix}")])
                    })
                    .collect()
            })
        }

        proptest! {
            #[test]
            fn a_selection_is_one_chain_on_the_path(available in archive(), partials: bool) {
                let path = history(2, "1\t0/5000100\tx\n");
                let size = SegmentSize::DEFAULT;
                let selection = select_wal(&backup(), &path, None, None, &available, partials);
                let names: Vec<SegmentName> =
                    selection.files.iter().map(|file| file.name().parse().unwrap()).collect();
                let mut numbers: Vec<u64> = names.iter().map(|name| name.number(size).unwrap()).collect();
                prop_assert!(names.iter().all(|name| path.uses(*name, size)));
                prop_assert!(numbers.is_sorted());
                numbers.dedup();
                let expected: Vec<u64> = (2..2 + numbers.len() as u64).collect();
                prop_assert_eq!(&numbers, &expected);
                let reach = numbers.last().map_or(backup().begin.as_u64(), |last| (last + 1) * size.bytes());
                prop_assert_eq!(selection.reach.as_u64(), reach);
                let unique: BTreeSet<String> = selection.files.iter().map(WalCopy::name).collect();
                prop_assert_eq!(unique.len(), selection.files.len());
            }

            #[test]
            fn more_wal_never_reaches_less(mut available in archive(), more in archive()) {
                let path = history(2, "1\t0/5000100\tx\n");
                let before = select_wal(&backup(), &path, None, None, &available, true).reach;
                available.extend(more);
                // Except where an older timeline's copy was the end, and now something follows that it doesn't join.
                let after = select_wal(&backup(), &path, None, None, &available, true);
                prop_assert!(after.reach >= before || after.gap.is_some());
            }
        }
    }
}
