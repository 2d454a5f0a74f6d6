//! Backups by copying files, local and over SSH, judged by PostgreSQL's own tools and by servers started on what was restored.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use barkeep_catalog::{BackupInfo, Catalog, Layout, Status};
use testkit::{Cluster, Sshd};

use crate::restore_scene::{Scene, state};
use crate::support::{Home, Run};

fn local(home: Home) -> Home {
    home.with("main", "backup_method", "local-rsync")
}

fn newest(home: &Home) -> BackupInfo {
    let catalog = Catalog::new(Layout::new("main", &home.join("main"), home.path()));
    catalog.backups().unwrap().by_id.into_values().next_back().unwrap()
}

fn data(home: &Home, info: &BackupInfo) -> PathBuf {
    home.join("main/base").join(info.id.to_string()).join("data")
}

/// `pg_verifybackup`, where there is one for this major, has no fault to find.
#[track_caller]
fn postgres_accepts(major: u32, data: &Path) {
    let Some(tool) = testkit::client_tool("pg_verifybackup", major) else { return };
    Run::of(Command::new(tool).arg("--no-parse-wal").arg(data)).success();
}

/// A server called `main` with checksums and something in it.
fn cluster_and_home(major: u32) -> (Cluster, Home) {
    let cluster = Cluster::builder(major).checksums(true).start();
    cluster.execute("create table t as select generate_series(1, 20000) as n, repeat('x', 200) as filler");
    let home = local(Home::new().server("main", &cluster.conninfo()));
    (cluster, home)
}

fn restores_like_any_other(major: u32, configure: impl FnOnce(Home) -> Home) {
    let scene = Scene::with(Cluster::builder(major).checksums(true), configure);
    let before = state(&scene.cluster);
    let info = newest(&scene.home);
    assert_eq!((info.status, info.mode.as_deref()), (Status::Done, Some("rsync-concurrent")));
    let copy = data(&scene.home, &info);
    postgres_accepts(major, &copy);
    scene.home.run(["verify-backup", "main", "latest"]).success();
    assert!(copy.join("tablespace_map").exists() && copy.join("backup_label").exists());
    for left_out in ["postmaster.pid", "postmaster.opts"] {
        assert!(!copy.join(left_out).exists(), "{left_out}");
    }
    assert_eq!(fs::read_dir(copy.join("pg_wal")).unwrap().count(), 0);
    scene.archive();
    let restored = scene.recover("restored", &[]);
    assert_eq!(state(&restored), before);
}

#[test]
fn a_local_copy_of_every_version_is_accepted_and_restores() {
    for major in [13, 14, 15, 16, 17, 18] {
        if testkit::want_pg(major) {
            restores_like_any_other(major, local);
        }
    }
}

#[test]
fn a_copy_over_ssh_brings_its_agent_along_and_restores() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let sshd = Sshd::start();
    let over_ssh = |home: Home| {
        home.with("main", "backup_method", "rsync").with("main", "ssh_command", &sshd.ssh_command()).with(
            "main",
            "network_compression",
            "true",
        )
    };
    restores_like_any_other(15, over_ssh);
    // One for the backup, however large.
    let logins = sshd.log().matches("Accepted publickey").count();
    assert!(logins <= 1, "{logins} connections:\n{}", sshd.log());
}

#[test]
fn an_exclusive_backup_of_an_old_version_restores() {
    testkit::require_pg!(13);
    let scene = Scene::with(Cluster::builder(13), |home| {
        local(home).with("main", "backup_options", "exclusive_backup")
    });
    let info = newest(&scene.home);
    assert_eq!(info.mode.as_deref(), Some("rsync-exclusive"));
    assert!(info.backup_label.unwrap().contains("START WAL LOCATION"));
    scene.archive();
    let restored = scene.recover("restored", &[]);
    assert_eq!(state(&restored), state(&scene.cluster));
    assert_eq!(scene.cluster.value("select pg_is_in_backup()"), "f");
}

#[test]
fn exclusive_backups_of_new_versions_are_refused() {
    testkit::require_pg!(15);
    let (_cluster, mut home) = cluster_and_home(15);
    home.set("main", "backup_options", "exclusive_backup");
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("PostgreSQL 15 has no exclusive backups"), "{run:#?}");
}

