//! Indexing WAL that is in the archive already and was not indexed on its way there: Barman put it there, or the index was lost.
//! And forgetting what is there no more.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use barkeep_catalog::archive::{Indexed, index_archive};
use barkeep_catalog::index_store::IndexStoreError;
use barkeep_catalog::{IndexStore, xlogdb};

use crate::context::ServerContext;
use crate::error::CommandError;

/// How long one turn may take: no more is begun after that. A large archive is indexed over many turns.
const TURN: Duration = Duration::from_secs(15);
/// How many segments are read before the time is looked at.
const SEGMENTS_AT_ONCE: usize = 64;

/// Forgets segments that were deleted, and reads archived segments of which nothing is known, the oldest first, by one thread and for a
/// bounded time.
///
/// # Errors
/// When the archive can't be listed, or the index can't be kept. That a segment can't be read is for `check` to tell.
pub(super) fn catch_up(server: &ServerContext) -> Result<(), CommandError> {
    let (name, layout) = (server.name(), server.layout());
    let failed = |error: IndexStoreError| {
        CommandError::because(format!("the WAL archive of server '{name}' is not indexed"), &error)
    };
    let store = IndexStore::of(&layout);
    let archived = xlogdb::archived_segments(&layout)?;
    let indexes = store.load().map_err(failed)?;
    let missing = indexes.missing(&archived);
    // Where nothing is archived at all, the disk that it is on may not be there.
    if !archived.is_empty() {
        store.forget_absent(&layout, indexes.absent(&archived)).map_err(failed)?;
    }
    let begin = Instant::now();
    let mut read = 0;
    for segments in missing.chunks(SEGMENTS_AT_ONCE).take_while(|_| begin.elapsed() < TURN) {
        let indexing = index_archive(&layout, segments, Some(NonZeroUsize::MIN), |indexed| match indexed {
            Indexed::Read(facts) => {
                read += 1;
                if !facts.soundness.is_fine() {
                    server.output.warning(format!(
                        "{} of server '{name}' is not sound: {}",
                        facts.segment, facts.note
                    ));
                }
            }
            Indexed::Unreadable(segment, error) => {
                server.output.debug(format!("{segment} of server '{name}' can't be indexed: {error}"));
            }
            Indexed::Gone(_) => {}
        });
        indexing.map_err(failed)?;
    }
    if read > 0 {
        let left = missing.len().saturating_sub(read);
        server
            .output
            .debug(format!("{read} archived segments of server '{name}' were indexed, {left} are left"));
    }
    Ok(())
}
