//! Whether what is in the archive now is the segment that was, or another one that was archived under its name after that
//! had been deleted.

use std::cell::OnceCell;
use std::collections::HashMap;

use pgwal::{SegmentName, WalFile};

use super::Entry;
use crate::inspect::SegmentIndex;
use crate::{Layout, xlogdb};

/// When archived segments had last been changed before they were archived, by the archive's list; read when it is first asked.
pub(crate) struct ListedTimes<'a> {
    layout: &'a Layout,
    /// In seconds since 1970.
    times: OnceCell<HashMap<SegmentName, u64>>,
}

impl<'a> ListedTimes<'a> {
    pub(crate) fn of(layout: &'a Layout) -> Self {
        ListedTimes { layout, times: OnceCell::new() }
    }

    pub(crate) fn get(&self, segment: SegmentName) -> Option<u64> {
        let read = || {
            let entries = xlogdb::read(self.layout).map(|list| list.entries).unwrap_or_default();
            let timed = entries.into_iter().filter_map(|entry| match entry.file {
                WalFile::Segment(segment) => Some((segment, entry.time as u64)),
                _ => None,
            });
            timed.collect()
        };
        self.times.get_or_init(read).get(&segment).copied()
    }
}

impl Entry {
    /// Whether the segment that is there now, and holds what `found` says, is another one: it was listed again, or records that their
    /// checksums prove say something else, or it is of another cluster.
    pub(crate) fn is_of_another(&self, found: Option<&SegmentIndex>, listed: &ListedTimes<'_>) -> bool {
        let known = self.index();
        let indexes = known.as_ref().zip(found);
        indexes.is_some_and(|(known, found)| {
            known.differs_from(found) || are_other_numbers(known.system_id, found.system_id)
        }) || self.facts.modified.zip(listed.get(self.facts.segment)).is_some_and(|(then, now)| then != now)
    }
}

/// Whether two numbers differ in more than the one byte that may have been damaged: no checksum is on them.
fn are_other_numbers(one: u64, other: u64) -> bool {
    let (one, other) = (one.to_le_bytes(), other.to_le_bytes());
    one.iter().zip(other).filter(|(one, other)| **one != *other).count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_byte_makes_no_other_cluster() {
        let id = testkit::wal::SYSTEM_ID;
        assert!(!are_other_numbers(id, id) && !are_other_numbers(id, id ^ 0xff00));
        assert!(are_other_numbers(id, id + (1 << 32) + 1));
    }
}
