//! One recovery, followed record by record, as far as the index does not say that there is nothing to see.

use std::ops::ControlFlow;

use pgwal::index::{Outcomes, SegmentIndex};
use pgwal::{Lsn, PgTimestamp, RecoveryTarget, SegmentName, TargetKind};

use super::scan::{Event, Scanned, Scanner, Seen};
use super::{Stop, Transaction, Unreachable, Verdict, Why};
use crate::wal::WalError;
use crate::wal_map::{Break, Start};

/// How many segments before a backup's end are searched for the record of it.
const BACKUP_END_SEGMENTS: usize = 64;
/// How many segments after a backup's begin are searched for its checkpoint.
const CHECKPOINT_SEGMENTS: usize = 64;
/// How far along the path the top level of a subtransaction is looked for.
const TRACE_SEGMENTS: usize = 64;

/// One recovery, followed.
pub(super) struct Course<'a> {
    pub(super) scanner: Scanner<'a>,
    pub(super) start: &'a Start,
    pub(super) reach: Lsn,
    pub(super) end: Break,
}

/// What came of following a recovery.
pub(super) enum Attempt {
    Stops(Stop),
    /// No later than where the cluster is consistent: where it would stop, and where it is consistent.
    TooEarly(Lsn, Lsn),
    /// The backup's own WAL is not all there.
    Incomplete,
    /// The WAL ends before.
    Never,
}

/// The record at which a recovery stops.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The position of its segment on the path.
    segment: usize,
    lsn: Lsn,
    end: Lsn,
    applied: bool,
    /// The last commit before it in its segment, or itself.
    commit: Option<Transaction>,
}

