//! What came of trying a backup out: the last drill with it, in `.barkeep/drills/<id>.json`. Ours, and expendable.

use std::path::PathBuf;

use barkeep_transport::durable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{CatalogError, read_bounded};
use crate::{BackupId, Catalog, Layout};

/// The version of the file's format.
const VERSION: u32 = 1;
/// Largest such file read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A drill that was carried out to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Drill {
    /// The backup.
    pub id: BackupId,
    /// When it ended.
    pub at: Timestamp,
    /// What recovery was aimed at, in words.
    pub target: String,
    /// Bytes restored.
    pub bytes: u64,
    /// How long restoring took, in seconds.
    pub restore_seconds: f64,
    /// How long the server took to become usable, in seconds.
    pub recovery_seconds: f64,
    /// What is wrong, one line each; nothing when all is well.
    pub faults: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    /// In RFC 3339.
    at: String,
    target: String,
    bytes: u64,
    restore_seconds: f64,
    recovery_seconds: f64,
    faults: Vec<String>,
}

impl Catalog {
    /// The last drill with a backup; `None` when there was none, or what is there can't be understood.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn drill(&self, id: BackupId) -> Result<Option<Drill>, CatalogError> {
        let Some(text) = read_bounded(&path(self.layout(), id), FILE_BYTES_MAX)? else { return Ok(None) };
        let known = serde_json::from_slice::<Text>(&text).ok().filter(|text| text.version == VERSION);
        Ok(known.and_then(|text| {
            let Text { target, bytes, restore_seconds, recovery_seconds, faults, .. } = text;
            let at = text.at.parse().ok()?;
            Some(Drill { id, at, target, bytes, restore_seconds, recovery_seconds, faults })
        }))
    }

    /// Records a drill in place of an earlier one.
    ///
    /// # Errors
    /// When storage fails.
    pub fn record_drill(&self, drill: &Drill) -> Result<(), CatalogError> {
        let text = Text {
            version: VERSION,
            at: drill.at.to_string(),
            target: drill.target.clone(),
            bytes: drill.bytes,
            restore_seconds: drill.restore_seconds,
            recovery_seconds: drill.recovery_seconds,
            faults: drill.faults.clone(),
        };
        durable::create_dir_all(&directory(self.layout()))?;
        let text = serde_json::to_vec(&text).unwrap_or_default();
        Ok(durable::write(&path(self.layout(), drill.id), &text)?)
    }

    /// Forgets the drills with a backup that is being deleted.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) fn forget_drill(&self, id: BackupId) -> Result<(), CatalogError> {
        durable::remove(&path(self.layout(), id))?;
        Ok(())
    }
}

fn directory(layout: &Layout) -> PathBuf {
    layout.private().join("drills")
}

fn path(layout: &Layout, id: BackupId) -> PathBuf {
    directory(layout).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_is_kept_replaced_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        let id: BackupId = "20261122T101539".parse().unwrap();
        assert_eq!(catalog.drill(id).unwrap(), None);
        let mut drill = Drill {
            id,
            at: "2026-11-25T22:00:00Z".parse().unwrap(),
            target: "the end of WAL".to_owned(),
            bytes: 1 << 40,
            restore_seconds: 1.5,
            recovery_seconds: 0.25,
            faults: Vec::new(),
        };
        catalog.record_drill(&drill).unwrap();
        assert_eq!(catalog.drill(id).unwrap().as_ref(), Some(&drill));
        drill.faults.push("an index is \"corrupt\"".to_owned());
        catalog.record_drill(&drill).unwrap();
        assert_eq!(catalog.drill(id).unwrap().as_ref(), Some(&drill));
        catalog.forget_drill(id).unwrap();
        assert_eq!(catalog.drill(id).unwrap(), None);
    }
}
