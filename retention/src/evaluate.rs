//! The verdict on each backup, and the reason for it.
//!
//! Backups are judged from the newest to the oldest, by identifier. Incremental backups live and die with the full
//! backup they descend from. What is not finished is neither counted nor condemned.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::policy::Policy;

/// What the policy needs to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup<Id> {
    /// Its identifier; identifiers are in the order of the backups.
    pub id: Id,
    /// How far it has come.
    pub stage: Stage,
    /// When it ended. A finished backup without an end counts as before every window.
    pub end_time: Option<Timestamp>,
    /// The backup it is an increment of.
    pub parent: Option<Id>,
    /// Whether somebody asked to keep it.
    pub keep: Option<Keep>,
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is complete, with all the WAL it needs (Barman's status DONE). Only such full backups count.
    Done,
    /// Its files are complete, some of the WAL it needs is still to come (WAITING_FOR_WALS).
    Waiting,
    /// It is being taken, or failed.
    Unusable,
}

/// How a backup is to be kept whatever the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// With all WAL from its beginning on: recoverable to any later moment.
    Full,
    /// With the WAL from its beginning to its end: recoverable to its end.
    Standalone,
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
}

/// Why a verdict is what it is. Prints as a clause that follows "because" or a colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason<Id> {
    /// It is not finished, or failed.
    NotDone,
    /// Its chain of parents leads to no full backup.
    NoRoot,
    /// Somebody asked to keep it.
    Kept(Keep),
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
    /// The policy lets it go, but then fewer than the minimum would remain.
    MinimumRedundancy {
        /// The minimum.
        minimum: u32,
    },
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
}

impl<Id: Ord + Clone> Backup<Id> {
    /// A finished full backup that nobody asked to keep.
    pub fn done(id: Id, end_time: Timestamp) -> Self {
        Backup { id, stage: Stage::Done, end_time: Some(end_time), parent: None, keep: None }
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

    /// Whether it can be recovered from on its own.
    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }
}

/// Judges all backups of a server; the judgements are in the order of their identifiers.
///
/// `minimum_redundancy` is how many finished full backups must remain in any case.
pub fn evaluate<Id: Ord + Clone>(
    backups: &[Backup<Id>],
    policy: Policy,
    minimum_redundancy: u32,
    now: Timestamp,
) -> Vec<Judgement<Id>> {
    let by_id: BTreeMap<&Id, &Backup<Id>> = backups.iter().map(|backup| (&backup.id, backup)).collect();
    let mut judge = Judge::new(policy, minimum_redundancy, now);
    let mut roots = BTreeMap::new();
    for backup in by_id.values().rev().filter(|backup| backup.parent.is_none()) {
        let verdict = if backup.is_done() { judge.next(backup) } else { RootVerdict::none() };
        roots.insert(&backup.id, verdict);
    }
    let judgement = |backup: &&Backup<Id>| {
        let (verdict, reason) = match root_of(&by_id, backup) {
            _ if backup.stage == Stage::Unusable => (Verdict::None, Reason::NotDone),
            None => (Verdict::None, Reason::NoRoot),
            Some(root) => match roots.get(&root.id) {
                None => (Verdict::None, Reason::NoRoot),
                Some(judged) if root.id == backup.id => judged.own(),
                Some(judged) => judged.of_increment(&root.id),
            },
        };
        Judgement { id: backup.id.clone(), verdict, reason }
    };
    by_id.values().map(judgement).collect()
}

/// Why a backup must not be deleted by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody asked to keep it.
    #[error("it is kept ({keep}): release it first")]
    Kept {
        /// How.
        keep: Keep,
    },
    /// Too few would remain.
    #[error("only {present} finished full backups exist, and minimum_redundancy is {minimum}")]
    MinimumRedundancy {
        /// How many there are.
        present: u32,
        /// How many must remain.
        minimum: u32,
    },
}

/// Whether a person may delete the backup `id`.
///
/// # Errors
/// When it is kept, or a finished full backup that the minimum needs.
pub fn may_delete<Id: Ord + Clone>(
    backups: &[Backup<Id>],
    id: &Id,
    minimum_redundancy: u32,
) -> Result<(), Refusal> {
    let Some(backup) = backups.iter().find(|backup| backup.id == *id) else { return Ok(()) };
    if let Some(keep) = backup.keep {
        return Err(Refusal::Kept { keep });
    }
    let counts = |backup: &&Backup<Id>| backup.is_done() && backup.parent.is_none();
    let present = u32::try_from(backups.iter().filter(counts).count()).unwrap_or(u32::MAX);
    if counts(&backup) && present <= minimum_redundancy {
        return Err(Refusal::MinimumRedundancy { present, minimum: minimum_redundancy });
    }
    Ok(())
}

