//! The archived WAL as recovery will find it: which segments follow one another, along which timeline, and where the
//! chain from a backup ends.
//!
//! Pure: made from what [`load`] or a test supplies. The rules are the server's (`XLogFileReadAnyTLI`, `tliOfPointInHistory`).

mod load;

use std::collections::BTreeSet;

use pgwal::{History, Lsn, PgTimestamp, SegmentName, SegmentSize, TimelineId};

use crate::inspect::{SegmentIndex, Soundness};
use crate::{BackupId, BackupInfo};
pub use load::{LoadOptions, Loaded, load};

/// One segment at hand.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name.
    pub name: SegmentName,
    /// What it holds; `None` when it was never read, or is no WAL.
    pub index: Option<Box<SegmentIndex>>,
    /// How sound it is.
    pub soundness: Soundness,
    /// What is wrong with it; empty when nothing is.
    pub note: String,
    /// Whether it is not complete yet: the end of what was received, or of a timeline.
    pub partial: bool,
}

/// A backup, as far as recovery is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Which.
    pub id: BackupId,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where recovery begins to read.
    pub begin: Lsn,
    /// Where the cluster is consistent.
    pub end: Lsn,
    /// When the backup began, by the clock of who took it.
    pub begin_time: Option<PgTimestamp>,
    /// When it ended, by the same.
    pub end_time: Option<PgTimestamp>,
}

/// Segments that follow one another on one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Their timeline.
    pub timeline: TimelineId,
    /// The first, by its place in [`WalMap::segments`].
    pub first: usize,
    /// The last, likewise.
    pub last: usize,
    /// The first segment's number, counted from the cluster's first byte.
    pub first_number: u64,
    /// The last one's.
    pub last_number: u64,
    /// Where the WAL in it ends.
    pub end: Lsn,
    /// Why it does.
    pub break_after: Break,
}

/// Why recovery gets no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// Nothing later is at hand.
    End,
    /// Segments are missing, and later ones are there.
    Missing {
        /// The first that is missing.
        first: SegmentName,
        /// How many later ones are of no use.
        later: usize,
    },
    /// A segment that the server can't get through.
    Damaged {
        /// Which.
        segment: SegmentName,
        /// What is wrong with it.
        note: String,
    },
}

/// What recovery from a backup along a timeline reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// The segments in order, as ranges of places in [`WalMap::segments`], both ends included.
    pub stretches: Vec<(usize, usize)>,
    /// Where the chain ends.
    pub reach: Lsn,
    /// Why.
    pub end: Break,
}

impl Walk {
    /// The places of all its segments, in the order of recovery.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.stretches.iter().flat_map(|(first, last)| *first..=*last)
    }
}

/// All segments and histories at hand.
#[derive(Debug, Clone, Default)]
pub struct WalMap {
    /// The cluster's segment size.
    pub size: SegmentSize,
    segments: Vec<Known>,
    histories: Vec<History>,
    runs: Vec<Run>,
}

impl Start {
    /// What a backup's record says; `None` when it lacks something, or the backup can't be used.
    pub fn of(info: &BackupInfo) -> Option<Self> {
        let micros = |time: &jiff::Zoned| PgTimestamp::from_unix_micros(time.timestamp().as_microsecond());
        info.status.is_usable().then_some(())?;
        Some(Start {
            id: info.id,
            timeline: info.timeline?,
            begin: info.begin_xlog?,
            end: info.end_xlog?,
            begin_time: info.begin_time.as_ref().and_then(micros),
            end_time: info.end_time.as_ref().and_then(micros),
        })
    }

    /// Whether recovery from it can follow this history: the timeline was left after its end, not before.
    pub fn is_on(&self, history: &History) -> bool {
        history.includes(self.timeline) && history.end_of(self.timeline).is_none_or(|left| left >= self.end)
    }
}

impl WalMap {
    /// A map of these segments; of two with one name, the complete one counts, or else the first.
    pub fn new(size: SegmentSize, mut segments: Vec<Known>, histories: Vec<History>) -> Self {
        segments.retain(|known| known.name.number(size).is_some());
        segments.sort_by_key(|known| (known.name, known.partial));
        segments.dedup_by_key(|known| known.name);
        let runs = runs(size, &segments);
        WalMap { size, segments, histories, runs }
    }

    /// The segments, by name.
    pub fn segments(&self) -> &[Known] {
        &self.segments
    }

    /// One of them, by its place.
    pub fn at(&self, place: usize) -> Option<&Known> {
        self.segments.get(place)
    }

    /// The histories there are files of.
    pub fn histories(&self) -> &[History] {
        &self.histories
    }

    /// The runs, by timeline and position.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs of one timeline, in order.
    pub fn runs_of(&self, timeline: TimelineId) -> impl Iterator<Item = (usize, &Run)> {
        self.runs.iter().enumerate().filter(move |(_, run)| run.timeline == timeline)
    }

    /// The history of a timeline: from its file, or without ancestors where there is none.
    pub fn history(&self, timeline: TimelineId) -> History {
        let known = self.histories.iter().find(|history| history.timeline() == timeline);
        known.cloned().unwrap_or_else(|| History::root(timeline))
    }

    /// Whether there is a history file of a timeline, or none is needed.
    pub fn has_history(&self, timeline: TimelineId) -> bool {
        timeline == TimelineId::FIRST || self.histories.iter().any(|history| history.timeline() == timeline)
    }

