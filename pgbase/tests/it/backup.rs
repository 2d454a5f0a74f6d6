//! Base backups of real servers.

use std::cell::RefCell;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgbase::manifest::ChecksumAlgorithm;
use pgbase::pipeline::{UnpackError, Unpacked};
use pgbase::stream::{BackupObserver, BackupOptions, BackupStep, TakeBackupError, take_backup};
use pgwal::replication::{ConnInfo, Connection};
use testkit::{Cluster, StopMode, TestDir};

fn options() -> BackupOptions {
    BackupOptions { label: "nightly".to_owned(), immediate_checkpoint: true, ..BackupOptions::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(cluster: &Cluster) -> Connection {
    let conninfo = ConnInfo::parse(&cluster.conninfo(), &|_| None).unwrap();
    Connection::connect(&conninfo).await.unwrap()
}

/// A backup of `cluster` into `directory/backup`.
fn back_up(
    cluster: &Cluster,
    directory: &Path,
    options: &BackupOptions,
) -> Result<Unpacked, TakeBackupError> {
    back_up_watched(cluster, directory, options, &())
}

fn back_up_watched(
    cluster: &Cluster,
    directory: &Path,
    options: &BackupOptions,
    observer: &dyn BackupObserver,
) -> Result<Unpacked, TakeBackupError> {
    runtime().block_on(async {
        let connection = connect(cluster).await;
        take_backup(connection, &directory.join("backup"), options, observer).await
    })
}

/// PostgreSQL's own verdict on a backup.
fn verify_with_postgresql(major: u32, data: &Path) {
    let Some(tool) = testkit::client_tool("pg_verifybackup", major) else {
        return eprintln!("no pg_verifybackup for PostgreSQL {major}");
    };
    let run = Command::new(tool).arg("--no-parse-wal").arg("--exit-on-error").arg(data).output().unwrap();
    assert!(run.status.success(), "pg_verifybackup: {}", String::from_utf8_lossy(&run.stderr));
}

/// Some rows, in the default tablespace and in two others, and an empty relation.
fn fill(cluster: &Cluster) -> [PathBuf; 2] {
    let locations = ["ts1", "ts2"].map(|name| {
        let location = cluster.new_dir(name);
        cluster.execute(&format!("create tablespace {name} location '{}'", location.display()));
        cluster.execute(&format!(
            "create table in_{name} tablespace {name} as select generate_series(1, 5000) as n"
        ));
        location
    });
    cluster
        .execute("create table plain as select generate_series(1, 20000) as n, repeat('x', 100) as filler");
    cluster.execute("create table void (n int)");
    cluster.execute("create unlogged table volatile as select 1 as n");
    locations
}

/// Lets a backup start as a server, with the WAL it needs taken from the original.
fn start_restored(cluster: &Cluster, backup: &Path) -> Cluster {
    cluster.switch_wal();
    let user = testkit::unprivileged_user();
    for entry in std::fs::read_dir(cluster.data_dir().join("pg_wal")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), backup.join("data/pg_wal").join(entry.file_name())).unwrap();
        }
    }
    let parent = backup.parent().unwrap();
    std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut pending = vec![backup.to_owned()];
    while let Some(path) = pending.pop() {
        user.take_over(&path);
        if path.symlink_metadata().unwrap().is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    Cluster::adopt(cluster.major(), &backup.join("data"))
}

