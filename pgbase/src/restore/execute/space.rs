//! Whether there is room for a restore.

use std::path::Path;

use super::super::facts::{BackupFormat, RestorePlan, WalPlace};
use super::super::tree::Listing;
use super::super::wal::WalKind;
use super::ground::{Ground, Root};
use super::{PRIVATE_FILE, RestoreError};
use crate::copy::{CopyMethod, Directory};

/// A file that lives for a moment, to find out what the file system can do.
pub(super) const PROBE: &str = ".barkeep-probe";

/// What the WAL takes once decompressed.
pub(super) fn wal_bytes(plan: &RestorePlan) -> u64 {
    let segments = plan.wal.iter().filter(|wal| wal.kind != WalKind::History).count() as u64;
    segments.saturating_mul(plan.backup.segment_size.bytes())
}

/// Refuses a restore that can't fit, before anything is copied; unless blocks can be shared with the backup, or with what
/// is there.
pub(super) fn check(
    plan: &RestorePlan,
    listings: &[Listing],
    sources: &[Directory],
    ground: &Ground,
    method: &CopyMethod,
) -> Result<(), RestoreError> {
    let data = ground.data()?;
    if let (Some(source), Some(listing)) = (sources.first(), listings.first())
        && let Some(sample) = listing.files.iter().find(|file| file.size > 0 && file.packed.is_none())
    {
        let probe = Path::new(PROBE);
        let written = |source| RestoreError::write(&data.path.join(PROBE), source);
        let from = source
            .read(&sample.path)
            .map_err(|error| RestoreError::read(&plan.backup.data.join(&sample.path), error))?;
        let to = data.directory.create(probe, PRIVATE_FILE, None).map_err(written)?;
        method.try_sharing(&from, &to);
        data.directory.remove(probe).map_err(written)?;
    }
    // How much of what is there is right is not known yet.
    let shares = method.shares_blocks() && plan.backup.format == BackupFormat::Plain;
    if shares || ground.is_in_use() {
        return Ok(());
    }
    let mut needs: Vec<(&Root, u64, u64)> = Vec::new();
    for (root, listing) in ground.roots().iter().zip(listings) {
        let device = root.directory.stat().map_err(|error| RestoreError::read(&root.path, error))?.st_dev;
        let bytes: u64 = listing.files.iter().map(|file| file.size).sum();
        match needs.iter_mut().find(|(_, known, _)| *known == device) {
            Some((_, _, needed)) => *needed = needed.saturating_add(bytes),
            None => needs.push((root, device, bytes)),
        }
    }
    if let (Some((_, _, needed)), WalPlace::PgWal | WalPlace::Staged) = (needs.first_mut(), &plan.wal_place) {
        *needed = needed.saturating_add(wal_bytes(plan));
    }
    for (root, _, needed) in needs {
        let free = root.directory.free_bytes().map_err(|error| RestoreError::read(&root.path, error))?;
        if needed > free {
            return Err(RestoreError::NoSpace { path: root.path.clone(), free, needed });
        }
    }
    Ok(())
}
