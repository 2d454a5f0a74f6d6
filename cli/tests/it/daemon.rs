//! `barkeep daemon`: what cron does, without cron.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use barkeep_catalog::{Catalog, ServerLock, Task};
use testkit::{Cluster, wait_for};

use crate::stored::{archive, deliver, layout, segment};
use crate::support::Home;

/// A daemon with a service manager that listens to it.
struct Daemon {
    child: Child,
    manager: UnixDatagram,
    heard: Vec<String>,
}

impl Daemon {
    fn start(home: &Home) -> Self {
        let socket = home.join("notify");
        let _ = std::fs::remove_file(&socket);
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let said = std::fs::File::create(home.join("daemon.out")).unwrap();
        let mut command = home.command();
        command.arg("daemon").env("NOTIFY_SOCKET", &socket);
        command.stdout(said.try_clone().unwrap()).stderr(said);
        let mut daemon = Daemon { child: command.spawn().unwrap(), manager, heard: Vec::new() };
        daemon.wait_to_hear("READY=1");
        daemon
    }

    /// Waits until the service manager is told this.
    #[track_caller]
    fn wait_to_hear(&mut self, what: &str) {
        self.heard.clear();
        wait_for(what, 30, || {
            let mut message = [0; 512];
            if let Ok(length) = self.manager.recv(&mut message) {
                self.heard.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
            }
            self.heard.iter().any(|line| line.starts_with(what)).then_some(())
        });
    }

    fn signal(&self, signal: &str) {
        Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
    }

    #[track_caller]
    fn stop(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait_to_hear("STOPPING=1");
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked nicely, it takes its receivers along.
        self.signal("-TERM");
        let _ = self.child.wait();
    }
}

fn said(home: &Home) -> String {
    std::fs::read_to_string(home.join("daemon.out")).unwrap_or_default()
}

fn receiver(home: &Home) -> Option<u32> {
    ServerLock::holder(&layout(home), Task::ReceiveWal).unwrap().and_then(|holder| holder.pid)
}

#[test]
fn the_daemon_receives_archives_and_reloads_until_it_is_told_to_stop() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).start();
    let mut home = Home::new().server("main", &cluster.conninfo());
    let daemon = &mut Some(Daemon::start(&home));
    let streams = || cluster.value("select count(*) from pg_stat_replication");
    wait_for("the receiver to stream", 30, || (streams() == "1").then_some(()));
    let first = receiver(&home).unwrap();
    assert_ne!(first, daemon.as_ref().unwrap().child.id(), "a process of its own, which can be stopped");

    cluster.execute("create table t (n int)");
    cluster.switch_wal();
    cluster.execute("insert into t values (1)");
    cluster.switch_wal();
    wait_for("the WAL to be archived", 60, || (!archive(&home).is_empty()).then_some(()));

    Command::new("kill").args(["-9", &first.to_string()]).status().unwrap();
    let second = wait_for("another receiver", 30, || receiver(&home).filter(|pid| *pid != first));
    wait_for("it to stream", 30, || (streams() == "1").then_some(()));
    assert!(said(&home).contains("has ended (signal: 9 (SIGKILL)); trying again in 1 s"), "{}", said(&home));

    // A configuration that can't be read changes nothing.
    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), "[barman\n").unwrap();
    daemon.as_mut().unwrap().signal("-HUP");
    daemon.as_mut().unwrap().wait_to_hear("RELOADING=1");
    wait_for("the daemon to tell", 30, || said(&home).contains("stays as it was").then_some(()));
    assert_eq!(receiver(&home), Some(second));

    // Another setting starts the receiver anew.
    std::fs::write(home.config(), text).unwrap();
    home.set("main", "streaming_archiver_name", "another_name");
    daemon.as_mut().unwrap().signal("-HUP");
    let names = || cluster.query_text("select application_name from pg_stat_replication");
    wait_for("a receiver of the new name", 30, || (names() == ["another_name"]).then_some(()));

    home.set("main", "active", "off");
    daemon.as_mut().unwrap().signal("-HUP");
    wait_for("the receiver to end", 30, || receiver(&home).is_none().then_some(()));
    home.set("main", "active", "on");
    daemon.as_mut().unwrap().signal("-HUP");
    wait_for("the receiver to be back", 30, || receiver(&home));

    assert!(daemon.take().unwrap().stop().success(), "{}", said(&home));
    assert_eq!(receiver(&home), None, "it has taken its receiver along");
    wait_for("the server to notice", 30, || (streams() == "0").then_some(()));
}

