//! Healing: `cron` fetches missing and damaged WAL from the server while it still has it.

use std::fs;
use std::process::{Command, Stdio};

use pgwal::WalFile;
use testkit::{Cluster, wait_for};

use crate::stored::{archive, layout, listed, names};
use crate::support::Home;

/// A server that keeps its WAL, and a home that has all of it archived.
pub(crate) fn scene(major: u32) -> (Cluster, Home, Vec<WalFile>) {
    let cluster = Cluster::builder(major).segment_size_mib(1).setting("wal_keep_size", "200MB").start();
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "streaming_archiver", "off")
        .with("main", "archiver", "on")
        .with("main", "compression", "zstd");
    for round in 0..6 {
        cluster.execute(&format!("create table t{round} as select g from generate_series(1, 2000) g"));
        cluster.execute("select pg_switch_wal()");
    }
    let current = cluster.query_text("select pg_walfile_name(pg_current_wal_lsn())").remove(0);
    let incoming = layout(&home).incoming;
    fs::create_dir_all(&incoming).unwrap();
    let mut files = Vec::new();
    for name in names(cluster.data_dir().join("pg_wal")) {
        if let Ok(file @ WalFile::Segment(_)) = name.parse::<WalFile>()
            && name < current
        {
            fs::copy(cluster.data_dir().join("pg_wal").join(&name), incoming.join(&name)).unwrap();
            files.push(file);
        }
    }
    assert!(files.len() >= 5, "{files:?}");
    (cluster, home, files)
}

#[test]
fn missing_and_damaged_segments_come_from_the_server() {
    testkit::require_pg!(13, 15, 18);
    for major in [13, 15, 18] {
        let (_cluster, home, files) = scene(major);
        let (missing, damaged) = (files[2], files[4]);
        fs::remove_file(layout(&home).incoming.join(missing.to_string())).unwrap();
        home.run(["archive-wal", "main"]).success();
        let check = home.run(["check", "main"]);
        assert!(
            check.stdout.contains(&format!("WAL archive gaps: FAILED ({missing} is missing)")),
            "{check:?}"
        );
        let path = layout(&home).wal(&damaged);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        home.run(["check", "--deep", "main"]).exits_with(1);

        home.run(["cron"]).success();
        let names: Vec<String> = files.iter().map(ToString::to_string).collect();
        assert_eq!(archive(&home), names, "PostgreSQL {major}");
        let mut list = listed(&home);
        list.sort();
        assert_eq!(list, names, "each is listed once");
        let kept = crate::stored::names(layout(&home).errors);
        assert!(kept.len() == 1 && kept[0].starts_with(&damaged.to_string()), "{kept:?}");
        fs::remove_dir_all(layout(&home).errors).unwrap();
        home.run(["wal", "verify", "--server", "main"]).success();
        let deep = home.run(["check", "--deep", "main"]);
        assert!(deep.stdout.contains("WAL archive records: OK"), "{deep:?}");
        assert!(!deep.stdout.contains("WAL archive gaps"), "{deep:?}");
    }
}

/// What a receiver left behind that was started again later hides no gap.
#[test]
fn a_part_of_a_segment_before_archived_ones_is_a_gap() {
    testkit::require_pg!(15);
    let (_cluster, home, files) = scene(15);
    let missing = files[2].to_string();
    let (incoming, streaming) = (layout(&home).incoming, layout(&home).streaming);
    fs::create_dir_all(&streaming).unwrap();
    fs::rename(incoming.join(&missing), streaming.join(format!("{missing}.partial"))).unwrap();
    home.run(["archive-wal", "main"]).success();
    let check = home.run(["check", "main"]);
    assert!(check.stdout.contains(&format!("WAL archive gaps: FAILED ({missing} is missing)")), "{check:?}");
    home.run(["cron"]).success();
    assert_eq!(archive(&home), files.iter().map(ToString::to_string).collect::<Vec<_>>());
}

/// A bit that no record has is told by the hash, and what the server has is what was archived.
#[test]
fn an_altered_segment_comes_from_the_server() {
    testkit::require_pg!(15);
    let (_cluster, home, files) = scene(15);
    let home = home.with("main", "compression", "");
    home.run(["archive-wal", "main"]).success();
    let path = layout(&home).wal(files.last().unwrap());
    let whole = fs::read(&path).unwrap();
    let mut altered = whole.clone();
    // The padding of a page's header.
    altered[8192 + 20] = 1;
    fs::write(&path, altered).unwrap();
    let deep = home.run(["check", "--deep", "main"]).exits_with(1);
    assert!(deep.stdout.contains("its bytes are not those that were archived"), "{deep:?}");
    home.run(["cron"]).success();
    assert!(fs::read(&path).unwrap() == whole);
    let deep = home.run(["check", "--deep", "main"]);
    assert!(deep.stdout.contains("WAL archive records: OK"), "{deep:?}");
}

#[test]
fn the_daemon_heals_as_cron_does() {
    testkit::require_pg!(15);
    let (_cluster, home, files) = scene(15);
    fs::remove_file(layout(&home).incoming.join(files[2].to_string())).unwrap();
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home).len(), files.len() - 1);
    let mut daemon =
        home.command().arg("daemon").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the gap to be healed", 60, || (archive(&home).len() == files.len()).then_some(()));
    Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn what_the_server_has_no_more_stays_missing_and_is_told() {
    testkit::require_pg!(15);
    let (cluster, home, files) = scene(15);
    fs::remove_file(layout(&home).incoming.join(files[2].to_string())).unwrap();
    home.run(["archive-wal", "main"]).success();
    cluster.execute("alter system set wal_keep_size = 0");
    cluster.execute("select pg_reload_conf()");
    for _ in 0..3 {
        cluster.execute("select pg_switch_wal()");
        cluster.execute("checkpoint");
    }
    assert!(!cluster.data_dir().join("pg_wal").join(files[2].to_string()).exists());
    home.run(["cron"]).success();
    let check = home.run(["check", "main"]).exits_with(1);
    assert!(check.stdout.contains(&format!("{} is missing", files[2])), "{check:?}");
    assert_eq!(names(layout(&home).incoming), [""; 0]);
}
