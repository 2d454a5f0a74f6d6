//! Pre-flight's word, compared with what PostgreSQL then does: for every kind of target and every way of being out of
//! reach, and for random targets in random histories.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::Cluster;

use crate::restore_scene::{Scene, timeline};

/// How long a recovery may take, in seconds.
const RECOVERY_SECONDS: u64 = 120;

/// What PostgreSQL did.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It opened; the last transaction that it replayed, if that was one.
    Opened(Option<u64>),
    /// It refused.
    Refused(String),
}

/// Restores whatever pre-flight says, and lets PostgreSQL try.
fn outcome(scene: &Scene, options: &[&str]) -> Option<Outcome> {
    let mut words = options.to_vec();
    words.push("--force");
    let aims = options.iter().any(|option| {
        option.starts_with("--target") && *option != "--target-tli" && *option != "--target-action"
    });
    if aims {
        words.extend(["--target-action", "promote"]);
    }
    let run = scene.restore("tried", &words);
    if run.code != Some(0) {
        // What no server could follow is not restored by force either.
        return None;
    }
    let tried = scene.destination("tried");
    let end = Instant::now() + Duration::from_secs(RECOVERY_SECONDS);
    let outcome = match Cluster::try_adopt(scene.cluster.major(), &tried) {
        Err(failure) => Outcome::Refused(fatal(&failure.log)),
        Ok(cluster) => loop {
            match cluster.try_query_text("select pg_is_in_recovery()") {
                Ok(rows) if rows == ["f"] => {
                    let rows = cluster.query_text("select xid::text from pg_last_committed_xact()");
                    let xid = rows.first().and_then(|xid| xid.parse().ok());
                    break Outcome::Opened(xid);
                }
                _ if cluster.log().contains("FATAL:  re") => break Outcome::Refused(fatal(&cluster.log())),
                _ => assert!(Instant::now() < end, "no end: {}", cluster.log()),
            }
            std::thread::sleep(Duration::from_millis(20));
        },
    };
    scene.remove("tried");
    Some(outcome)
}

fn fatal(log: &str) -> String {
    log.lines().rfind(|line| line.contains("FATAL:  re")).unwrap_or(log).to_owned()
}

/// Pre-flight's word on a restore that is only planned.
fn word(scene: &Scene, options: &[&str]) -> (bool, Value) {
    let mut words = options.to_vec();
    words.extend(["--plan", "-f", "json"]);
    let run = scene.restore("tried", &words);
    let json = run.json();
    (run.code == Some(0), json["preflight"].clone())
}

/// Asks pre-flight, then PostgreSQL: they have to agree, on the last transaction too. Pre-flight's word.
#[track_caller]
fn compare(scene: &Scene, options: &[&str]) -> Value {
    let (goes, said) = word(scene, options);
    let Some(outcome) = outcome(scene, options) else {
        assert!(!goes, "{options:?}: {said}");
        return said;
    };
    match &outcome {
        Outcome::Opened(xid) => {
            assert!(goes, "{options:?}: PostgreSQL gets there, but: {said}");
            assert_eq!(said["last_commit"]["xid"].as_u64(), *xid, "{options:?}: {said}");
        }
        Outcome::Refused(why) => assert!(!goes, "{options:?}: {why}, but: {said}"),
    }
    said
}

#[track_caller]
fn unreachable(scene: &Scene, options: &[&str], why: &str) -> Value {
    let said = compare(scene, options);
    assert_eq!((&said["reachable"], &said["why"]), (&false.into(), &why.into()), "{options:?}: {said}");
    said
}

#[track_caller]
fn reachable(scene: &Scene, options: &[&str]) -> Value {
    let said = compare(scene, options);
    assert_eq!(said["reachable"], true, "{options:?}: {said}");
    said
}

/// Commits, and tells the transaction.
fn commit(cluster: &Cluster, sql: &str) -> String {
    let mut client = cluster.client();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(sql).unwrap();
    let xid: String = transaction.query_one("select txid_current()::text", &[]).unwrap().get(0);
    transaction.commit().unwrap();
    xid
}

fn commit_time(cluster: &Cluster, xid: &str) -> String {
    cluster.value(&format!("select pg_xact_commit_timestamp('{xid}')::text"))
}

fn row(cluster: &Cluster, id: u32) -> String {
    commit(cluster, &format!("insert into log values ({id})"))
}

