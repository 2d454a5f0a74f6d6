//! Drills: good and bad backups tried out for real, beside the live cluster that they are of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::packed_backups::Packed;

/// The arguments that say where the servers' programs are.
pub(crate) fn drill<'a>(packed: &Packed, bin: &'a Path, more: &[&'a str]) -> crate::support::Run {
    let mut words = vec!["drill", "main", "--pg-bin", bin.to_str().unwrap()];
    words.extend(more);
    packed.run(&words)
}

pub(crate) fn programs(major: u32) -> PathBuf {
    testkit::programs::server_bin_dir(major).unwrap()
}

/// Names, contents and times of everything below a directory.
fn picture(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            content = fs::read(&path).unwrap();
        }
        found.insert(path, (content, metadata.modified().unwrap()));
    }
    found
}

pub(crate) fn nothing_left(packed: &Packed) {
    let scratch = packed.barman.server_dir("main").join(".barkeep/drill");
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
}

fn passes(major: u32, options: &str) {
    let packed = Packed::new(major, options);
    let space: PathBuf = packed
        .cluster
        .value("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'")
        .into();
    let before = picture(&space);
    for target in ["end", "immediate", "random"] {
        let run = drill(
            &packed,
            &programs(major),
            &["--target", target, "--sql", "select count(*) from kept", "-f", "json"],
        );
        let json = run.success().json();
        let main = &json["main"];
        assert_eq!(main["passed"], true, "{json}");
        assert!(main["databases"].as_u64().unwrap() >= 2, "{json}");
        if target == "end" {
            assert_eq!(main["answers"][0], "1002", "{json}");
            // The last row's transaction is found in the archive before, and in the cluster after the recovery.
            assert!(main["last_commit"]["xid"].is_number(), "{json}");
        }
        nothing_left(&packed);
    }
    assert_eq!(picture(&space), before, "the live cluster's tablespace");
    assert_eq!(packed.cluster.value("select count(*) from spaced"), "200");
    let private = packed.barman.server_dir("main").join(".barkeep");
    for name in ["drills", "verified"] {
        assert_eq!(fs::read_dir(private.join(name)).unwrap().count(), 1, "{name}");
    }
    // Barman does not mind what is kept there.
    packed.barman.run(&["list-backups", "main"]);
}

#[test]
fn a_good_backup_passes_on_13() {
    testkit::require_pg!(13);
    testkit::require_barman!();
    passes(13, "");
}

#[test]
fn a_good_backup_of_archives_passes_on_15() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    passes(15, "backup_compression = gzip");
}

#[test]
fn a_good_backup_passes_on_18() {
    testkit::require_pg!(18);
    testkit::require_barman!();
    passes(18, "");
}

/// `other` is a version that is not the backup's.
fn bad_backups_fail_and_say_why(major: u32, other: u32) {
    let packed = Packed::new(major, "");
    let bin = programs(major);
    drill(&packed, &programs(other), &[])
        .fails_with_one_line(1, &[&format!("There is no PostgreSQL {major}"), "--pg-bin"]);
    // What a policy thinks of it that wants verified backups.
    let counts = || {
        let words = ["-f", "json", "retention", "main", "--policy", "REDUNDANCY 1 VERIFIED"];
        let json = packed.run(&words).success().json();
        json["main"]["backups"][0]["reason"].as_str().unwrap().starts_with("number 1 of the 1 newest")
    };
    assert!(!counts());
    let run = drill(&packed, &bin, &["--sql", "select * from nowhere"]).exits_with(1);
    assert!(run.stderr.contains("the question failed") && run.stderr.contains("nowhere"), "{run:#?}");
    assert!(!counts());

    let path = packed.cluster.value("select pg_relation_filepath('kept_id')");
    let index = packed.data().join(path);
    let whole = fs::read(&index).unwrap();
    let mut rotten = whole.clone();
    rotten[8192 + 4000..8192 + 4100].fill(0xff);
    fs::write(&index, rotten).unwrap();
    let run = drill(&packed, &bin, &["--target", "immediate"]).exits_with(1);
    assert!(run.stderr.contains("kept_id"), "{run:#?}");
    assert!(run.stderr.contains("failed the drill"), "{run:#?}");
    fs::write(&index, whole).unwrap();
    assert!(!counts());
    drill(&packed, &bin, &["--target", "immediate"]).success();
    assert!(counts(), "a drill that it passed counts as verified");

    let control = packed.data().join("global/pg_control");
    let mut rotten = fs::read(&control).unwrap();
    rotten[100] ^= 1;
    fs::write(&control, &rotten).unwrap();
    let run = drill(&packed, &bin, &[]).exits_with(1);
    assert!(run.stderr.contains("gave up") && run.stderr.contains("control file"), "{run:#?}");
    assert!(!counts(), "the last drill is the one that counts");
    rotten[100] ^= 1;
    fs::write(&control, &rotten).unwrap();

    let wals = packed.barman.server_dir("main").join("wals");
    a_gap_is_told(&packed, &bin, &wals);

    // WAL that is gone: refused before anything is copied.
    for directory in
        fs::read_dir(wals).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        fs::remove_dir_all(directory).unwrap();
    }
    drill(&packed, &bin, &[]).fails_with_one_line(1, &["can't be restored", "is not in the archive"]);
    nothing_left(&packed);
}

