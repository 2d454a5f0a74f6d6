//! `check` beside Barman's, on the same home: the same lines, the same verdicts, the same hints where Barman has any.

use std::process::Stdio;

use serde_json::Value;
use testkit::{Barman, Cluster, Sshd};

use crate::support::{Run, barkeep};

/// A configuration that both read.
struct Scene {
    barman: Barman,
}

/// Lines that follow from PostgreSQL being down, of which Barman says something misleading.
const UNKNOWN_WITHOUT_SERVER: [&str; 3] =
    ["replication_slot", "pg_basebackup_compatible", "pg_receivexlog_compatible"];

impl Scene {
    fn new() -> Self {
        Scene { barman: Barman::new() }
    }

    /// Adds a server by the text of its section.
    fn add(&self, name: &str, options: &str) {
        let path = self.barman.config_path().with_file_name("conf.d").join(format!("{name}.conf"));
        std::fs::write(path, format!("[{name}]\n{options}\ncheck_timeout = 6\n")).unwrap();
    }

    fn barkeep(&self, arguments: &[&str]) -> Run {
        let mut command = std::process::Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(self.barman.config_path()).args(arguments).stdin(Stdio::null());
        command.current_dir(self.barman.home()).env("HOME", self.barman.home());
        testkit::unprivileged_user().run_as(&mut command);
        Run::of(&mut command)
    }

    fn barman(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.barman.command(arguments))
    }

    /// Both check the server: the lines' names in order, verdicts, hints and exit codes have to agree.
    #[track_caller]
    fn compare(&self, name: &str) -> Value {
        let (theirs, ours) = (self.barman(&["check", name]), self.barkeep(&["check", name]));
        assert_eq!(lines(&ours.stdout), lines(&theirs.stdout), "{ours:#?}\n{theirs:#?}");
        assert_eq!(ours.code, theirs.code);
        let (theirs, ours) = (
            self.barman(&["-f", "json", "check", name]).json(),
            self.barkeep(&["-f", "json", "check", name]).json(),
        );
        let (their_lines, our_lines) = (theirs[name].as_object().unwrap(), ours[name].as_object().unwrap());
        let down = their_lines.get("postgresql").is_some_and(|line| line["status"] == "FAILED");
        for (key, their_line) in their_lines {
            let our_line = &our_lines[key];
            assert_eq!(our_line["status"], their_line["status"], "{key}: {ours}");
            assert_eq!(our_line.as_object().unwrap().len(), 2, "{key}: {ours}");
            let hint = their_line["hint"].as_str().unwrap();
            let own_words = hint.is_empty() || down && UNKNOWN_WITHOUT_SERVER.contains(&key.as_str());
            let connection = key == "postgresql_streaming" || key == "ssh" && our_line["status"] == "FAILED";
            if !own_words && !connection {
                let hint = hint.replace("barman ", "barkeep ");
                assert_eq!(our_line["hint"], hint, "{key}");
            }
        }
        assert_eq!(their_lines.keys().collect::<Vec<_>>(), our_lines.keys().collect::<Vec<_>>());
        let (theirs, ours) =
            (self.barman(&["check", "--nagios", name]), self.barkeep(&["check", "--nagios", name]));
        assert_eq!(ours.stdout.lines().next(), theirs.stdout.lines().next(), "{ours:#?}\n{theirs:#?}");
        assert_eq!(ours.code, theirs.code);
        Value::Object(our_lines.clone())
    }
}

/// Headings, names and verdicts, in order.
fn lines(text: &str) -> Vec<String> {
    let known = text
        .lines()
        .filter(|line| line.starts_with("Server ") || line.starts_with('\t') && !line.starts_with("\t\t"));
    known.map(|line| line.split(" (").next().unwrap().to_owned()).collect()
}

fn streaming(cluster: &Cluster, options: &str) -> String {
    let tools = testkit::client_tool("pg_basebackup", cluster.major()).unwrap();
    format!(
        "conninfo = {0}\nstreaming_conninfo = {0}\nbackup_method = postgres\nstreaming_archiver = on\nslot_name = slot\n\
         path_prefix = {1}\n{options}",
        cluster.conninfo(),
        tools.parent().unwrap().display()
    )
}