#[test]
fn backups_are_taken_by_schedule() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .server("wrong", &cluster.conninfo())
        .with("main", "backup_schedule", "\"* * * * *\"")
        .with("wrong", "slot_name", "wrong")
        .with("wrong", "backup_schedule", "tomorrow");
    let daemon = Daemon::start(&home);
    assert!(
        said(&home).contains("backup_schedule of server wrong: \"tomorrow\" is no schedule"),
        "{}",
        said(&home)
    );
    let catalog = Catalog::new(layout(&home));
    let taken = || catalog.backups().is_ok_and(|backups| backups.iter().any(|info| info.status.is_usable()));
    // The coming minute has one, and it takes a few seconds.
    let patience = Instant::now() + Duration::from_secs(120);
    while !taken() {
        assert!(Instant::now() < patience, "no backup in two minutes: {}\n{}", said(&home), home.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(daemon.stop().success(), "{}", said(&home));
}

#[test]
fn there_is_one_daemon_and_it_stands_beside_cron() {
    let home = crate::stored::home();
    let daemon = Daemon::start(&home);
    home.run(["daemon"])
        .fails_with_one_line(1, &["cannot be started", &format!("pid {}", daemon.child.id())]);
    home.run(["-f", "json", "daemon"]).exits_with(1);
    deliver(&home, segment(1, 1));
    home.run(["cron"]).success();
    wait_for("the WAL to be archived", 30, || (archive(&home) == [segment(1, 1).to_string()]).then_some(()));
    assert!(daemon.stop().success());
    // A lock file that nobody holds keeps no daemon from starting.
    assert!(Daemon::start(&home).stop().success());
}

#[test]
fn a_killed_daemons_receiver_goes_on_and_the_next_daemon_leaves_it_to_it() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let home = Home::new().server("main", &cluster.conninfo());
    let mut daemon = Daemon::start(&home);
    let first = wait_for("the receiver", 30, || receiver(&home));
    daemon.signal("-KILL");
    let _ = daemon.child.wait();
    let next = Daemon::start(&home);
    wait_for("the first maintenance", 30, || said(&home).contains("Starting WAL archiving").then_some(()));
    assert_eq!(receiver(&home), Some(first));
    home.run(["receive-wal", "--stop", "main"]).success();
    wait_for("the daemon's own receiver", 30, || receiver(&home));
    assert!(next.stop().success());
    assert_eq!(receiver(&home), None);
}

#[test]
fn the_unit_file_is_one_that_systemd_takes() {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/barkeep.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains("Type=notify\n") && text.contains("ExecReload="), "{text}");
    // With a program that exists, the rest can be judged.
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("barkeep.service");
    let text = text.replace("/usr/bin/barkeep", "/bin/true").replace("User=barman\n", "");
    std::fs::write(&copy, text).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&copy).stdin(Stdio::null()).output() {
        Ok(verdict) => {
            let told = String::from_utf8_lossy(&verdict.stderr);
            let about_it: Vec<&str> = told
                .lines()
                // The manual pages are installed with the package.
                .filter(|line| line.contains("barkeep.service") && !line.contains("'man "))
                .collect();
            assert!(about_it.is_empty(), "{told}");
        }
        Err(_) => testkit::notice_skipped("systemd-analyze"),
    }
}
