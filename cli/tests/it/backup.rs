//! `barkeep backup` against real servers.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use barkeep_catalog::{BackupInfo, Catalog, Layout, Status};
use pgwal::WalFile;
use testkit::Cluster;

use crate::support::Home;

/// A cluster with some data, and a home that knows it as `main`.
fn cluster_and_home(major: u32) -> (Cluster, Home) {
    let cluster = Cluster::builder(major).checksums(true).start();
    cluster.execute("create table t as select generate_series(1, 20000) as n, repeat('x', 200) as filler");
    let home = Home::new().server("main", &cluster.conninfo());
    (cluster, home)
}

fn catalog(home: &Home) -> Catalog {
    Catalog::new(Layout::new("main", &home.join("main"), home.path()))
}

/// The only backup of a home.
#[track_caller]
fn only_backup(home: &Home) -> BackupInfo {
    let backups = catalog(home).backups().unwrap();
    assert_eq!(backups.by_id.len(), 1);
    backups.by_id.into_values().next().unwrap()
}

/// Delivers all whole segments of the server, as its archive_command would.
fn deliver_wal(cluster: &Cluster, home: &Home) {
    let incoming = home.join("main/incoming");
    let current: WalFile =
        cluster.value("select pg_walfile_name(pg_current_wal_insert_lsn())").parse().unwrap();
    for entry in std::fs::read_dir(cluster.data_dir().join("pg_wal")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        match name.parse::<WalFile>() {
            Ok(file @ WalFile::Segment(_)) if file < current => {
                std::fs::copy(entry.path(), incoming.join(format!("{name}.tmp"))).unwrap();
                std::fs::rename(incoming.join(format!("{name}.tmp")), incoming.join(&name)).unwrap();
            }
            _ => {}
        }
    }
}

fn data_of(home: &Home, info: &BackupInfo) -> PathBuf {
    catalog(home).layout().backup_data(info.id)
}

fn record(home: &Home, info: &BackupInfo) -> String {
    std::fs::read_to_string(catalog(home).layout().backup_info(info.id)).unwrap()
}

fn is_complete(data: &Path) -> bool {
    data.join("backup_manifest").exists()
}

#[test]
fn a_backup_without_its_wal_waits_and_says_so() {
    testkit::require_pg!(15);
    let (cluster, home) = cluster_and_home(15);
    let run = home.run(["backup", "main", "--name", "first one"]).success();
    let info = only_backup(&home);
    assert_eq!(info.status, Status::WaitingForWals);
    for line in [
        format!(
            "Starting backup using postgres method for server main in {}",
            home.join("main/base").display()
        ),
        format!("Backup start at LSN: {} ({}, ", info.begin_xlog.unwrap(), info.begin_wal.unwrap()),
        "Copy done (time: ".to_owned(),
        "This is the first backup for server main".to_owned(),
        "Backup size: ".to_owned(),
        format!("Backup end at LSN: {} ({}, ", info.end_xlog.unwrap(), info.end_wal.unwrap()),
        "Backup completed (start time: ".to_owned(),
    ] {
        assert!(run.stdout.contains(&line), "{line:?} is missing: {run:#?}");
    }
    assert!(run.stderr.contains("WAITING_FOR_WALS"), "{run:#?}");

    assert_eq!(info.backup_name.as_deref(), Some("first one"));
    assert_eq!(info.mode.as_deref(), Some("postgres"));
    assert_eq!(info.pgdata.as_deref(), cluster.data_dir().to_str());
    assert_eq!(info.config_file, Some(cluster.value("show config_file")));
    assert_eq!(info.hba_file, Some(cluster.value("show hba_file")));
    assert_eq!(info.data_checksums.as_deref(), Some("on"));
    assert_eq!(
        info.system_id,
        Some(cluster.value("select system_identifier::text from pg_control_system()"))
    );
    assert_eq!(info.version, cluster.value("show server_version_num").parse().ok());
    assert!(info.cluster_size.unwrap() > 4_000_000);
    assert!(info.size.unwrap() > 4_000_000 && info.size == info.deduplicated_size);
    assert!(info.backup_label.as_deref().unwrap().contains("START WAL LOCATION"));
    assert!(is_complete(&data_of(&home, &info)));
    let identity = std::fs::read_to_string(home.join("main/identity.json")).unwrap();
    assert!(
        identity.contains(info.system_id.as_deref().unwrap()) && identity.contains("\"version\": \"15\"")
    );
}