/// The whole way with two tablespaces and checksummed pages.
fn a_backup_is_whole(major: u32, manifest_checksum: ChecksumAlgorithm) {
    let cluster = Cluster::builder(major).checksums(true).segment_size_mib(1).start();
    let locations = fill(&cluster);
    let directory = TestDir::new();
    let unpacked =
        back_up(&cluster, directory.path(), &BackupOptions { manifest_checksum, ..options() }).unwrap();

    let data = directory.join("backup/data");
    verify_with_postgresql(major, &data);
    assert_eq!(unpacked.label.label, "nightly");
    assert_eq!(unpacked.label.start, unpacked.start);
    assert!(unpacked.end > unpacked.start);
    assert_eq!(unpacked.manifest.version, if major >= 17 { 2 } else { 1 });
    assert_eq!(unpacked.manifest.wal_ranges[0].start, unpacked.start);
    assert_eq!(unpacked.manifest.wal_ranges[0].end, unpacked.end);
    let mut found: Vec<_> =
        unpacked.tablespaces.iter().map(|tablespace| tablespace.location.clone()).collect();
    found.sort();
    assert_eq!(found, locations);
    for tablespace in &unpacked.tablespaces {
        let link = std::fs::read_link(data.join(format!("pg_tblspc/{}", tablespace.oid))).unwrap();
        assert_eq!(link, directory.join(format!("backup/{}", tablespace.oid)));
    }
    assert_eq!(std::fs::read_dir(data.join("pg_wal")).unwrap().count(), if major >= 17 { 2 } else { 1 });
    assert!(data.join("pg_wal/archive_status").is_dir());

    let restored = start_restored(&cluster, &directory.join("backup"));
    assert_eq!(restored.query_text("select count(*)::text from plain"), ["20000"]);
    assert_eq!(restored.query_text("select sum(n)::text from in_ts1"), ["12502500"]);
    assert_eq!(restored.query_text("select sum(n)::text from in_ts2"), ["12502500"]);
    assert_eq!(restored.query_text("select count(*)::text from volatile"), ["0"]);
}

#[test]
fn a_backup_of_postgresql_13_is_whole() {
    testkit::require_pg!(13);
    a_backup_is_whole(13, ChecksumAlgorithm::Crc32c);
}

#[test]
fn a_backup_of_postgresql_14_is_whole() {
    testkit::require_pg!(14);
    a_backup_is_whole(14, ChecksumAlgorithm::Sha256);
}

#[test]
fn a_backup_of_postgresql_15_is_whole() {
    testkit::require_pg!(15);
    a_backup_is_whole(15, ChecksumAlgorithm::Crc32c);
}

#[test]
fn a_backup_of_postgresql_16_is_whole() {
    testkit::require_pg!(16);
    a_backup_is_whole(16, ChecksumAlgorithm::None);
}

#[test]
fn a_backup_of_postgresql_17_is_whole() {
    testkit::require_pg!(17);
    a_backup_is_whole(17, ChecksumAlgorithm::Sha512);
}

#[test]
fn a_backup_of_postgresql_18_is_whole() {
    testkit::require_pg!(18);
    a_backup_is_whole(18, ChecksumAlgorithm::Sha256);
}

#[test]
fn a_cluster_under_load_is_backed_up_consistently() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).checksums(true).setting("wal_keep_size", "8GB").start();
    fill(&cluster);
    let directory = TestDir::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                cluster.execute("update plain set n = n + 1; create table if not exists t (n int); drop table t; checkpoint");
            }
        });
        let unpacked = back_up(&cluster, directory.path(), &options());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        unpacked.unwrap();
    });
    verify_with_postgresql(15, &directory.join("backup/data"));
    let restored = start_restored(&cluster, &directory.join("backup"));
    assert_eq!(restored.query_text("select count(*)::text from plain"), ["20000"]);
}

#[test]
fn a_standby_can_be_backed_up() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).checksums(true).start();
    primary.execute("create table plain as select generate_series(1, 20000) as n");
    let standby = primary.standby("standby");
    primary.execute("checkpoint");
    primary.wait_for_replay_by(&standby);
    let directory = TestDir::new();
    let unpacked = back_up(&standby, directory.path(), &options()).unwrap();
    assert_eq!(unpacked.label.from, "standby");
    verify_with_postgresql(15, &directory.join("backup/data"));
}

