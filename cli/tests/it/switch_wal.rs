//! `switch-wal` against real servers.

use testkit::Cluster;

use crate::receive_wal::Receiver;
use crate::support::Home;

#[test]
fn closes_the_current_file_once() {
    testkit::require_pg!(13, 18);
    for major in [13, 18] {
        let cluster = Cluster::start(major);
        let home = Home::new().server("main", &cluster.conninfo());
        cluster.execute("create table t (n int)");
        let current = cluster.value("select pg_walfile_name(pg_current_wal_insert_lsn())");
        let run = home.run(["switch-wal", "main"]).success();
        assert_eq!(run.stdout, format!("The WAL file {current} has been closed on server 'main'\n"));
        let again = home.run(["switch-xlog", "main"]).success();
        assert_eq!(again.stdout, "No switch required for server 'main'\n");
        let forced = home.run(["switch-wal", "--force", "all"]).success();
        assert!(forced.stdout.contains("has been closed"), "{forced:?}");
    }
}

#[test]
fn leaves_a_standby_alone() {
    testkit::require_pg!(15);
    let primary = Cluster::start(15);
    let standby = primary.standby("standby");
    let home = Home::new().server("main", &standby.conninfo());
    let run = home.run(["switch-wal", "main"]).success();
    assert_eq!(run.stdout, "No switch performed because server 'main' is a standby.\n");
}

#[test]
fn waits_until_the_file_is_archived() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home = Home::new().server("main", &cluster.conninfo());
    let _receiver = Receiver::streaming(&home, &cluster);
    cluster.execute("create table t (n int)");
    let run = home.run(["switch-wal", "--archive", "main"]).success();
    let closed = run.stdout.split(' ').nth(3).unwrap();
    assert!(home.join("main/wals").join(&closed[..16]).join(closed).exists(), "{run:?}");
}

#[test]
fn says_so_when_nothing_is_archived_in_time() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home = Home::new().server("main", &cluster.conninfo());
    cluster.execute("create table t (n int)");
    let arguments = ["switch-wal", "--archive", "--archive-timeout", "1", "main"];
    let run = home.run(arguments).exits_with(1);
    assert!(run.stderr.contains("has not been received in 1 seconds"), "{run:?}");
}

#[test]
fn a_server_that_is_down_is_one_clear_line_and_the_next_gets_its_turn() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home =
        Home::new().server("down", "host=/nonexistent user=postgres").server("up", &cluster.conninfo());
    cluster.execute("create table t (n int)");
    let run = home.run(["switch-wal", "all"]).fails_with_one_line(1, &["down", "/nonexistent"]);
    assert!(run.stdout.contains("on server 'up'"), "{run:?}");
}

#[test]
fn missing_rights_are_named() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    cluster.execute("create role barman login");
    let conninfo = cluster.conninfo().replace("user=postgres", "user=barman");
    let home = Home::new().server("main", &conninfo);
    home.run(["switch-wal", "main"]).fails_with_one_line(1, &["pg_switch_wal", "GRANT EXECUTE"]);
    home.run(["switch-wal", "--force", "main"]).fails_with_one_line(1, &["pg_checkpoint"]);
}
