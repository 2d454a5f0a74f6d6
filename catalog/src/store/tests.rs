use super::*;
use crate::{Keep, Kept};

fn home() -> (tempfile::TempDir, Catalog) {
    let home = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(Layout::new("pg", &home.path().join("pg"), home.path()));
    catalog.create_directories().unwrap();
    (home, catalog)
}

fn noon() -> Zoned {
    "2026-01-01T12:00:00+00:00[UTC]".parse().unwrap()
}

fn record(catalog: &Catalog, id: &str, status: Status) -> BackupInfo {
    let info = BackupInfo { status, ..BackupInfo::new(id.parse().unwrap(), "pg") };
    let text = backup_info::render(&info).unwrap();
    fs::write(catalog.layout().backup_info(info.id), text).unwrap();
    info
}

fn statuses(backups: &Backups) -> Vec<Status> {
    backups.iter().map(|backup| backup.status).collect()
}

#[test]
fn two_backups_of_one_second_have_two_records() {
    let (_home, catalog) = home();
    fs::create_dir_all(catalog.layout().backup("20260101T120001".parse().unwrap())).unwrap();
    let ids: Vec<String> = (0..3).map(|_| catalog.start_backup(&noon()).unwrap().id.to_string()).collect();
    assert_eq!(ids, ["20260101T120000", "20260101T120002", "20260101T120003"]);
}

#[test]
fn the_second_of_a_deleted_backup_is_not_given_to_one_after_a_later_backup() {
    let (_home, catalog) = home();
    let first = catalog.start_backup(&noon()).unwrap().id;
    let second = catalog.start_backup(&noon()).unwrap().id;
    fs::remove_file(catalog.layout().backup_info(first)).unwrap();
    assert!(catalog.start_backup(&noon()).unwrap().id > second);
    // A clock that was far ahead once is not followed for ever.
    let stray = noon().checked_add(jiff::Span::new().hours(5)).unwrap();
    let stray = catalog.start_backup(&stray).unwrap().id;
    assert!(catalog.start_backup(&noon()).unwrap().id < stray);
}

#[test]
fn many_processes_starting_at_once_get_different_ids() {
    let (_home, catalog) = home();
    let mut ids: Vec<BackupId> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| catalog.start_backup(&noon()).unwrap().id)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[test]
fn records_move_only_forwards() {
    let (_home, catalog) = home();
    let mut info = catalog.start_backup(&noon()).unwrap();
    info.status = Status::Done;
    assert!(matches!(catalog.save(&info), Err(CatalogError::Transition { from: Status::Empty, .. })));
    for status in [Status::Started, Status::WaitingForWals, Status::Done] {
        info.status = status;
        catalog.save(&info).unwrap();
    }
    assert_eq!(catalog.read(info.id).unwrap(), info);
}

#[test]
fn old_places_are_read_and_new_ones_win() {
    let (_home, catalog) = home();
    let id: BackupId = "20200101T000000".parse().unwrap();
    fs::create_dir_all(catalog.layout().old_annotation(id, "keep").parent().unwrap()).unwrap();
    fs::write(catalog.layout().old_backup_info(id), "status=DONE\nmode=rsync\n").unwrap();
    fs::write(catalog.layout().old_annotation(id, "keep"), "full").unwrap();
    assert_eq!(catalog.backups().unwrap().get(id).unwrap().mode.as_deref(), Some("rsync"));
    assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(Keep::Full)));
    record(&catalog, id.as_str(), Status::Failed);
    fs::write(catalog.layout().annotation(id, "keep"), "standalone").unwrap();
    assert_eq!(statuses(&catalog.backups().unwrap()), [Status::Failed]);
    assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(Keep::Standalone)));
}

#[test]
fn one_damaged_record_does_not_hide_the_others() {
    let (_home, catalog) = home();
    record(&catalog, "20260101T000000", Status::Done);
    fs::write(catalog.layout().backup_info("20260102T000000".parse().unwrap()), "status=WHAT\n").unwrap();
    fs::write(catalog.layout().meta().join("notes-backup.info"), "not ours").unwrap();
    let backups = catalog.backups().unwrap();
    assert_eq!(statuses(&backups), [Status::Done]);
    assert_eq!(backups.faults.len(), 1);
    assert!(backups.faults[0].to_string().contains("20260102T000000-backup.info"));
    let error = catalog.resolve(&backups, "20260102T000000").unwrap_err();
    assert!(matches!(error, CatalogError::Damaged { .. }), "{error}");
    let error = catalog.resolve(&backups, "20260103T000000").unwrap_err();
    assert_eq!(error.to_string(), "Unknown backup '20260103T000000' for server 'pg'");
}

#[test]
fn descendants_come_children_first_and_loops_end() {
    let mut backups = Backups::default();
    let mut add = |id: &str, parent: Option<&str>| {
        let id: BackupId = id.parse().unwrap();
        let parent_backup_id = parent.map(|parent| parent.parse().unwrap());
        backups.by_id.insert(id, BackupInfo { parent_backup_id, ..BackupInfo::new(id, "pg") });
    };
    let ids = ["20260101T000000", "20260102T000000", "20260103T000000", "20260104T000000"];
    add(ids[0], Some(ids[2]));
    add(ids[1], Some(ids[0]));
    add(ids[2], Some(ids[1]));
    add(ids[3], None);
    let found = backups.descendants(ids[0].parse().unwrap());
    assert_eq!(found, [ids[2].parse().unwrap(), ids[1].parse().unwrap()]);
    assert_eq!(backups.descendants(ids[3].parse().unwrap()), []);
}