#[test]
fn a_backup_that_waits_is_done_when_its_wal_arrives() {
    for major in [13, 15, 18] {
        if !testkit::want_pg(major) {
            continue;
        }
        let (cluster, mut home) = cluster_and_home(major);
        home.set("main", "archiver", "on");
        // WAL from before the first backup, of no use to anyone.
        cluster.switch_wal();
        std::fs::create_dir_all(home.join("main/incoming")).unwrap();
        deliver_wal(&cluster, &home);
        let mut command = home.command();
        command.args(["-q", "backup", "main", "--wait", "--wait-timeout", "60"]);
        let mut backup = command.spawn().unwrap();
        testkit::wait_for("the copy to end", 60, || {
            let backups = catalog(&home).backups().unwrap();
            backups.iter().any(|info| info.status == Status::WaitingForWals).then_some(())
        });
        deliver_wal(&cluster, &home);
        assert!(backup.wait().unwrap().success());
        let info = only_backup(&home);
        assert_eq!(info.status, Status::Done, "PostgreSQL {major}");
        let archive = catalog(&home).layout().wal_directory(&WalFile::Segment(info.begin_wal.unwrap()));
        let mut archived: Vec<_> = std::fs::read_dir(archive)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        archived.sort();
        assert_eq!(archived[0], info.begin_wal.unwrap().to_string(), "nothing from before is kept");
        assert!(record(&home, &info).contains("status=DONE\n"));
    }
}

#[test]
fn waiting_ends_with_its_patience() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let run = home.run(["backup", "main", "-w", "--wait-timeout", "1"]).success();
    assert!(run.stderr.contains("Stopped waiting for WAL after 1 seconds"), "{run:#?}");
    assert_eq!(only_backup(&home).status, Status::WaitingForWals);
}

#[test]
fn json_has_the_record() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let run = home.run(["-f", "json", "backup", "main"]).success();
    let info = only_backup(&home);
    let json = run.json();
    assert_eq!(json["backup_id"], info.id.to_string());
    assert_eq!(json["status"], "WAITING_FOR_WALS");
    assert_eq!(json["size"], info.size.unwrap());
    assert_eq!(json["parent_backup_id"], serde_json::Value::Null);
    assert_eq!(run.stderr, "");
}

#[test]
fn a_second_backup_has_no_word_of_a_first() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    home.run(["backup", "main"]).success();
    let run = home.run(["backup", "all"]).success();
    assert!(!run.stdout.contains("This is the first backup"), "{run:#?}");
    assert_eq!(catalog(&home).backups().unwrap().by_id.len(), 2);
}

#[test]
fn an_unreachable_server_leaves_no_record() {
    let home = Home::new().server("main", "host=/nowhere user=postgres");
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("/nowhere"), "{run:#?}");
    assert!(catalog(&home).backups().unwrap().by_id.is_empty());
}

#[test]
fn unknown_servers_and_methods_are_refused() {
    let mut home = Home::new().server("main", "host=/nowhere");
    home.run(["backup", "other"]).fails_with_one_line(1, &["Unknown server 'other'"]);
    home.set("main", "backup_method", "snapshot");
    for key in ["snapshot_disks", "snapshot_instance", "snapshot_zone"] {
        home.set("main", key, "one");
    }
    home.set("main", "snapshot_provider", "gcp");
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("backup_method = snapshot of server 'main' is not available"), "{run:#?}");
    assert!(run.stderr.contains("set backup_method = postgres"), "{run:#?}");
}

