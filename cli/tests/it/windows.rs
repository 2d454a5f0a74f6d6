//! `windows`, against what a real server did.

use std::fs;

use testkit::Cluster;

use crate::restore_scene::Scene;

#[test]
fn windows_tell_what_a_server_did() {
    testkit::require_pg!(15);
    let mut scene = Scene::new(Cluster::builder(15).segment_size_mib(1));
    let cluster = &scene.cluster;
    cluster.execute("insert into log values (10); select pg_create_restore_point('before lunch')");
    scene.archive();
    let xid = cluster.value("insert into log values (11) returning xmin");
    scene.archive();
    let run = scene.home.run(["archive-wal", "main"]).success();
    let windows = |words: &[&str]| {
        let words = ["windows", "main"].iter().chain(words);
        scene.home.run(words).success()
    };
    let json = windows(&["-f", "json"]).json();
    let main = &json["main"];
    let timeline = &main["timelines"][0];
    assert_eq!(timeline["timeline"], 1, "{json} {run:?}");
    let interval = &timeline["intervals"][0];
    assert_eq!(interval["backups"][0], scene.backup_id.as_str(), "{json}");
    let points = interval["restore_points"].as_array().unwrap();
    assert_eq!(points.last().unwrap()["name"], "before lunch", "{json}");
    // Switching to a new segment is a transaction of its own.
    let newest = main["newest"]["archived"]["xid"].as_u64().unwrap();
    assert!((0..2).contains(&(newest - xid.parse::<u64>().unwrap())), "{json}");
    assert_eq!(main["gaps"].as_array().unwrap().len(), 0, "{json}");
    assert!(main["rpo_seconds"].as_i64().unwrap() < 600, "{json}");

    // What is being received counts as far as it goes, and is told apart.
    let xid = cluster.value("insert into log values (12) returning xmin");
    testkit::wait_for("the commit to be received", 30, || {
        let json = windows(&["-f", "json"]).json();
        let received = json["main"]["newest"]["received"]["xid"].as_u64();
        (received == xid.parse().ok()).then_some(())
    });
    let text = windows(&[]).stdout;
    assert!(text.contains("Timeline 1:") && text.contains("\"before lunch\""), "{text}");
    assert!(text.contains("being received"), "{text}");
    assert!(windows(&[]).stdout.contains(&format!("transaction {xid}")), "{text}");

    scene.promote_original();
    scene.cluster.execute("insert into log values (20)");
    testkit::wait_for("the receiver to follow", 60, || {
        (scene.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    scene.archive();
    scene.home.run(["archive-wal", "main"]).success();
    let windows = || scene.home.run(["windows", "main", "-f", "json"]).success().json();
    let json = windows();
    let second = &json["main"]["timelines"][1];
    assert_eq!((&second["timeline"], &second["parent"]["timeline"]), (&2.into(), &1.into()), "{json}");
    assert_eq!(second["intervals"][0]["from_lsn"], second["parent"]["lsn"], "{json}");

    // A gap, a lost history: named, and the intervals end there.
    let archive = scene.home.join("main/wals");
    fs::remove_file(archive.join("00000002.history")).unwrap();
    let json = windows();
    assert_eq!(json["main"]["missing_histories"][0], "00000002.history", "{json}");
    let text = scene.home.run(["windows", "main"]).success().stdout;
    assert!(text.contains("Missing: 00000002.history"), "{text}");
}
