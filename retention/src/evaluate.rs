//! The verdict on each backup, and the reason for it.
//!
//! Finished full backups are judged from the newest to the oldest, in the order in which they were taken (by WAL
//! position, not by name). Incremental backups live and die with the full backup they descend from. What is not finished
//! is neither counted nor condemned, and the newest backup that can be restored is never condemned.

mod clause;
mod refusal;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgwal::{History, Lsn, TimelineId};

use crate::order::{self, Ended};
use crate::policy::{Period, Policy};
use clause::{ClauseJudge, Finding, Root};

pub use refusal::{Refusal, may_delete};

/// What the policy needs to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup<Id> {
    /// Its identifier.
    pub id: Id,
    /// How far it has come.
    pub stage: Stage,
    /// When it ended, by the clock of the time.
    pub end_time: Option<Timestamp>,
    /// The backup it is an increment of.
    pub parent: Option<Id>,
    /// Whether somebody asked to keep it.
    pub keep: Option<Keep>,
    /// When that ends to be so; never, if not said.
    pub kept_until: Option<Timestamp>,
    /// Where it lies in the WAL.
    pub place: Option<Place>,
    /// The cluster it is of, by its system identifier.
    pub system_id: Option<String>,
    /// Whether it passed a verification or a restore drill.
    pub verified: bool,
}

/// Where a backup lies in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where recovery from it starts reading.
    pub begin: Lsn,
    /// Where it becomes consistent; the position after its last byte. As `begin`, while it is not known.
    pub end: Lsn,
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is complete, with all the WAL it needs (Barman's status DONE). Only such full backups count.
    Done,
    /// Its files are complete, some of the WAL it needs is still to come (WAITING_FOR_WALS).
    Waiting,
    /// It is being taken or copied (EMPTY, STARTED, SYNCING). The WAL from its beginning on will be needed.
    Running,
    /// It is of no use (FAILED).
    Failed,
    /// Its deletion has begun.
    Leaving,
    /// Its record is there and its files are gone.
    Lost,
}

impl Stage {
    /// Whether its files are all there.
    pub const fn is_usable(self) -> bool {
        matches!(self, Stage::Done | Stage::Waiting)
    }

    /// Whether it still needs WAL. One whose files are gone might have them back: somebody has yet to delete it.
    pub const fn needs_wal(self) -> bool {
        !matches!(self, Stage::Failed | Stage::Leaving)
    }
}

/// How a backup is to be kept whatever the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// With all WAL from its beginning on: recoverable to any later moment.
    Full,
    /// With the WAL from its beginning to its end: recoverable to its end.
    Standalone,
}

/// What decides: the policy, and what has to be known to apply it.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// How many finished full backups must remain in any case.
    pub minimum_redundancy: u32,
    /// The histories of the timelines that are known.
    pub histories: &'a [History],
    /// The time zone that [`Policy::zone`] names, for policies that go by the calendar.
    pub zone: TimeZone,
}

impl<'a> Rules<'a> {
    /// A policy by itself: no minimum, no timelines, UTC.
    pub const fn new(policy: &'a Policy) -> Self {
        Rules { policy, minimum_redundancy: 0, histories: &[], zone: TimeZone::UTC }
    }
}

/// What is to become of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The policy needs it.
    Valid,
    /// The policy does not need it, the minimum number of backups does.
    PotentiallyObsolete,
    /// It may go.
    Obsolete,
    /// Somebody asked to keep it, with all later WAL.
    KeepFull,
    /// Somebody asked to keep it, with its own WAL.
    KeepStandalone,
    /// Not judged: it is not finished.
    None,
}

impl Verdict {
    /// Barman's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Valid => "VALID",
            Verdict::PotentiallyObsolete => "OBSOLETE*",
            Verdict::Obsolete => "OBSOLETE",
            Verdict::KeepFull => "KEEP:FULL",
            Verdict::KeepStandalone => "KEEP:STANDALONE",
            Verdict::None => "-",
        }
    }
}

/// A backup's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement<Id> {
    /// The backup.
    pub id: Id,
    /// What is to become of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason<Id>,
    /// Whether the policy itself needs it, kept or not: then it needs the WAL after it as well.
    pub needed: bool,
    /// Until when it stays at least, should nothing else happen; `None` when that is not known (it depends on backups
    /// yet to be taken) or it does not stay.
    pub until: Option<Timestamp>,
}

