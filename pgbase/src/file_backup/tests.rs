use std::fs;
use std::path::{Path, PathBuf};

use barkeep_transport::faults::FaultyHost;
use barkeep_transport::host::{Inspectors, LocalHost};
use tempfile::TempDir;

use super::*;

const LABEL: &str = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n\
    CHECKPOINT LOCATION: 0/6000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
    START TIME: 2026-11-22 10:15:39 UTC\nLABEL: test\nSTART TIMELINE: 1\n";

struct Silent;

impl FileBackupObserver for Silent {
    fn listed(&self, _files: u64, _bytes: u64) {}
    fn copied(&self, _bytes: u64) {}
    fn warning(&self, message: &str) {
        panic!("{message}");
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// Bytes that tell where they belong.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 8192 + at * seed + at / 251) as u8).collect()
}

/// Something like a data directory, with a tablespace.
fn cluster() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for directory in ["global", "base/1", "base/5", "pg_wal/archive_status", "pg_tblspc", "pg_xact", "log"] {
        fs::create_dir_all(data.join(directory)).unwrap();
    }
    let space = dir.path().join("space/PG_15_202209061/5");
    fs::create_dir_all(&space).unwrap();
    fs::create_dir_all(dir.path().join("space/PG_14_202107181/5")).unwrap();
    for (number, (name, length)) in [
        ("data/PG_VERSION", 3),
        ("data/global/pg_control", 8192),
        ("data/base/1/1", 0),
        ("data/base/1/2", 100),
        ("data/base/5/16384", 5 << 20),
        ("data/base/5/16384_fsm", 24_576),
        ("data/base/5/16385", (33 << 20) + 8192),
        ("data/base/5/16386", 1 << 20),
        ("data/pg_xact/0000", 8192),
        ("data/pg_wal/000000010000000000000001", 100),
        ("data/log/today", 10),
        ("data/postmaster.pid", 10),
        ("space/PG_15_202209061/5/16387", 70_000),
        ("space/PG_14_202107181/5/16387", 70_000),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(dir.path().join(name), pattern(length, number + 1)).unwrap();
    }
    dir
}

fn plan(cluster: &TempDir, checksum: ChecksumAlgorithm, references: Vec<Reference>) -> FileBackupPlan {
    FileBackupPlan {
        data_directory: cluster.path().join("data"),
        tablespaces: vec![SourceTablespace {
            oid: 16_400,
            location: cluster.path().join("space"),
            limit_kib: None,
        }],
        outside_files: Vec::new(),
        major: 15,
        system_id: Some(7),
        start: Lsn::from_u64(0x600_0028),
        pages: None,
        manifest_checksum: checksum,
        jobs: 2,
        limit_kib: None,
        references,
        remote: true,
    }
}

fn reference(backup: &Path, horizon_ns: i64, reuse: Reuse) -> Reference {
    Reference {
        data: backup.join("data"),
        tablespaces: vec![(16_400, backup.join("16400"))],
        horizon_ns,
        reuse,
    }
}

fn back_up(host: &dyn Host, to: &Path, plan: FileBackupPlan) -> Result<FileBackup, FileBackupError> {
    let end = BackupEnd {
        stop: Lsn::from_u64(0x600_0100),
        label: LABEL.to_owned(),
        tablespace_map: "16400 /somewhere\n".to_owned(),
    };
    copy_files(host, to, plan, &Silent)?.finish(&end)
}

