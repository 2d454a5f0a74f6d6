//! Deleting backups, and WAL that no remaining backup needs, so that a crash leaves work to finish and never a lie.
//!
//! What may go is decided elsewhere; here it goes. A backup is first marked (`delete_this`) and recorded as failed: from
//! then on nobody takes its shrinking directory for a backup, and whoever finds the mark later goes on. Barman goes on as
//! long as there are a record and a directory, be it an empty one; it never does with a record alone. So the record goes
//! before the directory: after that there is nothing left that Barman sees. The mark is the last thing to be removed.

mod hooks;
mod measure;
mod wal;

use barkeep_transport::durable;

use crate::store::{CatalogError, names_in};
use crate::{BackupId, Catalog, Status};

pub use hooks::{DeletionHooks, DoomedBackup, DoomedWal, NoHooks, Stopped};
pub use wal::remove_wal;

/// The mark of a backup whose deletion has begun.
const DELETE_MARK: &str = "delete_this";

impl Catalog {
    /// Begins the deletion of a backup, or goes on with it: after this it will be finished, now or by a later
    /// [`cron`](Self::marked).
    ///
    /// # Errors
    /// When storage fails, or there is no such backup.
    pub fn mark_for_deletion(&self, id: BackupId) -> Result<(), CatalogError> {
        let layout = self.layout();
        let is_begun =
            || layout.annotation(id, DELETE_MARK).exists() || layout.old_annotation(id, DELETE_MARK).exists();
        let info = match self.read(id) {
            Ok(info) => Some(info),
            // A damaged record is no reason to keep what it describes.
            Err(CatalogError::Damaged { .. }) => None,
            // The record had gone when it ended.
            Err(CatalogError::Unknown { .. }) if is_begun() => None,
            Err(error) => return Err(error),
        };
        self.write_meta(&layout.annotation(id, DELETE_MARK), b"delete")?;
        if let Some(mut info) = info {
            let is_failed = info.status == Status::Failed;
            if !is_failed {
                info.set_failed("deleting the backup", "its files are being removed");
            }
            // One at its old place moves out of the directory that is to be emptied.
            if !is_failed || !layout.backup_info(id).exists() {
                self.save(&info)?;
            }
        }
        Ok(())
    }

