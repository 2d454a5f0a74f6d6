//! Pre-flight's word on servers that fetch their own WAL (`--get-wal`) and on those that stay standbys
//! (`--standby-mode`), compared with what PostgreSQL then does.

use std::fs;
use std::path::PathBuf;

use pgwal::{Lsn, SegmentName, SegmentSize};
use testkit::{Cluster, wait_for};

use crate::preflight::{commit_time, compare, reachable, row, settle, unreachable, word};
use crate::restore_scene::{Scene, state};

/// How long a standby may take to its target, or to the end of the archive, in seconds.
const REPLAY_SECONDS: u64 = 120;

/// What there is to aim at.
struct Story {
    scene: Scene,
    first: String,
    first_time: String,
    position: String,
    /// Prepared, and never ended.
    open: String,
    /// On the next timeline, and archived.
    newer: String,
    /// Received, and not archived: in a segment that is not full.
    late: String,
}

/// A history with a promotion, told up to a commit that is only in the receiver's partial segment.
fn story(major: u32) -> Story {
    let mut scene = Scene::new(Cluster::builder(major).segment_size_mib(1));
    let first = row(&scene.cluster, 10);
    let first_time = commit_time(&scene.cluster, &first);
    scene.cluster.execute("select pg_create_restore_point('here, \"there\" and ''everywhere''')");
    let position = scene.cluster.value("select pg_current_wal_insert_lsn()");
    let open = {
        let mut client = scene.cluster.client();
        client.batch_execute("begin; insert into log values (11)").unwrap();
        let xid: String = client.query_one("select txid_current()::text", &[]).unwrap().get(0);
        client.batch_execute("prepare transaction 'never ends'").unwrap();
        xid
    };
    row(&scene.cluster, 12);
    settle(&scene);
    row(&scene.cluster, 13);
    settle(&scene);
    scene.promote_original();
    wait_for("the receiver to follow", 60, || {
        (scene.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    let newer = row(&scene.cluster, 14);
    row(&scene.cluster, 15);
    settle(&scene);
    let late = row(&scene.cluster, 16);
    let end = scene.cluster.value("select pg_current_wal_flush_lsn()");
    wait_for("the last commit to be received", 60, || {
        let received = format!("select flush_lsn >= '{end}' from pg_stat_replication");
        (scene.cluster.query_text(&received) == ["t"]).then_some(())
    });
    scene.stop_original();
    scene.home.hand_over();
    Story { scene, first, first_time, position, open, newer, late }
}

const POINT: &str = "here, \"there\" and 'everywhere'";

/// The archived segments, in order.
fn archived(scene: &Scene) -> Vec<(SegmentName, PathBuf)> {
    let directories = fs::read_dir(scene.home.join("main/wals")).unwrap().map(|entry| entry.unwrap().path());
    let files = directories.filter(|path| path.is_dir()).flat_map(|path| fs::read_dir(path).unwrap());
    let named = files.filter_map(|entry| {
        let path = entry.unwrap().path();
        let segment = path.file_name()?.to_str()?.parse().ok()?;
        Some((segment, path))
    });
    let mut segments: Vec<(SegmentName, PathBuf)> = named.collect();
    segments.sort();
    segments
}

fn with_get_wal(major: u32) {
    let Story { scene, first, first_time, position, open, newer, late } = story(major);
    for target in [
        ["--target-xid", &first],
        ["--target-time", &first_time],
        ["--target-lsn", &position],
        ["--target-name", POINT],
        ["--target-xid", &newer],
        // The server is given the partial segment, too.
        ["--target-xid", &late],
    ] {
        reachable(&scene, &[&["--get-wal"], &target[..]].concat());
    }
    reachable(&scene, &["--get-wal", "--target-immediate"]);
    let said = reachable(&scene, &["--get-wal"]);
    assert_eq!(said["last_commit"]["xid"].to_string(), late, "{said}");
    reachable(&scene, &["--get-wal", "--target-tli", "current"]);

    for (option, value, why) in [
        ("--target-xid", open.as_str(), "transaction_never_ended"),
        ("--target-xid", "99999", "transaction_never_ended"),
        ("--target-name", "nowhere", "unknown_restore_point"),
        ("--target-time", "2100-01-01 00:00:00+00", "after_last_commit"),
        ("--target-lsn", "1/0", "after_last_commit"),
        ("--target-lsn", "0/100", "before_backup_end"),
    ] {
        unreachable(&scene, &["--get-wal", option, value], why);
    }
    let said = unreachable(
        &scene,
        &["--get-wal", "--target-xid", &newer, "--target-tli", "current"],
        "transaction_never_ended",
    );
    assert_eq!(said["elsewhere"][0]["timeline"], 2, "{said}");

    // Without its history file a server stays on the old timeline and says nothing.
    let (history, aside) = (scene.home.join("main/wals/00000002.history"), scene.dir.join("aside"));
    fs::rename(&history, &aside).unwrap();
    for target in [&[][..], &["--target-xid", &newer]] {
        let options = [&["--get-wal", "--plan"], target].concat();
        scene.restore("tried", &options).fails_with_one_line(1, &["history is missing", "--target-tli 1"]);
    }
    let silent = scene.recover("tried", &["--get-wal", "--force"]);
    let state = state(&silent);
    assert!(state.contains(" 13:1;"), "the last row of the old timeline is the last of all: {state}");
    assert!(!silent.log().contains("FATAL:  re"), "{}", silent.log());
    drop(silent);
    scene.remove("tried");
    fs::rename(&aside, &history).unwrap();

    // A gap: refused with a target behind it, and without one the server opens before it.
    let (_, path) = archived(&scene).pop().unwrap();
    fs::remove_file(path).unwrap();
    unreachable(&scene, &["--get-wal", "--target-xid", &late], "in_gap");
    compare(&scene, &["--get-wal"]);
    reachable(&scene, &["--get-wal", "--target-xid", &first]);
}

/// What a standby does.
#[derive(Debug, PartialEq, Eq)]
enum Standby {
    /// It has paused at its target.
    Paused,
    /// It has replayed all there is, and waits for more.
    Waits,
}

/// Restores a standby and lets it go as far as it does, at most to `end`: what it does there, and the last commit that it
/// has replayed.
fn follow(scene: &Scene, options: &[&str], end: Lsn) -> (Standby, Option<u64>) {
    scene.restore("followed", options).success();
    let standby = Cluster::adopt(scene.cluster.major(), &scene.destination("followed"));
    let query = format!(
        "select case when pg_is_wal_replay_paused() then 'paused' \
         when pg_last_wal_replay_lsn() >= '{end}' then 'waits' else 'goes on' end"
    );
    let does = wait_for("the standby to pause or to wait", REPLAY_SECONDS, || {
        match standby.try_query_text(&query).ok()?.first()?.as_str() {
            "paused" => Some(Standby::Paused),
            "waits" => Some(Standby::Waits),
            _ => None,
        }
    });
    assert!(standby.is_in_recovery());
    let last = standby.query_text("select xid::text from pg_last_committed_xact()");
    drop(standby);
    scene.remove("followed");
    (does, last.first().and_then(|xid| xid.parse().ok()))
}

/// Each archived segment was ended by a switch, so that replay of the last one ends where the next would begin.
fn end_of(segment: SegmentName) -> Lsn {
    segment.end_lsn(SegmentSize::MIN).unwrap()
}

/// A standby is let through with a target that is not there yet, and waits for it.
fn as_a_standby(major: u32) {
    let Story { scene, first, first_time, position, open, newer, late } = story(major);
    let segments = archived(&scene);
    let end = end_of(segments.last().unwrap().0);
    let pauses = |options: &[&str]| {
        let options = [&["--standby-mode"], options].concat();
        let (goes, said) = word(&scene, &options);
        assert!(goes && said["reachable"] == true, "{options:?}: {said}");
        let (does, last) = follow(&scene, &options, end);
        assert_eq!(
            (does, last),
            (Standby::Paused, said["last_commit"]["xid"].as_u64()),
            "{options:?}: {said}"
        );
    };
    let waits = |options: &[&str], why: Option<&str>, end: Lsn| {
        let options = [&["--standby-mode"], options].concat();
        let (goes, said) = word(&scene, &options);
        assert!(goes && said["why"].as_str() == why, "{options:?}: {said}");
        let (does, last) = follow(&scene, &options, end);
        assert_eq!(
            (does, last),
            (Standby::Waits, said["last_commit"]["xid"].as_u64()),
            "{options:?}: {said}"
        );
    };
    pauses(&["--target-xid", &first]);
    pauses(&["--target-xid", &first, "--exclusive"]);
    pauses(&["--target-time", &first_time]);
    pauses(&["--target-lsn", &position]);
    pauses(&["--target-name", POINT]);
    pauses(&["--target-immediate"]);
    pauses(&["--target-xid", &newer]);
    pauses(&["--get-wal", "--target-xid", &newer]);

    waits(&[], None, end);
    waits(&["--get-wal"], None, end);
    waits(&["--target-xid", &open], Some("transaction_never_ended"), end);
    waits(&["--target-name", "nowhere"], Some("unknown_restore_point"), end);
    waits(&["--target-time", "2100-01-01 00:00:00+00"], Some("after_last_commit"), end);
    waits(&["--target-lsn", "1/0"], Some("after_last_commit"), end);
    // What is only in the receiver's partial segment is not given to one that waits for the whole.
    waits(&["--get-wal", "--target-xid", &late], Some("transaction_never_ended"), end);
    unreachable(&scene, &["--standby-mode", "--target-lsn", "0/100"], "before_backup_end");

    // A gap.
    let (missing, path) = &segments[segments.len() - 2];
    fs::remove_file(path).unwrap();
    waits(&["--target-xid", &newer], Some("in_gap"), missing.first_lsn(SegmentSize::MIN).unwrap());
    pauses(&["--target-xid", &first]);
}

#[test]
fn preflight_and_a_server_that_fetches_agree_on_13() {
    testkit::require_pg!(13);
    with_get_wal(13);
}

#[test]
fn preflight_and_a_server_that_fetches_agree_on_15() {
    testkit::require_pg!(15);
    with_get_wal(15);
}

#[test]
fn preflight_and_a_server_that_fetches_agree_on_18() {
    testkit::require_pg!(18);
    with_get_wal(18);
}

#[test]
fn preflight_and_a_standby_agree_on_13() {
    testkit::require_pg!(13);
    as_a_standby(13);
}

#[test]
fn preflight_and_a_standby_agree_on_15() {
    testkit::require_pg!(15);
    as_a_standby(15);
}

#[test]
fn preflight_and_a_standby_agree_on_18() {
    testkit::require_pg!(18);
    as_a_standby(18);
}
