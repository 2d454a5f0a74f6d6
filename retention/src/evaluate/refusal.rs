//! What a person may delete.

use jiff::Timestamp;

use super::{Backup, Keep, Stage};

/// Why a backup must not be deleted by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody asked to keep it.
    #[error("it is kept ({keep}): release it first")]
    Kept {
        /// How.
        keep: Keep,
    },
    /// Too few would remain.
    #[error("only {present} finished full backups exist, and minimum_redundancy is {minimum}")]
    MinimumRedundancy {
        /// How many there are.
        present: u32,
        /// How many must remain.
        minimum: u32,
    },
    /// None would remain that can be restored.
    #[error("it is the last backup that can be restored")]
    LastRestorable,
}

/// Whether a person may delete the backup `id`, with the increments that descend from it.
///
/// # Errors
/// When it is kept, a finished full backup that the minimum needs, or the last that can be restored.
pub fn may_delete<Id: Ord + Clone>(
    backups: &[Backup<Id>],
    id: &Id,
    minimum_redundancy: u32,
    now: Timestamp,
) -> Result<(), Refusal> {
    let Some(backup) = backups.iter().find(|backup| backup.id == *id) else { return Ok(()) };
    if let Some(keep) = backup.keep_at(now) {
        return Err(Refusal::Kept { keep });
    }
    let present = backups.iter().filter(|backup| backup.counts()).count();
    let present = u32::try_from(present).unwrap_or(u32::MAX);
    if backup.counts() && present <= minimum_redundancy {
        return Err(Refusal::MinimumRedundancy { present, minimum: minimum_redundancy });
    }
    // Increments count with the full backup that they build on. One that still waits for WAL is a hope; it is protected where
    // there is nothing better.
    let kinds: [fn(Stage) -> bool; 2] = [|stage| stage == Stage::Done, Stage::is_usable];
    for is_restorable in kinds {
        let (gone, left): (Vec<&Backup<Id>>, Vec<&Backup<Id>>) = backups
            .iter()
            .filter(|backup| is_restorable(backup.stage) && backup.parent.is_none())
            .partition(|backup| backup.id == *id);
        if !gone.is_empty() && left.is_empty() {
            return Err(Refusal::LastRestorable);
        }
    }
    Ok(())
}