    /// The backups whose deletion has begun and not ended, in order.
    ///
    /// # Errors
    /// When the catalogue can't be read.
    pub fn marked(&self) -> Result<Vec<BackupId>, CatalogError> {
        let suffix = format!("-{DELETE_MARK}");
        let mut ids: Vec<BackupId> = names_in(&self.layout().meta())?
            .iter()
            .filter_map(|name| name.strip_suffix(&suffix)?.parse().ok())
            .collect();
        for name in names_in(&self.layout().base)? {
            if let Ok(id) = name.parse()
                && self.layout().old_annotation(id, DELETE_MARK).exists()
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Removes the files of a marked backup. Its record and mark stay.
    ///
    /// # Errors
    /// When storage fails; it can be called again.
    pub fn remove_backup_files(&self, id: BackupId) -> Result<(), CatalogError> {
        // The directory itself stays, empty: Barman leaves a record without one alone. A record that was kept in it was
        // copied out when the backup was marked; only what can't be read is still there.
        let is_copied = self.layout().backup_info(id).exists();
        let spared: &[&str] = if is_copied { &["annotations"] } else { &["backup.info", "annotations"] };
        durable::empty_dir(&self.layout().backup(id), spared)?;
        Ok(())
    }

    /// Ends the deletion of a backup whose files are gone: its parent forgets it, then its record, its directory and its
    /// marks go, in this order.
    ///
    /// # Errors
    /// When storage fails; it can be called again.
    pub fn forget_backup(&self, id: BackupId) -> Result<(), CatalogError> {
        self.release(id)?;
        self.forget_verification(id)?;
        self.forget_drill(id)?;
        durable::remove(&self.layout().annotation(id, "backup_manifest"))?;
        // Right before the record, since Barman, when it ends this deletion, wants to take the backup off the list itself;
        // but not after it, since Barman can't delete a parent that lists what there is not. The parent is found by its
        // own list too: the record may be damaged or gone already.
        for mut parent in self.backups()?.by_id.into_values() {
            if parent.children_backup_ids.contains(&id) {
                parent.children_backup_ids.retain(|child| *child != id);
                self.save(&parent)?;
            }
        }
        durable::remove(&self.layout().backup_info(id))?;
        durable::remove_dir_all(&self.layout().backup(id))?;
        self.remove_half_written(id)?;
        durable::remove(&self.layout().annotation(id, DELETE_MARK))?;
        Ok(())
    }

    /// Removes what a process that was killed had begun to write beside a backup's record.
    fn remove_half_written(&self, id: BackupId) -> Result<(), CatalogError> {
        let prefix = format!(".{id}-");
        for name in names_in(&self.layout().meta())? {
            if name.starts_with(&prefix) && durable::is_temporary(name.as_ref()) {
                durable::remove_unsynced(&self.layout().meta().join(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xlogdb::{self, Locked};
    use crate::{BackupInfo, Keep, Kept, Layout, backup_info};
    use barkeep_transport::faults::Faults;
    use pgwal::WalFile;
    use std::fs;
    use std::path::Path;

    const OLD: &str = "000000010000000000000001";
    const KEPT: &str = "000000010000000000000002";

    fn id(day: u32) -> BackupId {
        format!("202601{day:02}T000000").parse().unwrap()
    }

    fn put(catalog: &Catalog, info: &BackupInfo) {
        fs::write(catalog.layout().backup_info(info.id), backup_info::render(info).unwrap()).unwrap();
        fs::create_dir_all(catalog.layout().backup_data(info.id).join("base/1")).unwrap();
        fs::write(catalog.layout().backup_data(info.id).join("base/1/1259"), "data").unwrap();
        fs::create_dir_all(catalog.layout().backup_tablespace(info.id, 16386)).unwrap();
    }

    /// A backup with an increment, and two WAL files.
    fn home() -> (tempfile::TempDir, Catalog) {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        catalog.create_directories().unwrap();
        let done = |day| BackupInfo { status: Status::Done, ..BackupInfo::new(id(day), "pg") };
        put(&catalog, &BackupInfo { children_backup_ids: vec![id(2)], ..done(1) });
        put(&catalog, &BackupInfo { parent_backup_id: Some(id(1)), ..done(2) });
        let layout = catalog.layout();
        for name in [OLD, KEPT] {
            let file: WalFile = name.parse().unwrap();
            fs::create_dir_all(layout.wal_directory(&file)).unwrap();
            fs::write(layout.wal(&file), "wal").unwrap();
        }
        let list = xlogdb::scan(layout).unwrap();
        Locked::acquire(layout).unwrap().replace(&list).unwrap();
        (home, catalog)
    }

    fn delete(catalog: &Catalog, id: BackupId, wal: &[WalFile]) -> Result<(), CatalogError> {
        catalog.mark_for_deletion(id)?;
        catalog.remove_backup_files(id)?;
        remove_wal(catalog.layout(), wal, &NoHooks)?;
        catalog.forget_backup(id)
    }

    fn listed(catalog: &Catalog) -> Vec<String> {
        let list = xlogdb::read(catalog.layout()).unwrap();
        list.entries.iter().map(|entry| entry.file.to_string()).collect()
    }

    fn exists(path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    #[test]
    fn nothing_of_a_deleted_backup_remains() {
        let (_home, catalog) = home();
        catalog.keep(id(2), &Kept::for_good(Keep::Full)).unwrap();
        let layout = catalog.layout();
        // What a kill had left, of this backup and of another.
        let [left, others] = [2, 1].map(|day| format!(".{}-backup.info.barkeep-1-0.tmp", id(day)));
        for name in [&left, &others] {
            fs::write(layout.meta().join(name), "half").unwrap();
        }
        delete(&catalog, id(2), &[OLD.parse().unwrap()]).unwrap();
        fs::remove_file(layout.meta().join(others)).unwrap();
        assert!(!exists(&layout.backup(id(2))));
        assert_eq!(names_in(&layout.meta()).unwrap(), ["20260101T000000-backup.info"]);
        assert_eq!(catalog.read(id(1)).unwrap().children_backup_ids, []);
        assert_eq!(listed(&catalog), [KEPT]);
        assert!(!exists(&layout.wal(&OLD.parse().unwrap())));
        assert!(exists(&layout.wal(&KEPT.parse().unwrap())));
        // Nobody looks for a directory that is no longer there.
        remove_wal(layout, &[KEPT.parse().unwrap()], &NoHooks).unwrap();
        assert!(!exists(&layout.wals.join("0000000100000000")));
        remove_wal(layout, &[KEPT.parse().unwrap()], &NoHooks).unwrap();
    }

    /// Deletes the second backup of a home that was prepared, with a crash at each step, and then goes on.
    fn crash_everywhere(prepare: impl Fn(&Catalog)) {
        let wal: Vec<WalFile> = vec![OLD.parse().unwrap()];
        for crash in 0.. {
            let (home, catalog) = home();
            prepare(&catalog);
            let status = catalog.read(id(2)).unwrap().status;
            let faults = Faults::crash_at(home.path(), crash);
            let outcome = delete(&catalog, id(2), &wal);
            let steps = faults.finish().len();
            let layout = catalog.layout();
            let data = exists(&layout.backup_data(id(2)).join("base/1/1259"));
            let marked = catalog.marked().unwrap();
            match catalog.read(id(2)) {
                Ok(info) if marked.is_empty() => assert!(data && info.status == status, "step {crash}"),
                // Between the mark and the new status nothing has gone.
                Ok(info) if info.status == Status::Done => assert!(data, "a lie at step {crash}"),
                Ok(info) => {
                    assert_eq!(info.status, Status::Failed);
                    // Barman goes on with what has a directory that is not without all but a record.
                    assert!(exists(&layout.backup(id(2))), "Barman leaves it at step {crash}");
                    let left = names_in(&layout.backup(id(2))).unwrap();
                    assert_ne!(left, ["backup.info"], "Barman leaves it at step {crash}");
                }
                Err(_) => {
                    let left = names_in(&layout.backup(id(2))).unwrap();
                    assert!(left.iter().all(|name| name == "annotations"), "{left:?} at step {crash}");
                    assert_eq!(marked.is_empty(), !exists(&layout.annotation(id(2), DELETE_MARK)));
                    assert!(!marked.is_empty() || !exists(&layout.backup(id(2))), "step {crash}");
                    assert_eq!(catalog.read(id(1)).unwrap().children_backup_ids, [], "step {crash}");
                }
            }
            // The list never names a file that is gone.
            for name in listed(&catalog) {
                assert!(exists(&layout.wal(&name.parse().unwrap())), "{name} at step {crash}");
            }
            assert_eq!(catalog.read(id(1)).unwrap().status, Status::Done);
            if steps <= crash {
                outcome.unwrap();
                break;
            }
            outcome.unwrap_err();
            for marked in marked {
                assert_eq!(marked, id(2));
                delete(&catalog, marked, &wal).unwrap();
                assert!(!exists(&layout.backup(id(2))));
                assert_eq!(listed(&catalog), [KEPT]);
                assert_eq!(catalog.read(id(1)).unwrap().children_backup_ids, []);
                // But for what was half written of the parent, which goes with the parent.
                let mut left = names_in(&layout.meta()).unwrap();
                left.retain(|name| !durable::is_temporary(name.as_ref()));
                assert_eq!(left, ["20260101T000000-backup.info"]);
            }
            assert_eq!(catalog.marked().unwrap(), []);
        }
    }

    #[test]
    fn a_crash_at_any_step_leaves_what_both_tools_finish_or_nothing_that_barman_sees() {
        crash_everywhere(|_| ());
    }

    #[test]
    fn so_it_does_where_records_and_marks_are_kept_with_the_backup() {
        for status in [Status::Done, Status::Failed] {
            crash_everywhere(|catalog| {
                let layout = catalog.layout();
                let record = BackupInfo { status, ..catalog.read(id(2)).unwrap() };
                fs::remove_file(layout.backup_info(id(2))).unwrap();
                fs::write(layout.old_backup_info(id(2)), backup_info::render(&record).unwrap()).unwrap();
                if status == Status::Failed {
                    fs::create_dir_all(layout.backup(id(2)).join("annotations")).unwrap();
                    fs::write(layout.old_annotation(id(2), DELETE_MARK), "delete").unwrap();
                }
            });
        }
    }

    #[test]
    fn a_damaged_list_is_made_good_when_it_is_rewritten() {
        let (_home, catalog) = home();
        let layout = catalog.layout();
        fs::write(layout.xlogdb(), format!("{OLD}\t3\t1.5\tNone\tNone\nrubbish\n")).unwrap();
        remove_wal(layout, &[OLD.parse().unwrap()], &NoHooks).unwrap();
        let list = xlogdb::read(layout).unwrap();
        assert_eq!(list.faults, []);
        assert_eq!(listed(&catalog), [KEPT]);
    }

    #[test]
    fn a_backup_with_a_damaged_record_can_be_deleted() {
        let (_home, catalog) = home();
        fs::write(catalog.layout().backup_info(id(2)), "status=WHAT\n").unwrap();
        delete(&catalog, id(2), &[]).unwrap();
        assert!(!exists(&catalog.layout().backup_info(id(2))));
        assert_eq!(catalog.read(id(1)).unwrap().children_backup_ids, []);
    }

    #[test]
    fn old_layouts_are_deleted_whole() {
        let (_home, catalog) = home();
        let layout = catalog.layout();
        fs::remove_file(layout.backup_info(id(2))).unwrap();
        fs::write(layout.old_backup_info(id(2)), "status=DONE\n").unwrap();
        fs::create_dir_all(layout.backup(id(2)).join("annotations")).unwrap();
        fs::write(layout.old_annotation(id(2), DELETE_MARK), "delete").unwrap();
        assert_eq!(catalog.marked().unwrap(), [id(2)]);
        delete(&catalog, id(2), &[]).unwrap();
        assert!(!exists(&layout.backup(id(2))));
        assert_eq!(catalog.marked().unwrap(), []);
    }
}