/// Flips a byte in the middle of block `block` of a table, behind the server's back.
fn corrupt(cluster: &mut Cluster, table: &str, block: u64) -> String {
    let file = cluster.value(&format!("select pg_relation_filepath('{table}')"));
    cluster.stop(StopMode::Fast);
    let mut handle =
        std::fs::OpenOptions::new().read(true).write(true).open(cluster.data_dir().join(&file)).unwrap();
    let mut byte = [0];
    handle.seek(SeekFrom::Start(block * 8192 + 4000)).unwrap();
    handle.read_exact(&mut byte).unwrap();
    handle.seek(SeekFrom::Start(block * 8192 + 4000)).unwrap();
    handle.write_all(&[!byte[0]]).unwrap();
    drop(handle);
    cluster.start_again();
    file
}

#[test]
fn a_corrupt_page_fails_the_backup_and_is_named() {
    for major in [13, 15, 18] {
        if !testkit::want_pg(major) {
            continue;
        }
        let mut cluster = Cluster::builder(major).checksums(true).start();
        fill(&cluster);
        let file = corrupt(&mut cluster, "plain", 7);
        let in_tablespace = corrupt(&mut cluster, "in_ts1", 3);
        let directory = TestDir::new();
        let error = back_up(&cluster, directory.path(), &options()).unwrap_err();
        let TakeBackupError::ServerFoundCorruption { pages, warnings, .. } = &error else {
            panic!("{error}")
        };
        let mut found: Vec<_> = pages.first.iter().map(|page| (page.file.clone(), page.block)).collect();
        found.sort();
        assert_eq!(found, [(file.clone(), 7), (in_tablespace, 3)]);
        assert!(warnings.iter().any(|warning| warning.contains(&file)), "{warnings:?}");
        assert!(error.to_string().contains(&format!("block 7 in '{file}'")), "{error}");
        assert!(!directory.join("backup/data/backup_manifest").exists());
    }
}

#[test]
fn without_data_checksums_pages_are_not_judged() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).checksums(false).start();
    fill(&cluster);
    corrupt(&mut cluster, "plain", 7);
    let directory = TestDir::new();
    back_up(&cluster, directory.path(), &options()).unwrap();
    verify_with_postgresql(15, &directory.join("backup/data"));
}

#[test]
fn a_server_that_dies_leaves_no_complete_backup() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).start();
    fill(&cluster);
    let directory = TestDir::new();
    // Slow enough to be killed in the middle.
    let slow = BackupOptions { max_rate_kib: Some(1024), ..options() };
    let destination = directory.join("backup");
    let outcome = std::thread::scope(|scope| {
        let conninfo = cluster.conninfo();
        let backup = scope.spawn(move || {
            runtime().block_on(async {
                let conninfo = ConnInfo::parse(&conninfo, &|_| None).unwrap();
                let connection = Connection::connect(&conninfo).await.unwrap();
                take_backup(connection, &destination, &slow, &()).await
            })
        });
        let data = directory.join("backup/data/base");
        testkit::wait_for("the backup to be under way", 20, || data.exists().then_some(()));
        cluster.kill();
        backup.join().unwrap()
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, TakeBackupError::Replication(_)), "{error}");
    assert!(!directory.join("backup/data/backup_manifest").exists());
}

#[test]
fn a_cancelled_backup_ends_the_servers_backup_mode() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    fill(&cluster);
    let directory = TestDir::new();
    let slow = BackupOptions { max_rate_kib: Some(512), ..options() };
    let cancelled = runtime().block_on(async {
        let connection = connect(&cluster).await;
        let destination = directory.join("backup");
        let backup = take_backup(connection, &destination, &slow, &());
        tokio::time::timeout(Duration::from_secs(1), backup).await
    });
    assert!(cancelled.is_err(), "it was still under way");
    testkit::wait_for("the server to notice", 30, || {
        (cluster.value("select count(*)::text from pg_stat_progress_basebackup") == "0").then_some(())
    });
    assert!(!directory.join("backup/data/backup_manifest").exists());
}

#[test]
fn a_rate_that_the_server_refuses_is_refused_before_anything_is_sent() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let directory = TestDir::new();
    for rate in [31, 1_048_577] {
        let options = BackupOptions { max_rate_kib: Some(rate), ..options() };
        let error = back_up(&cluster, &directory.join(rate.to_string()), &options).unwrap_err();
        assert!(error.to_string().contains("32 to 1048576"), "{error}");
    }
}

