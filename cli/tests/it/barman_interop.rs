//! Barman itself as the judge: homes go from one tool to the other and back, and both say the same of them.

use std::process::{Child, Stdio};

use serde_json::Value;
use testkit::{Barman, Cluster};

use crate::support::{Run, barkeep};

/// One home and one server, shared by both tools.
struct Shared {
    barman: Barman,
    cluster: Cluster,
}

impl Shared {
    fn new(major: u32, options: &str) -> Self {
        let cluster = Cluster::builder(major).checksums(true).start();
        let tablespace = cluster.new_dir("fast");
        cluster.execute(&format!("create tablespace fast location '{}'", tablespace.display()));
        cluster.execute("create table kept as select generate_series(1, 1000) as id");
        cluster.execute("create table spaced tablespace fast as select generate_series(1, 200) as id");
        let barman = Barman::new();
        barman.add_server("main", &cluster, &format!("immediate_checkpoint = true\n{options}"));
        Self { barman, cluster }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(self.barman.config_path()).args(arguments).stdin(Stdio::null());
        command.current_dir(self.barman.home());
        testkit::unprivileged_user().run_as(&mut command);
        command
    }

    /// Runs barkeep, which must succeed.
    #[track_caller]
    fn barkeep(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments)).success()
    }

    #[track_caller]
    fn barkeep_json(&self, arguments: &[&str]) -> Value {
        let words: Vec<&str> = ["-f", "json"].into_iter().chain(arguments.iter().copied()).collect();
        self.barkeep(&words).json()
    }

    /// Starts barkeep's receiver and waits until it streams.
    fn receiver(&self) -> Receiver {
        let mut command = self.command(&["-q", "receive-wal", "main"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        testkit::wait_for("barkeep's receiver to stream", 30, || {
            (self.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
        });
        Receiver(child)
    }

    /// Completes the segment being written and has barkeep archive what there is.
    fn barkeep_archives_all(&self) {
        self.barkeep(&["switch-wal", "main", "--force", "--archive", "--archive-timeout", "60"]);
    }

    /// A backup by barkeep with all its WAL, and a row more than it has; then nothing runs any more.
    fn back_up_with_barkeep(&self) {
        let receiver = self.receiver();
        self.barkeep(&["backup", "main", "--wait", "--wait-timeout", "60"]);
        self.cluster.execute("insert into kept values (1001)");
        self.barkeep_archives_all();
        drop(receiver);
    }

    /// The same by Barman.
    fn back_up_with_barman(&self) {
        let receiver = self.barman.start_receiver("main", &self.cluster);
        self.barman.wait_for_first_wal("main", &self.cluster);
        self.barman.run(&["backup", "main"]);
        self.cluster.execute("insert into kept values (1001)");
        self.barman.archive_all("main", &self.cluster);
        drop(receiver);
    }

    /// A server started on what was restored has every row, tablespace included.
    fn check_restored(&self, destination: &std::path::Path) {
        let restored = Cluster::adopt(self.cluster.major(), destination);
        restored.wait_until_writable();
        assert_eq!(restored.value("select count(*) from kept"), "1001");
        assert_eq!(restored.value("select count(*) from spaced"), "200");
    }

    /// An empty place for a restore, and the mapping that puts the tablespace into another.
    fn destination(&self) -> (std::path::PathBuf, String) {
        let spaces = self.barman.new_dir("restored-fast");
        (self.barman.new_dir("restored"), format!("fast:{}", spaces.display()))
    }
}

struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

fn check_barman_takes_over_from_barkeep(major: u32, options: &str) {
    let shared = Shared::new(major, options);
    shared.back_up_with_barkeep();
    let (barman, cluster) = (&shared.barman, &shared.cluster);

    let list = barman.run_json(&["list-backups", "main"]);
    assert_eq!(list["main"].as_array().map(Vec::len), Some(1), "{list}");
    let shown = barman.run_json(&["show-backup", "main", "latest"]);
    assert_eq!(shown["main"]["status"], "DONE", "{shown}");
    assert_eq!(
        shown["main"]["system_id"],
        cluster.value("select system_identifier from pg_control_system()")
    );

    // Barman's own checks of what it finds, those of the running server included.
    let receiver = shared.receiver();
    let check = barman.run_json(&["check", "main"]);
    for (name, verdict) in check["main"].as_object().unwrap() {
        assert_ne!(verdict["status"], "FAILED", "{name}: {check}");
    }
    drop(receiver);
    barman.run(&["check-backup", "main", "latest"]);
    if testkit::client_tool("pg_verifybackup", major).is_some_and(|tool| {
        tool.parent()
            == testkit::client_tool("pg_basebackup", major).as_deref().and_then(std::path::Path::parent)
    }) {
        barman.run(&["verify-backup", "main", "latest"]);
    }

    let (destination, mapping) = shared.destination();
    barman.run(&["restore", "main", "latest", destination.to_str().unwrap(), "--tablespace", &mapping]);
    shared.check_restored(&destination);
}

fn check_barkeep_takes_over_from_barman(major: u32, options: &str) {
    let shared = Shared::new(major, options);
    shared.back_up_with_barman();

    let shown = shared.barkeep_json(&["show-backup", "main", "latest"]);
    assert_eq!(shown["main"]["status"], "DONE", "{shown}");
    let (destination, mapping) = shared.destination();
    shared.barkeep(&["restore", "main", "latest", destination.to_str().unwrap(), "--tablespace", &mapping]);
    shared.check_restored(&destination);
}

#[test]
fn barman_lists_shows_checks_and_restores_a_backup_made_by_barkeep() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    check_barman_takes_over_from_barkeep(15, "");
}

#[test]
fn barman_restores_from_an_archive_that_barkeep_compressed() {
    testkit::require_pg!(18);
    testkit::require_barman!();
    check_barman_takes_over_from_barkeep(18, "compression = gzip");
}

#[test]
fn barkeep_lists_shows_and_restores_a_backup_made_by_barman() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    check_barkeep_takes_over_from_barman(15, "");
}