/// The full backup at the end of the chain of parents; `None` when the chain breaks or goes in a circle.
fn root_of<'a, Id: Ord>(
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
    policy: Policy,
    minimum: u32,
    begin: Timestamp,
    /// How many the policy needed so far, or the minimum.
    needed: u32,
    /// Whether the backup that the window's beginning is recovered from was met.
    anchored: bool,
}

/// A verdict on a full backup, apart from its being kept.
#[derive(Clone, Copy)]
struct RootVerdict {
    keep: Option<Keep>,
    by_policy: Verdict,
    ground: Ground,
    /// Whether increments of it serve the policy, were it kept by itself.
    children_valid: bool,
}

/// [`Reason`] without an identifier.
#[derive(Clone, Copy)]
enum Ground {
    NotDone,
    AmongNewest { place: u32, wanted: u32 },
    BeyondNewest { wanted: u32 },
    InWindow { begin: Timestamp },
    Anchor { begin: Timestamp },
    BeforeWindow { begin: Timestamp },
    MinimumRedundancy { minimum: u32 },
}

impl Judge {
    fn new(policy: Policy, minimum: u32, now: Timestamp) -> Self {
        let begin = match policy {
            Policy::Redundancy(_) => now,
            Policy::RecoveryWindow(window) => window.begin(now),
        };
        Judge { policy, minimum, begin, needed: 0, anchored: false }
    }

    fn next<Id>(&mut self, backup: &Backup<Id>) -> RootVerdict {
        let (by_policy, ground, inside) = match self.policy {
            Policy::Redundancy(count) => self.by_redundancy(count.max(self.minimum)),
            Policy::RecoveryWindow(_) => self.by_window(backup.end_time),
        };
        RootVerdict { keep: backup.keep, by_policy, ground, children_valid: inside }
    }

    fn by_redundancy(&mut self, wanted: u32) -> (Verdict, Ground, bool) {
        if self.needed < wanted {
            self.needed += 1;
            return (Verdict::Valid, Ground::AmongNewest { place: self.needed, wanted }, true);
        }
        (Verdict::Obsolete, Ground::BeyondNewest { wanted }, false)
    }

    fn by_window(&mut self, end: Option<Timestamp>) -> (Verdict, Ground, bool) {
        let begin = self.begin;
        if !self.anchored {
            self.needed += 1;
            if end.is_some_and(|end| end >= begin) {
                return (Verdict::Valid, Ground::InWindow { begin }, true);
            }
            self.anchored = true;
            return (Verdict::Valid, Ground::Anchor { begin }, false);
        }
        // A kept backup stays in any case, and so it helps to reach the minimum.
        if self.needed < self.minimum {
            self.needed += 1;
            let ground = Ground::MinimumRedundancy { minimum: self.minimum };
            return (Verdict::PotentiallyObsolete, ground, false);
        }
        (Verdict::Obsolete, Ground::BeforeWindow { begin }, false)
    }
}

impl RootVerdict {
    fn none() -> Self {
        RootVerdict { keep: None, by_policy: Verdict::None, ground: Ground::NotDone, children_valid: false }
    }

    fn own<Id>(self) -> (Verdict, Reason<Id>) {
        match self.keep {
            Some(Keep::Full) => (Verdict::KeepFull, Reason::Kept(Keep::Full)),
            Some(Keep::Standalone) => (Verdict::KeepStandalone, Reason::Kept(Keep::Standalone)),
            None => (self.by_policy, self.ground.into_reason()),
        }
    }

    fn of_increment<Id: Clone>(self, root: &Id) -> (Verdict, Reason<Id>) {
        let root = root.clone();
        match self.keep {
            Some(Keep::Full) => (Verdict::Valid, Reason::FollowsRoot { root }),
            Some(Keep::Standalone) if self.children_valid => (Verdict::Valid, self.ground.into_reason()),
            Some(Keep::Standalone) => (Verdict::Obsolete, Reason::RootStandsAlone { root }),
            None => (self.by_policy, Reason::FollowsRoot { root }),
        }
    }
}

impl Ground {
    fn into_reason<Id>(self) -> Reason<Id> {
        match self {
            Ground::NotDone => Reason::NotDone,
            Ground::AmongNewest { place, wanted } => Reason::AmongNewest { place, wanted },
            Ground::BeyondNewest { wanted } => Reason::BeyondNewest { wanted },
            Ground::InWindow { begin } => Reason::InWindow { begin },
            Ground::Anchor { begin } => Reason::Anchor { begin },
            Ground::BeforeWindow { begin } => Reason::BeforeWindow { begin },
            Ground::MinimumRedundancy { minimum } => Reason::MinimumRedundancy { minimum },
        }
    }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