#[test]
fn unlogged_tables_are_copied_as_their_init_forks() {
    testkit::require_pg!(15);
    let (cluster, home) = cluster_and_home(15);
    cluster.execute("create unlogged table u as select generate_series(1, 1000) as n");
    cluster.execute("checkpoint");
    home.run(["backup", "main"]).success();
    let copy = data(&home, &newest(&home));
    let path = cluster.value("select pg_relation_filepath('u')");
    assert!(cluster.data_dir().join(&path).exists());
    assert!(!copy.join(&path).exists() && copy.join(format!("{path}_init")).exists());
    postgres_accepts(15, &copy);
}

#[test]
fn configuration_outside_of_the_data_directory_comes_along() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).start();
    let elsewhere = cluster.new_dir("it's elsewhere");
    let hba = elsewhere.join("my hba.conf");
    fs::rename(cluster.data_dir().join("pg_hba.conf"), &hba).unwrap();
    testkit::unprivileged_user().take_over(&elsewhere);
    cluster.set("hba_file", hba.to_str().unwrap());
    cluster.restart();
    let home = local(Home::new().server("main", &cluster.conninfo()));
    home.run(["backup", "main"]).success();
    let copy = data(&home, &newest(&home));
    assert_eq!(fs::read(copy.join("my hba.conf")).unwrap(), fs::read(&hba).unwrap());
    postgres_accepts(15, &copy);
    // Another of the same name would lie at the same place.
    let other = cluster.new_dir("other");
    let ident = other.join("my hba.conf");
    fs::copy(cluster.data_dir().join("pg_ident.conf"), &ident).unwrap();
    testkit::unprivileged_user().take_over(&other);
    cluster.set("ident_file", ident.to_str().unwrap());
    cluster.restart();
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("have one name"), "{run:#?}");
}

#[test]
fn damaged_pages_are_named_and_the_backup_is_marked() {
    testkit::require_pg!(15);
    let (mut cluster, home) = cluster_and_home(15);
    let file = cluster.value("select pg_relation_filepath('t')");
    cluster.stop(testkit::StopMode::Fast);
    let target = fs::File::options().write(true).open(cluster.data_dir().join(&file)).unwrap();
    target.write_all_at(b"spoilt", 3 * 8192 + 4000).unwrap();
    cluster.start_again();
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains(&format!("block 3 in '{file}'")), "{run:#?}");
    let info = newest(&home);
    assert_eq!(info.status, Status::Failed);
    assert!(info.error.unwrap().contains(&format!("block 3 in '{file}'")));
}

#[test]
fn unchanged_files_are_linked_and_changed_ones_are_not() {
    testkit::require_pg!(15);
    let (cluster, mut home) = cluster_and_home(15);
    home.set("main", "reuse_backup", "link");
    home.run(["backup", "main"]).success();
    // What was changed shortly before a backup is looked at again by the next.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    home.run(["backup", "main"]).success();
    let first = newest(&home);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    cluster.execute("create table another as select generate_series(1, 1000)");
    cluster.execute("checkpoint");
    home.run(["backup", "main"]).success();
    let last = newest(&home);
    let t = cluster.value("select pg_relation_filepath('t')");
    let inode = |info: &BackupInfo, path: &str| fs::metadata(data(&home, info).join(path)).unwrap().ino();
    assert_eq!(inode(&first, &t), inode(&last, &t));
    assert_ne!(inode(&first, "global/pg_control"), inode(&last, "global/pg_control"));
    assert!(last.deduplicated_size.unwrap() < last.size.unwrap() / 2, "{last:#?}");
    for info in [&first, &last] {
        postgres_accepts(15, &data(&home, info));
    }
    home.run(["backup", "main", "--reuse-backup", "copy"]).success();
    let copied = newest(&home);
    assert_ne!(inode(&first, &t), inode(&copied, &t));
    postgres_accepts(15, &data(&home, &copied));
}