/// The backup is sound, and what is behind the gap can't be had.
fn a_gap_is_told(packed: &Packed, bin: &Path, wals: &Path) {
    let receiver = packed.barman.start_receiver("main", &packed.cluster);
    for _ in 0..2 {
        packed.cluster.execute("insert into kept values (1003)");
        packed.cluster.switch_wal();
    }
    packed.barman.run(&["switch-wal", "--force", "--archive", "main"]);
    drop(receiver);
    let shown = packed.run(&["-f", "json", "show-backup", "main", "latest"]).success().json();
    let end = shown["main"]["base_backup_information"]["end_wal"].as_str().unwrap().to_owned();
    let listed = fs::read_dir(wals.join(&end[..16])).unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut later: Vec<String> = names.filter(|name| name.len() == 24 && *name > end).collect();
    later.sort();
    assert!(later.len() > 1, "{later:?}");
    let missing = &later[0];
    let (place, aside) = (wals.join(&end[..16]).join(missing), packed.barman.home().join("aside"));
    fs::rename(&place, &aside).unwrap();
    let run = drill(packed, bin, &["--target", "end"]).exits_with(1);
    assert!(run.stderr.contains(missing) && run.stderr.contains("failed the drill"), "{run:#?}");
    drill(packed, bin, &["--target", "immediate"]).success();
    fs::rename(&aside, &place).unwrap();
    nothing_left(packed);
}

#[test]
fn bad_backups_fail_and_say_why_on_15() {
    testkit::require_pg!(15, 18);
    testkit::require_barman!();
    bad_backups_fail_and_say_why(15, 18);
}

#[test]
fn bad_backups_fail_and_say_why_on_18() {
    testkit::require_pg!(15, 18);
    testkit::require_barman!();
    bad_backups_fail_and_say_why(18, 15);
}

#[test]
fn rot_that_amcheck_does_not_see_is_found_by_the_checksums() {
    testkit::require_pg!(13);
    testkit::require_barman!();
    let packed = Packed::new(13, "");
    let json = drill(&packed, &programs(13), &["--target", "immediate", "-f", "json"]).success().json();
    assert!(json["main"]["page_bytes_checked"].as_u64().unwrap() > 8 << 20, "{json}");
    // A table that recovery does not touch.
    let path = packed.cluster.value("select pg_relation_filepath('pg_proc')");
    let table = packed.data().join(&path);
    let mut rotten = fs::read(&table).unwrap();
    rotten[2 * 8192 + 8000] ^= 1;
    fs::write(&table, rotten).unwrap();
    let run = drill(&packed, &programs(13), &["--target", "immediate"]).exits_with(1);
    assert!(run.stderr.contains(&format!("page 2 of file {path} has a wrong checksum")), "{run:#?}");
}

#[test]
fn drills_by_schedule_are_shown_signed_and_never_two_at_once() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let schedule = format!("drill_schedule = * * * * *\npath_prefix = {}", programs(15).display());
    let packed = Packed::new(15, &schedule);
    let private = packed.barman.server_dir("main").join(".barkeep");
    let check = |packed: &Packed| packed.run(&["check", "main"]).stdout;
    assert!(check(&packed).contains("drill: FAILED (no backup was ever tried out)"));

    // The first look only takes note of the time; from a later one on, a drill is due.
    packed.run(&["cron"]).success();
    let note = private.join("drill-schedule.json");
    let noted: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    assert!(!private.join("drill.lock").exists());
    let earlier = serde_json::json!({
        "version": noted["version"], "schedule": noted["schedule"], "looked": "2026-01-01T00:00:00Z",
    });
    fs::write(&note, earlier.to_string()).unwrap();
    packed.run(&["cron"]).success();
    let drills = private.join("drills");
    let record = testkit::wait_for("the scheduled drill to be recorded", 120, || {
        let names = fs::read_dir(&drills).ok()?.map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "json"))
    });

    let listed = packed.run(&["list-backups", "--drills", "main"]).success().stdout;
    assert!(listed.contains(" - Drill: passed, "), "{listed}");
    let plain = packed.run(&["list-backups", "main"]).success().stdout;
    assert_eq!(plain, packed.barman.run(&["list-backups", "main"]), "Barman's lines stay Barman's");
    let shown = packed.run(&["-f", "json", "show-backup", "main", "latest"]).success().json();
    let information = &shown["main"]["drill_information"];
    assert_eq!((&information["passed"], &information["seal"]), (&true.into(), &"signed".into()), "{shown}");
    assert!(check(&packed).contains("drill: OK"), "{}", check(&packed));

    // What somebody has written into the record is no result.
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("LSN", "lsn").replace("the end", "The end")).unwrap();
    let listed = packed.run(&["list-backups", "--drills", "main"]).success().stdout;
    assert!(listed.contains("(not as it was signed)"), "{listed}");
    assert!(check(&packed).contains("not as it was signed"));

    testkit::wait_for("the scheduled drill to end", 60, || {
        let scratch = fs::read_dir(private.join("drill")).unwrap().count();
        (scratch == 0).then_some(())
    });
    let lock = fs::File::options().write(true).open(private.join("drill.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    drill(&packed, &programs(15), &[]).fails_with_one_line(1, &["Another drill", "is going on"]);
}

#[test]
fn root_is_told_that_postgresql_does_not_run_for_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    crate::stored::home()
        .run(["drill", "main"])
        .fails_with_one_line(1, &["does not run as root", "barman_user"]);
}
