//! Which WAL may go.
//!
//! A segment is kept when recovery from some remaining backup, along some timeline, could ask for it. That is a
//! question of positions and ancestry: names of different timelines have no useful order, and directories say nothing.
//! Where ancestry is not known, WAL is kept.
//!
//! The answer is a [`WalPlan`]: for each timeline stretches of segments, each with its fate. Its size depends on the
//! number of backups, not on how much WAL there is; files and ranges of segments are looked up in it.

mod claims;
mod stretch;

use std::collections::BTreeMap;

use pgwal::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

pub use claims::{Claim, NoPlace, claims};
use stretch::{Interval, Stretch};

/// What is to become of a WAL file, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate<Id> {
    /// Recovery from this backup may ask for it: the newest one of which that is true, which will be the last to go.
    Needed {
        /// The backup.
        by: Id,
    },
    /// Recovery from this backup may ask for it, as far as is known: the history that would tell is missing.
    UnknownAncestry {
        /// The backup.
        by: Id,
    },
    /// A timeline's history: small, and needed to know what the other files are. Always kept.
    History,
    /// Its name does not fit the segment size, so nothing is known about it. Kept.
    Unreadable,
    /// No claim was made at all. Kept: with no backup left there is nothing to measure by.
    NothingRemains,
    /// No recovery can ask for it.
    Removable,
}

impl<Id> Fate<Id> {
    /// Whether the file may go.
    pub const fn is_removable(&self) -> bool {
        matches!(self, Fate::Removable)
    }
}

impl<Id: Copy> Fate<&Id> {
    /// The same with the identifier itself.
    pub const fn copied(self) -> Fate<Id> {
        match self {
            Fate::Needed { by } => Fate::Needed { by: *by },
            Fate::UnknownAncestry { by } => Fate::UnknownAncestry { by: *by },
            Fate::History => Fate::History,
            Fate::Unreadable => Fate::Unreadable,
            Fate::NothingRemains => Fate::NothingRemains,
            Fate::Removable => Fate::Removable,
        }
    }
}

/// Consecutive segments of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first one, by its number from the beginning of the address space.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl SegmentRange {
    /// How many segments.
    pub const fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Where it begins.
    pub const fn begin(self, size: SegmentSize) -> Lsn {
        Lsn::from_u64(self.first.saturating_mul(size.bytes()))
    }

    /// The name of its first segment.
    pub const fn first_name(self, size: SegmentSize) -> SegmentName {
        SegmentName::at(self.timeline, self.begin(size), size)
    }

    /// The name of its last segment.
    pub const fn last_name(self, size: SegmentSize) -> SegmentName {
        let begin = Lsn::from_u64(self.last.saturating_mul(size.bytes()));
        SegmentName::at(self.timeline, begin, size)
    }

    /// Joins segments into ranges. Duplicates are fine, names that don't fit the segment size are left out.
    pub fn of(segments: impl IntoIterator<Item = SegmentName>, size: SegmentSize) -> Vec<Self> {
        let numbered = segments.into_iter().filter_map(|name| Some((name.timeline(), name.number(size)?)));
        let mut numbers: Vec<(TimelineId, u64)> = numbered.collect();
        numbers.sort_unstable();
        let mut ranges: Vec<SegmentRange> = Vec::new();
        for (timeline, number) in numbers {
            match ranges.last_mut() {
                Some(range) if range.timeline == timeline && number <= range.last.saturating_add(1) => {
                    range.last = number;
                }
                _ => ranges.push(SegmentRange { timeline, first: number, last: number }),
            }
        }
        ranges
    }
}

/// What is to become of an archive's WAL.
#[derive(Debug, Clone)]
pub struct WalPlan<'a, Id> {
    claims: &'a [Claim<Id>],
    size: SegmentSize,
    ancestry: Ancestry<'a>,
    timelines: BTreeMap<TimelineId, Vec<Stretch>>,
}

impl<'a, Id> WalPlan<'a, Id> {
    /// Plans for these timelines.
    ///
    /// `claims` are those of all backups that remain, running ones included; `histories` those that the archive holds.
    /// Without any claim nothing may go: to purge what lies before a backup that is being deleted, claim all WAL from
    /// its own beginning on.
    pub fn new(
        claims: &'a [Claim<Id>],
        histories: &'a [History],
        timelines: impl IntoIterator<Item = TimelineId>,
        size: SegmentSize,
    ) -> Self {
        let ancestry = Ancestry::new(histories);
        let mut plan = WalPlan { claims, size, ancestry, timelines: BTreeMap::new() };
        for timeline in timelines {
            if !plan.timelines.contains_key(&timeline) {
                let stretches = plan.stretches_of(timeline);
                plan.timelines.insert(timeline, stretches);
            }
        }
        plan
    }

