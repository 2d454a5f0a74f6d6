//! Restores to another machine (`--remote-ssh-command`): over what is there, out of archives, cut off and completed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use testkit::{Cluster, Sshd, StopMode, TestDir};

use crate::packed_backups::Packed;
use crate::restore_scene::{Scene, state};
use crate::support::Run;

/// Another machine, which is this one by another name.
struct Far {
    sshd: Sshd,
    dir: TestDir,
}

impl Far {
    fn new() -> Self {
        let far = Far { sshd: Sshd::start(), dir: TestDir::new() };
        testkit::unprivileged_user().take_over(far.dir.path());
        far
    }

    fn data(&self) -> PathBuf {
        self.dir.join("it's far")
    }

    /// What is typed behind `barkeep`.
    fn words(&self, id: &str, options: &[&str]) -> Vec<String> {
        let command = self.sshd.ssh_command();
        let spaces = ["fast", "slow"].map(|name| format!("{name}:{}", self.dir.join(name).display()));
        let mut words = vec!["restore", "main", id];
        let data = self.data();
        words.extend([data.to_str().unwrap(), "--remote-ssh-command", &command]);
        words.extend(["--tablespace", &spaces[0]]);
        words.extend(options);
        words.into_iter().map(str::to_owned).collect()
    }

    fn restore(&self, scene: &Scene, options: &[&str]) -> Run {
        let slow = format!("slow:{}", self.dir.join("slow").display());
        let options: Vec<&str> = ["--tablespace", &slow].iter().chain(options).copied().collect();
        scene.home.run(self.words(&scene.backup_id, &options))
    }
}

/// All files beneath a directory, but for WAL and what differs between any two restores.
fn picture(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut pending) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = pending.pop() {
        let name = path.strip_prefix(directory).unwrap().to_owned();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() && name != Path::new("pg_wal") {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Files that a restore takes over as they are have the times that the backup's have, as rsync leaves them.
#[track_caller]
fn keeps_times(stored: &Path, restored: &Path) {
    for name in ["PG_VERSION", "global/pg_control", "base/1/1259", "pg_hba.conf"] {
        let time = |directory: &Path| fs::metadata(directory.join(name)).unwrap().modified().unwrap();
        assert_eq!(time(stored), time(restored), "{name}");
    }
}

#[test]
fn a_delta_restore_over_ssh_writes_only_what_differs() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let scene = Scene::new(Cluster::builder(15).checksums(true));
    scene.cluster.execute("create table big as select generate_series(1, 50000) as n, repeat('x', 100) as f");
    scene.home.run(["backup", "main"]).success();
    scene.archive();
    let before = state(&scene.cluster);
    let far = Far::new();
    far.restore(&scene, &[]).success();
    let first = picture(&far.data());
    let stored = scene.home.join("main/base").join(&scene.backup_id).join("data");
    keeps_times(&stored, &far.data());
    let mut restored = Cluster::adopt(15, &far.data());
    restored.wait_until_writable();
    let run = far.restore(&scene, &["--delta-restore"]).exits_with(1);
    assert!(
        run.stderr.contains("a server is running on") && run.stderr.contains("nothing was touched"),
        "{run:#?}"
    );
    // What happens in a day, and what somebody puts there.
    restored.execute("update bulk set n = n + 1; create table late as select generate_series(1, 5000) as n");
    restored.execute("create database second");
    restored.stop(StopMode::Fast);
    drop(restored);
    let mine = far.data().join("server.crt");
    fs::write(&mine, "mine").unwrap();
    fs::hard_link(far.data().join("base/1/1259"), far.dir.join("snapshot")).unwrap();
    let snapshot = fs::read(far.dir.join("snapshot")).unwrap();
    testkit::unprivileged_user().take_over(&mine);
    let slow = format!("slow:{}", far.dir.join("slow").display());
    let words = far.words(&scene.backup_id, &["--tablespace", &slow, "--delta-restore"]);
    let json = scene.home.run(["-f".to_owned(), "json".to_owned()].into_iter().chain(words));
    let json = json.success().json();
    let delta = &json["delta_restore"];
    let number = |key: &str| delta[key].as_u64().unwrap();
    assert!(number("bytes_written") < number("bytes_compared") / 4, "{json}");
    assert!(number("files_removed") > 0, "{json}");
    assert!(delta["left_alone"].to_string().contains("server.crt"), "{json}");
    // Somebody else's name for a file still has what it had.
    assert_eq!(fs::read(far.dir.join("snapshot")).unwrap(), snapshot);
    assert_ne!(
        fs::metadata(far.dir.join("snapshot")).unwrap().ino(),
        fs::metadata(far.data().join("base/1/1259")).unwrap().ino()
    );
    fs::remove_file(&mine).unwrap();
    assert!(picture(&far.data()) == first, "the same as in an empty directory");
    keeps_times(&stored, &far.data());
    let restored = Cluster::adopt(15, &far.data());
    restored.wait_until_writable();
    assert_eq!(state(&restored), before);
}

#[test]
fn another_cluster_is_not_touched_over_ssh_either() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let scene = Scene::new(Cluster::builder(15));
    scene.archive();
    let mut other = Cluster::builder(15).start();
    other.stop(StopMode::Fast);
    let far = Far::new();
    fs::rename(other.data_dir(), far.data()).unwrap();
    let before = picture(&far.data());
    let run = far.restore(&scene, &["--delta-restore"]).exits_with(1);
    assert!(run.stderr.contains("holds another cluster"), "{run:#?}");
    assert!(picture(&far.data()) == before);
}

