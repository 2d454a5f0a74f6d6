//! Copies of files that are compressed one by one (`backup_compression` with `backup_method = rsync`).

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use barkeep_catalog::{BackupInfo, Catalog, Layout, Status};
use testkit::{Barman, Cluster, Sshd};

use crate::restore_scene::{Scene, state};
use crate::support::{Home, Run, barkeep};

const COMPRESSIONS: [(&str, &str); 3] = [("gzip", "gz"), ("lz4", "lz4"), ("zstd", "zst")];

fn newest(home: &Home) -> BackupInfo {
    let catalog = Catalog::new(Layout::new("main", &home.join("main"), home.path()));
    catalog.backups().unwrap().by_id.into_values().next_back().unwrap()
}

fn data(home: &Home, info: &BackupInfo) -> PathBuf {
    home.join("main/base").join(info.id.to_string()).join("data")
}

/// Names in a directory that end so.
fn named(directory: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(end)).collect();
    paths.sort();
    paths
}

fn restores(major: u32, (compression, suffix): (&str, &str), method: &[(&str, &str)]) {
    let configure = |mut home: Home| {
        for (key, value) in method.iter().chain(&[("backup_compression", compression)]) {
            home.set("main", key, value);
        }
        home
    };
    let scene = Scene::with(Cluster::builder(major).checksums(true), configure);
    let before = state(&scene.cluster);
    let info = newest(&scene.home);
    assert_eq!(info.status, Status::Done);
    assert_eq!(info.compression.as_deref(), Some(&format!("{compression}-files")[..]));
    let copy = data(&scene.home, &info);
    assert!(!named(&copy.join("base/1"), &format!(".{suffix}")).is_empty());
    assert!(info.size.unwrap() < info.cluster_size.unwrap() / 2, "{info:#?}");
    scene.home.run(["verify-backup", "main", "latest"]).success();
    scene.home.run(["list-backups", "main"]).success();
    scene.archive();
    let restored = scene.recover("restored", &[]);
    assert_eq!(state(&restored), before);
    // Over what is there, once it was spoilt.
    drop(restored);
    let destination = scene.destination("restored");
    let spoilt = destination.join("base/1/1259");
    fs::File::options().write(true).open(&spoilt).unwrap().write_all_at(b"spoilt", 9000).unwrap();
    let again = scene.recover("restored", &["--delta-restore"]);
    assert_eq!(state(&again), before);
}

#[test]
fn every_compression_is_verified_and_restores() {
    for (major, compression) in [13, 15, 18].into_iter().zip(COMPRESSIONS) {
        if testkit::want_pg(major) {
            restores(major, compression, &[("backup_method", "local-rsync")]);
        }
    }
}

#[test]
fn over_ssh_it_is_the_same() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let sshd = Sshd::start();
    let command = sshd.ssh_command();
    let method = [
        ("backup_method", "rsync"),
        ("ssh_command", &command[..]),
        ("network_compression", "true"),
        ("manifest_checksums", "SHA256"),
    ];
    restores(15, COMPRESSIONS[2], &method);
}

#[test]
fn they_are_linked_by_the_next_backup_and_decompressed_by_one_that_compresses_nothing() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).checksums(true).start();
    cluster.execute("create table t as select generate_series(1, 20000) as n, repeat('x', 200) as filler");
    cluster.execute("checkpoint");
    let mut home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "backup_method", "local-rsync")
        .with("main", "backup_compression", "zstd")
        .with("main", "reuse_backup", "link");
    home.run(["backup", "main"]).success();
    let first = newest(&home);
    home.run(["backup", "main"]).success();
    let second = newest(&home);
    let t = format!("{}.zst", cluster.value("select pg_relation_filepath('t')"));
    let inode = |info: &BackupInfo| fs::metadata(data(&home, info).join(&t)).unwrap().ino();
    // As young as they are, their content was compared.
    assert_eq!(inode(&first), inode(&second));
    assert!(second.deduplicated_size.unwrap() < first.size.unwrap() / 4, "{second:#?}");
    home.set("main", "backup_compression", "none");
    home.run(["backup", "main"]).success();
    let plain = newest(&home);
    assert_eq!(plain.compression, None);
    assert!(named(&data(&home, &plain).join("base/1"), ".zst").is_empty());
    home.set("main", "backup_compression", "gzip");
    home.run(["backup", "main"]).success();
    assert_eq!(newest(&home).compression.as_deref(), Some("gzip-files"));
    for backup in [&first, &second, &plain, &newest(&home)] {
        home.run(["verify-backup", "main", &backup.id.to_string(), "--no-parse-wal"]).success();
    }
}