/// Lets the receiver and the archive catch up.
fn settle(scene: &Scene) {
    scene.archive();
    scene.home.run(["archive-wal", "main"]).success();
}

fn every_way(major: u32) {
    let mut scene = Scene::new(Cluster::builder(major).segment_size_mib(1));
    let cluster = &scene.cluster;
    let first = row(cluster, 10);
    cluster.execute("select pg_create_restore_point('twice')");
    let aborted = {
        let mut client = cluster.client();
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute("insert into log values (11)").unwrap();
        let xid: String = transaction.query_one("select txid_current()::text", &[]).unwrap().get(0);
        transaction.rollback().unwrap();
        xid
    };
    let (sub, top) = {
        let mut client = cluster.client();
        let mut transaction = client.transaction().unwrap();
        transaction
            .batch_execute("insert into log values (12); savepoint s; insert into log values (13)")
            .unwrap();
        let sub: String =
            transaction.query_one("select xmin::text from log where id = 13", &[]).unwrap().get(0);
        let top: String = transaction.query_one("select txid_current()::text", &[]).unwrap().get(0);
        transaction.commit().unwrap();
        (sub, top)
    };
    let prepared = {
        let mut client = cluster.client();
        client.batch_execute("begin; insert into log values (14)").unwrap();
        let xid: String = client.query_one("select txid_current()::text", &[]).unwrap().get(0);
        client.batch_execute("prepare transaction 'p'").unwrap();
        xid
    };
    let open = {
        let mut client = cluster.client();
        client.batch_execute("begin; insert into log values (15)").unwrap();
        let xid: String = client.query_one("select txid_current()::text", &[]).unwrap().get(0);
        client.batch_execute("prepare transaction 'never ends'").unwrap();
        xid
    };
    settle(&scene);
    let second = row(cluster, 16);
    cluster.execute("commit prepared 'p'");
    cluster.execute("select pg_create_restore_point('twice')");
    let position = cluster.value("select pg_current_wal_insert_lsn()");
    row(cluster, 17);
    settle(&scene);
    let last = row(cluster, 18);
    settle(&scene);

    for xid in [&first, &aborted, &top, &prepared, &second, &last] {
        reachable(&scene, &["--target-xid", xid]);
        reachable(&scene, &["--target-xid", xid, "--exclusive"]);
    }
    let said = unreachable(&scene, &["--target-xid", &sub], "transaction_never_ended");
    assert!(said["reason"].as_str().unwrap().contains(&format!("subtransaction of {top}")), "{said}");
    unreachable(&scene, &["--target-xid", &open], "transaction_never_ended");
    unreachable(&scene, &["--target-xid", "99999"], "transaction_never_ended");
    let said = reachable(&scene, &["--target-name", "twice"]);
    assert_eq!(said["same_name_later"], 1, "{said}");
    unreachable(&scene, &["--target-name", "nowhere"], "unknown_restore_point");
    reachable(&scene, &["--target-lsn", &position]);
    reachable(&scene, &["--target-lsn", &position, "--exclusive"]);
    unreachable(&scene, &["--target-lsn", "1/0"], "after_last_commit");
    unreachable(&scene, &["--target-lsn", "0/100"], "before_backup_end");
    reachable(&scene, &["--target-immediate"]);
    reachable(&scene, &[]);
    for xid in [&first, &second] {
        let time = commit_time(cluster, xid);
        reachable(&scene, &["--target-time", &time]);
        reachable(&scene, &["--target-time", &time, "--exclusive"]);
    }
    // The last commit's own time shows in no later commit: the server would go on looking for one.
    let windows = scene.home.run(["windows", "main", "-f", "json"]).success().json();
    let time = windows["main"]["newest"]["archived"]["time"].as_str().unwrap().to_owned();
    unreachable(&scene, &["--target-time", &time], "after_last_commit");
    reachable(&scene, &["--target-time", &time, "--exclusive"]);

    during_a_backup(&mut scene);

    // A new timeline.
    let before = timeline(&scene.cluster);
    scene.promote_original();
    testkit::wait_for("the receiver to follow", 60, || {
        (scene.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    let newer = row(&scene.cluster, 20);
    row(&scene.cluster, 21);
    settle(&scene);
    row(&scene.cluster, 22);
    settle(&scene);
    reachable(&scene, &["--target-xid", &newer]);
    let old = before.to_string();
    let said =
        unreachable(&scene, &["--target-xid", &newer, "--target-tli", &old], "transaction_never_ended");
    assert_eq!(said["elsewhere"][0]["timeline"], before + 1, "{said}");
    reachable(&scene, &["--target-tli", "current"]);
    reachable(&scene, &["--target-tli", "latest"]);

    // Without its history file the server stays on the old one and says nothing.
    let history = scene.home.join(format!("main/wals/{:08X}.history", before + 1));
    let aside = scene.dir.join("aside");
    fs::rename(&history, &aside).unwrap();
    let run = scene.restore("tried", &["--target-xid", &second, "--plan"]);
    run.fails_with_one_line(1, &["history is missing", "--target-tli"]);
    reachable(&scene, &["--target-xid", &second, "--target-tli", "current"]);
    fs::rename(&aside, &history).unwrap();

    // A gap.
    let gap = scene.home.run(["windows", "main", "-f", "json"]).success().json();
    let last_segment =
        gap["main"]["timelines"][1]["intervals"][0]["first_segment"].as_str().unwrap().to_owned();
    fs::remove_file(scene.home.join("main/wals").join(&last_segment[..16]).join(&last_segment)).unwrap();
    unreachable(&scene, &["--target-xid", &newer], "in_gap");
    reachable(&scene, &["--target-xid", &second]);
}

/// What is committed while a backup is taken is in it for good, and can't be stopped at.
fn during_a_backup(scene: &mut Scene) {
    let older = scene.backup_id.clone();
    let done = AtomicBool::new(false);
    let xids = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut xids = Vec::new();
            while !done.load(Ordering::Relaxed) {
                xids.push(commit(&scene.cluster, "update log set v = v + 1 where id = 1"));
                std::thread::sleep(Duration::from_millis(5));
            }
            xids
        });
        scene.home.run(["backup", "--wait", "--wait-timeout", "60", "main"]).success();
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    row(&scene.cluster, 19);
    settle(scene);
    let newest = fs::read_dir(scene.home.join("main/base")).unwrap();
    let newest =
        newest.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name.len() == 15);
    scene.backup_id = newest.max().unwrap();
    let shown = scene.home.run(["-f", "json", "windows", "main"]).success().json();
    assert!(
        shown["main"]["timelines"][0]["intervals"][0]["backups"].as_array().unwrap().len() >= 2,
        "{shown}"
    );
    // From the first to the last there is a moment at which it becomes possible, and no way back.
    let said: Vec<bool> =
        xids.iter().map(|xid| word(scene, &["--target-xid", xid]).1["reachable"] == true).collect();
    assert!(said.is_sorted(), "{said:?}");
    let turn = said.iter().position(|can| *can).unwrap_or(said.len());
    for at in [turn.wrapping_sub(1), turn] {
        if let Some(xid) = xids.get(at) {
            let said = compare(scene, &["--target-xid", xid]);
            if at < turn && said["why"] == "before_backup_end" {
                assert_eq!(said["elsewhere"][0]["backup_id"], older.as_str(), "{said}");
            }
        }
    }
    // The choice is left to barkeep: the newest from which it can be done.
    let newest = std::mem::replace(&mut scene.backup_id, "auto".to_owned());
    for (at, xid) in [(0, xids.first()), (xids.len() - 1, xids.last())] {
        let expected = if at < turn { &older } else { &newest };
        let said = compare(scene, &["--target-xid", xid.unwrap()]);
        assert_eq!(said["backup_id"], expected.as_str(), "{said}");
    }
    let said = compare(scene, &["--target-immediate"]);
    assert_eq!(said["backup_id"], newest.as_str(), "{said}");
    // Made before the newest backup, and twice.
    scene
        .restore("tried", &["--target-name", "twice", "--plan"])
        .fails_with_one_line(1, &["ambiguous", "--target-lsn"]);
    scene.backup_id = older;
}

#[test]
fn preflight_and_the_server_agree_on_13() {
    testkit::require_pg!(13);
    every_way(13);
}

#[test]
fn preflight_and_the_server_agree_on_15() {
    testkit::require_pg!(15);
    every_way(15);
}

#[test]
fn preflight_and_the_server_agree_on_18() {
    testkit::require_pg!(18);
    every_way(18);
}