#[test]
fn a_streamed_server_is_checked_as_barman_checks_it() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let cluster = Cluster::builder(15).start();
    let scene = Scene::new();
    scene.add(
        "new",
        &streaming(
            &cluster,
            "minimum_redundancy = 1\nlast_backup_maximum_age = 1 DAY\nlast_wal_maximum_age = 1 DAY",
        ),
    );
    let found = scene.compare("new");
    assert_eq!(found["replication_slot"]["status"], "FAILED");
    cluster.execute("select pg_create_physical_replication_slot('slot')");
    scene.compare("new");
    cluster.execute("select pg_drop_replication_slot('slot')");
    cluster.execute("select pg_create_physical_replication_slot('slot', true)");
    scene.compare("new");
    std::fs::write(scene.barman.server_dir("new").join("errors/x.duplicate"), "").unwrap();
    scene.compare("new");
    scene.add(
        "new",
        &streaming(
            &cluster,
            "last_backup_minimum_size = 1k\nretention_policy = keep all\nreuse_backup = link",
        ),
    );
    let found = scene.compare("new");
    assert_eq!(found["configuration"]["status"], "FAILED");
    // A slot that nobody uses is worth a warning.
    scene.add(
        "new",
        &format!("conninfo = {}\narchiver = on\nslot_name = slot\nbackup_method = postgres\nmax_incoming_wals_queue = 0", cluster.conninfo()),
    );
    scene.compare("new");
    let incoming = scene.barman.server_dir("new").join("streaming/000000010000000000000001");
    std::fs::write(incoming, "").unwrap();
    let found = scene.compare("new");
    assert_eq!(found["empty_streaming_directory"]["status"], "FAILED");
}

#[test]
fn a_user_without_rights_is_told_so_as_barman_tells_it() {
    testkit::require_pg!(14);
    testkit::require_barman!();
    let cluster = Cluster::builder(14).start();
    cluster.execute("create role weak login");
    cluster.execute("create role half login replication in role pg_monitor");
    let scene = Scene::new();
    let section = |user: &str| {
        let conninfo = format!("{} user={user}", cluster.conninfo().replace("user=postgres", ""));
        format!("conninfo = {conninfo}\nbackup_method = postgres\narchiver = on")
    };
    scene.add("weak", &section("half"));
    // With an empty archive Barman would try to switch the WAL file, and give up over it.
    let wals = scene.barman.server_dir("weak").join("wals");
    std::fs::create_dir_all(&wals).unwrap();
    std::fs::write(wals.join("weak-xlog.db"), "000000010000000000000001\t5\t1795342542.25\tNone\tNone\n")
        .unwrap();
    testkit::unprivileged_user().take_over(&scene.barman.home());
    let found = scene.compare("weak");
    assert_eq!(found["no_access_to_backup_functions"]["status"], "FAILED");
    // Barman itself gives up on a user with fewer rights.
    scene.add("weak", &section("weak"));
    let run = scene.barkeep(&["check", "weak"]).exits_with(1);
    assert!(run.stdout.contains("\t\tgrant the user of conninfo pg_monitor"), "{run:#?}");
    assert!(run.stdout.contains("\tPostgreSQL streaming: FAILED"), "{run:#?}");
}

#[test]
fn a_server_copied_over_ssh_is_checked_as_barman_checks_it() {
    testkit::require_pg!(15);
    testkit::require_pg!(13);
    testkit::require_barman!();
    testkit::require_sshd!();
    let sshd = Sshd::start();
    let scene = Scene::new();
    let ssh = sshd.ssh_command();
    let archiving =
        Cluster::builder(15).setting("archive_mode", "on").setting("archive_command", "true").start();
    let options = |cluster: &Cluster, more: &str| {
        format!(
            "conninfo = {}\nssh_command = {ssh}\nbackup_method = rsync\narchiver = on\n{more}",
            cluster.conninfo()
        )
    };
    scene.add("copied", &options(&archiving, "backup_options = concurrent_backup"));
    let found = scene.compare("copied");
    assert_eq!(found["ssh"]["hint"], "PostgreSQL server");
    let old = Cluster::builder(13).setting("archive_mode", "off").start();
    scene.add("copied", &options(&old, "backup_options = exclusive_backup"));
    let found = scene.compare("copied");
    assert_eq!(found["exclusive_backup_supported"]["status"], "OK");
    scene.add("copied", &options(&archiving, "backup_options = exclusive_backup"));
    scene.compare("copied");
    // Barman can't be given a wrapper like this.
    scene.add(
        "noisy",
        &options(&archiving, "").replace(&ssh, &format!("sh -c 'echo hello; {ssh} \"$@\"' ssh")),
    );
    let run = scene.barkeep(&["check", "noisy"]).exits_with(1);
    assert!(run.stdout.contains("\tssh: OK (PostgreSQL server)\n\tssh output clean: FAILED ("), "{run:#?}");
    let nowhere = "ssh -o BatchMode=yes -o ConnectTimeout=2 -p 1 127.0.0.1";
    scene.add("far", &options(&archiving, "").replace(&ssh, nowhere));
    assert_eq!(scene.compare("far")["ssh"]["status"], "FAILED");
    scene.add("passive", &format!("primary_ssh_command = {ssh}"));
    let found = scene.compare("passive");
    assert_eq!(found["ssh"]["hint"], "Barman primary node");
}

