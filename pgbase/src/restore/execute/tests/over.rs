//! Restores over what is there.

use std::os::unix::fs::MetadataExt;

use super::*;

impl Stage {
    fn delta_plan(&self, kind: Option<TargetKind>) -> RestorePlan {
        let request = RestoreRequest { delta: true, ..self.request(kind) };
        plan_restore(request, &look_at).unwrap()
    }

    #[track_caller]
    fn restore_over(&self, kind: Option<TargetKind>) -> DeltaReport {
        self.restore(&self.delta_plan(kind)).unwrap().delta.unwrap()
    }

    /// Every file at the destinations with its content, links with their targets.
    fn picture(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut pending = vec![self.path("new"), self.path("new-fast")];
        while let Some(path) = pending.pop() {
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if metadata.is_symlink() {
                found.push((path.clone(), fs::read_link(&path).unwrap().display().to_string()));
            } else {
                found.push((path.clone(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            }
        }
        found.sort();
        found
    }
}

#[test]
fn an_empty_destination_is_restored_to_as_ever() {
    let stage = Stage::new();
    let report = stage.restore(&stage.delta_plan(None)).unwrap();
    assert_eq!(report.delta, None);
    assert_eq!(stage.read("new/base/5/112"), "a relation");
}

#[test]
fn a_directory_that_is_right_is_left_as_it_is() {
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    let before = stage.picture();
    let inode = fs::metadata(stage.path("new/base/5/112")).unwrap();
    let delta = stage.restore_over(None);
    assert_eq!(delta.written, 2, "the manifest alone, which was put aside: {delta:?}");
    assert_eq!(delta.kept, Vec::<PathBuf>::new());
    assert_eq!(delta.shelved_wal, None);
    assert_eq!(stage.picture(), before);
    let after = fs::metadata(stage.path("new/base/5/112")).unwrap();
    assert_eq!((inode.ino(), inode.mtime_nsec()), (after.ino(), after.mtime_nsec()));
}

#[test]
fn what_is_restored_over_has_the_backups_times() {
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    let time = || fs::metadata(stage.path("new/base/5/112")).unwrap().modified().unwrap();
    let before = time();
    stage.write("new/base/5/112", b"changed");
    stage.restore_over(None);
    assert_eq!(time(), before);
}

#[test]
fn whatever_happened_to_a_cluster_it_becomes_what_the_backup_says() {
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    let right = stage.picture();

    stage.write("new/base/5/112", b"A relation, changed and longer");
    stage.write("new/base/5/113", b"was empty");
    stage.write("new/base/5/999", b"a later relation");
    stage.write("new/base/777/1", b"a later database");
    fs::remove_dir_all(stage.path("new/pg_notify")).unwrap();
    stage.write("new/pg_notify", b"a file where a directory belongs");
    fs::remove_file(stage.path("new/pg_hba.conf")).unwrap();
    symlink("/etc/passwd", stage.path("new/pg_hba.conf")).unwrap();
    fs::remove_file(stage.path("new/PG_VERSION")).unwrap();
    fs::create_dir(stage.path("new/PG_VERSION")).unwrap();
    symlink("/srv/other", stage.path("new/pg_tblspc/99999")).unwrap();
    stage.write("new/standby.signal", b"");
    stage.write("new/postmaster.opts", b"");
    stage.write("new/postmaster.pid", b"4000000\n/x\n1\n5432\n/nowhere\n");
    stage.write("new/pg_replslot/slot/state", b"");
    stage.write("new/tablespace_map", b"16386 /old\n");
    stage.write("new/backup_manifest.20200101T000000", b"of an earlier restore");
    stage.write("new-fast/PG_15_202209061/5/200", b"changed");
    stage.write("new-fast/PG_15_202209061/5/201", b"later");
    let delta = stage.restore_over(None);
    assert_eq!(stage.picture(), right);
    assert_eq!(delta.kept, [Path::new("/srv/other")]);
    // Nothing behind a link was touched.
    assert!(fs::metadata("/etc/passwd").unwrap().len() > 10);
}

#[test]
fn what_is_not_postgresqls_stays_and_is_told() {
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    for name in ["server.crt", "scripts/notify.sh", "log/yesterday.log"] {
        stage.write(&format!("new/{name}"), b"mine");
    }
    stage.write("new-fast/lost+found/x", b"mine");
    stage.write("new-fast/PG_14_202107181/5/200", b"of the cluster before the upgrade");
    let delta = stage.restore_over(None);
    let names = ["new/scripts", "new/server.crt", "new-fast/PG_14_202107181", "new-fast/lost+found"];
    assert_eq!(delta.kept, names.map(|name| stage.path(name)));
    assert_eq!(stage.read("new/scripts/notify.sh"), "mine");
    assert_eq!(stage.read("new/log/yesterday.log"), "mine");
    assert_eq!(stage.read("new-fast/PG_14_202107181/5/200"), "of the cluster before the upgrade");
}

#[test]
fn wal_that_exists_nowhere_else_is_put_aside_and_never_replayed() {
    let stage = Stage::new();
    stage.restore(&stage.plan(Some(TargetKind::Immediate))).unwrap();
    stage.write("new/pg_wal/000000010000000000000004", b"archived");
    stage.write("new/pg_wal/archive_status/000000010000000000000004.done", b"");
    stage.write("new/pg_wal/000000010000000000000005", b"not archived");
    stage.write("new/pg_wal/archive_status/000000010000000000000005.ready", b"");
    stage.write("new/pg_wal/000000010000000000000006", b"being written");
    stage.write("new/pg_wal/xlogtemp.17", b"rubbish");
    let delta = stage.restore_over(Some(TargetKind::Immediate));
    let shelf = stage.path("new/pg_wal/kept-by-restore-1");
    assert_eq!(delta.shelved_wal, Some(ShelvedWal { path: shelf.clone(), files: 2 }));
    assert_eq!(fs::read(shelf.join("000000010000000000000005")).unwrap(), b"not archived");
    let mut names: Vec<_> =
        fs::read_dir(stage.path("new/pg_wal")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["archive_status", "kept-by-restore-1"]);
    assert_eq!(fs::read_dir(stage.path("new/pg_wal/archive_status")).unwrap().count(), 0);
}

#[test]
fn a_pg_wal_behind_a_link_stays_there() {
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    fs::rename(stage.path("new/pg_wal"), stage.path("wal-disk")).unwrap();
    symlink(stage.path("wal-disk"), stage.path("new/pg_wal")).unwrap();
    let delta = stage.restore_over(None);
    assert_eq!(delta.shelved_wal, None);
    assert_eq!(fs::read_link(stage.path("new/pg_wal")).unwrap(), stage.path("wal-disk"));
    assert_eq!(fs::read(stage.path("wal-disk/000000010000000000000003")).unwrap(), super::segment(3));
}

#[test]
fn a_file_with_a_second_name_is_not_changed_under_it() {
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    stage.write("new/base/5/112", b"of a snapshot");
    fs::hard_link(stage.path("new/base/5/112"), stage.path("snapshot")).unwrap();
    stage.restore_over(None);
    assert_eq!(stage.read("snapshot"), "of a snapshot");
    assert_eq!(stage.read("new/base/5/112"), "a relation");
}

#[test]
fn other_directories_other_clusters_and_running_servers_are_refused_untouched() {
    let stage = Stage::new();
    stage.write("data/global/pg_control", &[1; 16]);
    stage.write("new/precious", b"mine");
    let request = RestoreRequest { delta: true, ..stage.request(None) };
    assert!(plan_restore(request, &look_at).is_err());
    fs::remove_dir_all(stage.path("new")).unwrap();

    stage.restore(&stage.plan(None)).unwrap();
    stage.write("new/global/pg_control", &[2; 16]);
    let before = stage.picture();
    let error = stage.restore(&stage.delta_plan(None)).unwrap_err();
    assert!(matches!(error, RestoreError::OtherCluster { .. }), "{error}");
    assert_eq!(stage.picture(), before);

    stage.write("new/global/pg_control", &[1; 16]);
    let mut server =
        std::process::Command::new("sleep").arg("60").current_dir(stage.path("new")).spawn().unwrap();
    stage.write("new/postmaster.pid", format!("{}\n", server.id()).as_bytes());
    let before = stage.picture();
    let error = stage.restore(&stage.delta_plan(None)).unwrap_err();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(matches!(error, RestoreError::Running { .. }), "{error}");
    assert_eq!(stage.picture(), before);
    stage.restore_over(None);
}

#[test]
fn an_interrupted_one_can_not_be_started_and_is_completed_by_another() {
    struct Impatient(AtomicBool);
    impl RestoreObserver for Impatient {
        fn event(&self, event: RestoreEvent) {
            if matches!(event, RestoreEvent::Copied { .. }) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    let stage = Stage::new();
    stage.restore(&stage.plan(None)).unwrap();
    let right = stage.picture();
    stage.write("new/base/5/112", b"changed");
    let plan = stage.delta_plan(None);
    let error = execute(&plan, OPTIONS, &Impatient(AtomicBool::new(false))).unwrap_err();
    assert!(matches!(error, RestoreError::Cancelled));
    assert!(!stage.path("new/global/pg_control").exists());
    assert!(stage.path("new").join(INCOMPLETE_MARKER).exists());
    let delta = stage.restore_over(None);
    assert_eq!(delta.shelved_wal, None, "what the interrupted one placed is no old WAL");
    assert_eq!(stage.picture(), right);
}

#[test]
fn two_at_once_do_not_mix() {
    struct Second<'a>(&'a Stage, AtomicBool);
    impl RestoreObserver for Second<'_> {
        fn event(&self, event: RestoreEvent) {
            if event == RestoreEvent::Phase(Phase::Configuring) {
                let error = self.0.restore(&self.0.delta_plan(None)).unwrap_err();
                self.1.store(matches!(error, RestoreError::Busy { .. }), Ordering::Relaxed);
            }
        }
    }
    let stage = Stage::new();
    let second = Second(&stage, AtomicBool::new(false));
    execute(&stage.plan(None), OPTIONS, &second).unwrap();
    assert!(second.1.into_inner());
    assert_eq!(stage.read("new/base/5/112"), "a relation");
}