/// Why a verdict is what it is. Prints as a clause that follows "because" or a colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason<Id> {
    /// It is not finished, or failed.
    NotDone,
    /// Its deletion has begun.
    Leaving,
    /// Its files are gone.
    Lost,
    /// Its chain of parents leads to no full backup.
    NoRoot,
    /// Somebody asked to keep it.
    Kept {
        /// How.
        keep: Keep,
        /// Until when, if it was said.
        until: Option<Timestamp>,
    },
    /// It is the so-many-newest, and so many are wanted.
    AmongNewest {
        /// Its place, counted from the newest as 1.
        place: u32,
        /// How many are wanted.
        wanted: u32,
    },
    /// As many as are wanted are newer.
    BeyondNewest {
        /// How many are wanted.
        wanted: u32,
    },
    /// It ended within the window.
    InWindow {
        /// The window's beginning.
        begin: Timestamp,
    },
    /// Its end time can't be believed, and it may have ended within the window.
    PerhapsInWindow {
        /// The window's beginning.
        begin: Timestamp,
    },
    /// It is the newest that ended before the window: what the window's beginning is recovered from.
    Anchor {
        /// The window's beginning.
        begin: Timestamp,
    },
    /// A newer backup already ended before the window.
    BeforeWindow {
        /// The window's beginning.
        begin: Timestamp,
    },
    /// It is the newest backup of a period for which one is kept.
    OfPeriod {
        /// The period.
        period: Period,
        /// Which of them, counted from the newest as 1.
        place: u32,
        /// For how many of them one is kept.
        wanted: u32,
    },
    /// It is the newest of no hour, day, week, month or year for which one is kept.
    OfNoPeriod,
    /// It does not count, not being verified or its end time not being believable; too few of those that count are newer.
    DoesNotCount,
    /// The policy lets it go, but then fewer than the minimum would remain.
    MinimumRedundancy {
        /// The minimum.
        minimum: u32,
    },
    /// The policy lets it go, but it is the newest that can be restored.
    LastRestorable,
    /// It is an increment, and shares the fate of its full backup.
    FollowsRoot {
        /// The full backup.
        root: Id,
    },
    /// It is an increment of a backup that is kept by itself, and the policy has no use for it.
    RootStandsAlone {
        /// The full backup.
        root: Id,
    },
    /// Each clause of the policy has its own.
    Several(Vec<Reason<Id>>),
}

impl<Id: Ord + Clone> Backup<Id> {
    /// A finished full backup that nobody asked to keep.
    pub fn done(id: Id, end_time: Timestamp) -> Self {
        Backup {
            id,
            stage: Stage::Done,
            end_time: Some(end_time),
            parent: None,
            keep: None,
            kept_until: None,
            place: None,
            system_id: None,
            verified: false,
        }
    }

    /// The same as an increment of `parent`.
    #[must_use]
    pub fn increment_of(self, parent: Id) -> Self {
        Backup { parent: Some(parent), ..self }
    }

    /// The same, to be kept.
    #[must_use]
    pub fn kept(self, keep: Keep) -> Self {
        Backup { keep: Some(keep), ..self }
    }

    /// The same at another stage.
    #[must_use]
    pub fn at_stage(self, stage: Stage) -> Self {
        Backup { stage, ..self }
    }

    /// The same at a place.
    #[must_use]
    pub fn at(self, timeline: TimelineId, begin: Lsn, end: Lsn) -> Self {
        Backup { place: Some(Place { timeline, begin, end }), ..self }
    }
}

impl<Id> Backup<Id> {
    /// Whether it is kept at this moment.
    pub fn keep_at(&self, now: Timestamp) -> Option<Keep> {
        self.keep.filter(|_| self.kept_until.is_none_or(|until| now < until))
    }

    /// Whether it can be restored on its own.
    fn counts(&self) -> bool {
        self.stage == Stage::Done && self.parent.is_none()
    }
}

