//! The sizes of a backup that shared files with one that was deleted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::store::CatalogError;
use crate::{BackupId, BackupType, Catalog};

impl Catalog {
    /// Measures a backup again whose files may have been shared with one that is gone: those are its own now. Only copies
    /// made file by file share files; of others nothing changes.
    ///
    /// # Errors
    /// When its files can't be looked at, or its record can't be written.
    pub fn measure_again(&self, id: BackupId) -> Result<(), CatalogError> {
        let mut info = match self.read(id) {
            Ok(info) if info.backup_type() == BackupType::Rsync => info,
            Ok(_) | Err(CatalogError::Unknown { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let sizes = Sizes::of(&self.layout().backup(id))?;
        let (size, own) = (Some(sizes.all), Some(sizes.own));
        if sizes.all == 0 || (info.size, info.deduplicated_size) == (size, own) {
            return Ok(());
        }
        (info.size, info.deduplicated_size) = (size, own);
        self.save(&info)
    }
}

/// Bytes in files.
#[derive(Default)]
struct Sizes {
    all: u64,
    /// In files that have no other name.
    own: u64,
}

impl Sizes {
    /// Of all files below a directory; links are not followed.
    fn of(directory: &Path) -> Result<Self, CatalogError> {
        let mut sizes = Sizes::default();
        let mut waiting = vec![directory.to_owned()];
        while let Some(directory) = waiting.pop() {
            let failed = |source| CatalogError::Read { path: directory.clone(), source };
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let metadata = entry.metadata().map_err(failed)?;
                if metadata.is_dir() {
                    waiting.push(entry.path());
                } else if metadata.is_file() {
                    sizes.all = sizes.all.saturating_add(metadata.len());
                    if metadata.nlink() == 1 {
                        sizes.own = sizes.own.saturating_add(metadata.len());
                    }
                }
            }
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use crate::{BackupInfo, Catalog, Layout, Status, backup_info};
    use std::fs;

    #[test]
    fn files_that_were_shared_are_its_own_afterwards() {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        catalog.create_directories().unwrap();
        let layout = catalog.layout();
        let put = |hour: u32, mode: &str| {
            let id = format!("20260101T{hour:02}0000").parse().unwrap();
            let mode = Some(mode.to_owned());
            let info = BackupInfo { status: Status::Done, mode, ..BackupInfo::new(id, "pg") };
            let info = BackupInfo { size: Some(9), deduplicated_size: Some(1), ..info };
            fs::write(layout.backup_info(id), backup_info::render(&info).unwrap()).unwrap();
            fs::create_dir_all(layout.backup_data(id)).unwrap();
            fs::write(layout.backup_data(id).join("own"), "x").unwrap();
            id
        };
        let (first, second, third) =
            (put(1, "rsync-concurrent"), put(2, "rsync-concurrent"), put(3, "postgres"));
        fs::write(layout.backup_data(first).join("shared"), "12345678").unwrap();
        for other in [second, third] {
            fs::hard_link(layout.backup_data(first).join("shared"), layout.backup_data(other).join("shared"))
                .unwrap();
        }
        catalog.measure_again(second).unwrap();
        assert_eq!(catalog.read(second).unwrap().deduplicated_size, Some(1));
        catalog.remove_backup_files(first).unwrap();
        fs::remove_file(layout.backup_data(third).join("shared")).unwrap();
        for id in [second, third] {
            catalog.measure_again(id).unwrap();
        }
        let sizes = |id| {
            let info = catalog.read(id).unwrap();
            (info.size, info.deduplicated_size)
        };
        assert_eq!(sizes(second), (Some(9), Some(9)));
        assert_eq!(sizes(third), (Some(9), Some(1)), "only copies made file by file share files");
    }
}
