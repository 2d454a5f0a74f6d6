//! `check`, `status` and `show-servers` against real servers.

use testkit::{Cluster, require_barman, require_pg};

use crate::support::Home;

/// The names of the lines that failed.
#[track_caller]
fn failures(home: &Home, arguments: &[&str]) -> Vec<String> {
    let mut all = vec!["-f", "json", "check"];
    all.extend_from_slice(arguments);
    let run = home.run(&all);
    let json = run.json();
    let lines = json["main"].as_object().unwrap_or_else(|| panic!("{run:#?}"));
    let failed: Vec<String> =
        lines.iter().filter(|(_, line)| line["status"] == "FAILED").map(|(key, _)| key.clone()).collect();
    assert_eq!(run.code, Some(i32::from(!failed.is_empty())), "{run:#?}");
    failed
}

fn hint(home: &Home, key: &str) -> String {
    home.run(["-f", "json", "check", "main"]).json()["main"][key]["hint"].as_str().unwrap().to_owned()
}

#[test]
fn a_new_server_lacks_wal_a_slot_and_a_receiver() {
    for major in testkit::programs::installed_majors() {
        let cluster = Cluster::builder(major).start();
        let home = Home::new().server("main", &cluster.conninfo());
        assert_eq!(
            failures(&home, &["main"]),
            ["receive_wal_running", "replication_slot", "wal_archive"],
            "PostgreSQL {major}"
        );
        assert!(home.join("main/wals").is_dir());
        let status = home.run(["-f", "json", "status", "main"]).success().json();
        let version = status["main"]["pg_version"]["message"].as_str().unwrap();
        assert!(version.starts_with(&major.to_string()) && !version.contains(' '), "{status}");
        assert_eq!(status["main"]["is_in_recovery"]["message"], "in production");
    }
}

#[test]
fn checks_agree_with_barmans() {
    require_barman!();
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let barman = testkit::Barman::new();
    barman.add_server("main", &cluster, "last_backup_maximum_age = 1 DAY\nlast_wal_maximum_age = 1 HOUR");
    std::fs::create_dir_all(barman.server_dir("main").join("errors")).unwrap();
    for name in ["a.20261122T101559Z.unknown", "b.20261122T101559Z.duplicate", "c"] {
        std::fs::write(barman.server_dir("main").join("errors").join(name), "").unwrap();
    }
    let output = barman.try_run(&["-f", "json", "check", "main"]);
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let config = barman.config_path();
    // The home belongs to the servers' user, whom barkeep becomes when root runs it, as Barman does.
    let run = crate::support::Run::of(
        std::process::Command::new(crate::support::barkeep())
            .args(["-f", "json", "check", "main", "-c"])
            .arg(&config),
    );
    let ours = run.json();
    let lines = theirs["main"].as_object().unwrap();
    let asked = |key: &str| !key.starts_with("pg_basebackup") && !key.starts_with("pg_receivexlog");
    for (key, line) in lines.iter().filter(|(key, _)| asked(key)) {
        assert_eq!(ours["main"][key]["status"], line["status"], "{key}: {run:#?}");
    }
    // Barman's order is that of the directory.
    assert_eq!(ours["main"]["archiver_errors"]["hint"], "unknown: 1, duplicates: 1, unknown failure: 1");
    for key in ["backup_maximum_age", "wal_maximum_age", "wal_size", "failed_backups"] {
        assert_eq!(ours["main"][key]["hint"], lines[key]["hint"], "{key}");
    }
}

#[test]
fn the_same_server_is_shown_as_barman_shows_it() {
    require_barman!();
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let barman = testkit::Barman::new();
    barman.add_server("main", &cluster, "");
    let config = barman.config_path();
    for command in ["status", "show-servers"] {
        let theirs = barman.run_json(&["-f", "json", command, "main"]);
        let run = crate::support::Run::of(
            std::process::Command::new(crate::support::barkeep())
                .args(["-f", "json", command, "main", "-c"])
                .arg(&config),
        );
        let ours = run.success().json();
        for (key, value) in theirs["main"].as_object().unwrap() {
            // External programs are not used; figures that move between two looks, or are opinions.
            let differs =
                ["pg_basebackup", "pg_receivexlog", "current_size", "current_archived", "is_archiving"];
            if !differs.iter().any(|start| key.starts_with(start)) {
                assert_eq!(&ours["main"][key], value, "{command} {key}");
            }
        }
    }
}

#[test]
fn a_slot_that_nobody_uses_is_told() {
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let mut home = Home::new().server("main", &cluster.conninfo());
    assert!(hint(&home, "replication_slot").contains("receive-wal"));
    cluster.execute("select pg_create_physical_replication_slot('barkeep')");
    assert!(hint(&home, "replication_slot").contains("not initialised"));
    cluster.execute("select pg_drop_replication_slot('barkeep')");
    cluster.execute("select pg_create_physical_replication_slot('barkeep', true)");
    assert!(hint(&home, "replication_slot").contains("not active"));
    home.set("main", "streaming_archiver", "off");
    home.set("main", "archiver", "on");
    assert!(hint(&home, "replication_slot").contains("is initialised but not required"));
}

