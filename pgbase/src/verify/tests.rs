//! Verdicts on made-up trees, good and damaged in each way. Real backups and PostgreSQL's own tool are in `tests/it`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::manifest::{Checksum, ManifestWriter};

const OPTIONS: VerifyOptions = VerifyOptions { jobs: 3, system_id: None };
const SYSTEM_ID: u64 = 0x0102_0304_0506_0708;

/// A backup with a tablespace and a manifest that is right.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Stage { dir: tempfile::tempdir().unwrap() };
        stage.write("data/global/pg_control", &SYSTEM_ID.to_le_bytes());
        stage.write("data/base/1/112", b"a relation");
        stage.write("data/base/1/113", b"");
        stage.write("data/postgresql.auto.conf", b"listed, but may change");
        stage.write("data/pg_wal/00000001000000000000000A", b"not listed");
        stage.write("16386/PG_18_202506291/5/200", b"in a tablespace");
        fs::create_dir_all(stage.path("data/pg_tblspc")).unwrap();
        symlink("/nowhere", stage.path("data/pg_tblspc/16386")).unwrap();
        stage.list(&[
            "global/pg_control",
            "base/1/112",
            "base/1/113",
            "postgresql.auto.conf",
            "pg_tblspc/16386/PG_18_202506291/5/200",
        ]);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// Writes a manifest of these files as they are now.
    fn list(&self, names: &[&str]) {
        let mut writer = ManifestWriter::new(Vec::new(), 18, Some(SYSTEM_ID)).unwrap();
        for name in names {
            let place = name.strip_prefix("pg_tblspc/").map_or(format!("data/{name}"), str::to_owned);
            let content = fs::read(self.path(&place)).unwrap_or_default();
            let (mut hasher, mut bytes) = (ChecksumAlgorithm::Crc32c.hasher(), Vec::new());
            hasher.update(&content);
            hasher.finish_into(&mut bytes);
            let checksum = Checksum { algorithm: ChecksumAlgorithm::Crc32c, bytes };
            writer.file(name.as_bytes(), content.len() as u64, 0, Some(&checksum)).unwrap();
        }
        self.write("data/backup_manifest", &writer.finish(&[]).unwrap());
    }

    fn verify(&self) -> Result<Verified, VerifyError> {
        let tablespaces = vec![(16386, self.path("16386"))];
        verify_backup(&BackupTrees { data: self.path("data"), tablespaces, packed: false }, OPTIONS, &())
    }

    #[track_caller]
    fn check(&self, expected: &[&str]) {
        let verified = self.verify().unwrap();
        let told: Vec<String> = verified.faults.kept().iter().map(ToString::to_string).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_whole_backup_is_sound() {
    let stage = Stage::new();
    let verified = stage.verify().unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    // postgresql.auto.conf is left out, as pg_verifybackup does.
    assert_eq!((verified.files, verified.bytes), (4, 8 + 10 + 15));
    assert!(verified.uncovered.is_empty());
    stage.write("data/postgresql.auto.conf", b"changed");
    stage.write("data/standby.signal", b"");
    stage.check(&[]);
}

#[test]
fn every_kind_of_damage_is_told() {
    let damaged = |damage: &dyn Fn(&Stage), expected: &[&str]| {
        let stage = Stage::new();
        damage(&stage);
        stage.check(expected);
    };
    damaged(
        &|stage| stage.write("data/base/1/112", b"A relation"),
        &["checksum mismatch for file \"base/1/112\""],
    );
    damaged(
        &|stage| stage.write("data/base/1/112", b"a relatio"),
        &["\"base/1/112\" has size 9 on disk but size 10 in the manifest"],
    );
    damaged(
        &|stage| fs::remove_file(stage.path("data/base/1/113")).unwrap(),
        &["\"base/1/113\" is present in the manifest but not on disk"],
    );
    damaged(
        &|stage| stage.write("data/base/1/new\nline", b""),
        &["\"base/1/new\\nline\" is present on disk but not in the manifest"],
    );
    damaged(
        &|stage| {
            fs::remove_file(stage.path("data/base/1/112")).unwrap();
            symlink("/etc/passwd", stage.path("data/base/1/112")).unwrap();
        },
        &["\"base/1/112\" is not a regular file or directory"],
    );
    damaged(
        &|stage| {
            stage.write("data/global/pg_control", &[9; 8]);
            stage.list(&["global/pg_control", "base/1/112", "base/1/113"]);
            fs::remove_dir_all(stage.path("16386/PG_18_202506291")).unwrap();
        },
        &[
            "system identifier 72623859790382856 was expected, but the control file \"global/pg_control\" has \
           651061555542690057",
        ],
    );
    damaged(
        &|stage| {
            let name = "pg_tblspc/16386/PG_18_202506291/5/200";
            stage.list(&["global/pg_control", "base/1/112", "base/1/113", name, "base/1/112"]);
        },
        &["duplicate path name in backup manifest: \"base/1/112\""],
    );
}

#[test]
fn a_tablespace_that_the_manifest_leaves_out_is_told_apart_from_files_too_many() {
    let stage = Stage::new();
    stage.list(&["global/pg_control", "base/1/112", "base/1/113"]);
    stage.check(&["\"pg_tblspc/16386/PG_18_202506291/5/200\" is present on disk but not in the manifest"]);
    // Barman's own manifests know nothing of tablespaces, and its rsync backups have no links to them.
    fs::remove_file(stage.path("data/pg_tblspc/16386")).unwrap();
    let verified = stage.verify().unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!(verified.uncovered, [16386]);
}

#[test]
fn a_manifest_that_is_missing_or_damaged_is_an_error() {
    let stage = Stage::new();
    let mut manifest = fs::read(stage.path("data/backup_manifest")).unwrap();
    fs::remove_file(stage.path("data/backup_manifest")).unwrap();
    assert!(matches!(stage.verify(), Err(VerifyError::NoManifest { .. })));
    let at = manifest.iter().position(|byte| *byte == b'4').unwrap();
    manifest[at] = b'5';
    stage.write("data/backup_manifest", &manifest);
    assert!(matches!(stage.verify(), Err(VerifyError::Manifest(_))));
    fs::remove_file(stage.path("data/backup_manifest")).unwrap();
    symlink("/etc/passwd", stage.path("data/backup_manifest")).unwrap();
    assert!(matches!(stage.verify(), Err(VerifyError::Unreadable { .. })));
}

#[test]
fn named_pipes_and_endless_depths_are_faults_and_nobody_waits() {
    let stage = Stage::new();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        stage.path("data/base/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    fs::create_dir_all(stage.path("data").join("d/".repeat(40))).unwrap();
    let verified = stage.verify().unwrap();
    let told: Vec<String> = verified.faults.kept().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("is not a regular file"), "{told:?}");
    assert!(told[1].contains("nested too deeply"), "{told:?}");
}

#[test]
fn an_observer_can_give_up() {
    struct Impatient;
    impl ScanObserver for Impatient {
        fn total(&self, _: u64, _: u64) {}
        fn read(&self, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let stage = Stage::new();
    let trees = BackupTrees { data: stage.path("data"), tablespaces: Vec::new(), packed: false };
    assert!(matches!(verify_backup(&trees, OPTIONS, &Impatient), Err(VerifyError::Cancelled)));
}
