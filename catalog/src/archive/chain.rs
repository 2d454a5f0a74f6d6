//! From one segment's index to the next: a record that crosses a boundary is read with the index of the segment before.
//!
//! Threads take segments in order. Each waits for the index of the one before, reads and indexes its own, and hands that on
//! before it compresses, which is what takes the time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId};

use crate::inspect::SegmentIndex;
use crate::{IndexStore, Layout, wal};

/// The segments of a batch, in order, and their indexes as they come.
pub(super) struct Chain<'a> {
    layout: &'a Layout,
    store: &'a IndexStore,
    segments: Vec<Option<SegmentName>>,
    indexes: Mutex<Vec<Slot>>,
    posted: Condvar,
}

#[derive(Clone)]
enum Slot {
    Awaited,
    Known(Option<Arc<SegmentIndex>>),
}

impl<'a> Chain<'a> {
    /// A chain of these segments; `None` stands for another kind of file.
    pub(super) fn new(layout: &'a Layout, store: &'a IndexStore, segments: Vec<Option<SegmentName>>) -> Self {
        let indexes = Mutex::new(vec![Slot::Awaited; segments.len()]);
        Chain { layout, store, segments, indexes, posted: Condvar::new() }
    }

    /// Hands on the index of the segment at `place`; what is handed on first counts. Has to be called for every place,
    /// or those behind it wait for ever.
    pub(super) fn post(&self, place: usize, index: Option<Arc<SegmentIndex>>) {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot @ Slot::Awaited) = indexes.get_mut(place) {
            *slot = Slot::Known(index);
        }
        drop(indexes);
        self.posted.notify_all();
    }

    /// The index of the segment before the one at `place`: from this batch, when it is in it, or else from the store.
    pub(super) fn before(&self, place: usize, size: SegmentSize) -> Option<Arc<SegmentIndex>> {
        let segment = (*self.segments.get(place)?)?;
        let before = segment.previous(size)?;
        if let Some(index) = self.of(place, before) {
            return Some(index);
        }
        if segment.timeline() == TimelineId::FIRST {
            return None;
        }
        // The first segment of a timeline goes on where the timeline before it was left, if that was at the end of one: a segment in
        // which a timeline is left has a copy on the next.
        let history = wal::history(self.layout, segment.timeline()).ok().flatten()?;
        let last_byte = Lsn::from_u64(segment.first_lsn(size)?.as_u64().checked_sub(1)?);
        let parent = history.timeline_at(last_byte);
        if parent == segment.timeline() { None } else { self.of(place, before.on(parent)) }
    }

    fn of(&self, place: usize, before: SegmentName) -> Option<Arc<SegmentIndex>> {
        // Only earlier ones are waited for, so that nobody waits in a circle.
        let earlier = self.segments.iter().take(place).rposition(|segment| *segment == Some(before));
        if let Some(earlier) = earlier
            && let Some(index) = self.wait_for(earlier)
        {
            return Some(index);
        }
        // A store that can't be read is as good as an empty one: the index is then made without what is before.
        let stored = self.store.entry(before).ok().flatten().and_then(|entry| entry.index())?;
        // Nor is what is left of a cluster that was here before.
        let of = wal::system_id_of(self.layout, before);
        of.is_none_or(|of| of == stored.system_id).then(|| Arc::new(stored))
    }

    fn wait_for(&self, place: usize) -> Option<Arc<SegmentIndex>> {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match indexes.get(place) {
                Some(Slot::Known(index)) => return index.clone(),
                Some(Slot::Awaited) => {
                    indexes = self.posted.wait(indexes).unwrap_or_else(PoisonError::into_inner);
                }
                None => return None,
            }
        }
    }
}
