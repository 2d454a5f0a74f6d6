//! Which backup is newer, and when each ended as far as its clock can be believed.
//!
//! Identifiers are local time of the backup host and say nothing reliable: clocks are set back, hosts move to UTC. What
//! orders backups of one cluster is where they end in its WAL: on one timeline by position, on different ones as their
//! histories say. Only where that says nothing (branches that went on side by side, an unknown history, another cluster)
//! does the end time decide.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use jiff::Timestamp;
use pgwal::{History, Lsn, TimelineId};

use crate::evaluate::Backup;

/// When a backup ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// At this moment.
    At(Timestamp),
    /// Its clock contradicts that of an older backup (it was set back), or says nothing. It ended before this moment at
    /// the latest, when a newer backup did; perhaps just now.
    Unknown(Option<Timestamp>),
}

impl Ended {
    /// Whether it surely ended before a moment.
    pub(crate) fn is_before(self, moment: Timestamp) -> bool {
        matches!(self, Ended::At(end) | Ended::Unknown(Some(end)) if end < moment)
    }

    /// The latest moment at which it may have ended; `None` is now.
    pub(crate) fn latest(self) -> Option<Timestamp> {
        match self {
            Ended::At(end) => Some(end),
            Ended::Unknown(latest) => latest,
        }
    }
}

/// Puts backups into the order in which they were taken, the oldest first.
pub(crate) fn sort<'a, Id: Ord + Clone>(
    backups: impl IntoIterator<Item = &'a Backup<Id>>,
    histories: &[History],
) -> Vec<&'a Backup<Id>> {
    let backups: Vec<&Backup<Id>> = backups.into_iter().collect();
    let mut clusters: BTreeMap<Option<&str>, Vec<&Backup<Id>>> = BTreeMap::new();
    for backup in backups {
        clusters.entry(backup.system_id.as_deref()).or_default().push(backup);
    }
    // Old records don't name their cluster: where there is only one, they are of that one.
    if clusters.len() == 2
        && let Some(unnamed) = clusters.remove(&None)
        && let Some(mut only) = clusters.first_entry()
    {
        only.get_mut().extend(unnamed);
    }
    let mut clusters: Vec<Vec<&Backup<Id>>> = clusters.into_values().collect();
    clusters.sort_by_key(|backups| backups.iter().map(|backup| backup.end_time).max());
    let histories: HashMap<TimelineId, &History> =
        histories.iter().map(|history| (history.timeline(), history)).collect();
    clusters.into_iter().flat_map(|backups| sort_cluster(backups, &histories)).collect()
}

/// When backups in this order ended.
pub(crate) fn ended<Id>(oldest_first: &[&Backup<Id>]) -> Vec<Ended> {
    let mut latest_so_far: Option<Timestamp> = None;
    let mut ended: Vec<Ended> = oldest_first
        .iter()
        .map(|backup| match backup.end_time {
            Some(end) if latest_so_far.is_none_or(|latest| latest <= end) => {
                latest_so_far = Some(end);
                Ended::At(end)
            }
            _ => Ended::Unknown(None),
        })
        .collect();
    let mut next = None;
    for end in ended.iter_mut().rev() {
        match end {
            Ended::At(moment) => next = Some(*moment),
            Ended::Unknown(latest) => *latest = next,
        }
    }
    ended
}

/// Which of these backups recovery to the moments since `begin` may have to start from, of those that ended before it.
///
/// On one line of history that is the newest of them. But a cluster that was recovered to an earlier moment left its line,
/// and the backups after that moment with it: what it wrote since then can be reached from older backups only. So it is,
/// for each timeline that may have been in use since, the newest from which a path leads there. A timeline was in use
/// until a higher one was.
pub(crate) fn anchors<Id>(
    oldest_first: &[&Backup<Id>],
    ended: &[Ended],
    histories: &[History],
    begin: Timestamp,
    counts: impl Fn(&Backup<Id>) -> bool,
) -> Vec<bool> {
    let before = |index: &usize| ended.get(*index).is_some_and(|ended| ended.is_before(begin));
    let before: Vec<usize> = (0..oldest_first.len()).filter(before).collect();
    let candidates: Vec<usize> =
        before.iter().rev().copied().filter(|index| counts(oldest_first[*index])).collect();
    let timeline_of = |backup: &&Backup<Id>| backup.place.map(|place| place.timeline);
    let in_use = before.iter().filter_map(|index| timeline_of(&oldest_first[*index])).max();
    let known = oldest_first.iter().filter_map(timeline_of).chain(histories.iter().map(History::timeline));
    let lines: BTreeSet<TimelineId> = known.filter(|timeline| Some(*timeline) >= in_use).collect();
    let histories: HashMap<TimelineId, &History> =
        histories.iter().map(|history| (history.timeline(), history)).collect();
    let mut anchors = vec![false; oldest_first.len()];
    if let Some(newest) = candidates.first() {
        anchors[*newest] = true;
    }
    for line in lines {
        let leads_there = |index: &&usize| reaches(oldest_first[**index], line, &histories);
        if let Some(index) = candidates.iter().find(leads_there) {
            anchors[*index] = true;
        }
    }
    anchors
}