/// All that belongs to the backup is there, as it was, and nothing else; the manifest agrees.
#[track_caller]
fn check(cluster: &TempDir, backup: &Path) {
    let same = |copy: &str, original: &str| {
        let (copy, original) = (backup.join(copy), cluster.path().join(original));
        assert!(fs::read(&copy).unwrap() == fs::read(&original).unwrap(), "{} differs", copy.display());
        let modified = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified(&copy), modified(&original), "{}", copy.display());
    };
    for file in ["PG_VERSION", "global/pg_control", "base/1/1", "base/1/2", "pg_xact/0000"] {
        same(&format!("data/{file}"), &format!("data/{file}"));
    }
    for file in ["16384", "16384_fsm", "16385", "16386"] {
        same(&format!("data/base/5/{file}"), &format!("data/base/5/{file}"));
    }
    same("16400/PG_15_202209061/5/16387", "space/PG_15_202209061/5/16387");
    same("data/pg_tblspc/16400/PG_15_202209061/5/16387", "space/PG_15_202209061/5/16387");
    for absent in ["data/postmaster.pid", "data/log/today", "16400/PG_14_202107181"] {
        assert!(!backup.join(absent).exists(), "{absent}");
    }
    assert_eq!(fs::read_dir(backup.join("data/pg_wal")).unwrap().count(), 0);
    let mut listed = 0;
    let manifest = File::open(backup.join("data/backup_manifest")).unwrap();
    crate::manifest::read(manifest, |file| {
        use std::os::unix::ffi::OsStrExt;
        listed += 1;
        let path = backup.join("data").join(std::ffi::OsStr::from_bytes(&file.path));
        let bytes = fs::read(&path).unwrap();
        assert_eq!(file.bytes, bytes.len() as u64, "{}", path.display());
        if let Some(checksum) = file.checksum {
            let mut hasher = checksum.algorithm.hasher();
            hasher.update(&bytes);
            let mut computed = Vec::new();
            hasher.finish_into(&mut computed);
            assert_eq!(checksum.bytes, computed, "{}", path.display());
        }
    })
    .unwrap();
    assert_eq!(listed, 12);
}

#[test]
fn a_copy_is_whole_by_any_checksum() {
    let cluster = cluster();
    let host = LocalHost::new(Inspectors::none());
    for checksum in ChecksumAlgorithm::ALL {
        let to = cluster.path().join(checksum.name());
        let backup = back_up(&host, &to, plan(&cluster, checksum, Vec::new())).unwrap();
        check(&cluster, &to);
        assert_eq!((backup.files, backup.total_bytes), (13, backup.new_bytes));
        assert!(back_up(&host, &to, plan(&cluster, checksum, Vec::new())).is_err(), "is there already");
    }
}

#[test]
fn wherever_the_connection_is_lost_the_next_try_ends_with_the_same_backup() {
    let cluster = cluster();
    let local = || LocalHost::new(Inspectors::none());
    let all = FaultyHost::lost_at(local(), usize::MAX);
    let plan = |references| plan(&cluster, ChecksumAlgorithm::Crc32c, references);
    back_up(&all, &cluster.path().join("whole"), plan(Vec::new())).unwrap();
    // Some steps of each kind: trying all takes long, and the threads make them differ from run to run anyway.
    for lost_at in (0..all.steps()).step_by(7) {
        let (cut_off, next) = (cluster.path().join("cut-off"), cluster.path().join("next"));
        let error = back_up(&FaultyHost::lost_at(local(), lost_at), &cut_off, plan(Vec::new())).unwrap_err();
        assert!(error.may_pass(), "{lost_at}: {error}");
        assert!(!cut_off.join("data/backup_manifest").exists());
        back_up(&local(), &next, plan(vec![reference(&cut_off, 0, Reuse::Compare)])).unwrap();
        check(&cluster, &next);
        let _ = fs::remove_dir_all(&cut_off);
        fs::remove_dir_all(&next).unwrap();
    }
}

#[test]
fn what_is_old_and_the_same_is_linked_or_copied_and_the_rest_is_read() {
    use std::os::unix::fs::MetadataExt;
    let cluster = cluster();
    let host = LocalHost::new(Inspectors::none());
    let plan = |references| plan(&cluster, ChecksumAlgorithm::Crc32c, references);
    let first = cluster.path().join("first");
    back_up(&host, &first, plan(Vec::new())).unwrap();
    let later = now_ns() + 10_000_000_000;
    let changed = cluster.path().join("data/base/5/16385");
    let mut bytes = fs::read(&changed).unwrap();
    bytes[20 << 20] ^= 1;
    fs::write(&changed, bytes).unwrap();
    for (name, reuse, horizon, links) in [
        ("linked", Reuse::Link, later, true),
        ("copied", Reuse::Copy, later, false),
        ("young", Reuse::Link, 0, false),
        ("compared", Reuse::Compare, later, false),
    ] {
        let to = cluster.path().join(name);
        let backup = back_up(&host, &to, plan(vec![reference(&first, horizon, reuse)])).unwrap();
        check(&cluster, &to);
        let inode = |backup: &Path, file: &str| fs::metadata(backup.join("data").join(file)).unwrap().ino();
        assert_eq!(inode(&to, "base/5/16384") == inode(&first, "base/5/16384"), links, "{name}");
        assert_ne!(inode(&to, "base/5/16385"), inode(&first, "base/5/16385"), "{name}");
        assert_eq!(backup.new_bytes < backup.total_bytes, links, "{name}");
    }
}