#[test]
fn barkeep_restores_from_an_archive_that_barman_compressed() {
    testkit::require_pg!(14);
    testkit::require_barman!();
    check_barkeep_takes_over_from_barman(14, "compression = zstd");
}

#[test]
fn barman_takes_over_from_barkeeps_copies_of_files() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    check_barman_takes_over_from_barkeep(15, "backup_method = local-rsync");
}

#[test]
fn both_link_to_each_others_copies_of_files() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(15, "backup_method = local-rsync\nreuse_backup = link");
    shared.back_up_with_barkeep();
    // What was changed shortly before a backup is looked at more closely by the next.
    std::thread::sleep(std::time::Duration::from_secs(2));
    shared.back_up_with_barman();
    std::thread::sleep(std::time::Duration::from_secs(2));
    shared.back_up_with_barkeep();
    let list = shared.barman.run_json(&["list-backups", "main"]);
    let ids: Vec<&str> =
        list["main"].as_array().unwrap().iter().rev().map(|one| one["backup_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3, "{list}");
    let file = shared.cluster.value("select pg_relation_filepath('pg_proc')");
    let inode = |id: &str| {
        use std::os::unix::fs::MetadataExt;
        let base = shared.barman.server_dir("main").join("base");
        std::fs::metadata(base.join(id).join("data").join(&file)).unwrap().ino()
    };
    assert_eq!(inode(ids[0]), inode(ids[1]), "Barman on top of ours");
    assert_eq!(inode(ids[1]), inode(ids[2]), "ours on top of Barman's");
    for (number, id) in ids.iter().enumerate() {
        let destination = shared.barman.new_dir(&format!("restored{number}"));
        let spaces = shared.barman.new_dir(&format!("restored-fast{number}"));
        let mapping = format!("fast:{}", spaces.display());
        let arguments = ["restore", "main", id, destination.to_str().unwrap(), "--tablespace", &mapping];
        if number == 1 {
            shared.barkeep(&arguments);
        } else {
            shared.barman.run(&arguments);
        }
        let restored = Cluster::adopt(15, &destination);
        restored.wait_until_writable();
        assert!(restored.value("select count(*) from kept").parse::<u32>().unwrap() >= 1000);
        assert_eq!(restored.value("select count(*) from spaced"), "200");
    }
}

#[test]
fn both_say_the_same_of_the_same_home() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(15, "compression = gzip\nretention_policy = REDUNDANCY 2");
    shared.back_up_with_barkeep();
    let receiver = shared.receiver();
    // At the very end of a segment, Barman names the one before as the current one.
    shared.cluster.execute("insert into kept values (1002)");
    for arguments in [
        &["list-servers"][..],
        &["list-servers", "--minimal"],
        &["list-backups", "main"],
        &["list-backups", "all"],
        &["list-backups", "main", "--minimal"],
        &["show-backup", "main", "latest"],
        &["show-backup", "main", "oldest"],
        &["status", "main"],
    ] {
        let (theirs, ours) = (shared.barman.run_json(arguments), shared.barkeep_json(arguments));
        assert_eq!(differences("", &theirs, &ours), Vec::<String>::new(), "{arguments:?}");
        let (theirs, ours) = (shared.barman.run(arguments), shared.barkeep(arguments).stdout);
        assert_eq!(theirs, ours, "{arguments:?}");
    }
    let (theirs, ours) =
        (shared.barman.run_json(&["check", "main"]), shared.barkeep_json(&["check", "main"]));
    assert_eq!(differences("", &theirs, &ours), Vec::<String>::new());
    // What changes from moment to moment has Barman's keys at least, and few more.
    for arguments in [
        &["-f", "json", "show-servers", "main"][..],
        &["-f", "json", "list-files", "main", "latest", "--target", "full"],
        &["-f", "json", "replication-status", "main"],
        &["diagnose"],
        &["diagnose", "--show-config-source"],
    ] {
        let read = |text: &str| keys(&serde_json::from_str(text).unwrap());
        let theirs = read(&shared.barman.run(arguments));
        let ours = read(&shared.barkeep(arguments).stdout);
        let missing: Vec<&String> = theirs.difference(&ours).collect();
        assert!(missing.is_empty(), "{arguments:?}: {missing:?}");
        let own = |key: &&String| !OWN_KEYS.iter().any(|own| key.split('/').any(|part| part == *own));
        let more: Vec<&String> = ours.difference(&theirs).filter(own).collect();
        assert!(more.is_empty(), "{arguments:?}: {more:?}");
    }
    drop(receiver);
}