/// Judges all backups of a server; the judgements are in the order of the identifiers.
///
/// What remains would be judged again in the same way: where a clock was set back, a backup that goes may have been all that
/// told so, and what then goes too goes at once.
pub fn evaluate<Id: Ord + Clone>(
    backups: &[Backup<Id>],
    rules: &Rules<'_>,
    now: Timestamp,
) -> Vec<Judgement<Id>> {
    let mut gone = Vec::new();
    let mut remaining = Cow::Borrowed(backups);
    loop {
        let judged = evaluate_once(&remaining, rules, now);
        let (going, staying): (Vec<_>, Vec<_>) =
            judged.into_iter().partition(|judgement| judgement.verdict == Verdict::Obsolete);
        if going.is_empty() {
            gone.extend(staying);
            gone.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            return gone;
        }
        let ids: BTreeSet<&Id> = going.iter().map(|judgement| &judgement.id).collect();
        let left = remaining.iter().filter(|backup| !ids.contains(&backup.id)).cloned().collect();
        remaining = Cow::Owned(left);
        gone.extend(going);
    }
}

/// Judges them as they are.
fn evaluate_once<Id: Ord + Clone>(
    backups: &[Backup<Id>],
    rules: &Rules<'_>,
    now: Timestamp,
) -> Vec<Judgement<Id>> {
    let by_id: BTreeMap<&Id, &Backup<Id>> = backups.iter().map(|backup| (&backup.id, backup)).collect();
    let ordered = order::sort(by_id.values().copied().filter(|backup| backup.counts()), rules.histories);
    let ended = order::ended(&ordered);
    let mut judge = Judge::new(rules, now, &ordered, &ended);
    let newest_first = ordered.iter().zip(ended).enumerate().rev();
    let roots: BTreeMap<&Id, RootVerdict<Id>> =
        newest_first.map(|(index, (backup, ended))| (&backup.id, judge.next(index, backup, ended))).collect();
    let judgement = |backup: &&Backup<Id>| {
        let excuse = match backup.stage {
            Stage::Done | Stage::Waiting => None,
            Stage::Running | Stage::Failed => Some(Reason::NotDone),
            Stage::Leaving => Some(Reason::Leaving),
            Stage::Lost => Some(Reason::Lost),
        };
        let root = root_of(&by_id, backup);
        match (excuse, root.map(|root| (root, roots.get(&root.id)))) {
            (Some(reason), _) => Judgement::none(&backup.id, reason),
            (None, None) => Judgement::none(&backup.id, Reason::NoRoot),
            (None, Some((root, None))) if root.id == backup.id => {
                Judgement::none(&backup.id, Reason::NotDone)
            }
            (None, Some((_, None))) => Judgement::none(&backup.id, Reason::NoRoot),
            (None, Some((root, Some(judged)))) if root.id == backup.id => judged.own(&backup.id),
            (None, Some((root, Some(judged)))) => judged.of_increment(&backup.id, &root.id),
        }
    };
    by_id.values().map(judgement).collect()
}

/// The full backup at the end of the chain of parents; `None` when the chain breaks or goes in a circle.
pub(crate) fn root_of<'a, Id: Ord>(
    by_id: &BTreeMap<&'a Id, &'a Backup<Id>>,
    backup: &'a Backup<Id>,
) -> Option<&'a Backup<Id>> {
    let mut current = backup;
    // A chain visits each backup at most once.
    for _ in 0..=by_id.len() {
        match &current.parent {
            None => return Some(current),
            Some(parent) => current = by_id.get(parent)?,
        }
    }
    None
}

/// Judges finished full backups from the newest to the oldest.
struct Judge {
    clauses: Vec<ClauseJudge>,
    minimum: u32,
    now: Timestamp,
    /// How many stay so far, for the policy's sake or the minimum's.
    staying: u32,
    /// The place of the newest of all.
    newest: usize,
}

/// The verdict on a full backup, apart from its being kept.
struct RootVerdict<Id> {
    keep: Option<Keep>,
    kept_until: Option<Timestamp>,
    by_policy: Verdict,
    reason: Reason<Id>,
    /// Whether the policy needs it.
    needed: bool,
    /// Whether increments of it serve the policy, were it kept by itself.
    children_valid: bool,
    until: Option<Timestamp>,
}