    /// What is to become of a file. One of a timeline that was not planned for is kept.
    pub fn fate(&self, file: &WalFile) -> Fate<&'a Id> {
        let Some(segment) = file.segment() else { return Fate::History };
        if self.claims.is_empty() {
            return Fate::NothingRemains;
        }
        let (Some(number), Some(stretches)) =
            (segment.number(self.size), self.timelines.get(&segment.timeline()))
        else {
            return Fate::Unreadable;
        };
        // The first stretch begins at 0.
        let after = stretches.partition_point(|stretch| stretch.first <= number);
        stretches[..after].last().map_or(Fate::Unreadable, |stretch| self.fate_of(stretch))
    }

    /// What is to become of ranges of segments: they are cut where fates differ.
    pub fn ranges<'p>(
        &'p self,
        ranges: impl IntoIterator<Item = SegmentRange> + 'p,
    ) -> impl Iterator<Item = (SegmentRange, Fate<&'a Id>)> + 'p {
        ranges.into_iter().flat_map(move |range| self.cut(range))
    }

    fn cut(&self, range: SegmentRange) -> Vec<(SegmentRange, Fate<&'a Id>)> {
        if self.claims.is_empty() {
            return vec![(range, Fate::NothingRemains)];
        }
        let Some(stretches) = self.timelines.get(&range.timeline) else {
            return vec![(range, Fate::Unreadable)];
        };
        let from = stretches.partition_point(|stretch| stretch.first <= range.first).saturating_sub(1);
        let mut parts = Vec::new();
        for (index, stretch) in stretches.iter().enumerate().skip(from) {
            if stretch.first > range.last {
                break;
            }
            let next = stretches.get(index + 1).map_or(u64::MAX, |next| next.first - 1);
            let part = SegmentRange {
                first: range.first.max(stretch.first),
                last: range.last.min(next),
                timeline: range.timeline,
            };
            parts.push((part, self.fate_of(stretch)));
        }
        parts
    }

    fn fate_of(&self, stretch: &Stretch) -> Fate<&'a Id> {
        let claim = |index: usize| self.claims.get(index).map(|claim| &claim.id);
        match (stretch.needed_by, stretch.perhaps_by) {
            (Some(index), _) => claim(index).map_or(Fate::Unreadable, |by| Fate::Needed { by }),
            (None, Some(index)) => claim(index).map_or(Fate::Unreadable, |by| Fate::UnknownAncestry { by }),
            (None, None) => Fate::Removable,
        }
    }

    /// What recovery from the claims' backups asks for on a timeline, as stretches from the first segment to the last.
    fn stretches_of(&self, timeline: TimelineId) -> Vec<Stretch> {
        // What a claim on one timeline means for another is the same for all claims there but for their positions.
        let mut paths: BTreeMap<TimelineId, Path> = BTreeMap::new();
        let mut intervals = Vec::new();
        for (index, claim) in self.claims.iter().enumerate() {
            let path =
                *paths.entry(claim.timeline).or_insert_with(|| self.ancestry.path(claim.timeline, timeline));
            intervals.extend(self.interval(index, claim, path));
        }
        stretch::cut(intervals)
    }

    /// The segments that a claim needs, or may need, where a path leads.
    fn interval(&self, index: usize, claim: &Claim<Id>, path: Path) -> Option<Interval> {
        let size = self.size.bytes();
        let number_of = |lsn: Lsn| lsn.as_u64() / size;
        let end_number = |lsn: Lsn| lsn.as_u64().div_ceil(size);
        let first = number_of(claim.begin);
        // Recovery always reads the segment that it begins in.
        let own_end = match claim.standalone {
            true => end_number(claim.end).max(first.saturating_add(1)),
            false => u64::MAX,
        };
        let (first, end, certain) = match path {
            Path::Nowhere => return None,
            Path::Unknown => (first, own_end, false),
            Path::Own => (first, own_end, true),
            Path::Through { begin, end } => (first.max(number_of(begin)), own_end.min(end_number(end)), true),
            // Recovery along a timeline that was left before the backup's end can't start from the backup.
            Path::Beyond { left, .. } if left < claim.end => return None,
            Path::Beyond { begin, .. } => (first.max(number_of(begin)), own_end, true),
        };
        (first < end).then_some(Interval { first, end, certain, claim: index, begin: claim.begin })
    }
}

/// What a backup's timeline has to do with another one.
#[derive(Debug, Clone, Copy)]
enum Path {
    /// It is the same.
    Own,
    /// The other is an ancestor, and counts between these positions.
    Through { begin: Lsn, end: Lsn },
    /// The other is a descendant that left the backup's timeline at `left`, and itself begins at `begin`.
    Beyond { left: Lsn, begin: Lsn },
    /// No recovery leads from one to the other.
    Nowhere,
    /// The history that would tell is missing.
    Unknown,
}

/// The known histories by timeline.
#[derive(Debug, Clone)]
struct Ancestry<'a> {
    histories: BTreeMap<TimelineId, &'a History>,
}

impl<'a> Ancestry<'a> {
    fn new(histories: &'a [History]) -> Self {
        Ancestry { histories: histories.iter().map(|history| (history.timeline(), history)).collect() }
    }

    /// What lies on timeline `to`, for a backup of timeline `from`.
    fn path(&self, from: TimelineId, to: TimelineId) -> Path {
        if from == to {
            return Path::Own;
        }
        let newer = from.max(to);
        let Some(history) = self.histories.get(&newer) else {
            // The first timeline has no ancestors, and is no descendant.
            return Path::Unknown;
        };
        if newer == to {
            return match history.end_of(from) {
                Some(left) => Path::Beyond { left, begin: history.begin().unwrap_or(Lsn::INVALID) },
                None => Path::Nowhere,
            };
        }
        let entries = history.entries();
        match entries.iter().position(|entry| entry.timeline == to) {
            Some(at) => {
                let begin = at.checked_sub(1).map_or(Lsn::INVALID, |parent| entries[parent].end);
                Path::Through { begin, end: entries[at].end }
            }
            None => Path::Nowhere,
        }
    }
}

/// Decides for every file of an archive whether it may go: a [`WalPlan`] for the timelines of these files, asked about
/// each, in their order.
pub fn plan<'a, Id>(
    claims: &'a [Claim<Id>],
    histories: &'a [History],
    files: &[WalFile],
    size: SegmentSize,
) -> Vec<(WalFile, Fate<&'a Id>)> {
    let plan = WalPlan::new(claims, histories, files.iter().map(|file| file.timeline()), size);
    files.iter().map(|file| (*file, plan.fate(file))).collect()
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
