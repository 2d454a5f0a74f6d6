//! Where one segment goes over into the next: a record that lies in both is whole only if both are sound.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgwal::seam::Followed;

use super::super::facts::RestorePlan;
use super::super::wal_copy::{self, Ending};

/// How the segments of a plan end, noted by the threads that copy them.
#[derive(Debug)]
pub(super) struct Seams<'a> {
    plan: &'a RestorePlan,
    endings: Mutex<BTreeMap<usize, Ending>>,
}

impl<'a> Seams<'a> {
    pub(super) fn new(plan: &'a RestorePlan) -> Self {
        Seams { plan, endings: Mutex::default() }
    }

    /// Whether recovery goes on behind the segment at `index` of the plan. Of several timelines' copies of one segment the newest
    /// is read, the last in the plan; an older one may end anywhere.
    pub(super) fn goes_on(&self, index: usize) -> bool {
        matches!((self.number(index), self.number(index + 1)), (Some(this), Some(next)) if next > this)
    }

    /// Notes how the segment at `index` ends, and checks the records between it and its neighbours, as far as these are placed.
    /// What goes over into a segment in which the WAL ends may end there itself.
    pub(super) fn note(&self, index: usize, ending: Ending) -> io::Result<()> {
        self.endings().insert(index, ending);
        if let Some(before) = self.before(index) {
            self.check(before)?;
        }
        self.check(index)
    }

    /// Checks the record that goes over from the segment at `index` into the next, if there is one and both are placed.
    fn check(&self, index: usize) -> io::Result<()> {
        let mut index = index;
        while let Some(next) = self.next(index)
            && let Some(wal) = self.plan.wal.get(next)
        {
            let mut endings = self.endings();
            match (endings.get(&index), endings.get(&next)) {
                (Some(Ending::Loose(_)), Some(Ending::Full | Ending::Loose(_))) => {}
                _ => return Ok(()),
            }
            let Some(Ending::Loose(end)) = endings.insert(index, Ending::Full) else { return Ok(()) };
            drop(endings);
            match wal_copy::follow(&end, wal)? {
                Followed::Whole => return Ok(()),
                Followed::Broken(fault) => return Err(wal_copy::damaged(&fault)),
                Followed::StillOpen(later) => {
                    self.endings().insert(next, Ending::Loose(later));
                    index = next;
                }
            }
        }
        Ok(())
    }

    fn endings(&self) -> MutexGuard<'_, BTreeMap<usize, Ending>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment that recovery reads after the one at `index`.
    fn next(&self, index: usize) -> Option<usize> {
        if !self.goes_on(index) {
            return None;
        }
        let wanted = self.number(index)?.checked_add(1)?;
        (index + 1..).take_while(|index| self.number(*index) == Some(wanted)).last()
    }

    /// The segment that recovery reads before the one at `index`.
    fn before(&self, index: usize) -> Option<usize> {
        let number = self.number(index)?;
        let same = |before: &usize| self.number(*before) == Some(number);
        let before = (0..index).rev().find(|before| !same(before))?;
        (self.next(before) == Some(index)).then_some(before)
    }

    fn number(&self, index: usize) -> Option<u64> {
        let wal = self.plan.wal.get(index)?;
        wal.source.file.segment()?.number(self.plan.backup.segment_size)
    }
}
