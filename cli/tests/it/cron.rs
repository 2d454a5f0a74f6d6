//! `cron`: what it does each minute, and what it never does: hang, or start a thing twice.

use std::fs;
use std::time::{Duration, Instant};

use barkeep_catalog::{Catalog, Keep, Kept, ServerLock, Status, Task};
use pgwal::WalFile;
use testkit::{Cluster, wait_for};

use crate::stored::{archive, archived, backup, deliver, home, layout, listed, names, save, segment};
use crate::support::Home;

fn status(home: &Home, id: barkeep_catalog::BackupId) -> Status {
    Catalog::new(layout(home)).read(id).unwrap().status
}

#[test]
fn archives_and_completes_backups() {
    let home = home().with("main", "compression", "gzip");
    let mut waiting = backup(&home, 1, segment(1, 1));
    waiting.status = Status::WaitingForWals;
    save(&home, &waiting);
    home.run(["cron"]).success();
    assert_eq!(status(&home, waiting.id), Status::WaitingForWals);
    deliver(&home, segment(1, 1));
    let run = home.run(["cron"]).success();
    assert!(run.stdout.contains(&format!("\t{}\n", segment(1, 1))), "{run:?}");
    assert!(run.stdout.contains(&format!("Backup {} of server main is complete", waiting.id)), "{run:?}");
    assert_eq!(status(&home, waiting.id), Status::Done);
    assert_eq!(home.run(["-q", "cron"]).success().stdout, "");
}

#[test]
fn makes_the_directories_of_a_new_server() {
    let home = home();
    home.run(["cron"]).success();
    for directory in ["base", "meta", "wals", "incoming", "streaming", "errors"] {
        assert!(home.join("main").join(directory).is_dir(), "{directory}");
    }
}

#[test]
fn records_dead_backups_as_failed_and_leaves_running_ones() {
    let home = home();
    let mut dead = backup(&home, 1, segment(1, 1));
    dead.status = Status::Started;
    save(&home, &dead);
    let lock = ServerLock::try_acquire(&layout(&home), Task::Backup).unwrap();
    home.run(["cron"]).success();
    assert_eq!(status(&home, dead.id), Status::Started);
    drop(lock);
    let run = home.run(["cron"]).success();
    assert!(run.stderr.contains("FAILED"), "{run:?}");
    assert_eq!(status(&home, dead.id), Status::Failed);
}

#[test]
fn enforces_the_retention_policy() {
    let home = home().with("main", "retention_policy", "REDUNDANCY 2");
    let ids: Vec<String> =
        (1..=4).map(|hour| backup(&home, hour, segment(1, u64::from(hour) * 2)).id.to_string()).collect();
    let kept = ids[0].parse().unwrap();
    Catalog::new(layout(&home)).keep(kept, &Kept::for_good(Keep::Standalone)).unwrap();
    archived(&home, (1..=9).map(|number| WalFile::Segment(segment(1, number))));
    let run = home.run(["cron"]).success();
    assert!(run.stdout.contains(&format!("backup {} of server main is obsolete", ids[1])), "{run:?}");
    assert_eq!(names(home.join("main/base")), [&ids[0], &ids[2], &ids[3]].map(String::as_str));
    let expected = [2, 6, 7, 8, 9].map(|number| segment(1, number).to_string());
    assert_eq!(archive(&home), expected);
    assert_eq!(listed(&home), expected);
    home.run(["cron"]).success();
    assert_eq!(names(home.join("main/base")).len(), 3);
}

#[test]
fn a_policy_that_cannot_be_read_deletes_nothing() {
    let home = home().with("main", "retention_policy", "KEEP SOME");
    backup(&home, 1, segment(1, 1));
    home.run(["cron"]).fails_with_one_line(1, &["main", "nothing is deleted", "KEEP SOME"]);
    assert_eq!(names(home.join("main/base")).len(), 1);
}

#[test]
fn finishes_a_deletion_that_was_interrupted() {
    let home = home();
    let (gone, stays) = (backup(&home, 1, segment(1, 1)), backup(&home, 2, segment(1, 3)));
    archived(&home, (1..=3).map(|number| WalFile::Segment(segment(1, number))));
    Catalog::new(layout(&home)).mark_for_deletion(gone.id).unwrap();
    // The mark of one whose record is gone already.
    fs::write(layout(&home).annotation("20250101T000000".parse().unwrap(), "delete_this"), "delete").unwrap();
    home.run(["cron"]).success();
    assert_eq!(names(home.join("main/base")), [stays.id.to_string()]);
    assert_eq!(names(home.join("main/meta")), [format!("{}-backup.info", stays.id)]);
    assert_eq!(archive(&home), [segment(1, 3).to_string()]);
}

