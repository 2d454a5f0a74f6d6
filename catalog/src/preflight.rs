//! Pre-flight: where recovery from a backup will stop, found in the archive before anything is restored.
//!
//! The rules are the server's, `recoveryStopsBefore` and `recoveryStopsAfter` (`access/transam/xlogrecovery.c`, the same from
//! PostgreSQL 13 to 18):
//!
//! * a time stops before the first commit or abort, in the order of the WAL, that is later (exclusive: not earlier), and
//!   only because there is one: without, the server refuses to start;
//! * a transaction stops at the first commit or abort of that number, a prepared one's included, a subtransaction's not;
//! * a position stops at the first record that starts there or later, which has to be read whole;
//! * a name stops after the first restore point of that name;
//! * a stop before the cluster is consistent is an error.
//!
//! The index says which segments may hold the record; only those are read.

mod course;
mod scan;

use pgwal::{History, Lsn, PgTimestamp, RecoveryTarget, SegmentName, TimelineId};

use crate::BackupId;
use crate::wal::WalError;
use crate::wal_map::{Break, Start, WalMap};
use course::{Attempt, Course};
use scan::Scanner;
pub use scan::SegmentReader;

/// Most other ways that are listed.
const ELSEWHERE_MAX: usize = 3;

/// A transaction that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its number.
    pub xid: u32,
    /// When, by the server's clock.
    pub time: PgTimestamp,
    /// Its commit record.
    pub lsn: Lsn,
    /// Where that ends.
    pub end: Lsn,
}

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The record at which it does; the end of the WAL for a recovery without a target.
    pub at: Lsn,
    /// Whether that record is applied.
    pub applied: bool,
    /// The end of the last record that the server has to read: WAL from there on is of no use.
    pub read_to: Lsn,
    /// The last commit that is applied after the backup's start; `None` when there is none.
    pub last_commit: Option<Transaction>,
    /// How many more restore points of the same name follow, which this name can't reach.
    pub same_name_later: usize,
    /// Why there is no more WAL, for a recovery without a target that ends before what is archived does.
    pub cut_short: Option<Break>,
}

/// What pre-flight says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Recovery gets there.
    Reachable(Stop),
    /// It doesn't.
    Unreachable(Unreachable),
}

/// Why a target can't be reached, and how far one gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// Why.
    pub why: Why,
    /// The last commit that can be had this way.
    pub last_commit: Option<Transaction>,
}

/// Why a target can't be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The stop is before the cluster is consistent.
    BeforeBackupEnd {
        /// Where recovery would stop.
        at: Lsn,
        /// Where the cluster is consistent.
        consistent: Lsn,
    },
    /// The WAL that makes the backup consistent is not there.
    BackupIncomplete {
        /// Where the WAL ends.
        reach: Lsn,
        /// Where the cluster would be consistent.
        consistent: Lsn,
    },
    /// It is later than all there is.
    AfterLast {
        /// Where the WAL ends.
        reach: Lsn,
    },
    /// The WAL is interrupted before.
    Interrupted {
        /// Where the WAL ends.
        reach: Lsn,
        /// By what.
        by: Break,
    },
    /// There is no such restore point.
    UnknownName {
        /// The names there are, the last ones.
        known: Vec<String>,
    },
    /// The transaction neither committed nor was rolled back.
    NotEnded {
        /// The transaction whose subtransaction it is, and which can be a target.
        top: Option<u32>,
        /// Whether it was prepared.
        prepared: bool,
    },
}

/// Another way to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The backup.
    pub backup: BackupId,
    /// The timeline to follow.
    pub timeline: TimelineId,
    /// Where recovery stops then.
    pub stop: Stop,
}

/// Answers questions about one archive.
#[derive(Clone, Copy)]
pub struct Preflight<'a> {
    map: &'a WalMap,
    reader: &'a dyn SegmentReader,
}

impl std::fmt::Debug for Preflight<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preflight").field("segments", &self.map.segments().len()).finish_non_exhaustive()
    }
}