/// Whether recovery from a backup can lead to a timeline; where that is not known, it might.
fn reaches<Id>(backup: &Backup<Id>, line: TimelineId, histories: &HashMap<TimelineId, &History>) -> bool {
    let Some(place) = backup.place else { return true };
    if place.timeline >= line {
        return place.timeline == line;
    }
    histories
        .get(&line)
        .is_none_or(|history| history.end_of(place.timeline).is_some_and(|left| place.end <= left))
}

/// The backups of one timeline, in order, waiting to be merged with those of others.
struct Chain<'a, Id> {
    backups: Vec<&'a Backup<Id>>,
    /// How many have been put out.
    done: usize,
    /// How many conditions the first one still waits for.
    blocked_by: usize,
    /// Whose first backup comes after how many of these have been put out.
    blocks: Vec<(usize, usize)>,
}

/// Merges the timelines: a backup comes after all of its own timeline that end before it, and after those of ancestors
/// that end before the ancestor was left. Of those that could come next, the one that ended first does.
fn sort_cluster<'a, Id: Ord>(
    backups: Vec<&'a Backup<Id>>,
    histories: &HashMap<TimelineId, &History>,
) -> Vec<&'a Backup<Id>> {
    let count = backups.len();
    let mut by_timeline: BTreeMap<Option<TimelineId>, Vec<&Backup<Id>>> = BTreeMap::new();
    for backup in backups {
        by_timeline.entry(backup.place.map(|place| place.timeline)).or_default().push(backup);
    }
    let numbers: HashMap<TimelineId, usize> = by_timeline
        .keys()
        .enumerate()
        .filter_map(|(number, timeline)| Some(((*timeline)?, number)))
        .collect();
    let mut chains: Vec<Chain<'a, Id>> = Vec::new();
    for (_, mut backups) in
        by_timeline.iter_mut().map(|(timeline, backups)| (timeline, std::mem::take(backups)))
    {
        backups.sort_by(|a, b| position(a).cmp(&position(b)).then_with(|| time_key(a).cmp(&time_key(b))));
        chains.push(Chain { backups, done: 0, blocked_by: 0, blocks: Vec::new() });
    }
    for (timeline, number) in &numbers {
        let Some(history) = histories.get(timeline) else { continue };
        for entry in history.entries() {
            let Some(ancestor) = numbers.get(&entry.timeline).and_then(|at| chains.get_mut(*at)) else {
                continue;
            };
            let before = ancestor.backups.partition_point(|backup| position(backup) <= Some(entry.end));
            if before > 0 {
                ancestor.blocks.push((before, *number));
                chains[*number].blocked_by += 1;
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<(TimeKey<'a, Id>, usize)>> = BinaryHeap::new();
    for (number, chain) in chains.iter().enumerate().filter(|(_, chain)| chain.blocked_by == 0) {
        ready.extend(chain.backups.first().map(|backup| Reverse((time_key(backup), number))));
    }
    let mut sorted = Vec::with_capacity(count);
    while let Some(Reverse((_, number))) = ready.pop() {
        let chain = &mut chains[number];
        sorted.push(chain.backups[chain.done]);
        chain.done += 1;
        let done = chain.done;
        ready.extend(chain.backups.get(done).map(|backup| Reverse((time_key(backup), number))));
        let freed: Vec<usize> =
            chain.blocks.iter().filter(|(after, _)| *after == done).map(|(_, whom)| *whom).collect();
        for whom in freed {
            let chain = &mut chains[whom];
            chain.blocked_by -= 1;
            if chain.blocked_by == 0 {
                ready.extend(chain.backups.first().map(|backup| Reverse((time_key(backup), whom))));
            }
        }
    }
    sorted
}

/// Where a backup ends in its timeline.
fn position<Id>(backup: &Backup<Id>) -> Option<Lsn> {
    backup.place.map(|place| place.end)
}

/// What decides where WAL says nothing. A backup without an end time counts as the newest.
type TimeKey<'a, Id> = (bool, Option<Timestamp>, Option<TimelineId>, &'a Id);

fn time_key<Id>(backup: &Backup<Id>) -> TimeKey<'_, Id> {
    let timeline = backup.place.map(|place| place.timeline);
    (backup.end_time.is_none(), backup.end_time, timeline, &backup.id)
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
