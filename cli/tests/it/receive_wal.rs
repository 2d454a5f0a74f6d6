//! `receive-wal` as a process: started, stopped, killed, refused.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use testkit::{Cluster, StopMode, TestDir, wait_for};

use crate::support::{Home, Run};

/// A receiver running in the background; killed at the end of the test.
pub(crate) struct Receiver {
    child: Child,
}

impl Receiver {
    pub(crate) fn start(home: &Home) -> Self {
        let told = File::options().create(true).append(true).open(home.join("receiver.out")).unwrap();
        let mut command = home.command();
        command.args(["receive-wal", "main"]).stdout(told.try_clone().unwrap()).stderr(told);
        Receiver { child: command.stdin(Stdio::null()).spawn().unwrap() }
    }

    /// Waits until it streams.
    #[track_caller]
    pub(crate) fn streaming(home: &Home, cluster: &Cluster) -> Self {
        let mut receiver = Self::start(home);
        let question =
            "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'";
        wait_for("the receiver to stream", 30, || {
            let ended = receiver.child.try_wait().unwrap();
            assert!(ended.is_none(), "the receiver has ended: {}", told(home));
            (cluster.value(question) == "1").then_some(())
        });
        receiver
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its exit code, once it has ended.
    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        wait_for("the receiver to end", 30, || self.child.try_wait().unwrap()).code()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn told(home: &Home) -> String {
    std::fs::read_to_string(home.join("receiver.out")).unwrap_or_default()
}

fn small_segments() -> Cluster {
    Cluster::builder(15).segment_size_mib(1).setting("max_wal_size", "2MB").start()
}

fn run(home: &Home, option: &str) -> Run {
    home.run(["receive-wal", "main", option])
}

#[test]
fn receives_creates_its_slot_and_stops_when_asked() {
    testkit::require_pg!(15);
    let cluster = small_segments();
    let home = Home::new().server("main", &cluster.conninfo());
    let mut receiver = Receiver::streaming(&home, &cluster);
    assert_eq!(cluster.value("select active from pg_replication_slots where slot_name = 'barkeep'"), "t");
    let closed = cluster.switch_wal();
    wait_for("the closed segment", 60, || home.join("main/streaming").join(&closed).exists().then_some(()));

    // A second one leaves it alone, and that is no failure: cron starts one every minute.
    let second = home.run(["receive-wal", "main"]).success();
    assert!(second.stdout.contains("Another receive-wal process is already running for server main."));

    let stopped = run(&home, "--stop").success();
    assert!(stopped.stdout.contains("Stopped receive-wal for server main"), "{stopped:?}");
    assert_eq!(receiver.exit_code(), Some(0), "{}", told(&home));
    let said = told(&home);
    for line in ["Starting receive-wal for server main", "created physical replication slot 'barkeep'"] {
        assert!(said.contains(line), "{line:?} is missing: {said}");
    }
    run(&home, "--stop").fails_with_one_line(1, &["no such process for server main"]);
}

#[test]
fn sigterm_ends_it_in_good_order() {
    testkit::require_pg!(15);
    let cluster = small_segments();
    let home = Home::new().server("main", &cluster.conninfo());
    let mut receiver = Receiver::streaming(&home, &cluster);
    cluster.execute("create table t as select generate_series(1, 1000) n");
    receiver.signal("-TERM");
    assert_eq!(receiver.exit_code(), Some(0), "{}", told(&home));
    assert_eq!(cluster.value("select active from pg_replication_slots"), "f");
}

#[test]
fn slots_are_created_and_dropped_by_hand() {
    testkit::require_pg!(13, 15);
    for major in [13, 15] {
        let cluster = Cluster::start(major);
        let home = Home::new().server("main", &cluster.conninfo()).with("main", "create_slot", "manual");
        home.run(["receive-wal", "main"]).fails_with_one_line(
            1,
            &["replication slot \"barkeep\" does not exist", "barkeep receive-wal --create-slot main"],
        );
        assert_eq!(std::fs::read_dir(home.join("main/streaming")).unwrap().count(), 0);
        let created = run(&home, "--create-slot").success();
        assert!(created.stdout.contains("Replication slot 'barkeep' created"), "{created:?}");
        run(&home, "--create-slot").exits_with(1);
        home.run(["receive-wal", "main", "--create-slot", "--if-not-exists"]).success();
        let receiver = Receiver::streaming(&home, &cluster);
        run(&home, "--drop-slot").fails_with_one_line(1, &["in use", "barkeep receive-wal --stop main"]);
        drop(receiver);
        wait_for("the slot to be free", 60, || {
            (cluster.value("select active from pg_replication_slots") == "f").then_some(())
        });
        run(&home, "--drop-slot").success();
        run(&home, "--drop-slot").fails_with_one_line(1, &["'barkeep' does not exist"]);
    }
}

#[test]
fn what_cannot_work_is_one_clear_line() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15)
        .hba("local all locked scram-sha-256")
        .hba("local replication locked scram-sha-256")
        .start();
    cluster.execute("create role locked replication login password 'right'");
    let home = |conninfo: &str| Home::new().server("main", conninfo);
    let refuses = |home: Home, parts: &[&str]| {
        home.run(["receive-wal", "main"]).fails_with_one_line(1, parts);
    };
    let locked = cluster.conninfo().replace("user=postgres", "user=locked");
    refuses(home(&format!("{locked} password=wrong")), &["password authentication failed"]);
    refuses(
        home(&cluster.conninfo()).with("main", "streaming_archiver", "off").with("main", "archiver", "on"),
        &["streaming_archiver is off"],
    );
    refuses(home("host=/nowhere rubbish"), &["streaming_conninfo"]);
    let inactive = home(&cluster.conninfo()).with("main", "active", "false");
    assert!(
        inactive.run(["receive-wal", "main"]).success().stdout.contains("Skipping inactive server 'main'")
    );
    let other = home(&cluster.conninfo());
    std::fs::create_dir_all(other.join("main")).unwrap();
    let identity = "{\n    \"systemid\": \"7000000000000000001\",\n    \"version\": \"15\"\n}\n";
    std::fs::write(other.join("main/identity.json"), identity).unwrap();
    refuses(other, &["7000000000000000001", "streaming_conninfo"]);
    cluster.stop(StopMode::Fast);
    refuses(home(&cluster.conninfo()), &["cannot connect to socket"]);
}

