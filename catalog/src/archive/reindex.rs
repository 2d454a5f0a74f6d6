//! Making the indexes of segments that are in the archive already: of an archive that Barman filled, or after the store
//! was lost.

use std::num::NonZeroUsize;

use pgwal::{SegmentName, WalFile};

use super::chain::Chain;
use super::look::look_at;
use super::parallel::each_of;
use super::{BATCH_FILES_MAX, known_cluster};
use crate::index_store::{Entry, Facts, IndexStoreError, ListedTimes};
use crate::inspect::{Hash, Inspection, SegmentIndex, Soundness};
use crate::wal::{OpenWal, WalError};
use crate::{IndexStore, Layout};

/// What is told of a segment in which a bit has changed without any record's being at fault.
const ALTERED: &str = "its bytes are not those that were archived";

/// What came of one segment.
#[derive(Debug)]
pub enum Indexed {
    /// It was read; what was found out is in the store.
    Read(Facts),
    /// It can't be read, and has no entry.
    Unreadable(SegmentName, WalError),
    /// It is not in the archive any more.
    Gone(SegmentName),
}

/// Reads archived segments, judges and indexes them, and keeps the result in the store. `segments` are to be in order, so
/// that each is read after the one before it. By `workers` threads; `each` hears of every segment, in order.
///
/// The archive itself is not changed, and no lock on it is held.
///
/// # Errors
/// When the store can't be written.
pub fn index_archive(
    layout: &Layout,
    segments: &[SegmentName],
    workers: Option<NonZeroUsize>,
    mut each: impl FnMut(Indexed),
) -> Result<(), IndexStoreError> {
    let store = IndexStore::of(layout);
    let cluster = known_cluster(layout, &store);
    let known = store.load()?;
    let listed = ListedTimes::of(layout);
    for batch in segments.chunks(BATCH_FILES_MAX) {
        let chain = Chain::new(layout, &store, batch.iter().copied().map(Some).collect());
        let results = each_of(batch.len(), workers, |place, scratch| {
            let segment = batch[place];
            let path = layout.wal(&WalFile::Segment(segment));
            let looked = OpenWal::open(&path).and_then(|open| {
                let Some(open) = open else { return Ok(None) };
                let unreadable = |source| WalError::Read { path: path.clone(), source };
                let stored_bytes = open.stored_bytes().map_err(unreadable)?;
                let before = |size| chain.before(place, size);
                look_at(segment, open, cluster, true, before, false, scratch)
                    .map(|inspection| Some((inspection, stored_bytes)))
            });
            let index = looked
                .as_ref()
                .ok()
                .and_then(|found| found.as_ref())
                .and_then(|(found, _)| found.index.clone());
            chain.post(place, index);
            looked
        });
        let mut entries = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        for (segment, result) in batch.iter().zip(results) {
            outcomes.push(match result {
                Ok(Some((inspection, stored_bytes))) => {
                    let modified = listed.get(*segment);
                    let mut facts = Facts::of(*segment, &inspection, stored_bytes, modified);
                    let Inspection { index, .. } = inspection;
                    compare(&mut facts, known.get(*segment), index.as_deref(), &listed);
                    entries.push((facts.clone(), index));
                    Indexed::Read(facts)
                }
                Ok(None) => Indexed::Gone(*segment),
                Err(error) => Indexed::Unreadable(*segment, error),
            });
        }
        store.add(&entries)?;
        outcomes.into_iter().for_each(&mut each);
    }
    Ok(())
}

/// Holds what was found against what was archived. That is remembered until the segment is as it was, however often it is read.
/// Another segment, archived under its name after it was deleted, is no change of it.
fn compare(
    facts: &mut Facts,
    archived: Option<&Entry>,
    index: Option<&SegmentIndex>,
    listed: &ListedTimes<'_>,
) {
    let is_whole = facts.soundness.replays();
    // The last record, where its end is in the next segment.
    let open = index.and_then(|index| index.tail.as_ref()?.open.as_ref()).map(|record| record.lsn);
    let is_another = |archived: &Entry| {
        archived.facts.hash != facts.hash && is_whole && archived.is_of_another(index, listed)
    };
    let archived = archived.filter(|archived| !is_another(archived)).map(|archived| &archived.facts);
    match archived.filter(|archived| archived.hash != Hash::default()) {
        Some(archived) if (archived.bytes, archived.hash) != (facts.bytes, facts.hash) => {
            if is_whole {
                // Every record that is all there is sound, and yet a bit has changed: where no record is, or in the last one, whose
                // end is in the next segment.
                if facts.soundness < Soundness::Unlinked {
                    facts.soundness = Soundness::Altered;
                }
                let before = std::mem::replace(&mut facts.note, ALTERED.to_owned());
                if !before.is_empty() {
                    facts.note = format!("{ALTERED}: {before}");
                } else if let Some(lsn) = open {
                    facts.note =
                        format!("{ALTERED}, perhaps in the record at {lsn}, whose end is in the next one");
                }
            }
            (facts.bytes, facts.hash) = (archived.bytes, archived.hash);
            facts.modified = archived.modified;
        }
        None if !is_whole => facts.hash = Hash::default(),
        _ => {}
    }
}
