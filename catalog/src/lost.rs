//! What the records tell of and is not there any more: somebody, or a file system, has removed it.

use std::collections::HashSet;

use pgwal::WalFile;

use crate::store::{Catalog, CatalogError};
use crate::{BackupId, xlogdb};

/// What is recorded and gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lost {
    /// Backups that count as complete and have no files.
    pub backups: Vec<BackupId>,
    /// WAL files that the list names, in the order of the list.
    pub wal: Vec<WalFile>,
}

impl Catalog {
    /// Looks for what is recorded and gone. While a deletion is under way there is no telling, and nothing is lost.
    ///
    /// # Errors
    /// When the home can't be read.
    pub fn lost(&self) -> Result<Lost, CatalogError> {
        if !self.marked()?.is_empty() {
            return Ok(Lost::default());
        }
        let layout = self.layout();
        let is_gone =
            |path: std::path::PathBuf| path.symlink_metadata().is_err_and(|error| is_missing(&error));
        let backups = self.backups()?;
        let usable = backups.iter().filter(|info| info.status.is_usable()).map(|info| info.id);
        let backups = usable.filter(|id| is_gone(layout.backup_data(*id))).collect();
        // The files first: what is archived meanwhile is looked for once more.
        let files: HashSet<WalFile> =
            xlogdb::archived_files(layout)?.into_iter().map(|(file, _)| file).collect();
        let listed = xlogdb::read(layout)?.entries.into_iter().map(|entry| entry.file);
        let mut seen = HashSet::new();
        let gone = |file: &WalFile| !files.contains(file) && is_gone(layout.wal(file)) && seen.insert(*file);
        let wal = listed.filter(gone).collect();
        // A deletion that began meanwhile explains it.
        if self.marked()?.is_empty() { Ok(Lost { backups, wal }) } else { Ok(Lost::default()) }
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}
