//! Restores of made-up trees: what lands where, and what is left after a failure. Real clusters are in `tests/it`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use barkeep_transport::codec::{Compression, Level};
use pgwal::{RecoveryTarget, SegmentSize, TargetKind};
use tempfile::TempDir;

use super::super::destination::{DestinationState, INCOMPLETE_MARKER, look_at};
use super::super::facts::{BackupFacts, Foreseen, RestorePlan, RestoreRequest, TablespaceFacts, WalSupply};
use super::super::plan::plan_restore;
use super::super::tests_support::{backup, wal};
use super::space::PROBE;
use super::*;

mod over;
mod remote;

const SEGMENT: usize = 1 << 20;

/// A backup with one tablespace, two segments of WAL, and what must not come along.
struct Stage {
    dir: TempDir,
}

/// WAL in which nothing much happens: the segment of this number.
fn segment(number: u64) -> Vec<u8> {
    testkit::wal::segment(1, number * SEGMENT as u64, SEGMENT, 0)
}

impl Stage {
    fn new() -> Self {
        let stage = Stage { dir: tempfile::tempdir().unwrap() };
        for (name, content) in [
            ("PG_VERSION", "15\n"),
            ("backup_label", "START WAL LOCATION: ...\n"),
            ("backup_manifest", "{}"),
            ("postgresql.conf", "archive_command = 'cp %p /wal/%f'\n"),
            ("postgresql.auto.conf", "# by ALTER SYSTEM\nwork_mem = '8MB'"),
            ("pg_hba.conf", "local all all trust\n"),
            ("base/5/112", "a relation"),
            ("base/5/113", ""),
            ("global/pg_control", "control"),
            ("pg_wal/000000010000000000000001", "old"),
            ("pg_wal/archive_status/000000010000000000000001.done", ""),
            ("log/server.log", "noise"),
            ("pg_notify/keep", ""),
            ("postmaster.pid", "1"),
            ("standby.signal", ""),
            ("tablespace_map", "16386 /srv/fast\n"),
            ("barman_wal/000000010000000000000009", "of an earlier restore"),
        ] {
            stage.write(&format!("data/{name}"), content.as_bytes());
        }
        stage.write("16386/PG_15_202209061/5/200", b"in a tablespace");
        fs::create_dir_all(stage.path("data/pg_tblspc")).unwrap();
        symlink("/srv/fast", stage.path("data/pg_tblspc/16386")).unwrap();
        stage.write("wals/000000010000000000000002", &segment(2));
        stage.write("wals/000000010000000000000003", &packed(Compression::Zstd, &segment(3)));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn request(&self, kind: Option<TargetKind>) -> RestoreRequest {
        let mut available = wal(&["000000010000000000000002", "000000010000000000000003"]);
        available.iter_mut().for_each(|wal| wal.directory = self.path("wals").into());
        RestoreRequest {
            backup: BackupFacts {
                data: self.path("data"),
                system_id: None,
                segment_size: SegmentSize::MIN,
                begin: pgwal::Lsn::from_u64(2 * SEGMENT as u64 + 40),
                end: pgwal::Lsn::from_u64(3 * SEGMENT as u64 + 256),
                tablespaces: vec![TablespaceFacts {
                    oid: 16386,
                    name: "fast".into(),
                    location: self.path("new-fast"),
                    data: self.path("16386"),
                }],
                ..backup()
            },
            destination: self.path("new"),
            delta: false,
            tablespace_locations: Vec::new(),
            target: RecoveryTarget { kind, ..RecoveryTarget::default() },
            standby: false,
            wal: WalSupply::Copy { partials: false, staging: None },
            available_wal: available,
            histories: Vec::new(),
            foreseen: Foreseen::Nothing,
            archived_until: None,
            settings_file: "postgresql.auto.conf".into(),
            extra_files: vec![(".barman-recover.info".into(), b"status=DONE\n".to_vec())],
        }
    }

    fn plan(&self, kind: Option<TargetKind>) -> RestorePlan {
        plan_restore(self.request(kind), &look_at).unwrap()
    }

    fn restore(&self, plan: &RestorePlan) -> Result<RestoreReport, RestoreError> {
        execute(plan, OPTIONS, &())
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(look_at(&self.path("new")).unwrap(), DestinationState::Absent);
        assert_eq!(look_at(&self.path("new-fast")).unwrap(), DestinationState::Absent);
    }
}

const OPTIONS: ExecuteOptions = ExecuteOptions { jobs: 3, owner: None, retry: Retry::NEVER };

fn packed(compression: Compression, content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = compression.writer(Vec::new(), Level::Medium).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_plain_restore_has_everything_in_its_place() {
    let stage = Stage::new();
    fs::set_permissions(stage.path("data/base/5/112"), fs::Permissions::from_mode(0o640)).unwrap();
    let report = stage.restore(&stage.plan(None)).unwrap();

    assert_eq!(stage.read("new/base/5/112"), "a relation");
    assert_eq!(stage.read("new/global/pg_control"), "control");
    assert_eq!(stage.read("new-fast/PG_15_202209061/5/200"), "in a tablespace");
    assert_eq!(fs::read_link(stage.path("new/pg_tblspc/16386")).unwrap(), stage.path("new-fast"));
    assert_eq!(fs::read(stage.path("new/pg_wal/000000010000000000000002")).unwrap(), segment(2));
    assert_eq!(fs::read(stage.path("new/pg_wal/000000010000000000000003")).unwrap(), segment(3));
    assert!(stage.path("new/pg_wal/archive_status/000000010000000000000003.done").exists());
    assert_eq!(stage.read("new/.barman-recover.info"), "status=DONE\n");
    assert_eq!(stage.read("new/backup_manifest.20261122T101539"), "{}");
    assert_eq!(mode(&stage.path("new")), 0o700);
    assert_eq!(mode(&stage.path("new/base/5/112")), 0o640);
    for absent in [
        "backup_manifest",
        "postmaster.pid",
        "standby.signal",
        "recovery.signal",
        "tablespace_map",
        "log/server.log",
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/000000010000000000000001.done",
        INCOMPLETE_MARKER,
        PROBE,
        CONTROL_IN_WAITING,
    ] {
        assert!(!stage.path("new").join(absent).exists(), "{absent}");
    }
    assert_eq!(report.missing_files, ["pg_ident.conf"]);
    assert_eq!(report.wal_files, 2);
}

#[test]
fn recovery_to_a_target_is_configured_and_signalled() {
    let stage = Stage::new();
    let report = stage.restore(&stage.plan(Some(TargetKind::Immediate))).unwrap();
    assert_eq!(
        stage.read("new/postgresql.auto.conf"),
        "# by ALTER SYSTEM\nwork_mem = '8MB'\n\
         # Added by barkeep when it restored backup 20261122T101539.\n\
         restore_command = 'cp barman_wal/%f %p'\nrecovery_end_command = 'rm -fr barman_wal'\n\
         recovery_target = 'immediate'\n"
    );
    assert_eq!(
        stage.read("new/postgresql.conf"),
        "#BARMAN#archive_command = 'cp %p /wal/%f'\narchive_command = false\n"
    );
    assert_eq!(stage.read("new/postgresql.conf.origin"), "archive_command = 'cp %p /wal/%f'\n");
    assert!(!stage.path("new/postgresql.auto.conf.origin").exists());
    assert!(stage.path("new/recovery.signal").exists());
    let staged: Vec<_> =
        fs::read_dir(stage.path("new/barman_wal")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(staged.len(), 2, "{staged:?}");
    assert_eq!(report.changes.len(), 1);
}

#[test]
fn archiving_is_switched_off_where_the_configuration_is_out_of_reach() {
    let stage = Stage::new();
    fs::remove_file(stage.path("data/postgresql.conf")).unwrap();
    let report = stage.restore(&stage.plan(None)).unwrap();
    assert!(
        stage.read("new/postgresql.auto.conf").ends_with("archive_command = 'false'\narchive_library = ''\n")
    );
    assert_eq!(report.missing_files, ["postgresql.conf", "pg_ident.conf"]);
}

#[test]
fn wal_can_be_staged_elsewhere() {
    let stage = Stage::new();
    let mut request = stage.request(Some(TargetKind::Immediate));
    request.wal = WalSupply::Copy { partials: false, staging: Some(stage.path("staging")) };
    stage.restore(&plan_restore(request, &look_at).unwrap()).unwrap();
    assert!(stage.path("staging/000000010000000000000003").exists());
    let command = format!("restore_command = 'cp {}/%f %p'", stage.path("staging").display());
    assert!(stage.read("new/postgresql.auto.conf").contains(&command));
}

#[test]
fn a_partial_segment_is_filled_up() {
    let stage = Stage::new();
    stage.write("wals/000000010000000000000004.partial", &packed(Compression::Gzip, b"beginning"));
    let mut request = stage.request(None);
    request.available_wal.push(super::super::AvailableWal {
        file: "000000010000000000000004.partial".parse().unwrap(),
        directory: stage.path("wals").into(),
    });
    request.wal = WalSupply::Copy { partials: true, staging: None };
    stage.restore(&plan_restore(request, &look_at).unwrap()).unwrap();
    let segment = fs::read(stage.path("new/pg_wal/000000010000000000000004")).unwrap();
    assert_eq!(segment.len(), SEGMENT);
    assert!(segment.starts_with(b"beginning\0"));
}

#[test]
fn damaged_wal_fails_the_restore_and_leaves_nothing() {
    for (content, part) in [
        (vec![3; SEGMENT - 1], "1048575 bytes"),
        (vec![3; SEGMENT + 1], "more than 1048576 bytes"),
        (packed(Compression::Zstd, &[3; SEGMENT + 1]), "more than 1048576 bytes"),
        (packed(Compression::Gzip, &[3; SEGMENT])[..200].to_vec(), ""),
    ] {
        let stage = Stage::new();
        stage.write("wals/000000010000000000000003", &content);
        let RestoreError::Copy { from, source, .. } = stage.restore(&stage.plan(None)).unwrap_err() else {
            panic!("not a copy error");
        };
        assert!(from.ends_with("wals/000000010000000000000003"));
        assert!(source.to_string().contains(part), "{source}");
        stage.assert_nothing_left();
    }
}

#[test]
fn wal_is_placed_and_checked_before_any_file_is_copied() {
    struct Order<'a>(&'a Stage);
    impl RestoreObserver for Order<'_> {
        fn event(&self, event: RestoreEvent) {
            let is_there = |name: &str| self.0.path("new").join(name).exists();
            if matches!(event, RestoreEvent::Copied { .. }) && is_there("base/5/112") {
                for number in [2, 3] {
                    let placed =
                        fs::read(self.0.path(&format!("new/pg_wal/00000001000000000000000{number}")));
                    assert_eq!(placed.unwrap(), segment(number));
                }
            }
        }
    }
    let stage = Stage::new();
    execute(&stage.plan(None), OPTIONS, &Order(&stage)).unwrap();
    assert_eq!(stage.read("new/base/5/112"), "a relation");
}

#[test]
fn a_flipped_bit_in_a_segment_fails_the_restore() {
    for compression in Compression::ALL {
        // In a record's data, in a page's header, in the last record.
        for at in [5000, 8192 + 3, SEGMENT / 2, SEGMENT - 300] {
            let mut damaged = segment(3);
            damaged[at] ^= 4;
            let stage = Stage::new();
            stage.write("wals/000000010000000000000003", &packed(compression, &damaged));
            let RestoreError::Copy { from, source, .. } = stage.restore(&stage.plan(None)).unwrap_err()
            else {
                panic!("not a copy error");
            };
            assert!(from.ends_with("wals/000000010000000000000003"));
            assert!(source.to_string().contains("it is damaged: "), "{compression} {at}: {source}");
            stage.assert_nothing_left();
        }
    }
}

#[test]
fn a_flipped_bit_in_a_record_that_lies_in_two_segments_fails_the_restore() {
    let joined = |number: usize| testkit::wal::joined_segment(1, (number * SEGMENT) as u64, SEGMENT);
    let stage = |compression: Compression, damage: Option<(usize, usize)>| {
        let stage = Stage::new();
        for number in 2..=3 {
            let mut bytes = joined(number);
            if let Some((_, at)) = damage.filter(|(damaged, _)| *damaged == number) {
                bytes[at] ^= 4;
            }
            stage.write(&format!("wals/00000001000000000000000{number}"), &packed(compression, &bytes));
        }
        stage
    };
    for compression in Compression::ALL {
        let sound = stage(compression, None);
        sound.restore(&sound.plan(None)).unwrap();
        // In the record's number, checksum and data, on either side, and where the second page says how much is left.
        let begin = SEGMENT - 8192 + 24;
        for damage in [(2, begin + 4), (2, begin + 20), (2, SEGMENT - 1), (3, 16), (3, 40), (3, 103)] {
            let stage = stage(compression, Some(damage));
            let RestoreError::Copy { from, source, .. } = stage.restore(&stage.plan(None)).unwrap_err()
            else {
                panic!("not a copy error");
            };
            assert!(from.starts_with(stage.path("wals")), "{}", from.display());
            assert!(source.to_string().contains("it is damaged: "), "{compression} {damage:?}: {source}");
            stage.assert_nothing_left();
        }
    }
}

#[test]
fn wal_may_end_inside_the_last_segment_only() {
    // Zeros from a page on, and a page's address.
    let changes: [fn(&mut [u8]); 2] = [|wal| wal[8192 * 40..].fill(0), |wal| wal[8192 * 40 + 10] ^= 0x10];
    for change in changes {
        let stage = Stage::new();
        let mut ended = segment(2);
        change(&mut ended);
        stage.write("wals/000000010000000000000002", &ended);
        let error = stage.restore(&stage.plan(None)).unwrap_err();
        assert!(matches!(error, RestoreError::Copy { .. }), "{error}");
        stage.assert_nothing_left();
    }
    // In the last one, too, what is written behind tells a page's wrong address from that of a recycled segment.
    let stage = Stage::new();
    let mut damaged = segment(3);
    damaged[8192 * 40 + 10] ^= 0x10;
    stage.write("wals/000000010000000000000003", &damaged);
    let error = stage.restore(&stage.plan(None)).unwrap_err();
    assert!(matches!(error, RestoreError::Copy { .. }), "{error}");
    stage.assert_nothing_left();
    damaged[8192 * 40..].copy_from_slice(&segment(1)[8192 * 40..]);
    stage.write("wals/000000010000000000000003", &damaged);
    stage.restore(&stage.plan(None)).unwrap();
}

#[test]
fn a_flipped_bit_in_a_compressed_segment_fails_the_restore() {
    for compression in Compression::ALL.into_iter().filter(|one| *one != Compression::None) {
        let mut stored = packed(compression, &segment(3));
        let middle = stored.len() / 2;
        stored[middle] ^= 4;
        let stage = Stage::new();
        stage.write("wals/000000010000000000000003", &stored);
        let restored = stage.restore(&stage.plan(None));
        let Err(RestoreError::Copy { from, .. }) = restored else {
            panic!("{compression}: {restored:?}");
        };
        assert!(from.ends_with("wals/000000010000000000000003"));
        stage.assert_nothing_left();
    }
}

#[test]
fn wal_that_ends_inside_its_last_segment_is_no_damage() {
    let stage = Stage::new();
    let mut decoder = pgwal::Decoder::new(pgwal::Lsn::from_u64(3 * SEGMENT as u64), SegmentSize::MIN);
    let whole = segment(3);
    let mut bytes = &whole[..];
    let mut last = 0;
    while let Ok(Some(record)) = decoder.next(&mut bytes) {
        last = usize::try_from(record.lsn.as_u64()).unwrap() - 3 * SEGMENT;
        if last > SEGMENT / 2 {
            break;
        }
    }
    let mut ended = whole.clone();
    ended[last..].fill(0);
    stage.write("wals/000000010000000000000003", &ended);
    stage.restore(&stage.plan(None)).unwrap();
}

#[test]
fn an_empty_destination_stays_and_a_new_parent_goes() {
    let stage = Stage::new();
    fs::create_dir(stage.path("new")).unwrap();
    let mut plan = stage.plan(None);
    plan.trees[1].to = stage.path("a/b/fast");
    stage.write("wals/000000010000000000000003", b"short");
    stage.restore(&plan).unwrap_err();
    assert_eq!(look_at(&stage.path("new")).unwrap(), DestinationState::Empty);
    assert_eq!(look_at(&stage.path("a")).unwrap(), DestinationState::Absent);
}

#[test]
fn what_appears_after_planning_is_not_touched() {
    let stage = Stage::new();
    let plan = stage.plan(None);
    stage.write("new-fast/.precious", b"mine");
    assert!(matches!(stage.restore(&plan), Err(RestoreError::NotEmpty { .. })));
    assert_eq!(stage.read("new-fast/.precious"), "mine");
    assert_eq!(look_at(&stage.path("new")).unwrap(), DestinationState::Absent);
}

#[test]
fn until_the_end_there_is_no_pg_control() {
    struct Watcher<'a>(&'a Stage, AtomicBool);
    impl RestoreObserver for Watcher<'_> {
        fn event(&self, event: RestoreEvent) {
            if event == RestoreEvent::Phase(Phase::Syncing) {
                assert!(!self.0.path("new").join(PG_CONTROL).exists());
                assert!(self.0.path("new").join(INCOMPLETE_MARKER).exists());
                self.1.store(true, Ordering::Relaxed);
            }
        }
    }
    let stage = Stage::new();
    let watcher = Watcher(&stage, AtomicBool::new(false));
    execute(&stage.plan(None), OPTIONS, &watcher).unwrap();
    assert!(watcher.1.into_inner());
}

