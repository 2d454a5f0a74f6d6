//! Restores besides their targets: refusals, interruptions, ways of getting WAL, what the server does at the end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use testkit::{Cluster, wait_for};

use crate::restore_scene::{Scene, beside, state, timeline};

/// What marks a destination as unfinished.
const MARKER: &str = ".barkeep-restore-incomplete";

/// Nothing at the destination, nor beside it.
#[track_caller]
fn assert_untouched(scene: &Scene, name: &str) {
    let destination = scene.destination(name);
    for path in [destination.clone(), beside(&destination, "fast"), beside(&destination, "slow")] {
        assert!(!path.exists(), "{} exists", path.display());
    }
}

#[test]
fn wrong_input_is_one_clear_line_and_touches_nothing() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    let refuse = |options: &[&str], parts: &[&str]| {
        scene.restore("new", options).fails_with_one_line(1, parts);
        assert_untouched(&scene, "new");
    };
    refuse(&["--target-time", "yesterday"], &["\"yesterday\" is not a target time"]);
    refuse(&["--target-time", "2001-01-01 00:00:00Z"], &["can't be reached", "before the end of the backup"]);
    refuse(&["--target-lsn", "0/100"], &["before the end of"]);
    refuse(&["--target-xid", "ten"], &["\"ten\" is not a transaction id"]);
    refuse(&["--target-xid", "1"], &["no such transaction"]);
    refuse(&["--target-name", ""], &["restore point name"]);
    refuse(&["--target-name", "a\nb"], &["control character"]);
    refuse(&["--target-tli", "9"], &["timeline 9 is not in the archive"]);
    refuse(&["--target-action", "promote"], &["needs a target"]);
    refuse(&["--tablespace", "quick:/x"], &["no tablespace \"quick\"; it has fast, slow"]);
    refuse(&["--recovery-conf-filename", "../x"], &["plain file name"]);
    refuse(&["--restore-command", "cp"], &["--get-wal"]);
    refuse(&["--remote-ssh-command", "ssh 'x"], &["unbalanced quotes"]);
    for unavailable in [
        ["--staging-path", "/tmp/x"],
        ["--combine-mode", "copy"],
        ["--snapshot-recovery-instance", "x"],
        ["--aws-region", "x"],
    ] {
        refuse(&unavailable, &["not supported yet"]);
    }

    let run = |backup: &str, destination: &str| scene.home.run(["restore", "main", backup, destination]);
    let new = scene.destination("new");
    let new = new.to_str().unwrap();
    run("20200101T000000", new)
        .fails_with_one_line(1, &["Unknown backup '20200101T000000'", "list-backups main"]);
    run("nightly", new).fails_with_one_line(1, &["Unknown backup 'nightly'"]);
    run("last-failed", new).fails_with_one_line(1, &["no backup that 'last-failed' could mean"]);
    run("latest", "host:/data").fails_with_one_line(1, &["contains a ':'"]);
    run("latest", "/tmp/../x").fails_with_one_line(1, &["'..'"]);
    // The tablespaces of the running original are in the way.
    run("latest", new).fails_with_one_line(1, &["tablespace \"fast\"", "is not empty", "--tablespace"]);
    scene.home.run(["restore", "other", "latest", new]).fails_with_one_line(1, &["Unknown server 'other'"]);
    scene
        .home
        .run(["restore", "--target-xid", "5", "main", "auto", new])
        .fails_with_one_line(1, &["no such transaction"]);
    scene.home.run(["restore", "--target-time", "2001-01-01", "main", "auto", new]).exits_with(1);
    scene
        .home
        .run(["restore", "--target-xid", "5", "--target-immediate", "main", "latest", new])
        .exits_with(2);
    scene.home.run(["restore", "--target-action", "dance", "main", "latest", new]).exits_with(2);
    assert_untouched(&scene, "new");
}

#[test]
fn a_destination_that_is_not_empty_is_left_alone() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    let destination = scene.destination("new");
    for (place, what) in
        [(destination.clone(), "destination directory"), (beside(&destination, "slow"), "\"slow\"")]
    {
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join(".keep"), "mine").unwrap();
        scene.restore("new", &[]).fails_with_one_line(1, &[what, "is not empty: it has .keep"]);
        assert_eq!(std::fs::read_to_string(place.join(".keep")).unwrap(), "mine");
        std::fs::remove_dir_all(&place).unwrap();
    }
    std::fs::write(&destination, "a file").unwrap();
    scene.restore("new", &[]).fails_with_one_line(1, &["exists and is not a directory"]);
}

