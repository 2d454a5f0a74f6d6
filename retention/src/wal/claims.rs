//! The WAL that each remaining backup needs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgwal::{History, Lsn, TimelineId};

use crate::evaluate::{self, Backup, Judgement, Keep, Place, Reason, Stage, Verdict};
use crate::order;
use crate::policy::WalPolicy;

/// The WAL that a remaining backup needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<Id> {
    /// The backup.
    pub id: Id,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where recovery from it starts reading.
    pub begin: Lsn,
    /// Where it becomes consistent; the position after its last byte.
    pub end: Lsn,
    /// Whether it needs no WAL after its end.
    pub standalone: bool,
}

impl<Id> Claim<Id> {
    /// All WAL from `begin` on. For a backup that is still running, `end` may be `begin`.
    pub fn onwards(id: Id, timeline: TimelineId, begin: Lsn, end: Lsn) -> Self {
        Claim { id, timeline, begin, end, standalone: false }
    }

    /// The WAL from `begin` to `end` alone.
    pub fn standalone(id: Id, timeline: TimelineId, begin: Lsn, end: Lsn) -> Self {
        Claim { id, timeline, begin, end, standalone: true }
    }
}

/// A remaining backup that does not say where it begins: it may need any WAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backup {id} does not say where it begins")]
pub struct NoPlace<Id> {
    /// The backup.
    pub id: Id,
}

/// What the backups that remain after `judged` has been carried out claim; in the order of the backups.
///
/// A backup kept by itself claims its own WAL, unless the policy needs it: a recovery window that begins in it needs what
/// follows. With a window for WAL, backups from before it claim their own WAL, but for the newest of them, from which the
/// window's beginning is recovered. Backups kept with all later WAL always claim it.
///
/// # Errors
/// With a backup that may need any WAL.
pub fn claims<Id: Ord + Clone>(
    backups: &[Backup<Id>],
    judged: &[Judgement<Id>],
    wal_policy: WalPolicy,
    histories: &[History],
    now: Timestamp,
) -> Result<Vec<Claim<Id>>, NoPlace<Id>> {
    let judged: BTreeMap<&Id, &Judgement<Id>> =
        judged.iter().map(|judgement| (&judgement.id, judgement)).collect();
    let goes = |backup: &Backup<Id>| {
        judged.get(&backup.id).is_some_and(|judgement| judgement.verdict == Verdict::Obsolete)
    };
    let remaining: Vec<&Backup<Id>> =
        backups.iter().filter(|backup| backup.stage.needs_wal() && !goes(backup)).collect();
    let before_window = before_wal_window(&remaining, &judged, wal_policy, histories, now);
    let claim = |backup: &&Backup<Id>| {
        let Some(Place { timeline, begin, end }) = backup.place else {
            return Err(NoPlace { id: backup.id.clone() });
        };
        let needed = judged.get(&backup.id).is_some_and(|judgement| judgement.needed);
        let standalone = match backup.keep_at(now) {
            // Where it ends is not known yet.
            _ if backup.stage == Stage::Running => false,
            Some(Keep::Full) => false,
            _ if before_window.contains(&backup.id) => true,
            Some(Keep::Standalone) => !needed,
            None => false,
        };
        Ok(Claim { id: backup.id.clone(), timeline, begin, end, standalone })
    };
    remaining.iter().map(claim).collect()
}

/// The finished backups that recovery to no moment of the window for WAL starts from.
fn before_wal_window<'a, Id: Ord + Clone>(
    remaining: &[&'a Backup<Id>],
    judged: &BTreeMap<&Id, &Judgement<Id>>,
    wal_policy: WalPolicy,
    histories: &[History],
    now: Timestamp,
) -> BTreeSet<&'a Id> {
    let WalPolicy::Window(window) = wal_policy else { return BTreeSet::new() };
    let begin = window.begin(now);
    let finished = remaining.iter().copied().filter(|backup| backup.stage.is_usable());
    let ordered = order::sort(finished, histories);
    let ended = order::ended(&ordered);
    let by_id: BTreeMap<&Id, &Backup<Id>> = remaining.iter().map(|backup| (&backup.id, *backup)).collect();
    // One that still waits for WAL can't serve as the one that the window begins from. Nor can those that go before the ones
    // that they stand in for: what doesn't count for the policy, and increments of what is kept by itself.
    let lasts = |backup: &Backup<Id>| {
        let Some(root) = evaluate::root_of(&by_id, backup) else { return false };
        let counts =
            judged.get(&root.id).is_none_or(|judgement| !matches!(judgement.reason, Reason::DoesNotCount));
        counts && (root.id == backup.id || root.keep_at(now) != Some(Keep::Standalone))
    };
    let counts = |backup: &Backup<Id>| backup.stage == Stage::Done && lasts(backup);
    let anchors = order::anchors(&ordered, &ended, histories, begin, counts);
    let Some(newest) = anchors.iter().rposition(|is_anchor| *is_anchor) else { return BTreeSet::new() };
    let older = ordered.iter().zip(ended).zip(&anchors).take(newest);
    // One that still waits for WAL may have to take the place of those that go before it is finished.
    let older = older.filter(|((backup, _), _)| backup.stage == Stage::Done);
    let before = older.filter(|((_, ended), is_anchor)| ended.is_before(begin) && !**is_anchor);
    before.map(|((backup, _), _)| &backup.id).collect()
}