#[test]
fn a_copy_that_was_killed_is_gone_on_with() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let (cluster, home) = cluster_and_home(15);
    cluster.execute("create table big as select generate_series(1, 200000) as n, repeat('y', 100) as filler");
    cluster.execute("checkpoint");
    let sshd = Sshd::start();
    let mut home = home.with("main", "ssh_command", &sshd.ssh_command());
    home.set("main", "backup_method", "rsync");
    let mut command = home.command();
    let mut backup = command.args(["-q", "backup", "main", "--bwlimit", "8192"]).spawn().unwrap();
    testkit::wait_for("some files to be copied", 60, || {
        let catalog = Catalog::new(Layout::new("main", &home.join("main"), home.path()));
        let id = catalog.backups().unwrap().by_id.into_keys().next_back()?;
        let copy = home.join("main/base").join(id.to_string()).join("data/base");
        let databases = fs::read_dir(copy).ok()?.flatten();
        let files: usize = databases.map(|entry| fs::read_dir(entry.path()).unwrap().count()).sum();
        (files > 100).then_some(())
    });
    backup.kill().unwrap();
    backup.wait().unwrap();
    home.run(["backup", "main", "--resume"]).success();
    let info = newest(&home);
    assert_eq!(info.status, Status::WaitingForWals);
    postgres_accepts(15, &data(&home, &info));
}

#[test]
fn there_is_nothing_to_go_on_with_at_first() {
    testkit::require_pg!(15);
    let (_cluster, home) = cluster_and_home(15);
    let run = home.run(["backup", "main", "--resume"]).exits_with(1);
    assert!(run.stderr.contains("no failed copy of files"), "{run:#?}");
    assert_eq!(home.run(["list-backups", "main"]).success().stdout, "", "nor is anything recorded");
}

#[test]
fn a_host_that_cannot_be_reached_is_told_plainly() {
    testkit::require_pg!(15);
    let (_cluster, mut home) = cluster_and_home(15);
    home.set("main", "backup_method", "rsync");
    home.run(["backup", "main"]).exits_with(1);
    home.set("main", "ssh_command", "ssh -o ConnectTimeout=2 -p 1 127.0.0.1");
    let run = home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("the connection failed"), "{run:#?}");
    assert!(home.run(["check", "main"]).stdout.contains("\tssh: FAILED (ssh: connect"));
    assert_eq!(newest(&home).status, Status::Failed);
}

#[test]
fn a_limit_is_kept() {
    testkit::require_pg!(15);
    let (cluster, home) = cluster_and_home(15);
    let bytes: f64 = cluster.value("select sum(pg_database_size(oid)) from pg_database").parse().unwrap();
    let started = std::time::Instant::now();
    home.run(["backup", "main", "--bwlimit", "10240"]).success();
    // No faster than it may; how much slower depends on the machine.
    assert!(started.elapsed().as_secs_f64() >= 0.9 * bytes / (10240.0 * 1024.0));
}

#[test]
fn a_backup_is_restored_to_another_host() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let scene = Scene::with(Cluster::builder(15).checksums(true), local);
    scene.archive();
    let sshd = Sshd::start();
    let far = testkit::TestDir::new();
    testkit::unprivileged_user().take_over(far.path());
    let destination = far.join("it's far");
    let spaces = ["fast", "slow"].map(|name| format!("{name}:{}", far.join(name).display()));
    let command = sshd.ssh_command();
    let words = |id: &str| {
        let mut words = vec!["restore", "main", id, destination.to_str().unwrap()];
        words.extend([
            "--remote-ssh-command",
            &command,
            "--tablespace",
            &spaces[0],
            "--tablespace",
            &spaces[1],
        ]);
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    scene.home.run(words(&scene.backup_id)).success();
    // A second time there is something in the way, and it stays.
    let run = scene.home.run(words(&scene.backup_id)).exits_with(1);
    assert!(run.stderr.contains("is not empty"), "{run:#?}");
    let restored = Cluster::adopt(15, &destination);
    restored.wait_until_writable();
    assert_eq!(state(&restored), state(&scene.cluster));
    assert!(sshd.log().matches("Accepted publickey").count() <= 2, "{}", sshd.log());
}