/// Starts a restore that takes long, and waits until it is in the middle.
fn slow_restore(scene: &Scene, name: &str) -> std::process::Child {
    let destination = scene.destination(name);
    let child = scene
        .home
        .command()
        .args(["restore", "--bwlimit", "1024", "main", "latest"])
        .arg(&destination)
        .args(["--tablespace", &format!("fast:{}", beside(&destination, "fast").display())])
        .args(["--tablespace", &format!("slow:{}", beside(&destination, "slow").display())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the restore to copy", 60, || destination.join("base/1").exists().then_some(()));
    child
}

#[test]
fn a_killed_restore_can_not_be_started_and_says_so() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    let mut child = slow_restore(&scene, "new");
    child.kill().unwrap();
    child.wait().unwrap();
    let destination = scene.destination("new");
    assert!(destination.join(MARKER).exists());
    assert!(!destination.join("global/pg_control").exists());
    assert!(Cluster::try_adopt(15, &destination).is_err());
    scene
        .restore("new", &[])
        .fails_with_one_line(1, &["is not empty", "interrupted there: complete it with --delta-restore"]);
    scene.remove("new");
    let restored = scene.recover("new", &[]);
    assert_eq!(state(&restored), state(&scene.cluster));
}

#[test]
fn a_restore_that_is_interrupted_cleans_up() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut child = slow_restore(&scene, "new");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let asked = Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(asked.elapsed() < Duration::from_secs(10));
        assert_untouched(&scene, "new");
    }
}

#[test]
fn auto_is_the_newest_backup_from_which_the_target_can_be_reached() {
    testkit::require_pg!(15);
    let mut scene = Scene::new(Cluster::builder(15));
    scene.cluster.execute("insert into log values (10)");
    let between = scene.cluster.value("select clock_timestamp()::text");
    let (lsn, expected) = (scene.cluster.value("select pg_current_wal_insert_lsn()"), state(&scene.cluster));
    std::thread::sleep(Duration::from_millis(1100));
    scene.cluster.execute("insert into log values (20)");
    scene.home.run(["backup", "--wait", "main"]).success();
    scene.archive();
    let first = std::mem::replace(&mut scene.backup_id, "auto".to_owned());
    for target in [["--target-time", &between], ["--target-lsn", &lsn]] {
        let run = scene.restore("new", &[&target[..], &["--target-action", "promote"]].concat()).success();
        assert!(run.stdout.contains(&format!("using backup {first}")), "{run:#?}");
        let restored = Cluster::adopt(15, &scene.destination("new"));
        restored.wait_until_writable();
        assert_eq!(state(&restored), expected);
        drop(restored);
        scene.remove("new");
    }
    let run = scene.restore("new", &[]).success();
    assert!(!run.stdout.contains(&first), "{run:#?}");
}

#[test]
fn a_backup_that_is_being_restored_is_not_deleted() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    // The last backup that can be restored is never deleted; this is about another reason.
    scene.home.run(["backup", "main", "--wait", "--wait-timeout", "60"]).success();
    let mut child = slow_restore(&scene, "new");
    scene.home.run(["delete", "main", "latest"]).exits_with(1);
    // Another restore is no reason to wait.
    scene.restore("other", &["--skip-archive-wal"]).success();
    child.kill().unwrap();
    child.wait().unwrap();
    scene.home.run(["delete", "main", "latest"]).success();
}

#[test]
fn the_last_partial_segment_comes_along_when_asked_for() {
    testkit::require_pg!(14);
    let scene = Scene::new(Cluster::builder(14));
    scene.archive();
    scene.cluster.execute("insert into log values (99)");
    let position = scene.cluster.value("select pg_current_wal_flush_lsn()");
    wait_for("the receiver to have it", 60, || {
        let behind = format!("select count(*) from pg_stat_replication where flush_lsn >= '{position}'");
        (scene.cluster.value(&behind) == "1").then_some(())
    });
    let restored = scene.recover("whole", &[]);
    assert!(!state(&restored).contains("99:"));
    drop(restored);
    let restored = scene.recover("partial", &["--partial-wal"]);
    assert_eq!(state(&restored), state(&scene.cluster));
}

#[test]
fn at_the_target_the_server_pauses_or_shuts_down() {
    testkit::require_pg!(16);
    let scene = Scene::new(Cluster::builder(16));
    scene.cluster.execute("insert into log values (10)");
    let expected = state(&scene.cluster);
    scene.cluster.execute("select pg_create_restore_point('here')");
    scene.cluster.execute("insert into log values (20)");
    scene.archive();

    for options in [&["--target-name", "here"][..], &["--target-name", "here", "--target-action", "pause"]] {
        scene.restore("paused", options).success();
        let paused = Cluster::adopt(16, &scene.destination("paused"));
        wait_for("the target", 60, || {
            (paused.value("select pg_get_wal_replay_pause_state()") == "paused").then_some(())
        });
        assert_eq!(state(&paused), expected);
        drop(paused);
        scene.remove("paused");
    }
    scene.restore("down", &["--target-name", "here", "--target-action", "shutdown"]).success();
    let log = Cluster::run_until_exit(16, &scene.destination("down"));
    assert!(log.contains("shutdown at recovery target"), "{log}");
}

