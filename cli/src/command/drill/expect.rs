//! What a recovery should end with, by the archive and its index.

use barkeep_catalog::preflight::{Preflight, Transaction, Verdict};
use barkeep_catalog::wal_map::{LoadOptions, Loaded, Start, load};
use barkeep_catalog::{BackupInfo, Catalog};
use pgbase::restore::{BackupFacts, resolve_timeline};
use pgwal::RecoveryTarget;

use crate::error::{CommandError, chain};

/// Most segments without an index that are read first.
const INDEX_AT_MOST: usize = 1024;

/// The archive as it was before the restore was planned: what comes later is at most more.
pub(super) struct Archive(Loaded);

impl Archive {
    pub(super) fn load(catalog: &Catalog, info: &BackupInfo) -> Result<Self, CommandError> {
        let options = LoadOptions { index_at_most: INDEX_AT_MOST, partial: false };
        Ok(Archive(load(catalog.layout(), info.segment_size, options)?))
    }

    /// The last commit that recovery to `target` applies; `None` where there is none, or the restore itself will tell why it
    /// gets nowhere.
    pub(super) fn last_commit(
        &self,
        catalog: &Catalog,
        info: &BackupInfo,
        backup: &BackupFacts,
        target: &RecoveryTarget,
    ) -> Result<Option<Transaction>, CommandError> {
        let Some(start) = Start::of(info) else { return Ok(None) };
        let Ok(resolved) = resolve_timeline(backup, None, self.0.map.histories()) else { return Ok(None) };
        let preflight = Preflight::new(&self.0.map, catalog.layout());
        if preflight.unread(&start, &resolved.history) > 0 {
            return Ok(None);
        }
        match preflight.locate(&start, &resolved.history, target) {
            Ok(Verdict::Reachable(stop)) => Ok(stop.last_commit),
            Ok(Verdict::Unreachable(_)) => Ok(None),
            Err(error) => Err(CommandError::new(format!("The archive can't be read: {}", chain(&error)))),
        }
    }
}