#[test]
fn archiving_by_the_server_is_checked() {
    require_pg!(15);
    let cluster = Cluster::builder(15).setting("archive_mode", "on").setting("archive_command", "").start();
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "streaming_archiver", "off")
        .with("main", "archiver", "on")
        .with("main", "slot_name", "None");
    assert_eq!(failures(&home, &["main"]), ["archive_command", "wal_archive"]);
    assert!(home.run(["check", "main"]).stdout.contains("main/incoming"));
    std::fs::write(home.join("main/streaming/000000010000000000000001"), "").unwrap();
    assert_eq!(failures(&home, &["main"]), ["archive_command", "empty_streaming_directory", "wal_archive"]);
}

#[test]
fn a_user_without_rights_is_told_which_are_missing() {
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    cluster.execute("create role weak login");
    cluster.execute("create role watcher login replication in role pg_monitor");
    let mut home = Home::new().server("main", &format!("{} user=weak", cluster.conninfo()));
    let failed = failures(&home, &["main"]);
    assert!(failed.contains(&"no_access_to_backup_functions".to_owned()), "{failed:?}");
    assert!(failed.contains(&"postgresql_streaming".to_owned()), "{failed:?}");
    for function in [
        "pg_backup_start(text, boolean)",
        "pg_backup_stop(boolean)",
        "pg_switch_wal()",
        "pg_create_restore_point(text)",
    ] {
        cluster.execute(&format!("grant execute on function {function} to watcher, weak"));
    }
    let run = home.run(["check", "main"]);
    assert!(run.stdout.contains("\t\tgrant the user of conninfo pg_monitor"), "{run:#?}");
    assert!(!run.stdout.contains("EXECUTE"), "{run:#?}");
    home.set("main", "conninfo", &format!("{} user=watcher", cluster.conninfo()));
    assert_eq!(failures(&home, &["main"]), ["receive_wal_running", "replication_slot", "wal_archive"]);
}

#[test]
fn a_server_that_is_down_fails_with_the_reason() {
    require_pg!(15);
    let home = Home::new().server("main", "host=/nonexistent user=postgres");
    let failed = failures(&home, &["main"]);
    assert!(failed.contains(&"postgresql".to_owned()), "{failed:?}");
    assert!(hint(&home, "postgresql").contains("/nonexistent"));
    let status = home.run(["status", "main"]).success().stdout;
    assert!(status.contains("\tPostgreSQL version: FAILED trying to get PostgreSQL version\n"), "{status}");
}

