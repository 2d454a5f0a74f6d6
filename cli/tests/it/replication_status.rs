//! `replication-status`, beside Barman's.

use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::Cluster;

use crate::support::{Home, Run};

/// Barman on a home of ours.
fn barman(home: &Home, arguments: &[&str]) -> Run {
    let program = testkit::programs::barman_bin_dir().unwrap().join("barman");
    Run::of(Command::new(program).arg("-c").arg(home.config()).args(arguments))
}

fn check_both_show_the_same(major: u32) {
    let primary = Cluster::builder(major).start();
    primary.execute("create table t as select 1 as n");
    let standby = primary.standby("standby");
    primary.wait_for_replay_by(&standby);
    let home = Home::new().server("main", &primary.conninfo());
    let mut receiver =
        home.command().args(["-q", "receive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
    testkit::wait_for("two clients that have all there is", 30, || {
        let all = "select count(*) from pg_stat_replication where state = 'streaming' \
                   and flush_lsn = pg_current_wal_lsn()";
        (primary.value(all) == "2").then_some(())
    });
    let compare = |home: &Home| {
        for (target, more) in [
            ("all", &[][..]),
            ("all", &["--minimal"]),
            ("hot-standby", &["--source", "wal-host"]),
            ("wal-streamer", &["--minimal"]),
        ] {
            let arguments = [&["replication-status", "main", "--target", target], more].concat();
            let (theirs, ours) = (barman(home, &arguments).success(), home.run(&arguments).success());
            assert_eq!(ours.stdout, theirs.stdout, "{major} {arguments:?}");
            let json = [&["-f", "json"], &arguments[..]].concat();
            let strip = |run: Run| {
                let mut value: Value = run.json();
                value.as_object_mut().unwrap().retain(|key, _| !key.starts_with('_'));
                value
            };
            assert_eq!(strip(home.run(&json)), strip(barman(home, &json)), "{major} {arguments:?}");
        }
    };
    compare(&home);
    // Asked of a standby that nobody streams from.
    let other = Home::new().server("main", &standby.conninfo());
    compare(&other);
    let pid = rustix::process::Pid::from_child(&receiver);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    receiver.wait().unwrap();
}

#[test]
fn shows_the_clients_that_barman_shows() {
    testkit::require_barman!();
    for major in [13, 15, 18] {
        if testkit::want_pg(major) {
            check_both_show_the_same(major);
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_told_and_the_next_gets_its_turn() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let home = Home::new()
        .server("down", "host=/nonexistent user=x")
        .server("main", &cluster.conninfo())
        .server("resting", "host=x")
        .with("resting", "active", "off")
        .with("watching", "primary_ssh_command", "ssh other");
    let run = home.run(["replication-status", "all"]).exits_with(1);
    assert!(run.stderr.contains("ERROR: Unable to connect to server down"), "{run:#?}");
    assert!(
        run.stdout.contains("Status of streaming clients for server 'main':\n  Current LSN on master: "),
        "{run:#?}"
    );
    assert!(run.stdout.contains("  No streaming clients attached\n"), "{run:#?}");
    assert!(run.stdout.contains("Skipping inactive server 'resting'"), "{run:#?}");
    assert!(run.stdout.contains("Skipping passive server 'watching'"), "{run:#?}");
}
