//! Who is at work on a server, and making them stop.

use std::process::{Child, Stdio};

use barkeep_catalog::{ServerLock, Task};
use serde_json::json;
use testkit::{Barman, Cluster, wait_for};

use crate::stored::{home, layout};
use crate::support::Home;

/// Killed when the test ends, however it ends.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn receiver(home: &Home) -> Receiver {
    let receiver = Receiver(home.command().args(["-q", "receive-wal", "main"]).spawn().unwrap());
    wait_for("the receiver to run", 30, || {
        ServerLock::holder(&layout(home), Task::ReceiveWal).unwrap().map(drop)
    });
    receiver
}

#[test]
fn processes_are_listed_and_stopped_by_their_task() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home = Home::new().server("main", &cluster.conninfo());
    assert_eq!(
        home.run(["list-processes", "main"]).success().stdout,
        "No active subprocesses found for server main.\n"
    );
    assert_eq!(home.run(["-f", "json", "list-process", "main"]).success().json(), json!({ "main": [] }));
    let mut receiver = receiver(&home);
    let pid = receiver.0.id();
    let listed = home.run(["list-processes", "main"]).success().stdout;
    assert_eq!(listed, format!("Active subprocesses for server main:\n{pid} receive-wal\n"));
    let listed = home.run(["-f", "json", "list-processes", "main"]).success().json();
    assert_eq!(listed, json!({ "main": [{ "pid": pid, "name": "receive-wal" }] }));
    home.run(["terminate-process", "main", "backup"])
        .fails_with_one_line(1, &["Termination of backup failed: no such process for server main"]);
    let run = home.run(["terminate-process", "main", "receive-wal"]).success();
    assert_eq!(run.stdout, format!("Stopped process receive-wal({pid})\n"));
    assert!(receiver.0.wait().unwrap().success(), "asked nicely, it ends well");
    home.run(["receive-wal", "--stop", "main"]).fails_with_one_line(1, &["no such process for server main"]);
}

#[test]
fn a_running_backup_is_stopped_and_recorded_as_failed() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home = Home::new().server("main", &cluster.conninfo());
    let begun = home.join("begun");
    let home = home.with("main", "pre_backup_script", &format!("touch '{}'; sleep 300", begun.display()));
    let mut backup = home.command().args(["backup", "main"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the backup to begin", 30, || begun.exists().then_some(()));
    let listed = home.run(["list-processes", "main"]).success().stdout;
    assert!(listed.ends_with(&format!("{} backup\n", backup.id())), "{listed}");
    home.run(["terminate-process", "main", "backup"]).success();
    assert_eq!(backup.wait().unwrap().code(), Some(1));
    assert!(home.run(["list-backups", "main"]).success().stdout.contains("FAILED"));
}

#[test]
fn lock_files_that_nobody_holds_are_removed() {
    let home = home();
    home.run(["cron"]).success();
    let held = ServerLock::try_acquire(&layout(&home), Task::ReceiveWal).unwrap();
    drop(ServerLock::try_acquire(&layout(&home), Task::Backup).unwrap());
    home.run(["lock-directory-cleanup"]).success();
    assert!(held.path().exists());
    assert!(!home.join(".main-backup.lock").exists() && !home.join(".main-cron.lock").exists());
}

#[test]
fn barman_and_barkeep_see_and_stop_each_others_processes() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let cluster = Cluster::start(15);
    let barman = Barman::new();
    barman.add_server("main", &cluster, "");
    let barkeep = |words: &[&str]| {
        let mut command = std::process::Command::new(testkit::reachable_binary(crate::support::barkeep()));
        command.arg("-c").arg(barman.config_path()).args(words).stdin(Stdio::null());
        testkit::unprivileged_user().run_as(&mut command);
        command
    };
    let run = |words: &[&str]| crate::support::Run::of(&mut barkeep(words)).success().stdout;
    let theirs = barman.start_receiver("main", &cluster);
    assert_eq!(
        run(&["-f", "json", "list-processes", "main"]),
        barman.run(&["-f", "json", "list-processes", "main"])
    );
    run(&["terminate-process", "main", "receive-wal"]);
    assert_eq!(barman.run(&["list-processes", "main"]), "No active subprocesses found for server main.\n");
    drop(theirs);
    let mut ours = Receiver(barkeep(&["-q", "receive-wal", "main"]).spawn().unwrap());
    let line = format!("{} receive-wal\n", ours.0.id());
    wait_for("the receiver to be listed", 30, || {
        barman.run(&["list-processes", "main"]).ends_with(&line).then_some(())
    });
    assert_eq!(run(&["list-processes", "main"]), barman.run(&["list-processes", "main"]));
    // Barman waits until the process is gone, so somebody has to take note of its end.
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| ours.0.wait().unwrap());
        barman.run(&["terminate-process", "main", "receive-wal"]);
        assert!(ended.join().unwrap().success());
    });
}