#[test]
fn another_cluster_is_not_mixed_in() {
    testkit::require_pg!(15);
    let (_cluster, mut home) = cluster_and_home(15);
    home.run(["backup", "main"]).success();
    let stranger = Cluster::start(15);
    home.set("main", "conninfo", &stranger.conninfo());
    home.run(["backup", "main"]).fails_with_one_line(1, &["another cluster", "identity.json"]);
    assert_eq!(catalog(&home).backups().unwrap().by_id.len(), 1);
}

#[test]
fn options_of_other_methods_are_named_once() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let run = home.run(["backup", "main", "--jobs", "2", "--reuse-backup", "--manifest"]).success();
    assert!(run.stderr.contains("--reuse-backup, --jobs, --manifest"), "{run:#?}");
}

#[test]
fn a_rate_out_of_bounds_fails_with_the_bounds() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let run = home.run(["backup", "main", "--bwlimit", "5"]).exits_with(1);
    assert!(run.stderr.contains("32 to 1048576"), "{run:#?}");
    assert_eq!(only_backup(&home).status, Status::Failed);
}

#[test]
fn a_terminated_backup_is_failed_and_the_next_one_works() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    for (signal, word) in [("-INT", "SIGINT"), ("-TERM", "SIGTERM")] {
        let mut command = home.command();
        command.args(["-q", "backup", "main", "--bwlimit", "1024"]).stderr(Stdio::piped());
        let backup = command.spawn().unwrap();
        testkit::wait_for("the copy to start", 30, || {
            let backups = catalog(&home).backups().unwrap();
            let newest = backups.iter().next_back()?;
            let data = data_of(&home, newest);
            (newest.status == Status::Started && data.join("base").exists()).then_some(())
        });
        // A second backup at the same time is refused, and says who is at it.
        let pid = backup.id().to_string();
        home.run(["backup", "main"]).fails_with_one_line(1, &["already running", &pid]);
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        let output = backup.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(word));
        let info = catalog(&home).backups().unwrap().by_id.into_values().next_back().unwrap();
        assert_eq!(info.status, Status::Failed);
        assert_eq!(info.error, Some(format!("failure copying files (interrupted by {word})")));
        assert!(!is_complete(&data_of(&home, &info)));
    }
    home.run(["backup", "main"]).success();
}

#[test]
fn a_backup_under_nohup_outlives_its_terminal() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let mut command = std::process::Command::new("nohup");
    command.arg(crate::support::barkeep()).arg("-c").arg(home.config());
    command.args(["-q", "backup", "main", "--bwlimit", "8192"]).stdin(Stdio::null());
    let backup = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    testkit::wait_for("the copy to start", 30, || {
        catalog(&home).backups().unwrap().iter().any(|info| info.status == Status::Started).then_some(())
    });
    std::process::Command::new("kill").args(["-HUP", &backup.id().to_string()]).status().unwrap();
    assert!(backup.wait_with_output().unwrap().status.success());
    assert_eq!(only_backup(&home).status, Status::WaitingForWals);
}

#[test]
fn the_failure_of_one_server_does_not_keep_the_others_from_their_backups() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let home = home.server("broken", "host=/nowhere user=postgres");
    let run = home.run(["backup", "all"]).exits_with(1);
    assert!(run.stderr.contains("/nowhere"), "{run:#?}");
    assert_eq!(only_backup(&home).status, Status::WaitingForWals);
}

#[test]
fn a_killed_backup_is_found_and_marked_by_the_next() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let mut backup = home.command().args(["-q", "backup", "main", "--bwlimit", "1024"]).spawn().unwrap();
    testkit::wait_for("the copy to start", 30, || {
        let backups = catalog(&home).backups().unwrap();
        let started = backups.iter().any(|info| info.status == Status::Started);
        started.then_some(())
    });
    backup.kill().unwrap();
    backup.wait().unwrap();
    let killed = only_backup(&home);
    assert_eq!(killed.status, Status::Started, "nobody could write it down");
    let run = home.run(["backup", "main"]).success();
    assert!(
        run.stderr.contains(&format!("Backup {} of server 'main' was left unfinished", killed.id)),
        "{run:#?}"
    );
    assert_eq!(catalog(&home).read(killed.id).unwrap().status, Status::Failed);
}