#[test]
fn servers_that_cannot_be_asked_have_the_lines_that_barman_gives_them() {
    testkit::require_barman!();
    let scene = Scene::new();
    let tools = testkit::client_tool("pg_basebackup", 15).unwrap();
    let tools = tools.parent().unwrap().display();
    let down = format!(
        "conninfo = host=/nonexistent user=x\nbackup_method = postgres\nstreaming_archiver = on\nslot_name = s\npath_prefix = {tools}"
    );
    scene.add("down", &down);
    scene.compare("down");
    scene.add("resting", "active = off\nconninfo = host=/nonexistent");
    scene.compare("resting");
    scene.add("wrong", "conninfo = host=/nonexistent\nbackup_method = rsync\narchiver = on");
    let found = scene.compare("wrong");
    assert_eq!(found["configuration"]["status"], "FAILED");
    let (theirs, ours) =
        (scene.barman(&["check", "--nagios", "all"]), scene.barkeep(&["check", "--nagios", "all"]));
    assert_eq!(ours.stdout.lines().next(), theirs.stdout.lines().next());
    assert_eq!(ours.code, theirs.code);
}

#[test]
fn every_failure_is_followed_by_its_cure() {
    let scene = Scene::new();
    scene.add("down", "conninfo = host=/nonexistent user=x\nbackup_method = postgres\nstreaming_archiver = on\nslot_name = s\nminimum_redundancy = 1\ncustom_compression_magic = 0x00");
    let text = scene.barkeep(&["check", "down"]).exits_with(1).stdout;
    let lines: Vec<&str> = text.lines().collect();
    let failed: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(": FAILED")).collect();
    assert!(failed.len() > 4, "{text}");
    for at in failed {
        assert!(lines[at + 1].starts_with("\t\t"), "{}: {text}", lines[at]);
    }
    let json = scene.barkeep(&["-f", "json", "check", "down"]).exits_with(1).json();
    let notes = json["_INFO"].as_array().unwrap();
    assert!(
        notes.iter().any(|note| note
            .as_str()
            .unwrap()
            .starts_with("down: minimum redundancy requirements: take one")),
        "{json}"
    );
    assert!(
        notes.iter().any(|note| note == "down: configuration keys without effect: custom_compression_magic"),
        "{json}"
    );
}

#[test]
fn servers_are_checked_at_the_same_time() {
    // Listeners that accept and never answer.
    let listeners: Vec<_> = (0..6).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let scene = Scene::new();
    for (number, listener) in listeners.iter().enumerate() {
        let port = listener.local_addr().unwrap().port();
        scene.add(
            &format!("silent{number}"),
            &format!("conninfo = host=127.0.0.1 port={port} user=x sslmode=disable\nbackup_method = postgres\narchiver = on"),
        );
    }
    let started = std::time::Instant::now();
    let run = scene.barkeep(&["check", "all", "--check-timeout", "5"]).exits_with(1);
    // One after the other, it would be 30 seconds.
    assert!(started.elapsed() < std::time::Duration::from_secs(27), "{:?}", started.elapsed());
    let headings: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with("Server ")).collect();
    assert_eq!(headings.len(), 6, "{run:#?}");
    assert!(headings.is_sorted());
    assert_eq!(run.stdout.matches("\tcheck timeout: FAILED").count(), 6, "{run:#?}");
}
