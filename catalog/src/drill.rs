//! What came of trying a backup out: the last drill with it, in `.barkeep/drills/<id>.json`, signed. Ours, and expendable.

use std::path::PathBuf;

use barkeep_transport::durable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::seal::{self, Seal, Sealed};
use crate::store::{CatalogError, read_bounded};
use crate::{BackupId, Catalog, Layout};

/// The version of the file's format.
const VERSION: u32 = 2;
/// What is signed begins with this, so that nothing else that is signed passes for it.
const PURPOSE: &str = "barkeep drill 2";
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
    /// The last commit that was applied, as foretold from the archive and found by the server; `None` when that could not be
    /// compared.
    pub last_commit: Option<LastCommit>,
    /// What is wrong, one line each; nothing when all is well.
    pub faults: Vec<String>,
}

/// The last commit that a recovery applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCommit {
    /// The transaction.
    pub xid: u32,
    /// Its commit record.
    pub lsn: String,
    /// When it committed.
    pub time: String,
}

/// The file: the record as the text that was signed, and the seal.
#[derive(Serialize, Deserialize)]
struct Signed {
    version: u32,
    record: String,
    key: String,
    signature: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// In RFC 3339.
    at: String,
    target: String,
    bytes: u64,
    restore_seconds: f64,
    recovery_seconds: f64,
    #[serde(default)]
    last_commit: Option<LastCommit>,
    faults: Vec<String>,
}

impl Drill {
    /// Whether all was well.
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Catalog {
    /// The last drill with a backup; `None` when there was none, what is there can't be understood, or is not as it was
    /// signed.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn drill(&self, id: BackupId) -> Result<Option<Drill>, CatalogError> {
        let found = self.sealed_drill(id)?;
        Ok(found.filter(|(_, sealed)| *sealed != Sealed::Broken).map(|(drill, _)| drill))
    }

    /// The last drill with a backup, whatever its seal shows.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn sealed_drill(&self, id: BackupId) -> Result<Option<(Drill, Sealed)>, CatalogError> {
        let Some(text) = read_bounded(&path(self.layout(), id), FILE_BYTES_MAX)? else { return Ok(None) };
        let drill = |record: &str| {
            let record = serde_json::from_str(record).ok()?;
            let Record { at, target, bytes, restore_seconds, recovery_seconds, last_commit, faults } = record;
            let at = at.parse().ok()?;
            Some(Drill { id, at, target, bytes, restore_seconds, recovery_seconds, last_commit, faults })
        };
        if let Ok(signed) = serde_json::from_slice::<Signed>(&text)
            && signed.version == VERSION
        {
            let seal = Seal { key: signed.key, signature: signed.signature };
            let sealed = seal::judge(self.layout(), &signed_text(id, &signed.record), Some(&seal))?;
            return Ok(drill(&signed.record).map(|drill| (drill, sealed)));
        }
        // The first version had no seal.
        let text = String::from_utf8_lossy(&text);
        Ok(drill(&text).map(|drill| (drill, Sealed::Missing)))
    }

    /// Records a drill in place of an earlier one.
    ///
    /// # Errors
    /// When storage fails, or the key can't be used.
    pub fn record_drill(&self, drill: &Drill) -> Result<(), CatalogError> {
        let record = Record {
            at: drill.at.to_string(),
            target: drill.target.clone(),
            bytes: drill.bytes,
            restore_seconds: drill.restore_seconds,
            recovery_seconds: drill.recovery_seconds,
            last_commit: drill.last_commit.clone(),
            faults: drill.faults.clone(),
        };
        let record = serde_json::to_string(&record).unwrap_or_default();
        let Seal { key, signature } = seal::seal(self.layout(), &signed_text(drill.id, &record))?;
        durable::create_dir_all(&directory(self.layout()))?;
        let text =
            serde_json::to_vec(&Signed { version: VERSION, record, key, signature }).unwrap_or_default();
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

/// What is signed: the record of this very backup.
fn signed_text(id: BackupId, record: &str) -> Vec<u8> {
    format!("{PURPOSE}\n{id}\n{record}").into_bytes()
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
            last_commit: Some(LastCommit {
                xid: 740,
                lsn: "0/3000060".to_owned(),
                time: "2026-11-25 21:00:00+00".to_owned(),
            }),
            faults: Vec::new(),
        };
        catalog.record_drill(&drill).unwrap();
        assert_eq!(catalog.drill(id).unwrap().as_ref(), Some(&drill));
        drill.faults.push("an index is \"corrupt\"".to_owned());
        catalog.record_drill(&drill).unwrap();
        assert_eq!(catalog.drill(id).unwrap().as_ref(), Some(&drill));
        assert_eq!(catalog.sealed_drill(id).unwrap().unwrap().1, Sealed::Sound);
        catalog.forget_drill(id).unwrap();
        assert_eq!(catalog.drill(id).unwrap(), None);
    }

    #[test]
    fn a_record_that_was_changed_or_is_of_another_backup_is_none() {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        let (id, other): (BackupId, BackupId) =
            ("20261122T101539".parse().unwrap(), "20261123T101539".parse().unwrap());
        let drill = Drill {
            id,
            at: "2026-11-25T22:00:00Z".parse().unwrap(),
            target: "the end of WAL".to_owned(),
            bytes: 1,
            restore_seconds: 1.0,
            recovery_seconds: 1.0,
            last_commit: None,
            faults: vec!["an index is corrupt".to_owned()],
        };
        catalog.record_drill(&drill).unwrap();
        let file = path(catalog.layout(), id);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(path(catalog.layout(), other), &text).unwrap();
        std::fs::write(&file, text.replace("an index is corrupt", "an index is correct")).unwrap();
        for id in [id, other] {
            assert_eq!(catalog.drill(id).unwrap(), None);
            assert_eq!(catalog.sealed_drill(id).unwrap().unwrap().1, Sealed::Broken);
        }
        // As it was written before there were seals.
        let old = r#"{"version":1,"at":"2026-11-25T22:00:00Z","target":"LSN 0/1","bytes":1,"restore_seconds":1,"recovery_seconds":1,"faults":[]}"#;
        std::fs::write(&file, old).unwrap();
        assert_eq!(catalog.sealed_drill(id).unwrap().unwrap().1, Sealed::Missing);
        assert!(catalog.drill(id).unwrap().unwrap().passed());
    }
}