impl Course<'_> {
    pub(super) fn answer(&mut self, target: &RecoveryTarget) -> Result<Verdict, WalError> {
        let why = match self.attempt(target)? {
            Attempt::Stops(stop) => return Ok(Verdict::Reachable(stop)),
            Attempt::TooEarly(at, consistent) => Why::BeforeBackupEnd { at, consistent },
            Attempt::Incomplete => Why::BackupIncomplete { reach: self.reach, consistent: self.start.end },
            Attempt::Never => return self.unreachable(target.kind.as_ref()),
        };
        Ok(Verdict::Unreachable(Unreachable { why, last_commit: None }))
    }

    pub(super) fn attempt(&mut self, target: &RecoveryTarget) -> Result<Attempt, WalError> {
        if self.reach < self.start.end {
            return Ok(Attempt::Incomplete);
        }
        let Some(kind) = &target.kind else {
            let last_commit = self.commit_before(self.scanner.path.len())?;
            return Ok(Attempt::Stops(Stop {
                at: self.reach,
                applied: true,
                read_to: self.reach,
                last_commit,
                same_name_later: 0,
                cut_short: (self.end != Break::End).then(|| self.end.clone()),
            }));
        };
        if *kind == TargetKind::Immediate {
            return self.immediate();
        }
        // The server would stop at the next commit and be content; but the backup has what was committed since that time.
        if let TargetKind::Time(time) = kind
            && self.begin_time().is_some_and(|begin| *time < begin)
        {
            return Ok(Attempt::TooEarly(self.start.begin, self.start.end));
        }
        let Some(mark) = self.find(kind, target.inclusive)? else { return Ok(Attempt::Never) };
        let is_consistent = |end: Lsn| if mark.applied { mark.end >= end } else { mark.lsn >= end };
        if !is_consistent(self.start.end) {
            // What the record of the backup says may be later than where it really ended.
            let consistent = self.backup_end()?.map_or(self.start.end, |(_, end)| end);
            if !is_consistent(consistent) {
                return Ok(Attempt::TooEarly(mark.lsn, consistent));
            }
        }
        let last_commit = match mark.commit {
            Some(commit) => Some(commit),
            None => self.commit_before(mark.segment)?,
        };
        Ok(Attempt::Stops(Stop {
            at: mark.lsn,
            applied: mark.applied,
            read_to: mark.end.max(self.start.end),
            last_commit,
            same_name_later: match kind {
                TargetKind::Name(name) => self.later_names(name, mark)?,
                _ => 0,
            },
            cut_short: None,
        }))
    }

    /// When the backup began: by the server's clock, to the second, if its checkpoint is indexed.
    fn begin_time(&self) -> Option<PgTimestamp> {
        let first =
            (0..self.scanner.path.len().min(CHECKPOINT_SEGMENTS)).filter_map(|at| self.scanner.known(at));
        let checkpoint = first
            .filter_map(|known| known.index.as_ref())
            .flat_map(|index| &index.checkpoints.entries)
            .find(|checkpoint| checkpoint.redo == self.start.begin);
        let micros = checkpoint.and_then(|checkpoint| checkpoint.unix_seconds.checked_mul(1_000_000));
        micros.and_then(PgTimestamp::from_unix_micros).or(self.start.begin_time)
    }

    /// The first record at which the server stops.
    fn find(&mut self, kind: &TargetKind, inclusive: bool) -> Result<Option<Mark>, WalError> {
        for at in 0..self.scanner.path.len() {
            let Some(known) = self.scanner.known(at) else { break };
            if known.index.as_ref().is_some_and(|index| !may_stop(index, kind, inclusive)) {
                continue;
            }
            let mut commit = None;
            let scanned = self.scanner.segment(at, |seen| {
                let (stops, applied) = stops_at(&seen, kind, inclusive);
                if stops && !applied {
                    return ControlFlow::Break(Mark {
                        segment: at,
                        lsn: seen.lsn,
                        end: seen.end,
                        applied,
                        commit,
                    });
                }
                commit = committed(&seen).or(commit);
                if stops {
                    let (lsn, end) = (seen.lsn, seen.end);
                    return ControlFlow::Break(Mark { segment: at, lsn, end, applied, commit });
                }
                ControlFlow::Continue(())
            })?;
            match scanned {
                Scanned::Found(mark) => return Ok(Some(mark)),
                Scanned::Through => {}
                Scanned::Ends { at: end, why } => {
                    self.cut(at, end, why);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// The WAL ends in a segment where its index, if it has one, did not say so.
    fn cut(&mut self, at: usize, end: Lsn, why: Option<String>) {
        let is_last = at + 1 == self.scanner.path.len();
        if let Some(known) = self.scanner.known(at)
            && !known.partial
            && (!is_last || self.end != Break::End || known.index.is_none())
            && end < known.name.end_lsn(self.size()).unwrap_or(Lsn::MAX)
        {
            self.end = Break::Damaged { segment: known.name, note: why.unwrap_or_default() };
        }
        self.reach = self.reach.min(end);
        self.scanner.path.truncate(at + 1);
    }

    fn size(&self) -> pgwal::SegmentSize {
        self.scanner.size()
    }

    /// The last commit in the segments before a position of the path.
    pub(super) fn commit_before(&mut self, limit: usize) -> Result<Option<Transaction>, WalError> {
        for at in (0..limit.min(self.scanner.path.len())).rev() {
            let Some(known) = self.scanner.known(at) else { continue };
            let may = known.index.as_ref().is_none_or(|index| index.commits.count > 0 || index.head_missing);
            if !may {
                continue;
            }
            let mut commit = None;
            self.scanner.segment(at, |seen| {
                commit = committed(&seen).or(commit);
                ControlFlow::<()>::Continue(())
            })?;
            if commit.is_some() {
                return Ok(commit);
            }
        }
        Ok(None)
    }

    fn immediate(&mut self) -> Result<Attempt, WalError> {
        let (lsn, end) = match self.backup_end()? {
            Some((lsn, end)) => (lsn, end),
            None => (self.start.end, self.start.end),
        };
        let mut last_commit = None;
        for at in (0..self.scanner.path.len()).rev() {
            let Some(known) = self.scanner.known(at) else { continue };
            if known.name.first_lsn(self.size()).is_none_or(|first| first > end) {
                continue;
            }
            self.scanner.segment(at, |seen| {
                if seen.lsn > lsn {
                    return ControlFlow::Break(());
                }
                last_commit = committed(&seen).or(last_commit);
                ControlFlow::Continue(())
            })?;
            if last_commit.is_some() {
                break;
            }
        }
        Ok(Attempt::Stops(Stop {
            at: lsn,
            applied: true,
            read_to: self.start.end,
            last_commit,
            same_name_later: 0,
            cut_short: None,
        }))
    }

    /// The record that says that the backup has ended, and its end: what makes the cluster consistent. `None` for a backup of a
    /// standby, where there is none.
    fn backup_end(&mut self) -> Result<Option<(Lsn, Lsn)>, WalError> {
        let last = SegmentName::ending_at(self.start.timeline, self.start.end, self.size());
        let number = last.number(self.size());
        let begin = self.start.begin;
        let at = (0..self.scanner.path.len()).rev().find(|at| {
            let found = self.scanner.known(*at).and_then(|known| known.name.number(self.size()));
            found <= number
        });
        let Some(at) = at else { return Ok(None) };
        for at in (at.saturating_sub(BACKUP_END_SEGMENTS)..=at).rev() {
            let scanned = self.scanner.segment(at, |seen| match seen.event {
                Event::BackupEnd { begin: of } if of == begin => ControlFlow::Break((seen.lsn, seen.end)),
                _ => ControlFlow::Continue(()),
            })?;
            if let Scanned::Found(found) = scanned {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn later_names(&mut self, name: &str, mark: Mark) -> Result<usize, WalError> {
        let mut later = 0;
        for at in mark.segment..self.scanner.path.len() {
            let Some(known) = self.scanner.known(at) else { break };
            if let Some(index) = &known.index {
                let points = &index.restore_points.entries;
                later += points.iter().filter(|point| point.lsn > mark.lsn && point.name == name).count();
            }
        }
        Ok(later)
    }

    fn unreachable(&mut self, kind: Option<&TargetKind>) -> Result<Verdict, WalError> {
        let last_commit = self.commit_before(self.scanner.path.len())?;
        let ends = match &self.end {
            Break::End => Why::AfterLast { reach: self.reach },
            by => Why::Interrupted { reach: self.reach, by: by.clone() },
        };
        let why = match kind {
            Some(TargetKind::Name(_)) if self.end == Break::End => Why::UnknownName { known: self.names() },
            Some(TargetKind::Xid(xid)) if self.end == Break::End => {
                let (top, prepared) = self.traces_of(*xid)?;
                Why::NotEnded { top, prepared }
            }
            _ => ends,
        };
        Ok(Verdict::Unreachable(Unreachable { why, last_commit }))
    }

    /// The last restore points on the path.
    fn names(&self) -> Vec<String> {
        let segments = (0..self.scanner.path.len()).rev().filter_map(|at| self.scanner.known(at));
        let points = segments
            .filter_map(|known| known.index.as_ref())
            .flat_map(|index| index.restore_points.entries.iter().rev().map(|point| point.name.clone()));
        points.take(5).collect()
    }

    /// Whose subtransaction a transaction is, and whether it was prepared: by the segments in which it wrote.
    fn traces_of(&mut self, wanted: u32) -> Result<(Option<u32>, bool), WalError> {
        let (mut top, mut prepared, mut wrote) = (None, false, false);
        for at in 0..self.scanner.path.len() {
            let Some(known) = self.scanner.known(at) else { break };
            let Some(index) = &known.index else { continue };
            let writes = holds(index.xids, wanted);
            wrote |= writes;
            // Its top level ends after it has written, and is not far then.
            if !(writes || wrote && index.commits.count + index.aborts.count > 0) {
                continue;
            }
            let scanned = self.scanner.segment(at, |seen| match seen.event {
                Event::Ended { xid, subxacts, .. } if subxacts.iter().any(|sub| sub == wanted) => {
                    ControlFlow::Break(xid)
                }
                Event::Prepared { xid } if xid == wanted => {
                    prepared = true;
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Continue(()),
            })?;
            if let Scanned::Found(xid) = scanned {
                top = Some(xid);
                break;
            }
            if wrote && !writes && top.is_none() && at > TRACE_SEGMENTS {
                break;
            }
        }
        Ok((top, prepared))
    }
}

/// Whether a record at which the server stops may end in a segment.
fn may_stop(index: &SegmentIndex, kind: &TargetKind, inclusive: bool) -> bool {
    if index.head_missing {
        return true;
    }
    let either = |says: &dyn Fn(&Outcomes) -> bool| says(&index.commits) || says(&index.aborts);
    match kind {
        TargetKind::Time(time) => either(&|ended| {
            ended.times.is_some_and(|(_, last)| if inclusive { last > *time } else { last >= *time })
        }),
        // Of a commit with more subtransactions than can be kept, the number may not be known.
        TargetKind::Xid(xid) => {
            either(&|ended| holds(ended.xids, *xid) || (ended.count > 0 && ended.xids.is_none()))
        }
        TargetKind::Lsn(lsn) => index.last_record.is_some_and(|last| last >= *lsn),
        TargetKind::Name(name) => {
            index.restore_points.more > 0
                || index.restore_points.entries.iter().any(|point| point.name == *name)
        }
        TargetKind::Immediate => false,
    }
}

/// Whether a range of transaction numbers, in the order of a ring, holds one.
fn holds(range: Option<(u32, u32)>, xid: u32) -> bool {
    range.is_some_and(|(low, high)| xid.wrapping_sub(low) <= high.wrapping_sub(low))
}

/// Whether the server stops at a record, and whether it applies it first.
fn stops_at(seen: &Seen<'_>, kind: &TargetKind, inclusive: bool) -> (bool, bool) {
    match (kind, seen.event) {
        (TargetKind::Lsn(lsn), _) => (seen.lsn >= *lsn, inclusive),
        (TargetKind::Time(target), Event::Ended { time, .. }) => {
            (if inclusive { time > *target } else { time >= *target }, false)
        }
        (TargetKind::Xid(target), Event::Ended { xid, .. }) => (xid == *target, inclusive),
        (TargetKind::Name(target), Event::RestorePoint { name, .. }) => (name == target.as_bytes(), true),
        _ => (false, false),
    }
}

fn committed(seen: &Seen<'_>) -> Option<Transaction> {
    match seen.event {
        Event::Ended { xid, time, committed: true, .. } => {
            Some(Transaction { xid, time, lsn: seen.lsn, end: seen.end })
        }
        _ => None,
    }
}
