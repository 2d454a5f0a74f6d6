//! Making the indexes of segments that are in the archive already: of an archive that Barman filled, or after the store
//! was lost.

use std::num::NonZeroUsize;

use pgwal::{SegmentName, WalFile};

use super::chain::Chain;
use super::look::look_at;
use super::parallel::each_of;
use super::{BATCH_FILES_MAX, known_cluster};
use crate::index_store::{Facts, IndexStoreError};
use crate::inspect::{Inspection, Soundness};
use crate::wal::{OpenWal, WalError};
use crate::{IndexStore, Layout};

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
    for batch in segments.chunks(BATCH_FILES_MAX) {
        let chain = Chain::new(layout, &store, batch.iter().copied().map(Some).collect());
        let results = each_of(batch.len(), workers, |place, scratch| {
            let segment = batch[place];
            let path = layout.wal(&WalFile::Segment(segment));
            let looked = OpenWal::open(&path).and_then(|open| {
                let Some(open) = open else { return Ok(None) };
                let stored_bytes =
                    open.stored_bytes().map_err(|source| WalError::Read { path: path.clone(), source })?;
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
                    let mut facts = Facts::of(*segment, &inspection, stored_bytes);
                    let before = known.get(*segment).map(|entry| &entry.facts);
                    if facts.soundness.is_fine()
                        && before
                            .is_some_and(|before| (before.bytes, before.hash) != (facts.bytes, facts.hash))
                    {
                        // Every record is sound, and yet a bit has changed where no record is; or it is another file.
                        facts.soundness = Soundness::Odd;
                        facts.note = "its bytes are not those that were archived".to_owned();
                    }
                    let Inspection { index, .. } = inspection;
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