#[test]
fn one_server_that_is_stuck_delays_no_other() {
    let home = home()
        .server("other", "host=/nonexistent")
        .with("other", "streaming_archiver", "off")
        .with("other", "archiver", "on");
    deliver(&home, segment(1, 1));
    let other = barkeep_catalog::Layout::new("other", &home.join("other"), home.path());
    let _lock = ServerLock::try_acquire(&other, Task::Cron).unwrap();
    let clock = Instant::now();
    let run = home.run(["cron"]).success();
    assert!(clock.elapsed() < Duration::from_secs(20));
    assert!(run.stdout.contains("Another cron process is already running on server other"), "{run:?}");
    assert_eq!(archive(&home), [segment(1, 1).to_string()]);
}

#[test]
fn one_servers_trouble_is_told_and_the_others_are_served() {
    let home = home()
        .server("other", "host=/nonexistent")
        .with("other", "streaming_archiver", "off")
        .with("other", "archiver", "on");
    deliver(&home, segment(1, 1));
    fs::write(home.join("other"), "in the way").unwrap();
    home.run(["cron"]).fails_with_one_line(1, &["other"]);
    assert_eq!(archive(&home), [segment(1, 1).to_string()]);
}

#[test]
fn keeps_one_receiver_running_and_stops_it_when_told() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let mut home = Home::new().server("main", &cluster.conninfo());
    let streams = || cluster.value("select count(*) from pg_stat_replication");
    let run = home.run(["cron"]).success();
    assert!(run.stdout.contains("Starting streaming archiver for server main"), "{run:?}");
    wait_for("the receiver to stream", 30, || (streams() == "1").then_some(()));
    let holder = || ServerLock::holder(&layout(&home), Task::ReceiveWal).unwrap();
    let first = holder();
    assert!(first.is_some());
    let run = home.run(["cron"]).success();
    assert!(!run.stdout.contains("Starting streaming archiver"), "{run:?}");
    assert_eq!(holder(), first);
    home.set("main", "active", "false");
    let run = home.run(["cron"]).success();
    assert!(run.stdout.contains("Server 'main' is inactive: stopping receive-wal"), "{run:?}");
    wait_for("the receiver to end", 30, || {
        ServerLock::holder(&layout(&home), Task::ReceiveWal).unwrap().is_none().then_some(())
    });
}

/// Stops the receiver that cron has left running, also when the test fails.
struct StopsReceiver<'a>(&'a Home);

impl Drop for StopsReceiver<'_> {
    fn drop(&mut self) {
        let _ = self.0.command().args(["receive-wal", "--stop", "main"]).output();
    }
}

#[test]
fn sees_a_server_through_its_days_and_what_remains_can_be_restored() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).start();
    let home = Home::new().server("main", &cluster.conninfo()).with("main", "compression", "zstd").with(
        "main",
        "retention_policy",
        "REDUNDANCY 1",
    );
    let _stops = StopsReceiver(&home);
    home.run(["cron"]).success();
    wait_for("the receiver to stream", 30, || {
        (cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    cluster.execute("create table t (n int)");
    let mut backups = Vec::new();
    for number in 1..=3 {
        home.run(["backup", "main"]).success();
        cluster.execute(&format!("insert into t values ({number})"));
        cluster.switch_wal();
        let id = names(home.join("main/base")).pop().unwrap();
        let id: barkeep_catalog::BackupId = id.parse().unwrap();
        // The receiver, the archiver and the check need no more than time.
        wait_for("the backup to be complete", 60, || {
            home.run(["cron"]).success();
            (status(&home, id) == Status::Done).then_some(())
        });
        backups.push(id);
    }
    home.run(["cron"]).success();
    assert_eq!(names(home.join("main/base")), [backups[2].to_string()]);
    let oldest = Catalog::new(layout(&home)).read(backups[2]).unwrap().begin_wal.unwrap();
    let wal = archive(&home);
    assert_eq!(wal[0], oldest.to_string(), "what only the others needed is gone");
    assert_eq!(listed(&home), wal);
    let last = wal.iter().rev().find(|name| name.len() == 24).unwrap().clone();
    cluster.execute("insert into t values (4)");
    cluster.switch_wal();
    wait_for("the last row's WAL", 60, || {
        home.run(["cron"]).success();
        archive(&home).iter().any(|name| name.len() == 24 && *name > last).then_some(())
    });
    let destination = cluster.new_dir("restored");
    fs::remove_dir(&destination).unwrap();
    home.run(["restore", "main", "latest", destination.to_str().unwrap()]).success();
    let restored = Cluster::adopt(15, &destination);
    assert_eq!(restored.value("select count(*) from t"), "4");
}