#[test]
fn a_second_backup_into_the_same_place_is_refused() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let directory = TestDir::new();
    back_up(&cluster, directory.path(), &options()).unwrap();
    let before = std::fs::read(directory.join("backup/data/backup_manifest")).unwrap();
    let error = back_up(&cluster, directory.path(), &options()).unwrap_err();
    assert!(matches!(error, TakeBackupError::Unpack(UnpackError::Exists { .. })), "{error}");
    assert_eq!(std::fs::read(directory.join("backup/data/backup_manifest")).unwrap(), before);
}

/// Remembers the order of the steps, and the bytes.
#[derive(Default)]
struct Watcher {
    steps: RefCell<Vec<&'static str>>,
    received: RefCell<u64>,
    total: RefCell<Option<u64>>,
}

impl BackupObserver for Watcher {
    fn step(&self, step: &BackupStep<'_>) {
        let name = match step {
            BackupStep::Requested => "requested",
            BackupStep::Started { total_bytes, .. } => {
                *self.total.borrow_mut() = *total_bytes;
                "started"
            }
            BackupStep::Received { bytes } => {
                *self.received.borrow_mut() = *bytes;
                "received"
            }
            BackupStep::Syncing => "syncing",
            _ => "other",
        };
        let mut steps = self.steps.borrow_mut();
        if steps.last() != Some(&name) {
            steps.push(name);
        }
    }
}

#[test]
fn an_observer_is_told_how_far_it_is() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let directory = TestDir::new();
    let watcher = Watcher::default();
    let unpacked = back_up_watched(&cluster, directory.path(), &options(), &watcher).unwrap();
    assert_eq!(*watcher.steps.borrow(), ["requested", "started", "received", "syncing"]);
    let (received, total) = (*watcher.received.borrow(), watcher.total.borrow().unwrap());
    assert!(received >= unpacked.total_bytes, "{received} of {}", unpacked.total_bytes);
    assert!(total.abs_diff(received) < received / 5, "announced {total}, received {received}");
}

/// Backs up a cluster that does not fit.
fn check_full_disk(small: &SmallDisk) {
    let cluster = Cluster::builder(15).start();
    fill(&cluster);
    cluster.execute(
        "create table large as select repeat(md5(n::text), 200) as filler from generate_series(1, 40000) n",
    );
    let error = back_up(&cluster, small.mounted_at.path(), &options()).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert!(error.to_string().contains("backup/data/"), "names the file: {error}");
    assert!(!small.mounted_at.join("backup/data/backup_manifest").exists());
}

#[test]
fn a_full_disk_is_told_as_such() {
    testkit::require_pg!(15);
    match SmallDisk::in_memory() {
        Some(small) => check_full_disk(&small),
        None => testkit::notice_skipped("the right to mount a file system"),
    }
}

/// Large files take another way to such a disk.
#[test]
fn a_full_ext4_disk_is_told_as_such() {
    testkit::require_pg!(15);
    match SmallDisk::ext4() {
        Some(small) => check_full_disk(&small),
        None => testkit::notice_skipped("the right to mount an image"),
    }
}

/// A file system with room for a part of a cluster.
struct SmallDisk {
    mounted_at: TestDir,
    _image: Option<TestDir>,
}

impl SmallDisk {
    fn in_memory() -> Option<Self> {
        let mounted_at = TestDir::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(mounted_at.path());
        succeeds(&mut mount).then_some(SmallDisk { mounted_at, _image: None })
    }

    fn ext4() -> Option<Self> {
        let (mounted_at, home) = (TestDir::new(), TestDir::new());
        let image = home.join("image");
        std::fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mounted =
            made && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(mounted_at.path()));
        mounted.then_some(SmallDisk { mounted_at, _image: Some(home) })
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|run| run.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.mounted_at.path()).output();
    }
}