#[test]
fn a_reset_goes_on_after_wal_that_is_gone() {
    testkit::require_pg!(15);
    let cluster = small_segments();
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "slot_name", "")
        .with("main", "archiver", "on");
    let mut receiver = Receiver::streaming(&home, &cluster);
    let first = cluster.switch_wal();
    wait_for("the first segment", 60, || home.join("main/streaming").join(&first).exists().then_some(()));
    assert!(run(&home, "--reset").success().stdout.contains("still running"));
    receiver.kill();
    for _ in 0..4 {
        cluster.execute("create table if not exists t (x text); insert into t select repeat('x', 100) from generate_series(1, 20000)");
        cluster.switch_wal();
        cluster.execute("checkpoint");
    }
    home.run(["receive-wal", "main"])
        .fails_with_one_line(1, &["removed WAL", "barkeep receive-wal --reset main", "barkeep backup main"]);
    let reset = run(&home, "--reset").success();
    assert!(reset.stdout.contains("The next receive-wal starts at"), "{reset:?}");
    assert!(run(&home, "--reset").success().stdout.contains("Nothing to do"));
    let _receiver = Receiver::streaming(&home, &cluster);
    let closed = cluster.switch_wal();
    wait_for("a new segment", 60, || home.join("main/streaming").join(&closed).exists().then_some(()));
    // What was received before is still there for the archive.
    assert!(home.join("main/streaming").join(&first).exists());
}