#[test]
fn both_write_the_same_records_of_the_same_server() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(15, "compression = gzip");
    shared.back_up_with_barman();
    let theirs = backup_info(&shared);
    let their_wal = wal_list(&shared);
    shared.back_up_with_barkeep();
    let ours = backup_info(&shared);
    let our_wal = wal_list(&shared);

    let keys = |info: &[(String, String)]| info.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&theirs), keys(&ours));
    for ((key, their_value), (_, our_value)) in theirs.iter().zip(&ours) {
        if !VARYING_KEYS.contains(&key.as_str()) {
            assert_eq!(their_value, our_value, "{key}");
        } else if key != "backup_label" {
            assert_eq!(shape(their_value), shape(our_value), "{key}: {their_value} / {our_value}");
        }
    }
    assert_eq!(label_keys(&theirs), label_keys(&ours));
    // What Barman had listed is untouched, and the new lines are of the same kind.
    assert_eq!(our_wal[..their_wal.len()], their_wal[..]);
    assert!(our_wal.len() > their_wal.len());
    for line in &our_wal {
        let columns: Vec<&str> = line.split('\t').collect();
        assert_eq!(columns.len(), 5, "{line}");
        assert_eq!(columns[3..], ["gzip", "None"], "{line}");
    }
}

#[test]
fn barman_goes_on_receiving_where_barkeep_stopped_and_back_again() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(15, "");
    shared.back_up_with_barkeep();
    // A segment that is half received is the other's to complete.
    let write = || shared.cluster.execute("insert into kept values (1002)");
    let receiver = shared.barman.start_receiver("main", &shared.cluster);
    write();
    shared.cluster.switch_wal();
    write();
    drop(receiver);
    let receiver = shared.receiver();
    write();
    shared.barkeep_archives_all();
    drop(receiver);

    let shown = shared.barman.run_json(&["show-backup", "main", "latest"]);
    assert_eq!(shown["main"]["status"], "DONE", "{shown}");
    let (destination, mapping) = shared.destination();
    shared.barkeep(&["restore", "main", "latest", destination.to_str().unwrap(), "--tablespace", &mapping]);
    let restored = Cluster::adopt(15, &destination);
    restored.wait_until_writable();
    assert_eq!(restored.value("select count(*) from kept"), "1004");
}

