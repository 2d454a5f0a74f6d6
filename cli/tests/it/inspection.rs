//! What is told about backups, beside what Barman tells about the same home.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::require_barman;

use crate::support::{Home, Run};

/// A record of a backup that ended well, except for what `changes` says (`None` removes nothing: it is a value).
fn record(changes: &[(&str, &str)]) -> String {
    let defaults = [
        ("backup_label", r"'START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\nLABEL: x\n'"),
        ("begin_offset", "40"),
        ("begin_time", "2026-11-22 10:15:39.343309+00:00"),
        ("begin_wal", "000000010000000000000006"),
        ("begin_xlog", "0/6000028"),
        ("children_backup_ids", "None"),
        ("cluster_size", "26828489"),
        ("compression", "None"),
        ("config_file", "/srv/pg/data/postgresql.conf"),
        ("copy_stats", "{'copy_time': 1.70592, 'total_time': 1.70592}"),
        ("data_checksums", "on"),
        ("deduplicated_size", "26679121"),
        ("encryption", "None"),
        ("end_offset", "256"),
        ("end_time", "2026-11-22 10:15:42.349427+00:00"),
        ("end_wal", "000000010000000000000006"),
        ("end_xlog", "0/6000100"),
        ("error", "None"),
        ("hba_file", "/srv/pg/data/pg_hba.conf"),
        ("ident_file", "/srv/pg/data/pg_ident.conf"),
        ("included_files", "None"),
        ("mode", "postgres"),
        ("parent_backup_id", "None"),
        ("pgdata", "/srv/pg/data"),
        ("server_name", "main"),
        ("size", "26679121"),
        ("status", "DONE"),
        ("summarize_wal", "None"),
        ("systemid", "7710937153959999515"),
        ("tablespaces", "None"),
        ("timeline", "1"),
        ("version", "150020"),
        ("xlog_segment_size", "16777216"),
    ];
    let mut lines: std::collections::BTreeMap<&str, &str> = defaults.into_iter().collect();
    lines.extend(changes.iter().copied());
    lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

fn put(home: &Home, id: &str, changes: &[(&str, &str)]) {
    std::fs::create_dir_all(home.join(format!("main/base/{id}/data"))).unwrap();
    std::fs::write(home.join(format!("main/meta/{id}-backup.info")), record(changes)).unwrap();
}

/// The place of a backup in the WAL: segment and the two times.
fn at(segment: &str, day: u32) -> Vec<(&'static str, String)> {
    let log = segment[22..].trim_start_matches('0');
    vec![
        ("begin_wal", segment.to_owned()),
        ("end_wal", segment.to_owned()),
        ("begin_xlog", format!("0/{log}000028")),
        ("end_xlog", format!("0/{log}000100")),
        ("begin_time", format!("2026-11-{day:02} 10:15:39+00:00")),
        ("end_time", format!("2026-11-{day:02} 10:15:42.5+00:00")),
    ]
}

fn put_at(home: &Home, id: &str, place: &[(&'static str, String)], changes: &[(&str, &str)]) {
    let mut all: Vec<(&str, &str)> = place.iter().map(|(key, value)| (*key, value.as_str())).collect();
    all.extend_from_slice(changes);
    put(home, id, &all);
}

/// A home whose backups differ in everything that lists and reports look at.
fn varied_home() -> Home {
    let home = Home::new()
        .server("main", "host=/nonexistent")
        .with("main", "retention_policy", "RECOVERY WINDOW OF 2 WEEKS")
        .with("main", "minimum_redundancy", "4");
    for directory in ["main/meta", "main/wals/0000000100000000", "main/wals/0000000200000000"] {
        std::fs::create_dir_all(home.join(directory)).unwrap();
    }
    let rsync = "{'total_time': 2.927331, 'number_of_workers': 2, 'analysis_time': 1.447418, \
                 'copy_time': 1.44304, 'serialized_copy_time': 2.334322}";
    put_at(
        &home,
        "20261101T101539",
        &at("000000010000000000000006", 1),
        &[
            ("mode", "rsync-concurrent"),
            ("backup_name", "base-one"),
            ("copy_stats", rsync),
            ("tablespaces", "[('ts1', 16386, '/srv/pg/ts1'), ('ts2', 16387, '/srv/pg/ts2')]"),
        ],
    );
    std::fs::write(home.join("main/meta/20261101T101539-keep"), "standalone").unwrap();
    put_at(
        &home,
        "20261102T101539",
        &at("000000010000000000000008", 2),
        &[
            ("mode", "rsync-concurrent"),
            ("end_wal", "000000010000000000000009"),
            ("deduplicated_size", "1000000"),
            ("copy_stats", "None"),
        ],
    );
    let failed = [("status", "FAILED"), ("error", "failure copying files (x)"), ("end_time", "None")];
    put(&home, "20261103T101539", &failed);
    let new = [("version", "170002"), ("summarize_wal", "on")];
    let increment = |parent: &'static str, rest: &[(&'static str, &'static str)]| {
        [&new[..], &[("parent_backup_id", parent)], rest].concat()
    };
    put_at(
        &home,
        "20261104T101539",
        &at("00000001000000000000000B", 4),
        &[&new[..], &[("children_backup_ids", "20261105T101539")]].concat(),
    );
    put_at(
        &home,
        "20261105T101539",
        &at("00000001000000000000000D", 5),
        &increment(
            "20261104T101539",
            &[
                ("children_backup_ids", "20261106T101539,20261107T101539"),
                ("cluster_size", "40000000"),
                ("deduplicated_size", "900000"),
                ("size", "900000"),
            ],
        ),
    );
    let no_checksums = increment("20261105T101539", &[("data_checksums", "off")]);
    put_at(&home, "20261106T101539", &at("00000001000000000000000E", 6), &no_checksums);
    let waiting = increment("20261105T101539", &[("status", "WAITING_FOR_WALS"), ("backup_name", "inc")]);
    put_at(&home, "20261107T101539", &at("000000010000000000000010", 7), &waiting);
    put_at(
        &home,
        "20261110T101539",
        &at("000000020000000000000011", 10),
        &[
            ("compression", "gzip"),
            ("encryption", "gpg"),
            ("timeline", "2"),
            ("copy_stats", "{'copy_time': 93.70592, 'total_time': 95.70592}"),
        ],
    );
    put_at(
        &home,
        "20261111T101539",
        &at("000000020000000000000012", 11),
        &[
            ("mode", "snapshot-concurrent"),
            ("timeline", "2"),
            ("size", "0"),
            ("deduplicated_size", "0"),
            ("copy_stats", "None"),
        ],
    );
    archive(&home);
    home
}

/// Two timelines of WAL: compressed on the first, plain on the second.
fn archive(home: &Home) {
    let mut list = String::new();
    let mut add = |name: &str, directory: &str, size: u64, time: f64, compression: &str| {
        std::fs::write(home.join("main/wals").join(directory).join(name), "x").unwrap();
        writeln!(list, "{name}\t{size}\t{time}\t{compression}\tNone").unwrap();
    };
    for number in 1..=0x10u32 {
        let name = format!("0000000100000000000000{number:02X}");
        let time = 1_795_342_542.25 + f64::from(number) * 60.0;
        add(&name, "0000000100000000", 16_523 + u64::from(number), time, "gzip");
    }
    add("000000010000000000000006.00000028.backup", "0000000100000000", 260, 1_795_342_542.5, "gzip");
    for number in 0x10..0x15u32 {
        let name = format!("0000000200000000000000{number:02X}");
        let time = 1_795_344_542.5 + f64::from(number) * 60.0;
        add(&name, "0000000200000000", 16 << 20, time, "None");
    }
    add("00000002.history", "", 60, 1_795_343_542.5, "None");
    std::fs::write(home.join("main/wals/00000002.history"), "1\t0/10000200\tno recovery target specified\n")
        .unwrap();
    std::fs::write(home.join("main/wals/main-xlog.db"), list).unwrap();
}

/// Barman on a home of ours.
fn barman(home: &Home, arguments: &[&str]) -> Run {
    let program = testkit::programs::barman_bin_dir().unwrap().join("barman");
    Run::of(Command::new(program).arg("-c").arg(home.config()).args(arguments))
}

/// The answers of both as JSON, without what is known to differ: Barman breaks one sentence by white space, and each
/// has its own opinion about the configuration.
fn both(home: &Home, arguments: &[&str]) -> (Value, Value) {
    let mut all = vec!["-f", "json"];
    all.extend_from_slice(arguments);
    let normal = |run: Run| {
        let mut value: Value = run.json();
        value.as_object_mut().unwrap().remove("_WARNING");
        if let Some(warning) = value["main"].pointer_mut("/wal_information/_WARNING") {
            *warning = json!(warning.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" "));
        }
        value
    };
    (normal(barman(home, &all)), normal(home.run(&all)))
}

#[test]
fn lists_what_barman_lists() {
    require_barman!();
    let home = varied_home();
    for arguments in [&["list-backups", "main"][..], &["list-backups", "--minimal", "all"], &["list-servers"]]
    {
        let (theirs, ours) = both(&home, arguments);
        assert_eq!(ours, theirs, "{arguments:?}");
        let (theirs, ours) = (barman(&home, arguments).success(), home.run(arguments).success());
        assert_eq!(ours.stdout, theirs.stdout, "{arguments:?}");
    }
}

#[test]
fn shows_what_barman_shows() {
    require_barman!();
    let home = varied_home();
    let ids = home.run(["list-backups", "--minimal", "main"]).success().stdout;
    assert_eq!(ids.lines().count(), 9);
    for backup in ids.lines().chain(["latest", "oldest", "last-failed", "last-full", "base-one"]) {
        let (theirs, ours) = both(&home, &["show-backup", "main", backup]);
        assert_eq!(ours, theirs, "{backup}");
        let arguments = ["show-backup", "main", backup];
        let (theirs, ours) = (barman(&home, &arguments).success(), home.run(arguments).success());
        assert_eq!(ours.stdout, theirs.stdout, "{backup}");
    }
}

#[test]
fn a_policy_that_is_not_enforced_is_not_shown() {
    require_barman!();
    let mut home = varied_home();
    for policy in ["None", "REDUNDANCY two"] {
        home.set("main", "retention_policy", policy);
        let (theirs, ours) = both(&home, &["list-backups", "main"]);
        assert_eq!(ours, theirs, "{policy}");
        let (theirs, ours) = both(&home, &["show-backup", "main", "oldest"]);
        assert_eq!(ours, theirs, "{policy}");
    }
}

#[test]
fn the_configuration_is_shown_as_barman_shows_it() {
    require_barman!();
    let mut home = varied_home();
    home.set("main", "last_wal_maximum_age", "2 WEEKS");
    home.set("main", "last_backup_minimum_size", "5 Gi");
    home.set("main", "recovery_options", "get-wal");
    home.set("barman", "check_timeout", "17");
    home.set("main", "check_timeout", "soon");
    let (theirs, ours) = both(&home, &["show-servers", "main"]);
    let (theirs, ours) = (theirs["main"].as_object().unwrap(), ours["main"].as_object().unwrap());
    let external = |key: &&String| !key.starts_with("pg_basebackup_") && !key.starts_with("pg_receivexlog_");
    for key in theirs.keys().filter(external).filter(|key| *key != "connection_error") {
        assert_eq!(ours.get(key), theirs.get(key), "{key}");
    }
}

#[test]
fn a_killed_backup_is_shown_as_failed() {
    let home = varied_home();
    put(&home, "20261112T101539", &[("status", "STARTED"), ("end_wal", "None"), ("end_time", "None")]);
    let run = home.run(["list-backups", "main"]).success();
    assert!(run.stdout.starts_with("main 20261112T101539 - F - FAILED\n"), "{run:#?}");
    let shown = home.run(["-f", "json", "show-backup", "main", "last-failed"]).success().json();
    assert_eq!(shown["main"]["backup_id"], "20261112T101539");
    assert!(shown["main"]["error"].as_str().unwrap().contains("process ended"), "{shown}");
    let stored = std::fs::read_to_string(home.join("main/meta/20261112T101539-backup.info")).unwrap();
    assert!(stored.contains("status=STARTED"), "looking changes nothing");
}

#[test]
fn a_damaged_record_hides_no_other_backup() {
    let home = varied_home();
    std::fs::write(home.join("main/meta/20261112T101539-backup.info"), "status=DONE\nnonsense\n").unwrap();
    let run = home.run(["list-backups", "main"]);
    assert_eq!(run.stdout.lines().count(), 9, "{run:#?}");
    assert!(run.code == Some(1) && run.stderr.contains("20261112T101539"), "{run:#?}");
    let check = home.run(["-f", "json", "check", "main"]).json();
    let records = &check["main"]["backup_records"];
    assert_eq!((&records["status"], &records["hint"]), (&json!("FAILED"), &json!("1 cannot be read")));
}

#[test]
fn unknown_backups_are_one_clear_line() {
    let home = varied_home();
    for name in ["20990101T000000", "no-such-name", "fail", "../../etc/passwd"] {
        home.run(["show-backup", "main", name]).fails_with_one_line(
            1,
            &[&format!("Unknown backup '{name}' for server 'main'"), "list-backups main"],
        );
    }
    let empty = Home::new().server("main", "host=/nonexistent");
    empty.run(["show-backup", "main", "latest"]).fails_with_one_line(1, &["latest", "main"]);
    assert!(empty.run(["list-backups", "main"]).success().stdout.is_empty());
    assert!(!Path::new(&empty.join("main")).exists(), "looking makes no directories");
}

/// Homes full of backups by chance, judged by both.
#[test]
fn judges_as_barman_judges() {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    require_barman!();
    /// Each takes Barman half a second.
    const HOMES: usize = 24;
    let policies = [
        "REDUNDANCY 1",
        "REDUNDANCY 3",
        "RECOVERY WINDOW OF 3 DAYS",
        "RECOVERY WINDOW OF 1 WEEK",
        "RECOVERY WINDOW OF 0 DAYS",
    ];
    let backup = (0u8..12, 0usize..9);
    let homes = (prop::collection::vec(backup, 2..9), 0..policies.len(), 0u32..5);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let today = jiff::Zoned::now().start_of_day().unwrap();
    for _ in 0..HOMES {
        let (backups, policy, minimum) = homes.new_tree(&mut runner).unwrap().current();
        let home = Home::new()
            .server("main", "host=/nonexistent")
            .with("main", "retention_policy", policies[policy])
            .with("main", "minimum_redundancy", &minimum.to_string());
        std::fs::create_dir_all(home.join("main/meta")).unwrap();
        std::fs::create_dir_all(home.join("main/wals")).unwrap();
        std::fs::write(home.join("main/wals/main-xlog.db"), "").unwrap();
        // One every second day, the newest yesterday.
        let moment = |index: usize| {
            let days = i64::try_from(2 * (backups.len() - index) - 1).unwrap();
            today.checked_sub(jiff::Span::new().days(days)).unwrap()
        };
        let id = |index: usize| moment(index).strftime("%Y%m%dT101539").to_string();
        let parent_of = |index: usize| {
            let (kind, parent) = backups[index];
            Some(parent).filter(|parent| (3..6).contains(&kind) && *parent < index)
        };
        for (index, (kind, _)) in backups.iter().enumerate() {
            let time = moment(index).strftime("%Y-%m-%d 10:15:40+00:00").to_string();
            let children: Vec<String> =
                (0..backups.len()).filter(|child| parent_of(*child) == Some(index)).map(id).collect();
            let children = if children.is_empty() { "None".to_owned() } else { children.join(",") };
            let mut changes = vec![("begin_time", time.as_str()), ("end_time", time.as_str())];
            changes.push(("children_backup_ids", &children));
            match kind {
                0 => changes.push(("status", "FAILED")),
                1 => changes.push(("status", "WAITING_FOR_WALS")),
                _ => {}
            }
            let parent = parent_of(index).map(id);
            changes.extend(parent.as_ref().map(|parent| ("parent_backup_id", parent.as_str())));
            put(&home, &id(index), &changes);
            let keep = match kind {
                6 => Some("full"),
                7 => Some("standalone"),
                _ => None,
            };
            if let Some(keep) = keep {
                std::fs::write(home.join(format!("main/meta/{}-keep", id(index))), keep).unwrap();
            }
        }
        let (theirs, ours) = both(&home, &["list-backups", "main"]);
        assert_eq!(ours, theirs, "{} with minimum {minimum}: {backups:?}", policies[policy]);
    }
}

/// Barman stops with an exception at any record without a mode; the first one that a backup writes must have it.
#[test]
fn barman_lists_a_backup_that_has_only_just_begun() {
    require_barman!();
    let home = varied_home();
    let layout = barkeep_catalog::Layout::new("main", &home.join("main"), home.path());
    let catalog = barkeep_catalog::Catalog::new(layout);
    let info = catalog.start_backup(&jiff::Zoned::now()).unwrap();
    let listed = barman(&home, &["list-backups", "main"]).success().stdout;
    assert!(listed.starts_with(&format!("main {} - F - EMPTY\n", info.id)), "{listed}");
}

#[test]
fn lists_the_files_that_barman_lists() {
    require_barman!();
    let home = varied_home();
    let data = home.join("main/base/20261101T101539/data");
    for directory in ["base/1", "base/5", "pg_wal/empty", "a b"] {
        std::fs::create_dir_all(data.join(directory)).unwrap();
    }
    for file in ["PG_VERSION", "base/1/112", "base/1/1259", "base/5/z", "a b/it's \u{fc}"] {
        std::fs::write(data.join(file), "x").unwrap();
    }
    std::os::unix::fs::symlink("/nowhere", data.join("broken")).unwrap();
    std::os::unix::fs::symlink("/tmp", data.join("linked")).unwrap();
    // Barman leaves out histories that were archived after the next backup.
    let without_histories = |run: &Run| -> Vec<String> {
        run.stdout.lines().filter(|line| !line.ends_with(".history")).map(str::to_owned).collect()
    };
    for (backup, target, more) in [
        ("20261101T101539", "standalone", &["--list-empty-directories"][..]),
        ("20261101T101539", "data", &[]),
        ("20261101T101539", "wal", &[]),
        ("20261102T101539", "full", &[]),
        ("20261102T101539", "standalone", &[]),
        ("latest", "full", &[]),
    ] {
        let arguments = [&["list-files", "main", backup, "--target", target], more].concat();
        let (theirs, ours) = (barman(&home, &arguments).success(), home.run(&arguments).success());
        assert_eq!(without_histories(&ours), without_histories(&theirs), "{arguments:?}");
        if backup == "latest" || target == "data" {
            assert_eq!(ours.stdout, theirs.stdout, "{arguments:?}");
            let (theirs, ours) = both(&home, &arguments);
            assert_eq!(ours, theirs, "{arguments:?}");
        }
    }
    home.run(["list-files", "main", "nothing"]).fails_with_one_line(1, &["Unknown backup 'nothing'"]);
}