#[test]
fn archives_are_unpacked_to_another_machine_and_over_what_is_there() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let packed = Packed::new(15, "backup_compression = gzip");
    let far = Far::new();
    let restore = |options: &[&str]| {
        let words = far.words("latest", options);
        packed.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let check = || {
        let mut restored = Cluster::adopt(15, &far.data());
        restored.wait_until_writable();
        assert_eq!(restored.value("select count(*) from kept"), "1002");
        assert_eq!(restored.value("select count(*) from spaced"), "200");
        restored.stop(StopMode::Fast);
    };
    restore(&[]).success();
    check();
    restore(&["--delta-restore"]).success();
    check();
    // The archive's cluster is told by the record.
    let mut other = Cluster::builder(15).start();
    other.stop(StopMode::Fast);
    fs::rename(far.data(), far.dir.join("aside")).unwrap();
    fs::rename(other.data_dir(), far.data()).unwrap();
    let run = restore(&["--delta-restore"]).exits_with(1);
    assert!(run.stderr.contains("holds another cluster"), "{run:#?}");
}

#[test]
fn killed_at_random_it_is_completed_by_another_try() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let scene = Scene::new(Cluster::builder(15));
    scene.archive();
    let far = Far::new();
    far.restore(&scene, &["--skip-archive-wal"]).success();
    let whole = picture(&far.data());
    let seed = u64::from(std::process::id());
    for round in 0..4_u64 {
        for name in ["it's far", "fast", "slow"] {
            fs::remove_dir_all(far.dir.join(name)).unwrap();
        }
        for kill in 0..3_u64 {
            let slow = format!("slow:{}", far.dir.join("slow").display());
            let mut words = far.words(
                &scene.backup_id,
                &["--skip-archive-wal", "--bwlimit", "30000", "--tablespace", &slow],
            );
            if kill > 0 {
                words.push("--delta-restore".to_owned());
            }
            let mut command = scene.home.command();
            let mut child = command.args(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let milliseconds = (seed * 7919 + round * 104_729 + kill * 1301) % 1500;
            std::thread::sleep(Duration::from_millis(milliseconds));
            let _ = child.kill();
            child.wait().unwrap();
            // The agent ends with its client, and its lock with it.
            testkit::wait_for("the agent to end", 30, || {
                let agents = String::from_utf8(
                    std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap().stdout,
                );
                let place = far.dir.path().to_str().unwrap().to_owned();
                let at_work = |line: &str| line.contains(" agent ") && line.contains(&place);
                (!agents.unwrap().lines().any(at_work)).then_some(())
            });
        }
        far.restore(&scene, &["--skip-archive-wal", "--delta-restore"]).success();
        assert!(picture(&far.data()) == whole, "seed {seed}, round {round}");
    }
    let restored = Cluster::adopt(15, &far.data());
    restored.wait_until_writable();
    assert_eq!(state(&restored), state(&scene.cluster));
}