#[test]
fn a_user_with_few_rights_can_back_up() {
    testkit::require_pg!(15);
    let (cluster, mut home) = cluster_and_home(15);
    cluster.execute("create role humble login replication");
    home.set("main", "conninfo", &cluster.conninfo().replace("user=postgres", "user=humble"));
    let run = home.run(["backup", "main"]).success();
    assert!(run.stderr.contains("no access to backup functions FAILED"), "{run:#?}");
    let info = only_backup(&home);
    assert_eq!(
        (info.config_file.as_deref(), info.pgdata.as_deref()),
        (None, None),
        "not for everybody to see"
    );
    assert_eq!(info.data_checksums.as_deref(), Some("on"));
}

#[test]
fn files_that_settings_come_from_are_recorded() {
    testkit::require_pg!(15);
    let (cluster, home) = cluster_and_home(15);
    cluster.execute("alter system set work_mem = '5MB'");
    cluster.execute("select pg_reload_conf()");
    home.run(["backup", "main"]).success();
    let auto_conf = cluster.data_dir().join("postgresql.auto.conf");
    assert_eq!(only_backup(&home).included_files, [auto_conf.to_str().unwrap()]);
}

#[test]
fn a_copy_that_was_cut_off_is_tried_again() {
    testkit::require_pg!(15);
    let (cluster, home) = cluster_and_home(15);
    let mut command = home.command();
    command.args(["backup", "main", "--bwlimit", "8192", "--retry-times", "1", "--retry-sleep", "0"]);
    let backup = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    testkit::wait_for("the copy to start", 30, || {
        let copying = "select pg_terminate_backend(pid)::text from pg_stat_progress_basebackup where backup_streamed > 0";
        cluster.query_text(copying).first().map(|_| ())
    });
    let output = backup.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("The copy failed") && told.contains("Trying again in 0 seconds"), "{told}");
    let info = only_backup(&home);
    assert_eq!(info.status, Status::WaitingForWals);
    assert!(is_complete(&data_of(&home, &info)));
}

#[test]
fn a_corrupt_page_fails_the_backup_by_name() {
    use std::os::unix::fs::FileExt;
    testkit::require_pg!(15);
    let (mut cluster, home) = cluster_and_home(15);
    let file = cluster.value("select pg_relation_filepath('t')");
    cluster.stop(testkit::StopMode::Fast);
    let handle = std::fs::OpenOptions::new().write(true).open(cluster.data_dir().join(&file)).unwrap();
    handle.write_all_at(b"corrupt", 3 * 8192 + 5000).unwrap();
    cluster.start_again();
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains(&format!("block 3 in '{file}'")), "{run:#?}");
    let info = only_backup(&home);
    assert_eq!(info.status, Status::Failed);
    assert!(info.error.unwrap().contains("block 3"), "in the record too");
}

#[test]
fn a_standby_is_backed_up_and_its_primary_asked_to_switch() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).start();
    primary.execute("create table t as select generate_series(1, 1000) as n; checkpoint");
    let standby = primary.standby("standby");
    primary.wait_for_replay_by(&standby);
    let home =
        Home::new().server("main", &standby.conninfo()).with("main", "primary_conninfo", &primary.conninfo());
    let before = primary.value("select pg_walfile_name(pg_current_wal_lsn())");
    home.run(["backup", "main"]).success();
    let info = only_backup(&home);
    assert!(info.backup_label.unwrap().contains("BACKUP FROM: standby"));
    assert_ne!(primary.value("select pg_walfile_name(pg_current_wal_insert_lsn())"), before);
}

#[test]
fn sha256_manifests_are_made_on_demand() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let home = home.with("main", "manifest_checksums", "sha256");
    home.run(["backup", "main"]).success();
    let manifest =
        std::fs::read_to_string(data_of(&home, &only_backup(&home)).join("backup_manifest")).unwrap();
    assert!(manifest.contains("\"Checksum-Algorithm\": \"SHA256\""));
}
