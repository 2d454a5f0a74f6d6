use std::fs;
use std::path::Path;

use barkeep_transport::codec::{Compression, Level};
use barkeep_transport::faults::FaultyHost;
use barkeep_transport::host::{Inspectors, LocalHost};
use tempfile::TempDir;

use super::*;
use crate::copy::Directory;
use crate::packed::StoredFile;

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
        packing: None,
    }
}

fn reference(backup: &Path, horizon_ns: i64, reuse: Reuse) -> Reference {
    Reference {
        data: backup.join("data"),
        tablespaces: vec![(16_400, backup.join("16400"))],
        horizon_ns,
        reuse,
        packed: true,
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

/// A file of a backup, in whichever form it is stored.
fn open(path: &Path) -> StoredFile {
    let directory = Directory::open(path.parent().unwrap()).unwrap();
    StoredFile::open(&directory, Path::new(path.file_name().unwrap())).unwrap()
}

fn content(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut content = Vec::new();
    open(path).read_to_end(&mut content).unwrap();
    content
}

/// All that belongs to the backup is there, as it was, and nothing else; the manifest agrees.
#[track_caller]
fn check(cluster: &TempDir, backup: &Path) {
    let same = |copy: &str, original: &str| {
        let (copy, original) = (backup.join(copy), cluster.path().join(original));
        assert!(content(&copy) == fs::read(&original).unwrap(), "{} differs", copy.display());
        let modified = |file: &File| file.metadata().unwrap().modified().unwrap();
        let (copied, original) = (open(&copy), File::open(original).unwrap());
        assert_eq!(modified(copied.file()), modified(&original), "{}", copy.display());
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
        let bytes = content(&path);
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

fn packed(mut plan: FileBackupPlan, compression: Compression) -> FileBackupPlan {
    plan.packing = Some(Packing { compression, level: Level::Low });
    plan
}

#[test]
fn a_compressed_copy_is_whole_by_any_checksum_and_goes_on_from_any_other() {
    let cluster = cluster();
    let host = LocalHost::new(Inspectors::none());
    let mut earlier = Vec::new();
    for (checksum, compression) in [
        (ChecksumAlgorithm::Crc32c, Compression::Zstd),
        (ChecksumAlgorithm::Sha256, Compression::Gzip),
        (ChecksumAlgorithm::None, Compression::Lz4),
    ] {
        let to = cluster.path().join(compression.name());
        let backup = back_up(&host, &to, packed(plan(&cluster, checksum, Vec::new()), compression)).unwrap();
        check(&cluster, &to);
        assert!(backup.total_bytes < 4 << 20, "{backup:?}");
        earlier.push(to);
    }
    let later = now_ns() + 10_000_000_000;
    for (number, reuse) in [Reuse::Link, Reuse::Copy, Reuse::Compare].into_iter().enumerate() {
        for (form, compression) in [(0, Some(Compression::Zstd)), (1, None), (2, Some(Compression::Lz4))] {
            let to = cluster.path().join(format!("next-{number}-{form}"));
            let references = vec![reference(&earlier[form], later, reuse)];
            let mut plan = plan(&cluster, ChecksumAlgorithm::Crc32c, references);
            plan.packing = compression.map(|compression| Packing { compression, level: Level::Low });
            let backup = back_up(&host, &to, plan).unwrap();
            check(&cluster, &to);
            // Small files are the same in every form.
            assert_eq!(backup.new_bytes < backup.total_bytes, reuse == Reuse::Link, "{reuse:?} {form}");
        }
    }
}

#[test]
fn a_name_like_a_compressed_files_is_no_puzzle() {
    let cluster = cluster();
    let host = LocalHost::new(Inspectors::none());
    // One of them is the compressed name of another file.
    let names = ["data/base/5/mine.zst", "data/pg_xact/0000.gz", "data/at the top.lz4"];
    for name in names {
        fs::write(cluster.path().join(name), "not compressed").unwrap();
    }
    let plan = || plan(&cluster, ChecksumAlgorithm::Crc32c, Vec::new());
    let (plain, compressed) = (cluster.path().join("plain"), cluster.path().join("compressed"));
    back_up(&host, &plain, plan()).unwrap();
    back_up(&host, &compressed, packed(plan(), Compression::Gzip)).unwrap();
    for name in names {
        assert_eq!(fs::read(plain.join(name)).unwrap(), b"not compressed");
        assert!(compressed.join(format!("{name}.gz")).exists(), "{name}");
        assert_eq!(content(&compressed.join(name)), b"not compressed");
    }
    assert_eq!(content(&compressed.join("data/pg_xact/0000")).len(), 8192);
}

#[test]
fn a_compressed_copy_that_was_cut_off_ends_whole() {
    let cluster = cluster();
    let local = || LocalHost::new(Inspectors::none());
    let plan = |references| packed(plan(&cluster, ChecksumAlgorithm::Crc32c, references), Compression::Zstd);
    let all = FaultyHost::lost_at(local(), usize::MAX);
    back_up(&all, &cluster.path().join("whole"), plan(Vec::new())).unwrap();
    for lost_at in (0..all.steps()).step_by(11) {
        let (cut_off, next) = (cluster.path().join("cut-off"), cluster.path().join("next"));
        let error = back_up(&FaultyHost::lost_at(local(), lost_at), &cut_off, plan(Vec::new())).unwrap_err();
        assert!(error.may_pass(), "{lost_at}: {error}");
        back_up(&local(), &next, plan(vec![reference(&cut_off, 0, Reuse::Compare)])).unwrap();
        check(&cluster, &next);
        let _ = fs::remove_dir_all(&cut_off);
        fs::remove_dir_all(&next).unwrap();
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
        // Looked at, and found to be the same.
        ("young", Reuse::Link, 0, true),
        ("compared", Reuse::Compare, later, true),
    ] {
        let to = cluster.path().join(name);
        let backup = back_up(&host, &to, plan(vec![reference(&first, horizon, reuse)])).unwrap();
        check(&cluster, &to);
        let inode = |backup: &Path, file: &str| fs::metadata(backup.join("data").join(file)).unwrap().ino();
        assert_eq!(inode(&to, "base/5/16384") == inode(&first, "base/5/16384"), links, "{name}");
        assert_ne!(inode(&to, "base/5/16385"), inode(&first, "base/5/16385"), "{name}");
        // What was compared with is about to go.
        assert_eq!(backup.new_bytes < backup.total_bytes, links && reuse == Reuse::Link, "{name}");
    }
}

#[test]
fn a_young_file_whose_content_changed_within_a_tick_is_read_again() {
    use std::os::unix::fs::MetadataExt;
    let cluster = cluster();
    let host = LocalHost::new(Inspectors::none());
    let first = cluster.path().join("first");
    back_up(&host, &first, plan(&cluster, ChecksumAlgorithm::Crc32c, Vec::new())).unwrap();
    for file in ["base/5/16384", "base/5/16384_fsm", "base/1/2"] {
        let path = cluster.path().join("data").join(file);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[50] ^= 1;
        fs::write(&path, bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
    let next = cluster.path().join("next");
    let references = vec![reference(&first, 0, Reuse::Link)];
    back_up(&host, &next, plan(&cluster, ChecksumAlgorithm::Crc32c, references)).unwrap();
    check(&cluster, &next);
    let inode = |backup: &Path, file: &str| fs::metadata(backup.join("data").join(file)).unwrap().ino();
    assert_ne!(inode(&first, "base/5/16384"), inode(&next, "base/5/16384"));
    assert_eq!(inode(&first, "base/5/16386"), inode(&next, "base/5/16386"));
}