/// Values that two backups of one server cannot share.
const VARYING_KEYS: &[&str] = &[
    "begin_offset",
    "begin_time",
    "begin_wal",
    "begin_xlog",
    "cluster_size",
    "copy_stats",
    "deduplicated_size",
    "end_offset",
    "end_time",
    "end_wal",
    "end_xlog",
    "size",
    "backup_label",
];

/// A value with every number and word replaced: what is left is how it is written.
fn shape(value: &str) -> String {
    let mut shape = String::new();
    for c in value.chars() {
        let c = if c.is_ascii_alphanumeric() { '#' } else { c };
        if c != '#' || !shape.ends_with('#') {
            shape.push(c);
        }
    }
    shape
}

/// The newest `backup.info`, as keys and values.
fn backup_info(shared: &Shared) -> Vec<(String, String)> {
    let files = std::fs::read_dir(shared.barman.server_dir("main").join("meta")).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with("-backup.info"));
    paths.sort();
    let text = std::fs::read_to_string(paths.last().unwrap()).unwrap();
    text.lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// The first words of the lines of the backup label, which is kept as one quoted text.
fn label_keys(info: &[(String, String)]) -> Vec<String> {
    let (_, label) = info.iter().find(|(key, _)| key == "backup_label").unwrap();
    label.split("\\n").map(|line| line.split(':').next().unwrap().to_owned()).collect()
}

fn wal_list(shared: &Shared) -> Vec<String> {
    let text = std::fs::read_to_string(shared.barman.server_dir("main").join("wals/main-xlog.db")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Keys of barkeep's own.
const OWN_KEYS: [&str; 9] = [
    "agent",
    "backup_schedule",
    "barkeep_ver",
    "drill_check",
    "drill_schedule",
    "hook_timeout",
    "manifest_checksums",
    "notify",
    "wal_verify",
];

/// The paths of all keys of a JSON value; of lists, those of the first element.
fn keys(value: &Value) -> std::collections::BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = format!("{path}/{key}");
                    walk(value, &path, found);
                    found.insert(path);
                }
            }
            Value::Array(items) => items.iter().take(1).for_each(|item| walk(item, path, found)),
            _ => {}
        }
    }
    let mut found = std::collections::BTreeSet::new();
    walk(value, "", &mut found);
    found
}

/// Where two JSON values differ: one line each.
fn differences(path: &str, theirs: &Value, ours: &Value) -> Vec<String> {
    match (theirs, ours) {
        (Value::Object(left), Value::Object(right)) => {
            let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
            keys.sort();
            keys.dedup();
            let none = Value::String("(missing)".to_owned());
            let get = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).unwrap_or(&none).clone();
            keys.iter()
                .flat_map(|key| differences(&format!("{path}/{key}"), &get(left, key), &get(right, key)))
                .collect()
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            let pairs = left.iter().zip(right).enumerate();
            pairs.flat_map(|(at, (left, right))| differences(&format!("{path}/{at}"), left, right)).collect()
        }
        _ if theirs == ours => Vec::new(),
        _ => vec![format!("{path}: Barman {theirs}, barkeep {ours}")],
    }
}