#[test]
fn damage_is_found_and_named_by_the_files_own_name() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "backup_method", "local-rsync")
        .with("main", "backup_compression", "zstd");
    home.run(["backup", "main"]).success();
    let files = named(&data(&home, &newest(&home)).join("base/1"), ".zst");
    // A byte of a block, a cut, and one that is gone.
    fs::File::options().write(true).open(&files[0]).unwrap().write_all_at(b"\xff\xff", 100).unwrap();
    fs::File::options().write(true).open(&files[1]).unwrap().set_len(50).unwrap();
    fs::remove_file(&files[2]).unwrap();
    let run = home.run(["verify-backup", "main", "latest", "--no-parse-wal"]).exits_with(1);
    for file in &files[..3] {
        let own = format!("base/1/{}", file.file_stem().unwrap().to_str().unwrap());
        assert!(run.stderr.contains(&own), "{own}: {run:#?}");
    }
    assert!(run.stderr.contains("3 faults"), "{run:#?}");
    let run = home.run(["restore", "main", "latest", home.join("restored").to_str().unwrap()]);
    assert_ne!(run.code, Some(0), "{run:#?}");
    assert!(!home.join("restored").exists());
}

#[test]
fn barman_lists_them_refuses_to_restore_them_and_goes_on() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let cluster = Cluster::builder(15).checksums(true).start();
    cluster.execute("create table kept as select generate_series(1, 1000) as id");
    let barman = Barman::new();
    let options = "backup_method = local-rsync\nimmediate_checkpoint = true\nreuse_backup = link\n";
    barman.add_server("main", &cluster, options);
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(barman.config_path()).args(words).current_dir(barman.home());
        testkit::unprivileged_user().run_as(&mut command);
        Run::of(&mut command).success()
    };
    let receiver = barman.start_receiver("main", &cluster);
    barman.wait_for_first_wal("main", &cluster);
    barman.add_server("main", &cluster, &format!("{options}backup_compression = zstd\n"));
    run(&["backup", "main", "--wait", "--wait-timeout", "60"]);
    barman.add_server("main", &cluster, options);
    let shown = barman.run(&["show-backup", "main", "latest"]);
    assert!(shown.contains("DONE"), "{shown}");
    assert!(barman.run(&["list-backups", "main"]).contains("main 20"));
    let destination = barman.new_dir("restored");
    let refused = barman.try_run(&["restore", "main", "latest", destination.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("Unexpected compression format: zstd-files"), "{said}");
    assert!(!destination.join("global/pg_control").exists());
    // Barman's own on top of it, by rsync: no file of ours is taken for one of its.
    if std::process::Command::new("rsync").arg("--version").output().is_ok() {
        barman.run(&["backup", "main"]);
        cluster.switch_wal();
        run(&["verify-backup", "main", "first"]);
        let base = barman.server_dir("main").join("base");
        let mut ids: Vec<_> = fs::read_dir(&base).unwrap().map(|entry| entry.unwrap().path()).collect();
        ids.sort();
        assert_eq!(ids.len(), 2);
        assert!(named(&ids[1].join("data/base/1"), ".zst").is_empty());
        let kept = cluster.value("select pg_relation_filepath('pg_class')");
        assert_eq!(
            fs::read(ids[1].join("data").join(&kept)).unwrap(),
            fs::read(cluster.data_dir().join(&kept)).unwrap()
        );
    }
    drop(receiver);
    barman.run(&["delete", "main", "oldest"]);
}