#[test]
fn a_standby_keeps_recovering_until_promoted() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    scene.cluster.execute("insert into log values (10)");
    let expected = state(&scene.cluster);
    scene.archive();
    scene.restore("standby", &["--standby-mode"]).success();
    let destination = scene.destination("standby");
    assert!(destination.join("standby.signal").exists() && !destination.join("recovery.signal").exists());
    let standby = Cluster::adopt(15, &destination);
    assert!(standby.is_in_recovery());
    wait_for("the replay", 60, || (state(&standby) == expected).then_some(()));
    standby.promote();
    assert_eq!(timeline(&standby), 2);
}

#[test]
fn the_wal_can_be_staged_elsewhere() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    scene.cluster.execute("insert into log values (10)");
    scene.archive();
    let staging = scene.destination("it's staged");
    let staged = staging.to_str().unwrap();
    let options = ["--target-tli", "current", "--staging-wal-directory", staged];
    scene.restore("new", &options).success();
    // The server's user runs the commands, and removes the directory at the end.
    testkit::unprivileged_user().take_over(&staging);
    let restored = Cluster::adopt(15, &scene.destination("new"));
    restored.wait_until_writable();
    assert!(state(&restored).contains("10:1"));
    assert!(!staging.exists());
}

/// Old scripts spell long options with one dash and call the command by its old name.
#[test]
fn old_scripts_go_on_working() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    scene.cluster.execute("insert into log values (10)");
    let time = scene.cluster.value("select to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.USOF')");
    std::thread::sleep(Duration::from_millis(50));
    scene.cluster.execute("insert into log values (20)");
    scene.archive();
    let destination = scene.destination("new");
    let space = |name: &str| format!("{name}:{}", beside(&destination, name).display());
    let run = scene.home.run([
        "recover",
        "-target-time",
        &time,
        "-tablespace",
        &space("fast"),
        "-tablespace",
        &space("slow"),
        "main",
        "last",
        destination.to_str().unwrap(),
    ]);
    run.success();
    let restored = Cluster::adopt(15, &destination);
    wait_for("the target", 60, || {
        (restored.value("select pg_get_wal_replay_pause_state()") == "paused").then_some(())
    });
    let found = state(&restored);
    assert!(found.contains("10:1") && !found.contains("20:1"), "{found}");
}

#[test]
fn the_document_has_the_keys_that_programs_look_for() {
    testkit::require_pg!(15);
    let scene = Scene::new(
        Cluster::builder(15).setting("archive_mode", "on").setting("archive_command", "test -n '%f'"),
    );
    let destination = scene.destination("new");
    let space = |name: &str| format!("{name}:{}", beside(&destination, name).display());
    let run = scene.home.run([
        "-f",
        "json",
        "restore",
        "--target-immediate",
        "--tablespace",
        &space("fast"),
        "--tablespace",
        &space("slow"),
        "main",
        "latest",
        destination.to_str().unwrap(),
    ]);
    let document = run.success().json();
    assert_eq!(document["changes"][0][0], "postgresql.conf");
    assert_eq!(document["changes"][0][2], "archive_command");
    assert_eq!(document["changes"][0][3], "false");
    assert_eq!(document["changes_count"], 1);
    assert_eq!(document["missing_files"], serde_json::json!([]));
    assert!(document["recovery_elapsed_time_seconds"].is_f64());
    assert!(document["recovery_start_time_timestamp"].is_string());
    let told: Vec<_> =
        document["_INFO"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
    assert!(told.iter().any(|line| line.starts_with("Starting local restore for server main")), "{told:?}");
    assert!(told.contains(&"Doing PITR. Recovery target immediate: True"), "{told:?}");
    let configuration = std::fs::read_to_string(destination.join("postgresql.conf")).unwrap();
    assert!(configuration.contains("#BARMAN#archive_command"), "{configuration}");
}

/// The restored server fetches what it needs by itself, as its own user.
#[test]
fn a_restored_server_fetches_its_wal_with_get_wal() {
    testkit::require_pg!(15);
    let mut scene = Scene::with(Cluster::builder(15).segment_size_mib(1), |home| {
        home.with("main", "compression", "gzip")
    });
    scene.cluster.execute("insert into log select generate_series(100, 9999)");
    scene.archive();
    scene.home.run(["archive-wal", "main"]).success();
    let expected = state(&scene.cluster);
    scene.home.hand_over();
    let run = scene.restore("new", &["--get-wal"]);
    assert!(run.stderr.contains("restore_command"), "{run:#?}");
    run.success();
    let destination = scene.destination("new");
    assert!(!destination.join("barman_wal").exists());
    let restored = Cluster::adopt(15, &destination);
    restored.wait_until_writable();
    assert_eq!(state(&restored), expected);
}
