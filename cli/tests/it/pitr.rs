//! Every kind of target, reached exactly: a story of known commits, a restore to each moment, and the rows that must be
//! there.

use testkit::{Cluster, ClusterBuilder};

use crate::restore_scene::{Scene, beside, state, timeline};

/// A moment to go back to, and what must be found there.
struct Target {
    name: &'static str,
    options: Vec<String>,
    expected: String,
}

#[derive(Default)]
struct Story {
    targets: Vec<Target>,
}

impl Story {
    fn add(&mut self, name: &'static str, options: &[&str], expected: &str) {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        self.targets.push(Target { name, options, expected: expected.to_owned() });
    }
}

/// Runs one transaction: its id.
fn transaction(cluster: &Cluster, statement: &str) -> String {
    let mut client = cluster.client();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(statement).unwrap();
    let xid: String = transaction.query_one("select txid_current()::text", &[]).unwrap().get(0);
    transaction.commit().unwrap();
    xid
}

fn insert_lsn(cluster: &Cluster) -> String {
    cluster.value("select pg_current_wal_insert_lsn()")
}

/// Commits row 40 so that the commit record's own position is known: nothing came between it and the row.
fn commit_at_known_position(cluster: &Cluster) -> String {
    let mut client = cluster.client();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("insert into log values (40)").unwrap();
    let before: String =
        transaction.query_one("select pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0);
    transaction.commit().unwrap();
    before
}

/// What happens after the backup. Every target is noted with what holds there.
fn tell_story(scene: &Scene) -> Story {
    let (cluster, mut story) = (&scene.cluster, Story::default());
    let now = || state(cluster);
    story.add("immediate", &["--target-immediate"], &now());

    let before = now();
    let xid = transaction(cluster, "insert into log values (10)");
    let time = cluster.value(&format!("select pg_xact_commit_timestamp('{xid}')::text"));
    story.add("at the time of a commit", &["--target-time", &time], &now());
    story.add("just before the time of a commit", &["--target-time", &time, "--exclusive"], &before);

    let before = now();
    let xid = transaction(cluster, "insert into log values (11)");
    story.add("after a transaction", &["--target-xid", &xid], &now());
    story.add("before a transaction", &["--target-xid", &xid, "--exclusive"], &before);

    cluster.execute("select pg_create_restore_point('half way; it''s 50%')");
    story.add("at a restore point", &["--target-name", "half way; it's 50%"], &now());

    // An aborted transaction never shows, and takes an id.
    let failed = cluster.try_query_text("begin; insert into log values (12); select 1 / 0; commit");
    assert!(failed.is_err());
    cluster.execute("insert into log values (13)");
    story.add("after a position", &["--target-lsn", &insert_lsn(cluster)], &now());

    let before = now();
    let position = commit_at_known_position(cluster);
    story.add("at the position of a commit", &["--target-lsn", &position], &now());
    story.add("just before the position of a commit", &["--target-lsn", &position, "--exclusive"], &before);

    interleave(cluster, &mut story);
    cluster.execute("begin; insert into log values (30); savepoint s; insert into log values (31); rollback to s; insert into log values (32); commit");
    cluster.execute("update log set v = 100 where id = 10; delete from log where id = 2");
    scene.archive();

    let before = now();
    let xid = transaction(cluster, "drop table victim");
    story.add("before a table was dropped", &["--target-xid", &xid, "--exclusive"], &before);
    cluster.execute("create table late as select generate_series(1, 7) as n; insert into log values (50)");
    cluster.execute("select pg_create_restore_point('the end')");
    story.add("at the last restore point", &["--target-name", "the end"], &now());
    scene.archive();
    cluster.execute("insert into log values (60)");
    let expected = now();
    scene.archive();
    story.add("the end of the WAL", &["--target-tli", "latest"], &expected);
    story
}

/// Two transactions at a time: A has the smaller id, B commits first.
fn interleave(cluster: &Cluster, story: &mut Story) {
    let mut slow = cluster.client();
    let mut first = slow.transaction().unwrap();
    first.batch_execute("insert into log values (20)").unwrap();
    let first_xid: String = first.query_one("select txid_current()::text", &[]).unwrap().get(0);
    let second_xid = transaction(cluster, "insert into log values (21)");
    story.add("after the second, the first still open", &["--target-xid", &second_xid], &state(cluster));
    first.commit().unwrap();
    story.add("after the first, which came last", &["--target-xid", &first_xid], &state(cluster));
}

/// Restores to every target of a story, each time from nothing.
fn every_target_is_reached(builder: ClusterBuilder) {
    let scene = Scene::new(builder);
    let story = tell_story(&scene);
    for target in &story.targets {
        let mut options: Vec<&str> = target.options.iter().map(String::as_str).collect();
        let has_target = !options.contains(&"--target-tli");
        if has_target {
            options.extend(["--target-action", "promote"]);
        }
        let restored = scene.recover("restored", &options);
        assert_eq!(state(&restored), target.expected, "{}: {:?}", target.name, target.options);
        // A new timeline: what it writes can't be taken for the original's WAL.
        assert_eq!(timeline(&restored), 2, "{}", target.name);
        drop(restored);
        scene.remove("restored");
    }
}

#[test]
fn every_target_is_reached_on_13_with_1_mib_segments_and_checksums() {
    testkit::require_pg!(13);
    every_target_is_reached(Cluster::builder(13).segment_size_mib(1).checksums(true));
}

#[test]
fn every_target_is_reached_on_15() {
    testkit::require_pg!(15);
    every_target_is_reached(Cluster::builder(15));
}

#[test]
fn every_target_is_reached_on_18_with_64_mib_segments() {
    testkit::require_pg!(18);
    every_target_is_reached(Cluster::builder(18).segment_size_mib(64));
}

/// The way it is done at 3 a.m.: in the original's place, one tablespace where it was and one on another disk.
#[test]
fn restores_to_the_commit_before_the_drop_in_the_originals_place() {
    testkit::require_pg!(17);
    let mut scene = Scene::new(Cluster::builder(17).checksums(true));
    scene.cluster.execute("insert into log values (10)");
    let expected = state(&scene.cluster);
    let xid = transaction(&scene.cluster, "drop table victim");
    scene.archive();
    scene.stop_original();
    let destination = scene.cluster.data_dir().to_owned();
    for directory in scene.spaces.iter().chain([&destination]) {
        std::fs::remove_dir_all(directory).unwrap();
        std::fs::create_dir(directory).unwrap();
        testkit::unprivileged_user().take_over(directory);
    }
    let moved = beside(&scene.destination("moved"), "slow");
    scene
        .home
        .run([
            "restore",
            "--target-xid",
            &xid,
            "--exclusive",
            "--target-action",
            "promote",
            "--tablespace",
            &format!("slow:{}", moved.display()),
            "main",
            "latest",
            destination.to_str().unwrap(),
        ])
        .success();
    let link = |space: &str| {
        std::fs::read_dir(destination.join("pg_tblspc"))
            .unwrap()
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap())
            .find(|target| target.to_str().unwrap().ends_with(space))
    };
    assert_eq!(link("fast"), Some(scene.spaces[0].clone()));
    assert_eq!(link("slow"), Some(moved));
    scene.cluster.start_again();
    scene.cluster.wait_until_writable();
    assert_eq!(state(&scene.cluster), expected);
}

#[test]
fn timelines_are_followed_as_told() {
    testkit::require_pg!(15);
    let mut scene = Scene::new(Cluster::builder(15).segment_size_mib(1));
    scene.cluster.execute("insert into log values (10)");
    scene.archive();
    let first = state(&scene.cluster);
    scene.promote_original();
    scene.cluster.execute("insert into log values (20)");
    let second = state(&scene.cluster);
    testkit::wait_for("the receiver to follow", 60, || {
        (scene.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    scene.archive();
    for (wish, expected) in [("1", &first), ("current", &first), ("0x00000002", &second), ("latest", &second)]
    {
        let restored = scene.recover("restored", &["--target-tli", wish]);
        assert_eq!(&state(&restored), expected, "{wish}");
        assert_eq!(timeline(&restored), 3, "{wish}");
        drop(restored);
        scene.remove("restored");
    }
    // Without a wish, the newest.
    let restored = scene.recover("restored", &[]);
    assert_eq!(state(&restored), second);
    scene
        .restore("other", &["--target-tli", "7"])
        .fails_with_one_line(1, &["timeline 7", "00000007.history"]);
}