impl Judge {
    fn new<Id>(rules: &Rules<'_>, now: Timestamp, oldest_first: &[&Backup<Id>], ended: &[Ended]) -> Self {
        let clauses = rules.policy.clauses().iter();
        let clauses = clauses.map(|clause| ClauseJudge::new(clause, rules, now, oldest_first, ended));
        Judge {
            clauses: clauses.collect(),
            minimum: rules.minimum_redundancy,
            now,
            staying: 0,
            newest: oldest_first.len().saturating_sub(1),
        }
    }

    fn next<Id: Clone>(&mut self, index: usize, backup: &Backup<Id>, ended: Ended) -> RootVerdict<Id> {
        let is_newest = index == self.newest;
        let root = Root { index, ended, verified: backup.verified };
        let findings: Vec<Finding> = self.clauses.iter_mut().map(|clause| clause.next(root)).collect();
        let wanted: Vec<&Finding> = findings.iter().filter(|finding| finding.needed).collect();
        let needed = !wanted.is_empty();
        let keep = backup.keep_at(self.now);
        let (by_policy, reason) = if needed {
            (Verdict::Valid, reasons(wanted.iter().copied()))
        } else if self.staying < self.minimum {
            (Verdict::PotentiallyObsolete, Reason::MinimumRedundancy { minimum: self.minimum })
        } else if is_newest {
            (Verdict::Valid, Reason::LastRestorable)
        } else {
            (Verdict::Obsolete, reasons(findings.iter()))
        };
        // A kept backup stays in any case, and so it helps to reach the minimum.
        if by_policy != Verdict::Obsolete {
            self.staying += 1;
        }
        RootVerdict {
            keep,
            kept_until: backup.kept_until.filter(|_| keep.is_some()),
            by_policy,
            reason,
            needed,
            children_valid: wanted.iter().any(|finding| finding.children_valid),
            until: wanted.iter().map(|finding| finding.until).reduce(later).flatten(),
        }
    }
}

/// The later of two ends, where none is the latest of all.
fn later(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.zip(b).map(|(a, b)| a.max(b))
}

fn reasons<'a, Id>(findings: impl Iterator<Item = &'a Finding>) -> Reason<Id> {
    let mut reasons: Vec<Reason<Id>> = findings.map(|finding| finding.ground.into_reason()).collect();
    match (reasons.len(), reasons.pop()) {
        (1, Some(reason)) => reason,
        (_, last) => Reason::Several(reasons.into_iter().chain(last).collect()),
    }
}

impl<Id: Clone> Judgement<Id> {
    fn none(id: &Id, reason: Reason<Id>) -> Self {
        Judgement { id: id.clone(), verdict: Verdict::None, reason, needed: false, until: None }
    }
}

impl<Id: Clone> RootVerdict<Id> {
    fn own(&self, id: &Id) -> Judgement<Id> {
        let verdict = match self.keep {
            Some(Keep::Full) => Verdict::KeepFull,
            Some(Keep::Standalone) => Verdict::KeepStandalone,
            None => self.by_policy,
        };
        let reason = match self.keep {
            Some(keep) => Reason::Kept { keep, until: self.kept_until },
            None => self.reason.clone(),
        };
        let until = match (self.keep, self.by_policy) {
            (None, _) => self.until,
            (Some(_), Verdict::Obsolete) => self.kept_until,
            (Some(_), _) => later(self.kept_until, self.until),
        };
        Judgement { id: id.clone(), verdict, reason, needed: self.needed, until }
    }

    fn of_increment(&self, id: &Id, root: &Id) -> Judgement<Id> {
        let follows = Reason::FollowsRoot { root: root.clone() };
        let (verdict, reason) = match self.keep {
            Some(Keep::Full) => (Verdict::Valid, follows),
            Some(Keep::Standalone) if self.children_valid => (Verdict::Valid, self.reason.clone()),
            Some(Keep::Standalone) => (Verdict::Obsolete, Reason::RootStandsAlone { root: root.clone() }),
            None => (self.by_policy, follows),
        };
        let until = if verdict == Verdict::Obsolete { None } else { self.own(id).until };
        Judgement { id: id.clone(), verdict, reason, needed: self.needed && verdict == Verdict::Valid, until }
    }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
