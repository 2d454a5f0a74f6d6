//! Drills: good and bad backups tried out for real, beside the live cluster that they are of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::packed_backups::Packed;

/// The arguments that say where the servers' programs are.
fn drill<'a>(packed: &Packed, bin: &'a Path, more: &[&'a str]) -> crate::support::Run {
    let mut words = vec!["drill", "main", "--pg-bin", bin.to_str().unwrap()];
    words.extend(more);
    packed.run(&words)
}

fn programs(major: u32) -> PathBuf {
    testkit::programs::server_bin_dir(major).unwrap()
}

/// Names, sizes and times of everything below a directory.
fn picture(directory: &Path) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (metadata.len(), metadata.modified().unwrap()));
    }
    found
}

fn nothing_left(packed: &Packed) {
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

#[test]
fn bad_backups_fail_and_say_why() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let packed = Packed::new(15, "");
    let bin = programs(15);
    drill(&packed, &programs(testkit::programs::NEWEST_MAJOR), &[])
        .fails_with_one_line(1, &["There is no PostgreSQL 15", "--pg-bin"]);
    let run = drill(&packed, &bin, &["--sql", "select * from nowhere"]).exits_with(1);
    assert!(run.stderr.contains("the question failed") && run.stderr.contains("nowhere"), "{run:#?}");

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
    drill(&packed, &bin, &["--target", "immediate"]).success();

    let control = packed.data().join("global/pg_control");
    let mut rotten = fs::read(&control).unwrap();
    rotten[100] ^= 1;
    fs::write(&control, &rotten).unwrap();
    let run = drill(&packed, &bin, &[]).exits_with(1);
    assert!(run.stderr.contains("gave up") && run.stderr.contains("control file"), "{run:#?}");
    rotten[100] ^= 1;
    fs::write(&control, &rotten).unwrap();

    // WAL that is gone: refused before anything is copied.
    let wals = packed.barman.server_dir("main").join("wals");
    for directory in
        fs::read_dir(wals).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        fs::remove_dir_all(directory).unwrap();
    }
    drill(&packed, &bin, &[]).fails_with_one_line(1, &["can't be restored", "is not in the archive"]);
    nothing_left(&packed);
}