/// Inserts numbered rows until told to stop, and keeps the numbers that the server has acknowledged.
fn insert_rows(cluster: &Cluster, worker: u32, acknowledged: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let mut client = cluster.client();
    let filler = "w".repeat(700);
    for number in 0.. {
        let id = format!("{worker}-{number}");
        if stop.load(Ordering::Relaxed)
            || client.execute("insert into acked values ($1, $2)", &[&id, &filler]).is_err()
        {
            return;
        }
        acknowledged.lock().unwrap().push(id);
    }
}

/// A base backup without WAL, ready to recover from the files in `wal`.
fn base_backup(cluster: &Cluster, target: &Path, wal: &Path) {
    let mut command = Command::new(testkit::client_tool("pg_basebackup", cluster.major()).unwrap());
    command.args(["--checkpoint=fast", "--wal-method=none", "--no-sync", "--pgdata"]).arg(target);
    command.arg("--dbname").arg(cluster.conninfo()).current_dir("/");
    let output = testkit::unprivileged_user().run_as(&mut command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wal = wal.display();
    let settings = format!(
        "\nrestore_command = 'cp {wal}/%f %p || cp {wal}/%f.partial %p'\nsynchronous_standby_names = ''\n"
    );
    let path = target.join("postgresql.conf");
    let configuration = std::fs::read_to_string(&path).unwrap() + &settings;
    std::fs::write(path, configuration).unwrap();
    std::fs::write(target.join("recovery.signal"), "").unwrap();
    testkit::unprivileged_user().take_over(target);
}

/// Numbers that differ from run to run; printed, so that a failure can be looked at.
fn random_millis(state: &mut u64) -> Duration {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    Duration::from_millis(20 + (*state >> 33) % 600)
}

#[test]
fn every_acknowledged_commit_survives_twenty_kills() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("synchronous_commit", "on")
        .setting("synchronous_standby_names", "barman_receive_wal")
        .start();
    let home = Home::new().server("main", &cluster.conninfo());
    let mut receiver = Receiver::streaming(&home, &cluster);
    cluster.execute("create table acked (id text primary key, filler text)");
    let root = TestDir::new();
    let (base, wal) = (root.join("data"), root.subdir("wal"));
    base_backup(&cluster, &base, &wal);

    let mut state = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into();
    println!("seed {state}");
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (cluster, acknowledged, stop) = (&cluster, &acknowledged, &stop);
            scope.spawn(move || insert_rows(cluster, worker, acknowledged, stop));
        }
        for _ in 0..20 {
            std::thread::sleep(random_millis(&mut state));
            receiver.kill();
            receiver = Receiver::start(&home);
            // Killed again before it streams, or after.
            let before = acknowledged.lock().unwrap().len();
            wait_for("commits to be acknowledged again", 60, || {
                (acknowledged.lock().unwrap().len() > before + 20).then_some(())
            });
        }
        // The last time together with the primary: what is left is what was received.
        receiver.kill();
        cluster_kill(&cluster);
        stop.store(true, Ordering::Relaxed);
    });
    cluster.kill();

    let streaming = home.join("main/streaming");
    for entry in std::fs::read_dir(&streaming).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), wal.join(entry.file_name())).unwrap();
    }
    testkit::unprivileged_user().take_over(&wal);
    let restored = Cluster::adopt(15, &base);
    restored.wait_until_writable();
    let found: std::collections::HashSet<String> =
        restored.query_text("select id from acked").into_iter().collect();
    let acknowledged = acknowledged.lock().unwrap();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !found.contains(*id)).collect();
    println!("{} commits acknowledged, {} rows found", acknowledged.len(), found.len());
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged commits are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    assert!(acknowledged.len() > 400);
}

/// Kills the server while others hold references to it.
fn cluster_kill(cluster: &Cluster) {
    let pid = cluster.pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
}