    /// All timelines of which anything is at hand.
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        let of_runs = self.runs.iter().map(|run| run.timeline);
        of_runs.chain(self.histories.iter().map(History::timeline)).collect()
    }

    /// Timelines that have WAL, and no history file: a server that looks for the newest timeline stays on an older one.
    pub fn missing_histories(&self) -> Vec<TimelineId> {
        let of_runs: BTreeSet<TimelineId> = self.runs.iter().map(|run| run.timeline).collect();
        of_runs.into_iter().filter(|timeline| !self.has_history(*timeline)).collect()
    }

    /// The segments that recovery reads from a backup on, along a history that it [is on](Start::is_on).
    pub fn walk(&self, start: &Start, history: &History) -> Walk {
        let bytes = self.size.bytes();
        let mut number = start.begin.as_u64() / bytes;
        let mut walk = Walk { stretches: Vec::new(), reach: start.begin, end: Break::End };
        loop {
            let wanted = segment_at(history, number, self.size);
            let Some((_, run)) = self.run_with(wanted.timeline(), number) else {
                self.end_walk(&mut walk, history, number, wanted);
                return walk;
            };
            // The timeline's share: up to the segment before the one in which it is left.
            let left = history.end_of(run.timeline).map(|left| (left.as_u64() / bytes).saturating_sub(1));
            let last_number = left.map_or(run.last_number, |left| left.min(run.last_number));
            let offset = |number: u64| run.first + (number - run.first_number) as usize;
            walk.stretches.push((offset(number), offset(last_number)));
            if last_number == run.last_number {
                walk.reach = run.end;
                if matches!(run.break_after, Break::Damaged { .. }) {
                    walk.end = run.break_after.clone();
                    return walk;
                }
            } else {
                walk.reach = Lsn::from_u64((last_number + 1).saturating_mul(bytes));
            }
            number = last_number + 1;
        }
    }

    /// Nothing is at hand of `wanted`: an older timeline's copy will do where nothing follows.
    fn end_walk(&self, walk: &mut Walk, history: &History, number: u64, wanted: SegmentName) {
        let later = self
            .runs
            .iter()
            .filter(|run| run.last_number > number && history.includes(run.timeline))
            .map(|run| {
                let first = run.first + number.saturating_sub(run.first_number.wrapping_sub(1)) as usize;
                let first = if run.first_number > number { run.first } else { first };
                let uses = |known: &&Known| history.uses(known.name, self.size);
                self.segments.get(first..=run.last).unwrap_or_default().iter().filter(uses).count()
            })
            .sum();
        if later > 0 {
            walk.end = Break::Missing { first: wanted, later };
            return;
        }
        let older = history.entries().iter().rev().map(|entry| entry.timeline).find_map(|timeline| {
            let name = wanted.on(timeline);
            let run = self.run_with(timeline, number)?;
            history.uses(name, self.size).then_some(run)
        });
        if let Some((_, run)) = older {
            let place = run.first + (number - run.first_number) as usize;
            walk.stretches.push((place, place));
            let end = Lsn::from_u64((number + 1).saturating_mul(self.size.bytes()));
            walk.reach = end.min(run.end);
        }
    }

    /// The run of a timeline that holds a segment.
    fn run_with(&self, timeline: TimelineId, number: u64) -> Option<(usize, &Run)> {
        let after = self.runs.partition_point(|run| (run.timeline, run.first_number) <= (timeline, number));
        let place = after.checked_sub(1)?;
        let run = self.runs.get(place)?;
        (run.timeline == timeline && number <= run.last_number).then_some((place, run))
    }
}

/// The newest timeline's copy of a segment: the one that holds all of it that counts.
fn segment_at(history: &History, number: u64, size: SegmentSize) -> SegmentName {
    let first = Lsn::from_u64(number.saturating_mul(size.bytes()));
    let last = first.checked_add(size.bytes() - 1).unwrap_or(Lsn::MAX);
    SegmentName::at(history.timeline_at(last), first, size)
}

fn runs(size: SegmentSize, segments: &[Known]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut after_partial = false;
    for (place, known) in segments.iter().enumerate() {
        let Some(number) = known.name.number(size) else { continue };
        let timeline = known.name.timeline();
        let is_unlinked = known.soundness == Soundness::Unlinked;
        let before = runs.last_mut().filter(|run| run.timeline == timeline && run.break_after == Break::End);
        let follows = match before {
            Some(run) if run.last_number + 1 == number && !is_unlinked && !after_partial => true,
            Some(run) => {
                run.break_after = if run.last_number + 1 < number {
                    let missing = Lsn::from_u64((run.last_number + 1).saturating_mul(size.bytes()));
                    Break::Missing { first: SegmentName::at(timeline, missing, size), later: 0 }
                } else if is_unlinked {
                    Break::Damaged { segment: known.name, note: known.note.clone() }
                } else {
                    let segment = known.name.previous(size).unwrap_or(known.name);
                    Break::Damaged { segment, note: "it is not complete".to_owned() }
                };
                false
            }
            None => false,
        };
        if !follows {
            runs.push(Run {
                timeline,
                first: place,
                last: place,
                first_number: number,
                last_number: number,
                end: Lsn::MAX,
                break_after: Break::End,
            });
        }
        after_partial = known.partial;
        let Some(run) = runs.last_mut() else { continue };
        (run.last, run.last_number) = (place, number);
        let whole = known.name.end_lsn(size).unwrap_or(Lsn::MAX);
        let read = known.index.as_ref();
        let stops = !known.soundness.replays() || read.is_some_and(|index| !index.complete && !known.partial);
        run.end = if stops || known.partial {
            read.map(|index| index.end).or(known.name.first_lsn(size)).unwrap_or(whole)
        } else {
            whole
        };
        if stops {
            run.break_after = Break::Damaged { segment: known.name, note: known.note.clone() };
        }
    }
    runs
}

#[cfg(test)]
pub(crate) mod tests;
