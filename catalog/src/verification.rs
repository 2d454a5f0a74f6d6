//! What is known of a backup's soundness: the verdict of its last verification, in `.barkeep/verified/<id>.json`.
//!
//! Ours alone, and expendable: a verdict that is lost is found out again.

use std::path::PathBuf;

use barkeep_transport::durable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{CatalogError, read_bounded};
use crate::{BackupId, Catalog, Layout};

/// The version of the file's format.
const VERSION: u32 = 1;
/// Largest such file read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The verdict on a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verified {
    /// Every file is as the manifest says.
    Sound,
    /// Something is missing or differs.
    Damaged,
}

/// A verification that was carried out to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The backup.
    pub id: BackupId,
    /// What came out.
    pub verdict: Verified,
    /// When it ended.
    pub at: Timestamp,
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the WAL that the backup needs was verified too.
    pub wal: bool,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    verdict: Verified,
    /// In RFC 3339.
    at: String,
    files: u64,
    bytes: u64,
    wal: bool,
}

impl Catalog {
    /// The last verdict on a backup; `None` when there is none, or none that can be understood.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn verification(&self, id: BackupId) -> Result<Option<Verification>, CatalogError> {
        let Some(text) = read_bounded(&path(self.layout(), id), FILE_BYTES_MAX)? else { return Ok(None) };
        let known = serde_json::from_slice::<Text>(&text).ok().filter(|text| text.version == VERSION);
        Ok(known.and_then(|Text { verdict, at, files, bytes, wal, .. }| {
            Some(Verification { id, verdict, at: at.parse().ok()?, files, bytes, wal })
        }))
    }

    /// Records a verdict in place of an earlier one.
    ///
    /// # Errors
    /// When storage fails.
    pub fn record_verification(&self, verification: &Verification) -> Result<(), CatalogError> {
        let &Verification { id, verdict, at, files, bytes, wal } = verification;
        let path = path(self.layout(), id);
        durable::create_dir_all(&directory(self.layout()))?;
        let text =
            serde_json::to_vec(&Text { version: VERSION, verdict, at: at.to_string(), files, bytes, wal });
        let text = text.unwrap_or_default();
        Ok(durable::write(&path, &text)?)
    }

    /// Forgets the verdict on a backup that is being deleted: a later one may get its id.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) fn forget_verification(&self, id: BackupId) -> Result<(), CatalogError> {
        durable::remove(&path(self.layout(), id))?;
        Ok(())
    }
}

fn directory(layout: &Layout) -> PathBuf {
    layout.private().join("verified")
}

fn path(layout: &Layout, id: BackupId) -> PathBuf {
    directory(layout).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_kept_replaced_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        let id: BackupId = "20261122T101539".parse().unwrap();
        assert_eq!(catalog.verification(id).unwrap(), None);
        catalog.forget_verification(id).unwrap();

        let at = "2026-11-25T22:00:00Z".parse().unwrap();
        let mut verification =
            Verification { id, verdict: Verified::Sound, at, files: 3, bytes: 1 << 40, wal: true };
        catalog.record_verification(&verification).unwrap();
        assert_eq!(catalog.verification(id).unwrap().as_ref(), Some(&verification));
        verification.verdict = Verified::Damaged;
        catalog.record_verification(&verification).unwrap();
        assert_eq!(catalog.verification(id).unwrap().as_ref(), Some(&verification));

        std::fs::write(path(catalog.layout(), id), "{\"version\": 2}").unwrap();
        assert_eq!(catalog.verification(id).unwrap(), None);
        catalog.forget_verification(id).unwrap();
        assert!(!path(catalog.layout(), id).exists());
    }
}