impl<'a> Preflight<'a> {
    /// With this map of the archive, and a way to its bytes.
    pub fn new(map: &'a WalMap, reader: &'a dyn SegmentReader) -> Self {
        Preflight { map, reader }
    }

    /// Where recovery from a backup along a history stops.
    ///
    /// # Errors
    /// When a segment can't be read.
    pub fn locate(
        &self,
        start: &Start,
        history: &History,
        target: &RecoveryTarget,
    ) -> Result<Verdict, WalError> {
        self.course(start, history).answer(target)
    }

    fn course<'s>(&'s self, start: &'s Start, history: &History) -> Course<'s> {
        let walk = self.map.walk(start, history);
        let path: Vec<usize> = walk.places().collect();
        let scanner = Scanner::new(self.map, self.reader, path, start.begin);
        Course { scanner, start, reach: walk.reach, end: walk.end }
    }

    /// Where recovery stops, or `None` when it doesn't get there: [`locate`](Self::locate) without the reasons.
    ///
    /// # Errors
    /// When a segment can't be read.
    pub fn reach(
        &self,
        start: &Start,
        history: &History,
        target: &RecoveryTarget,
    ) -> Result<Option<Stop>, WalError> {
        match self.course(start, history).attempt(target)? {
            Attempt::Stops(stop) => Ok(Some(stop)),
            _ => Ok(None),
        }
    }

    /// How many segments of a recovery have no index: each of them has to be read for an answer.
    pub fn unread(&self, start: &Start, history: &History) -> usize {
        let walk = self.map.walk(start, history);
        let known = walk.places().filter_map(|place| self.map.at(place));
        known.filter(|known| known.index.is_none() && known.soundness.replays()).count()
    }

    /// The last commit that recovery from a backup along a history gets to: in complete segments, and in all that is at hand.
    ///
    /// # Errors
    /// When a segment can't be read.
    pub fn newest(
        &self,
        start: &Start,
        history: &History,
    ) -> Result<(Option<Transaction>, Option<Transaction>), WalError> {
        let mut course = self.course(start, history);
        let all = course.scanner.path.len();
        let is_partial = all.checked_sub(1).and_then(|last| course.scanner.known(last));
        let archived = match is_partial.is_some_and(|known| known.partial) {
            true => course.commit_before(all - 1)?,
            false => None,
        };
        let received = course.commit_before(all)?;
        Ok((archived.or(received), received))
    }

    /// Other backups and timelines from which a target can be reached, newest first.
    ///
    /// # Errors
    /// When a segment can't be read.
    pub fn elsewhere(&self, backups: &[Start], target: &RecoveryTarget) -> Result<Vec<Elsewhere>, WalError> {
        let mut found: Vec<Elsewhere> = Vec::new();
        for timeline in self.map.timelines().into_iter().rev() {
            let history = self.map.history(timeline);
            for backup in backups.iter().rev().filter(|backup| backup.is_on(&history)) {
                if found.len() == ELSEWHERE_MAX {
                    return Ok(found);
                }
                if let Some(stop) = self.reach(backup, &history, target)? {
                    // The same place by a longer way is no other way.
                    if found.iter().all(|other| other.stop.at != stop.at) {
                        found.push(Elsewhere { backup: backup.id, timeline, stop });
                    }
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Timelines that a search for the newest one from `followed` on would miss, for want of their history files, although they
    /// have WAL after the backup.
    pub fn overlooked(&self, start: &Start, followed: &History) -> Vec<SegmentName> {
        let missing = self
            .map
            .missing_histories()
            .into_iter()
            .filter(|timeline| *timeline > start.timeline && !followed.includes(*timeline));
        let last_of = |timeline| {
            let (_, run) = self.map.runs_of(timeline).last()?;
            let last = self.map.at(run.last)?.name;
            last.end_lsn(self.map.size).is_some_and(|end| end > start.end).then_some(last)
        };
        missing.filter_map(last_of).collect()
    }
}

#[cfg(test)]
mod tests;