#[test]
fn a_cancelled_restore_cleans_up() {
    struct Impatient;
    impl RestoreObserver for Impatient {
        fn event(&self, _: RestoreEvent) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let stage = Stage::new();
    assert!(matches!(execute(&stage.plan(None), OPTIONS, &Impatient), Err(RestoreError::Cancelled)));
    stage.assert_nothing_left();
}

#[test]
fn links_in_a_backup_are_never_followed() {
    let stage = Stage::new();
    symlink("/etc/passwd", stage.path("data/base/5/evil")).unwrap();
    symlink("/etc", stage.path("data/base/etc")).unwrap();
    let report = stage.restore(&stage.plan(None)).unwrap();
    assert_eq!(report.strangers.len(), 2);
    assert!(!stage.path("new/base/5/evil").exists());
    assert!(!stage.path("new/base/etc").exists());
}

#[test]
fn an_unlisted_tablespace_is_missed() {
    let stage = Stage::new();
    symlink("/srv/slow", stage.path("data/pg_tblspc/16399")).unwrap();
    assert!(matches!(stage.restore(&stage.plan(None)), Err(RestoreError::UnknownTablespace { .. })));
    stage.assert_nothing_left();
}

#[test]
fn a_tablespace_may_lie_in_the_data_directory() {
    let stage = Stage::new();
    fs::create_dir(stage.path("data/spaces")).unwrap();
    let mut request = stage.request(None);
    request.tablespace_locations = vec![("fast".into(), stage.path("new/spaces/fast"))];
    stage.restore(&plan_restore(request, &look_at).unwrap()).unwrap();
    assert_eq!(stage.read("new/spaces/fast/PG_15_202209061/5/200"), "in a tablespace");
}

#[test]
fn a_backup_without_pg_control_is_none() {
    let stage = Stage::new();
    fs::remove_file(stage.path("data/global/pg_control")).unwrap();
    assert!(matches!(stage.restore(&stage.plan(None)), Err(RestoreError::NoControlFile { .. })));
    stage.assert_nothing_left();
}

#[test]
fn too_little_space_is_known_before_anything_is_copied() {
    let stage = Stage::new();
    // Larger than any disk of a test machine, and takes no space itself.
    let huge = fs::File::create(stage.path("data/base/5/999")).unwrap();
    if huge.set_len(8 << 40).is_err() {
        return;
    }
    match stage.restore(&stage.plan(None)) {
        Err(RestoreError::NoSpace { needed, .. }) => assert!(needed >= 8 << 40),
        // Where blocks are shared, a huge hole is no trouble.
        Ok(report) => return assert!(report.shared),
        Err(other) => panic!("{other}"),
    }
    stage.assert_nothing_left();
}

#[test]
fn what_can_not_be_read_or_written_is_named() {
    let stage = Stage::new();
    let mut plan = stage.plan(None);
    plan.trees[1].from = stage.path("absent");
    let RestoreError::Read { path, .. } = stage.restore(&plan).unwrap_err() else {
        panic!("not a read error")
    };
    assert_eq!(path, stage.path("absent"));
    stage.assert_nothing_left();

    let mut plan = stage.plan(None);
    stage.write("file", b"");
    plan.trees[1].to = stage.path("file/below");
    let RestoreError::Write { path, .. } = stage.restore(&plan).unwrap_err() else {
        panic!("not a write error")
    };
    assert!(path.starts_with(stage.path("file")));
    stage.assert_nothing_left();

    let mut plan = stage.plan(None);
    plan.wal[0].source.directory = stage.path("absent").into();
    assert!(matches!(stage.restore(&plan), Err(RestoreError::Copy { .. })));
    stage.assert_nothing_left();
}

#[test]
fn a_configuration_file_without_end_is_refused() {
    let stage = Stage::new();
    fs::File::create(stage.path("data/postgresql.conf")).unwrap().set_len(64 << 20).unwrap();
    let error = stage.restore(&stage.plan(None)).unwrap_err();
    assert!(crate_chain(&error).contains("larger than 16777216 bytes"), "{error:?}");
    stage.assert_nothing_left();
}

fn crate_chain(error: &dyn std::error::Error) -> String {
    format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default())
}
