//! Copies of files that are killed at random moments, while the server goes on, and resumed: they restore like any other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::{Cluster, Sshd, StopMode, wait_for};

use crate::restore_scene::{Scene, state};
use crate::support::{Home, Run};

/// How often a copy is killed before it may end.
const KILLS: u64 = 3;

/// How many copies of each kind are killed: one unless `KILL_SEEDS` says more.
fn seeds() -> u64 {
    std::env::var("KILL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The newest backup's id and directory.
fn newest(home: &Home) -> Option<(String, PathBuf)> {
    let mut names = crate::stored::names(home.join("main/base"));
    names.retain(|name| name.len() == 15);
    let name = names.pop()?;
    let path = home.join("main/base").join(&name);
    Some((name, path))
}

/// How many files there are below a directory that is being filled.
fn count(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn check(configure: impl FnOnce(Home) -> Home) {
    let mut scene = Scene::with(Cluster::builder(15).checksums(true), configure);
    let files = count(&newest(&scene.home).unwrap().1);
    for seed in 0..seeds() {
        let before = newest(&scene.home).unwrap().0;
        for kill in 0..KILLS {
            let mut command = scene.home.command();
            command.args(["-q", "backup", "main", "--bwlimit", "20000"]);
            if newest(&scene.home).unwrap().0 != before {
                command.arg("--resume");
            }
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let after = (seed * 7919 + kill * 104_729 + 17) * 48_271 % files;
            wait_for("some files to be there", 60, || {
                let so_far = newest(&scene.home).filter(|(name, _)| *name != before);
                let there = so_far.map_or(0, |(_, directory)| count(&directory));
                (there >= after || child.try_wait().unwrap().is_some()).then_some(())
            });
            let _ = child.kill();
            child.wait().unwrap();
            // What has been copied is not what it was.
            scene.cluster.execute("update log set v = v + 1; insert into bulk values (0); checkpoint");
        }
        let resumed = scene.home.run(["backup", "main", "--resume"]);
        if resumed.code != Some(0) {
            // One of them was killed too late, or none had begun.
            assert!(resumed.stderr.contains("no failed copy of files"), "{resumed:#?}");
            scene.home.run(["backup", "main"]).success();
        }
        let (name, directory) = newest(&scene.home).unwrap();
        assert_ne!(name, before);
        if let Some(tool) = testkit::client_tool("pg_verifybackup", 15) {
            Run::of(Command::new(tool).arg("--no-parse-wal").arg(directory.join("data"))).success();
        }
        scene.home.run(["verify-backup", "--no-parse-wal", "main", &name]).success();
        scene.backup_id = name;
        scene.archive();
        let mut restored = scene.recover(&format!("restored{seed}"), &[]);
        assert_eq!(state(&restored), state(&scene.cluster), "seed {seed}");
        restored.stop(StopMode::Fast);
    }
}

#[test]
fn a_local_copy_that_is_killed_at_random_ends_as_any_other() {
    testkit::require_pg!(15);
    check(|home| home.with("main", "backup_method", "local-rsync"));
}

#[test]
fn a_copy_over_ssh_that_is_killed_at_random_ends_as_any_other() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let sshd = Sshd::start();
    let command = sshd.ssh_command();
    check(|home| home.with("main", "backup_method", "rsync").with("main", "ssh_command", &command));
}
