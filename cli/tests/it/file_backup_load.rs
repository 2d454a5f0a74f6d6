//! Copies of files of servers that are busy, and of standbys that are idle.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use testkit::{Cluster, TestDir};

use crate::support::{Home, Run};

/// Killed when the test ends, however it ends.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn receiver(home: &Home, cluster: &Cluster) -> Receiver {
    home.run(["receive-wal", "--create-slot", "main"]).success();
    let child = home.command().args(["-q", "receive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
    let receiver = Receiver(child);
    testkit::wait_for("the receiver to stream", 30, || {
        let streams =
            "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'";
        (cluster.value(streams) == "1").then_some(())
    });
    receiver
}

/// Creates, drops, rewrites and truncates until told to stop; every round is one transaction that keeps a promise.
fn rounds(cluster: &Cluster, seed: u32, stop: &AtomicBool) {
    let mut client = cluster.client();
    let mut round = seed * 1000;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let statements = [
            format!("begin; insert into kept values ({round}); insert into mirror values ({round}); commit"),
            format!(
                "create table t{round} as select generate_series(1, 500) as n, repeat('z', 300) as filler"
            ),
            "vacuum full grown".to_owned(),
            format!("alter table t{round} set tablespace other"),
            "truncate grown; insert into grown select generate_series(1, 3000), repeat('y', 200)".to_owned(),
            format!("drop table t{round}"),
            "checkpoint".to_owned(),
        ];
        for statement in statements {
            client.batch_execute(&statement).unwrap();
        }
        client.batch_execute(&format!("create database d{round}")).unwrap();
        client.batch_execute(&format!("drop database d{round}")).unwrap();
    }
}

fn survives_a_load(major: u32, seed: u32) {
    let cluster = Cluster::builder(major).checksums(true).setting("full_page_writes", "on").start();
    let location = cluster.new_dir("other");
    cluster.execute(&format!("create tablespace other location '{}'", location.display()));
    cluster.execute("create table kept (n int primary key); create table mirror (n int primary key)");
    cluster.execute("create table grown (n int, filler text); create index on grown (n)");
    cluster
        .execute("create table settled as select generate_series(1, 50000) as n, repeat('x', 100) as filler");
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "backup_method", "local-rsync")
        .with("main", "reuse_backup", "link");
    let receiver = receiver(&home, &cluster);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| rounds(&cluster, seed, &stop));
        for _ in 0..2 {
            home.run(["backup", "main", "--bwlimit", "65536"]).success();
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    let expected = hashes(&cluster);
    let position = cluster.value("select pg_current_wal_insert_lsn()");
    // What comes later is not to be seen.
    cluster.execute("insert into kept values (-1); drop table settled");
    cluster.execute("create database later");
    home.run(["switch-wal", "main", "--force", "--archive", "--archive-timeout", "60"]).success();
    drop(receiver);
    let dir = TestDir::new();
    for backup in ["oldest", "latest"] {
        let destination = dir.join(backup);
        let space = format!("other:{}", dir.join(format!("{backup}-other")).display());
        let words = ["restore", "main", backup, destination.to_str().unwrap(), "--tablespace", &space];
        home.run(words.iter().chain(&["--target-lsn", &position, "--target-action", "promote"])).success();
        let restored = Cluster::adopt(major, &destination);
        restored.wait_until_writable();
        assert_eq!(hashes(&restored), expected, "PostgreSQL {major}, seed {seed}, {backup}");
        amcheck(&restored);
    }
}

/// What every table of every database holds.
fn hashes(cluster: &Cluster) -> Vec<String> {
    let mut hashes = Vec::new();
    for database in cluster.query_text("select datname from pg_database where datallowconn order by 1") {
        let tables = "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables \
                      where schemaname !~ '^(pg_|information_schema)' order by 1";
        for table in cluster.query_text_in(&database, tables) {
            let hash = format!(
                "select count(*) || ' ' || md5(coalesce(string_agg(t::text, ',' order by t::text), '')) from {table} t"
            );
            let hash = cluster.query_text_in(&database, &hash).remove(0);
            hashes.push(format!("{database} {table} {hash}"));
        }
    }
    assert!(hashes.len() >= 4, "{hashes:?}");
    hashes
}

/// `pg_amcheck` of all databases and all that is in them, where the tool and its extension are installed.
fn amcheck(cluster: &Cluster) {
    let Some(tool) = testkit::client_tool("pg_amcheck", cluster.major()) else { return };
    if cluster.value("select count(*) from pg_available_extensions where name = 'amcheck'") == "0" {
        return;
    }
    let mut check = std::process::Command::new(tool);
    let port = cluster.port().to_string();
    check.args(["--all", "--install-missing", "--heapallindexed", "-U", "postgres", "-p", &port, "-h"]);
    check.arg(cluster.socket_dir());
    Run::of(&mut check).success();
}

/// How many seeds of the load are tried: three unless `LOAD_SEEDS` says more.
fn seeds() -> u32 {
    std::env::var("LOAD_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(3)
}

#[test]
fn a_busy_server_is_restored_whole() {
    let majors = [13, 15, 18];
    // The next version with every seed.
    for (seed, major) in (1..=seeds()).zip(majors.into_iter().cycle()) {
        if testkit::want_pg(major) {
            survives_a_load(major, seed);
        }
    }
}

#[test]
fn an_idle_standby_is_backed_up_without_waiting_for_ever() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).checksums(true).start();
    primary.execute("create table t as select generate_series(1, 1000) as n");
    let standby = primary.standby("second");
    primary.wait_for_replay_by(&standby);
    let home = Home::new()
        .server("main", &standby.conninfo())
        .with("main", "primary_conninfo", &primary.conninfo())
        .with("main", "backup_method", "local-rsync");
    let receiver = receiver(&home, &standby);
    let run = home.run(["backup", "main", "--wait", "--wait-timeout", "60"]).success();
    assert!(!run.stderr.contains("WAITING_FOR_WALS"), "{run:#?}");
    drop(receiver);
    let dir = TestDir::new();
    let destination = dir.join("restored");
    home.run(["restore", "main", "latest", destination.to_str().unwrap()]).success();
    let restored = Cluster::adopt(15, &destination);
    restored.wait_until_writable();
    assert_eq!(restored.value("select count(*) from t"), "1000");
}
