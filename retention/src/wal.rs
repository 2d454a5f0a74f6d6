//! Which WAL may go.
//!
//! A segment is kept when recovery from some remaining backup, along some timeline, could ask for it. That is a
//! question of positions and ancestry: names of different timelines have no useful order, and directories say nothing.
//! Where ancestry is not known, WAL is kept.

use std::collections::BTreeMap;

use pgwal::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

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
    /// Whether it needs no WAL after its end (kept standalone).
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

/// What is to become of a WAL file, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate<Id> {
    /// Recovery from this backup may ask for it.
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

/// The fate of every file of an archive, in the order the files were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPlan<'a, Id> {
    fates: Vec<(WalFile, Fate<&'a Id>)>,
}

impl<'a, Id> WalPlan<'a, Id> {
    /// The files that may go.
    pub fn removable(&self) -> impl Iterator<Item = WalFile> + '_ {
        self.fates.iter().filter(|(_, fate)| matches!(fate, Fate::Removable)).map(|(file, _)| *file)
    }

    /// All files with their fates.
    pub fn fates(&self) -> impl Iterator<Item = (WalFile, &Fate<&'a Id>)> + '_ {
        self.fates.iter().map(|(file, fate)| (*file, fate))
    }
}

/// Decides for every file of an archive whether it may go.
///
/// `claims` are those of all backups that remain, running ones included; `histories` those that the archive holds.
/// Without any claim nothing may go: to purge what lies before a backup that is being deleted, claim all WAL from its
/// own beginning on.
pub fn plan<'a, Id>(
    claims: &'a [Claim<Id>],
    histories: &[History],
    files: &[WalFile],
    size: SegmentSize,
) -> WalPlan<'a, Id> {
    let ancestry = Ancestry::new(histories);
    let earliest = claims.iter().map(|claim| claim.begin).min();
    let fate = |file: &WalFile| {
        let Some(segment) = file.segment() else { return Fate::History };
        let (Some(first), Some(earliest)) = (segment.first_lsn(size), earliest) else {
            return if earliest.is_none() { Fate::NothingRemains } else { Fate::Unreadable };
        };
        // The very last segment of the address space has no end that could be named; it is after everything.
        let end = segment.end_lsn(size).unwrap_or(Lsn::MAX);
        if end <= earliest {
            return Fate::Removable;
        }
        let range = Range { segment, first, end, size };
        let mut fate = Fate::Removable;
        for claim in claims {
            match ancestry.need(claim, range) {
                Need::Yes => return Fate::Needed { by: &claim.id },
                Need::Unknown => fate = Fate::UnknownAncestry { by: &claim.id },
                Need::No => {}
            }
        }
        fate
    };
    WalPlan { fates: files.iter().map(|file| (*file, fate(file))).collect() }
}

/// A segment and where it lies.
#[derive(Clone, Copy)]
struct Range {
    segment: SegmentName,
    first: Lsn,
    end: Lsn,
    size: SegmentSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Yes,
    No,
    Unknown,
}

/// The known histories by timeline.
struct Ancestry<'a> {
    histories: BTreeMap<TimelineId, &'a History>,
    first: History,
}

impl<'a> Ancestry<'a> {
    fn new(histories: &'a [History]) -> Self {
        Ancestry {
            histories: histories.iter().map(|history| (history.timeline(), history)).collect(),
            first: History::root(TimelineId::FIRST),
        }
    }

    /// A timeline's history; the first timeline needs no file.
    fn of(&self, timeline: TimelineId) -> Option<&History> {
        match self.histories.get(&timeline) {
            Some(history) => Some(history),
            None if timeline == TimelineId::FIRST => Some(&self.first),
            None => None,
        }
    }

    /// Whether recovery from the claim's backup can ask for the segment.
    fn need<Id>(&self, claim: &Claim<Id>, range: Range) -> Need {
        let Range { segment, first, end, size } = range;
        // Recovery only reads forward, and always reads the segment that it begins in.
        let beyond = first > claim.begin && first >= claim.end;
        if end <= claim.begin || (claim.standalone && beyond) {
            return Need::No;
        }
        if segment.timeline() == claim.timeline {
            return Need::Yes;
        }
        if segment.timeline() < claim.timeline {
            // An ancestor's segment: wanted where the backup's own timeline leads through it.
            return match self.of(claim.timeline) {
                None => Need::Unknown,
                Some(history) if history.uses(segment, size) => Need::Yes,
                Some(_) => Need::No,
            };
        }
        // A newer timeline: wanted where it descends from the backup's, having left it after the backup's end. Before
        // that, recovery along it can't start from this backup.
        match self.of(segment.timeline()) {
            None => Need::Unknown,
            Some(history) => match history.end_of(claim.timeline) {
                Some(left) if left >= claim.end && history.uses(segment, size) => Need::Yes,
                _ => Need::No,
            },
        }
    }
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