#[test]
fn another_cluster_under_the_same_name_is_noticed() {
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let home = Home::new().server("main", &cluster.conninfo());
    std::fs::create_dir_all(home.join("main")).unwrap();
    std::fs::write(home.join("main/identity.json"), r#"{"systemid": "1", "version": "15"}"#).unwrap();
    assert!(failures(&home, &["main"]).contains(&"systemid_coherence".to_owned()));
}

#[test]
fn a_wrong_password_is_told_without_the_password() {
    require_pg!(15);
    let cluster = Cluster::builder(15).hba("host all guarded 127.0.0.1/32 scram-sha-256").start();
    cluster.execute("create role guarded login password 'right'");
    let conninfo = format!("{} user=guarded password=wr0ng-s3cret", cluster.tcp_conninfo());
    let home = Home::new().server("main", &conninfo);
    assert!(hint(&home, "postgresql").contains("guarded"));
    for arguments in
        [&["check", "main"][..], &["show-servers", "main"], &["-f", "json", "show-servers", "main"]]
    {
        let run = home.run(arguments);
        assert!(!run.stdout.contains("s3cret") && !run.stderr.contains("s3cret"), "{run:#?}");
    }
    assert!(!home.log().contains("s3cret"));
}

#[test]
fn a_bad_conninfo_is_told() {
    let home = Home::new().server("main", "host=x bogus_key=1");
    assert!(hint(&home, "postgresql").contains("bogus_key"));
}

#[test]
fn a_check_ends_in_time() {
    // A listener that accepts and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let home = Home::new().server("main", &format!("host=127.0.0.1 port={port} user=x sslmode=disable"));
    let started = std::time::Instant::now();
    let failed = failures(&home, &["main", "--check-timeout", "1"]);
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
    assert!(failed.contains(&"check_timeout".to_owned()), "{failed:?}");
}

#[test]
fn a_disabled_server_shows_its_contradictions() {
    let home = Home::new().server("main", "host=/nonexistent").with("main", "reuse_backup", "link");
    let run = home.run(["check", "main"]).exits_with(1);
    assert!(run.stdout.starts_with("Server main (WARNING: disabled):\n"), "{run:#?}");
    assert!(run.stdout.contains("\tconfiguration: FAILED\n\t\tserver 'main': reuse_backup"), "{run:#?}");
}

#[test]
fn nagios_hears_one_line_and_code_2() {
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let home = Home::new().server("main", &cluster.conninfo()).server("other", "host=/nonexistent");
    let run = home.run(["check", "--nagios", "main"]).exits_with(2);
    let first = run.stdout.lines().next().unwrap();
    assert_eq!(
        first,
        "BARMAN CRITICAL - server main has issues * main FAILED: WAL archive, replication slot, receive-wal running\
         |main=0B main_wals=0B"
    );
    let run = home.run(["check", "--nagios", "all"]).exits_with(2);
    assert!(
        run.stdout.starts_with("BARMAN CRITICAL - 2 server out of 2 have issues * main FAILED: "),
        "{run:#?}"
    );
    let run = home.run(["check", "--nagios", "unknown"]).exits_with(2);
    assert_eq!(run.stdout, "BARMAN CRITICAL - Global configuration errors\n");
    let inactive = Home::new().with("barman", "log_level", "INFO");
    let run = inactive.run(["check", "--nagios", "all"]).success();
    assert_eq!(run.stdout, "BARMAN OK - No server configured\n");
}

#[test]
fn colours_are_for_those_who_ask() {
    let home = Home::new().server("main", "host=/nonexistent");
    let run = home.run(["--color", "always", "check", "main"]);
    assert!(run.stdout.contains("\tPostgreSQL: \u{1b}[31mFAILED\u{1b}[0m"), "{run:#?}");
    assert!(!home.run(["check", "main"]).stdout.contains('\u{1b}'));
}

#[test]
fn a_standby_and_its_primary_are_told_apart() {
    for major in [13, 15, 18] {
        if !testkit::want_pg(major) {
            continue;
        }
        let primary = Cluster::builder(major).start();
        primary.execute("create table t as select 1 as n");
        let standby = primary.standby("standby");
        primary.wait_for_replay_by(&standby);
        let mut home = Home::new().server("main", &standby.conninfo()).with(
            "main",
            "primary_conninfo",
            &primary.conninfo(),
        );
        let lines = home.run(["-f", "json", "check", "main"]).json();
        for key in [
            "postgresql_server_is_standby",
            "primary_server_is_not_a_standby",
            "primary_and_standby_have_same_system_id",
            "systemid_coherence",
        ] {
            assert_eq!(lines["main"][key]["status"], "OK", "{major} {key}: {lines}");
        }
        let status = home.run(["-f", "json", "status", "main"]).success().json();
        assert_eq!(status["main"]["is_in_recovery"]["message"], "in archive recovery");
        assert!(status["main"].get("current_xlog").is_none(), "a standby writes no WAL: {status}");
        let shown = home.run(["-f", "json", "show-servers", "main"]).success().json();
        assert_eq!(shown["main"]["timeline"], 1);
        assert!(shown["main"]["current_lsn"].is_string(), "{shown}");
        // The other way round.
        home.set("main", "conninfo", &primary.conninfo());
        home.set("main", "primary_conninfo", &standby.conninfo());
        let failed = failures(&home, &["main"]);
        for key in ["postgresql_server_is_standby", "primary_server_is_not_a_standby"] {
            assert!(failed.contains(&key.to_owned()), "{major}: {failed:?}");
        }
    }
}

#[test]
fn another_host_for_wal_has_lines_of_its_own() {
    require_pg!(15);
    let (backups, wal) = (Cluster::builder(15).start(), Cluster::builder(15).start());
    let home = Home::new()
        .server("main", &backups.conninfo())
        .with("main", "wal_conninfo", &wal.conninfo())
        .with("main", "wal_streaming_conninfo", &wal.conninfo());
    wal.execute("select pg_create_physical_replication_slot('barkeep', true)");
    let lines = home.run(["-f", "json", "check", "main"]).json();
    let hint = lines["main"]["replication_slot_(wal_streaming)"]["hint"].as_str().unwrap();
    assert!(hint.contains("not active"), "{lines}");
    for key in ["has_monitoring_privileges", "postgresql_streaming", "wal_level"] {
        assert_eq!(lines["main"][&format!("{key}_(wal_streaming)")]["status"], "OK", "{key}: {lines}");
    }
    let coherence = &lines["main"]["systemid_coherence_(wal_streaming)"];
    assert_eq!(coherence["status"], "FAILED", "WAL of another cluster is worth nothing: {lines}");
    let home = home.with("main", "wal_conninfo", &backups.conninfo()).with(
        "main",
        "wal_streaming_conninfo",
        &backups.conninfo(),
    );
    let lines = home.run(["-f", "json", "check", "main"]).json();
    assert_eq!(lines["main"]["systemid_coherence_(wal_streaming)"]["status"], "OK", "{lines}");
}
