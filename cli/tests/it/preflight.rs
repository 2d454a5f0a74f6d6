//! Pre-flight's word, compared with what PostgreSQL then does: for every kind of target and every way of being out of
//! reach, and for random targets in random histories.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId};
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
    // A standby has no action: it would wait at the target.
    if aims && !options.contains(&"--standby-mode") {
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
pub(crate) fn word(scene: &Scene, options: &[&str]) -> (bool, Value) {
    let mut words = options.to_vec();
    words.extend(["--plan", "-f", "json"]);
    let run = scene.restore("tried", &words);
    let json = run.json();
    (run.code == Some(0), json["preflight"].clone())
}

/// Asks pre-flight, then PostgreSQL: they have to agree, on the last transaction too. Pre-flight's word.
#[track_caller]
pub(crate) fn compare(scene: &Scene, options: &[&str]) -> Value {
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
pub(crate) fn unreachable(scene: &Scene, options: &[&str], why: &str) -> Value {
    let said = compare(scene, options);
    assert_eq!((&said["reachable"], &said["why"]), (&false.into(), &why.into()), "{options:?}: {said}");
    said
}

#[track_caller]
pub(crate) fn reachable(scene: &Scene, options: &[&str]) -> Value {
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

pub(crate) fn commit_time(cluster: &Cluster, xid: &str) -> String {
    cluster.value(&format!("select pg_xact_commit_timestamp('{xid}')::text"))
}

pub(crate) fn row(cluster: &Cluster, id: u32) -> String {
    commit(cluster, &format!("insert into log values ({id})"))
}

/// Lets the receiver and the archive catch up.
pub(crate) fn settle(scene: &Scene) {
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
    // No standby gets by that.
    unreachable(&scene, &["--target-lsn", "0/100", "--standby-mode"], "before_backup_end");
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
    let said = reachable(&scene, &["--target-xid", &newer]);
    damaged_on_the_way(&scene, &newer, before + 1, said["last_commit"]["lsn"].as_str().unwrap());
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

/// A segment that has rotted, when what was known of it before is gone.
fn damaged_on_the_way(scene: &Scene, xid: &str, timeline: u32, commit: &str) {
    let (commit, size): (Lsn, _) = (commit.parse().unwrap(), SegmentSize::MIN);
    let segment = SegmentName::at(TimelineId::new(timeline).unwrap(), commit, size);
    let path = scene.home.join("main/wals").join(segment.directory()).join(segment.to_string());
    let index = scene.home.join("main/.barkeep/wal-index");
    let whole = fs::read(&path).unwrap();
    let mut rotten = whole.clone();
    // The checksum of the commit's record.
    rotten[usize::try_from(commit.as_u64() % size.bytes()).unwrap() + 20] ^= 1;
    fs::write(&path, rotten).unwrap();
    fs::remove_dir_all(&index).unwrap();
    let said = unreachable(scene, &["--target-xid", xid], "damaged");
    assert!(said["reason"].as_str().unwrap().contains(&format!("{segment} is damaged")), "{said}");
    fs::write(&path, whole).unwrap();
    fs::remove_dir_all(&index).unwrap();
    reachable(scene, &["--target-xid", xid]);
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
    let (goes, said) = word(scene, &["--target-name", "twice", "--force"]);
    assert!(goes && said["same_name_later"] == 1, "{said}");
    let first = outcome(scene, &["--target-name", "twice"]);
    assert_eq!(first, Some(Outcome::Opened(said["last_commit"]["xid"].as_u64())), "{said}");
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

/// A generator of numbers, the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// What can be aimed at.
#[derive(Default)]
struct Aims {
    xids: Vec<String>,
    times: Vec<String>,
    lsns: Vec<String>,
    names: Vec<String>,
}

/// Lets something happen on the server.
fn happen(scene: &mut Scene, dice: &mut Dice, aims: &mut Aims, open: &mut Vec<String>, id: u32) {
    let cluster = &scene.cluster;
    match dice.roll(12) {
        0..=3 => aims.xids.push(row(cluster, id)),
        4 => {
            let mut client = cluster.client();
            let mut transaction = client.transaction().unwrap();
            transaction.batch_execute(&format!("insert into log values ({id})")).unwrap();
            let xid = transaction.query_one("select txid_current()::text", &[]).unwrap().get(0);
            transaction.rollback().unwrap();
            aims.xids.push(xid);
        }
        5 if open.len() < 3 => {
            let mut client = cluster.client();
            client.batch_execute(&format!("begin; insert into log values ({id})")).unwrap();
            aims.xids.push(client.query_one("select txid_current()::text", &[]).unwrap().get(0));
            client.batch_execute(&format!("prepare transaction 'p{id}'")).unwrap();
            open.push(format!("p{id}"));
        }
        5 | 6 => {
            if let Some(name) = open.pop() {
                let end = if dice.roll(3) == 0 { "rollback" } else { "commit" };
                cluster.execute(&format!("{end} prepared '{name}'"));
            }
        }
        7 => {
            let name = format!("point {}", dice.roll(6));
            cluster.execute(&format!("select pg_create_restore_point('{name}')"));
            aims.names.push(name);
        }
        8 => {
            let mut client = cluster.client();
            let mut transaction = client.transaction().unwrap();
            transaction
                .batch_execute(&format!("savepoint s; insert into log values ({id}); release s"))
                .unwrap();
            aims.xids.push(
                transaction
                    .query_one("select xmin::text from log order by id desc limit 1", &[])
                    .unwrap()
                    .get(0),
            );
            transaction.commit().unwrap();
        }
        9 => scene.archive(),
        _ => cluster.execute("insert into bulk select generate_series(1, 3000)"),
    }
    aims.times.push(scene.cluster.value("select clock_timestamp()::text"));
    aims.lsns.push(scene.cluster.value("select pg_current_wal_insert_lsn()"));
}

/// A target, as options.
fn aim(dice: &mut Dice, aims: &Aims, last_timeline: u32) -> Vec<String> {
    let mut options: Vec<String> = match dice.roll(12) {
        0..=2 => vec!["--target-xid".into(), dice.of(&aims.xids).clone()],
        3..=5 => vec!["--target-time".into(), dice.of(&aims.times).clone()],
        6..=8 => vec!["--target-lsn".into(), dice.of(&aims.lsns).clone()],
        9 if !aims.names.is_empty() => vec!["--target-name".into(), dice.of(&aims.names).clone()],
        9 => vec!["--target-name".into(), "nowhere".into()],
        10 => vec!["--target-immediate".into()],
        _ => Vec::new(),
    };
    let has_sides = options.len() == 2 && options[0] != "--target-name";
    if has_sides && dice.roll(3) == 0 {
        options.push("--exclusive".into());
    }
    match dice.roll(5) {
        0 => options.extend(["--target-tli".into(), "current".into()]),
        1 => options.extend(["--target-tli".into(), (1 + dice.roll(last_timeline as usize)).to_string()]),
        _ => {}
    }
    options
}

/// Random targets in a random history: `BARKEEP_RANDOM_TARGETS` says how many.
fn random_targets(major: u32, seed: u64) {
    let count =
        std::env::var("BARKEEP_RANDOM_TARGETS").ok().and_then(|count| count.parse().ok()).unwrap_or(5);
    let mut dice = Dice(seed | 1);
    let mut scene = Scene::new(Cluster::builder(major).segment_size_mib(1));
    let (mut aims, mut open) = (Aims::default(), Vec::new());
    let mut last_timeline = 1;
    for id in 0..60 {
        happen(&mut scene, &mut dice, &mut aims, &mut open, 1000 + id);
        if id % 25 == 24 {
            settle(&scene);
            scene.promote_original();
            last_timeline += 1;
            testkit::wait_for("the receiver to follow", 60, || {
                (scene.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
            });
        }
    }
    settle(&scene);
    let mut told = [0, 0];
    for turn in 0..count {
        if turn == count * 3 / 4 && dice.roll(2) == 0 {
            lose_a_segment(&scene, &mut dice);
        }
        let options = aim(&mut dice, &aims, last_timeline);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let said = compare(&scene, &options);
        told[usize::from(said["reachable"] == true)] += 1;
    }
    println!("PostgreSQL {major}, seed {seed}: {} reachable, {} not, as the server found", told[1], told[0]);
}

/// Removes an archived segment behind the backup.
fn lose_a_segment(scene: &Scene, dice: &mut Dice) {
    let windows = scene.home.run(["windows", "main", "-f", "json"]).success().json();
    let timelines = windows["main"]["timelines"].as_array().unwrap();
    let last = timelines.last().unwrap()["intervals"][0]["first_segment"].as_str().unwrap();
    let directory = scene.home.join("main/wals").join(&last[..16]);
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    fs::remove_file(dice.of(&names)).unwrap();
}

#[test]
fn random_targets_are_foreseen_on_13() {
    testkit::require_pg!(13);
    random_targets(13, 0x9E37_79B9_7F4A_7C15);
}

#[test]
fn random_targets_are_foreseen_on_15() {
    testkit::require_pg!(15);
    random_targets(15, 0xD1B5_4A32_D192_ED03);
}

#[test]
fn random_targets_are_foreseen_on_18() {
    testkit::require_pg!(18);
    random_targets(18, 0x94D0_49BB_1331_11EB);
}
