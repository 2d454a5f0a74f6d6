use super::*;
use crate::{ServerLock, Task, wal, xlogdb};
use barkeep_transport::durable::Step;
use barkeep_transport::faults::Faults;
use pgwal::WalFile;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";
const HISTORY: &str = "00000002.history";
const LABEL: &str = "000000010000000000000001.00000028.backup";

pub(super) fn home() -> (tempfile::TempDir, Layout) {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new("pg", &home.path().join("pg"), home.path());
    for directory in layout.directories() {
        fs::create_dir_all(directory).unwrap();
    }
    (home, layout)
}

pub(super) fn now() -> Timestamp {
    "2026-11-22T10:15:55Z".parse().unwrap()
}

fn with(compression: Compression) -> ArchiveOptions {
    ArchiveOptions { compression, ..ArchiveOptions::default() }
}

fn run(layout: &Layout, options: &ArchiveOptions) -> (ArchiveReport, Vec<String>) {
    let mut events = Vec::new();
    let report = archive_wal(layout, options, now(), |event| {
        events.push(match event {
            ArchiveEvent::Origin(origin) => format!("{origin:?}"),
            ArchiveEvent::Archived(entry) => entry.file.to_string(),
            ArchiveEvent::AlreadyArchived(file) => format!("already {file}"),
            ArchiveEvent::Rejected { moved_to, reason, .. } => {
                format!("{} {reason:?}", moved_to.file_name().unwrap().to_string_lossy())
            }
            ArchiveEvent::Left { path, reason } => {
                format!("left {}: {reason}", path.file_name().unwrap().to_string_lossy())
            }
            ArchiveEvent::Doubtful { file, note, .. } => format!("doubtful {file}: {note}"),
            ArchiveEvent::NotIndexed(error) => error,
            ArchiveEvent::Healed { file, .. } => format!("healed {file}"),
            ArchiveEvent::Overtaken { file, change } => format!("{file} {change:?}"),
        });
    })
    .unwrap();
    (report, events)
}

pub(super) fn listed(layout: &Layout) -> Vec<String> {
    xlogdb::read(layout).unwrap().entries.iter().map(|entry| entry.file.to_string()).collect()
}

fn archived(layout: &Layout, name: &str) -> Option<String> {
    archived_bytes(layout, name).map(|bytes| String::from_utf8(bytes).unwrap())
}

pub(super) fn archived_bytes(layout: &Layout, name: &str) -> Option<Vec<u8>> {
    let open = wal::OpenWal::open(&layout.wal(&name.parse().unwrap())).unwrap()?;
    let mut bytes = Vec::new();
    open.plain().unwrap().read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let mut names = crate::store::names_in(directory).unwrap();
    names.sort();
    names
}

fn pack(compression: Compression, text: &str) -> Vec<u8> {
    let mut writer = compression.writer(Vec::new(), Level::High).unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

#[test]
fn everything_arrives_in_name_order_and_sources_are_gone() {
    for compression in Compression::ALL {
        let (_home, layout) = home();
        for name in [TWO, ONE, LABEL, HISTORY] {
            fs::write(layout.incoming.join(name), format!("content of {name}")).unwrap();
        }
        let (report, events) = run(&layout, &with(compression));
        assert_eq!(events, ["Streaming", "Incoming", ONE, LABEL, TWO, HISTORY]);
        assert_eq!(report, ArchiveReport { archived: 4, ..ArchiveReport::default() });
        assert_eq!(listed(&layout), [ONE, LABEL, TWO, HISTORY]);
        for name in [TWO, ONE, LABEL, HISTORY] {
            assert_eq!(archived(&layout, name).unwrap(), format!("content of {name}"), "{compression}");
        }
        assert_eq!(names(&layout.incoming), [""; 0]);
        let list = xlogdb::read(&layout).unwrap();
        let expected = (compression != Compression::None).then(|| compression.name());
        assert!(list.entries.iter().all(|entry| entry.compression.as_deref() == expected));
        let size = fs::metadata(layout.wal(&ONE.parse().unwrap())).unwrap().len();
        assert_eq!(list.entries[0].size, size);
    }
}

#[test]
fn many_files_are_compressed_at_once_and_stay_in_order() {
    let (_home, layout) = home();
    let name = |number: usize| format!("0000000100000000{number:08X}");
    for number in 0..200 {
        fs::write(layout.incoming.join(name(number)), number.to_string()).unwrap();
    }
    let options = ArchiveOptions { workers: NonZeroUsize::new(4), ..with(Compression::Zstd) };
    assert_eq!(run(&layout, &options).0.archived, 200);
    assert_eq!(listed(&layout), (0..200).map(name).collect::<Vec<_>>());
    assert_eq!(archived(&layout, &name(199)).unwrap(), "199");
}

#[test]
fn time_and_mode_of_the_source_are_kept() {
    use std::os::unix::fs::PermissionsExt;
    let (_home, layout) = home();
    let source = layout.incoming.join(ONE);
    fs::write(&source, "x").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o600)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_795_342_542, 366_670_600);
    fs::File::options().write(true).open(&source).unwrap().set_modified(time).unwrap();
    run(&layout, &with(Compression::Gzip));
    let metadata = fs::metadata(layout.wal(&ONE.parse().unwrap())).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.modified().unwrap(), time);
    assert!(fs::read_to_string(layout.xlogdb()).unwrap().contains("\t1795342542.3666706\tgzip\tNone\n"));
}

#[test]
fn what_comes_compressed_is_kept_as_it_is() {
    let (_home, layout) = home();
    let packed = pack(Compression::Gzip, "wal");
    fs::write(layout.incoming.join(ONE), &packed).unwrap();
    run(&layout, &with(Compression::Zstd));
    assert_eq!(fs::read(layout.wal(&ONE.parse().unwrap())).unwrap(), packed);
    assert_eq!(xlogdb::read(&layout).unwrap().entries[0].compression.as_deref(), Some("gzip"));
}

#[test]
fn the_same_again_is_removed_quietly_however_it_is_compressed() {
    let (_home, layout) = home();
    fs::write(layout.incoming.join(ONE), "wal").unwrap();
    run(&layout, &with(Compression::Xz));
    for again in [b"wal".to_vec(), pack(Compression::Lz4, "wal")] {
        fs::write(layout.incoming.join(ONE), again).unwrap();
        let (report, events) = run(&layout, &with(Compression::Xz));
        assert_eq!(events[2], format!("already {ONE}"));
        assert!(!report.needs_attention());
        assert_eq!(names(&layout.incoming), [""; 0]);
    }
    assert_eq!(listed(&layout), [ONE]);
    assert_eq!(names(&layout.errors), [""; 0]);
}

#[test]
fn a_different_file_of_the_same_name_goes_to_errors_and_is_reported() {
    let (_home, layout) = home();
    fs::write(layout.incoming.join(ONE), "first content").unwrap();
    run(&layout, &with(Compression::Gzip));
    for _ in 0..2 {
        fs::write(layout.incoming.join(ONE), "first other").unwrap();
        let (report, events) = run(&layout, &with(Compression::Gzip));
        assert!(report.needs_attention());
        assert!(events[2].contains("they differ from byte 6 on"), "{events:?}");
    }
    assert_eq!(archived(&layout, ONE).unwrap(), "first content");
    // Two of one second get two names.
    let rejected = names(&layout.errors);
    let expected = [format!("{ONE}.20261122T101555Z.duplicate"), format!("{ONE}.20261122T101556Z.duplicate")];
    assert_eq!(rejected, expected);
    for name in rejected {
        assert_eq!(fs::read_to_string(layout.errors.join(name)).unwrap(), "first other");
    }
    assert_eq!(listed(&layout), [ONE]);
}

#[test]
fn a_damaged_archived_file_never_costs_the_good_copy() {
    let (_home, layout) = home();
    let file: WalFile = ONE.parse().unwrap();
    fs::create_dir_all(layout.wal_directory(&file)).unwrap();
    for damaged in [b"wa".to_vec(), pack(Compression::Gzip, "wal")[..12].to_vec(), b"\x85gpg".to_vec()] {
        fs::write(layout.wal(&file), damaged).unwrap();
        fs::write(layout.incoming.join(ONE), "wal").unwrap();
        assert_eq!(run(&layout, &with(Compression::None)).0.rejected, 1);
    }
    let rejected = names(&layout.errors);
    assert_eq!(rejected.len(), 3);
    for name in rejected {
        assert_eq!(fs::read_to_string(layout.errors.join(name)).unwrap(), "wal");
    }
}

#[test]
fn what_is_no_wal_goes_to_errors() {
    let (_home, layout) = home();
    fs::write(layout.incoming.join("notes.txt"), "x").unwrap();
    fs::create_dir(layout.incoming.join(ONE)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", layout.incoming.join(TWO)).unwrap();
    fs::write(layout.incoming.join("transfer.tmp"), "x").unwrap();
    let (report, _) = run(&layout, &with(Compression::None));
    assert_eq!((report.rejected, report.archived), (3, 0));
    let suffix = "20261122T101555Z.unknown";
    let expected = [format!("{ONE}.{suffix}"), format!("{TWO}.{suffix}"), format!("notes.txt.{suffix}")];
    assert_eq!(names(&layout.errors), expected);
    assert_eq!(names(&layout.incoming), ["transfer.tmp"]);
}

#[test]
fn a_segment_still_being_copied_is_left_alone() {
    let (_home, layout) = home();
    let mut page = vec![0x10, 0xd1, 2, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    page.extend_from_slice(&7_u64.to_le_bytes());
    page.extend_from_slice(&(1_u32 << 20).to_le_bytes());
    page.extend_from_slice(&8192_u32.to_le_bytes());
    fs::write(layout.incoming.join(ONE), &page).unwrap();
    fs::write(layout.incoming.join(TWO), "").unwrap();
    let (report, events) = run(&layout, &with(Compression::Zstd));
    assert_eq!(report, ArchiveReport { left: 2, ..ArchiveReport::default() });
    assert_eq!(events[2], format!("left {ONE}: it has 40 bytes of 1048576"));
    assert_eq!(events[3], format!("left {TWO}: it is empty"));
    assert_eq!(names(&layout.incoming), [ONE, TWO]);
    // Nor does a beginning of it count as different from the whole, once that is archived.
    let file: WalFile = ONE.parse().unwrap();
    page.resize(1 << 20, 0);
    fs::write(layout.wal(&file), &page).unwrap();
    assert_eq!(run(&layout, &with(Compression::Zstd)).0.rejected, 0);
    fs::write(layout.incoming.join(ONE), &page).unwrap();
    assert_eq!(run(&layout, &with(Compression::Zstd)).0.already_archived, 1);
}

#[test]
fn an_empty_file_of_any_kind_is_left_alone() {
    let (home, layout) = home();
    let empty = ["00000002.history", "000000010000000000000001.00000028.backup", &format!("{TWO}.partial")];
    for name in empty {
        let path = home.path().join(name);
        fs::write(&path, "").unwrap();
        let file = name.parse().unwrap();
        assert!(!archive_directly(&layout, &with(Compression::Zstd), file, &path, now(), |_| {}).unwrap());
        fs::rename(path, layout.incoming.join(name)).unwrap();
    }
    let (report, _) = run(&layout, &with(Compression::Zstd));
    assert_eq!(report, ArchiveReport { left: 3, ..ArchiveReport::default() });
    assert_eq!(names(&layout.incoming).len(), 3);
}

#[test]
fn the_receivers_newest_segment_is_archived_and_stays() {
    let (_home, layout) = home();
    fs::write(layout.streaming.join(ONE), "one").unwrap();
    fs::write(layout.streaming.join(TWO), "two").unwrap();
    let (report, _) = run(&layout, &with(Compression::None));
    assert_eq!(report.archived, 2);
    assert_eq!(names(&layout.streaming), [TWO]);
    assert_eq!(run(&layout, &with(Compression::None)).0, ArchiveReport::default());
    // What the receiver does with its file from now on can't reach the archive.
    fs::write(layout.streaming.join(TWO), "TWO").unwrap();
    assert_eq!(archived(&layout, TWO).unwrap(), "two");
    fs::write(layout.streaming.join(TWO), "two").unwrap();
    fs::write(layout.streaming.join("000000010000000000000003.partial"), "part").unwrap();
    assert_eq!(run(&layout, &with(Compression::None)).0.already_archived, 1);
    assert_eq!(names(&layout.streaming), ["000000010000000000000003.partial"]);
    assert_eq!(listed(&layout), [ONE, TWO]);
}

#[test]
fn a_crash_at_any_step_loses_nothing_and_the_next_run_finishes() {
    for compression in [Compression::None, Compression::Zstd] {
        let mut crashes = 0;
        for crash in 0.. {
            let (home, layout) = home();
            // An earlier archive, so that appending is what is tested.
            fs::write(layout.incoming.join("000000010000000000000000"), "zero").unwrap();
            run(&layout, &with(compression));
            for name in [ONE, TWO] {
                fs::write(layout.incoming.join(name), format!("content of {name}")).unwrap();
            }
            fs::write(layout.streaming.join(HISTORY), "content of 00000002.history").unwrap();
            fs::write(layout.incoming.join("rubbish"), "rubbish").unwrap();

            let options = ArchiveOptions { workers: NonZeroUsize::new(1), ..with(compression) };
            let faults = Faults::crash_at(home.path(), crash);
            let mut told = Vec::new();
            let outcome = archive_wal(&layout, &options, now(), |event| {
                if let ArchiveEvent::Archived(entry) = event {
                    told.push(entry.file.to_string());
                }
            });
            let steps = faults.finish().len();

            for name in [ONE, TWO, HISTORY] {
                let source = [&layout.incoming, &layout.streaming].iter().any(|dir| dir.join(name).exists());
                let content = archived(&layout, name);
                assert!(source || content.is_some(), "{name} lost by a crash at step {crash}");
                if let Some(content) = content {
                    assert_eq!(content, format!("content of {name}"), "crash at step {crash}");
                }
                if !source {
                    assert!(listed(&layout).contains(&name.to_owned()), "{name} unlisted, step {crash}");
                }
            }
            for name in told {
                assert!(listed(&layout).contains(&name) && archived(&layout, &name).is_some());
            }
            if steps <= crash {
                outcome.unwrap();
                break;
            }
            outcome.unwrap_err();
            crashes += 1;

            run(&layout, &options);
            let mut list = listed(&layout);
            list.sort();
            assert_eq!(list, ["000000010000000000000000", ONE, TWO, HISTORY], "crash at step {crash}");
            assert_eq!(names(&layout.incoming), [""; 0], "crash at step {crash}");
            assert_eq!(names(&layout.streaming), [""; 0], "crash at step {crash}");
            assert_eq!(names(&layout.errors).len(), 1);
            assert_eq!(names(&layout.wals.join("0000000100000000")).len(), 3, "crash at step {crash}");
        }
        assert!(crashes > 10, "only {crashes} steps");
    }
}

#[test]
fn one_failing_step_costs_a_run_and_nothing_else() {
    for compression in [Compression::None, Compression::Zstd] {
        for fault in 0.. {
            let (home, layout) = home();
            for name in [ONE, TWO] {
                fs::write(layout.incoming.join(name), format!("content of {name}")).unwrap();
            }
            let options = ArchiveOptions { workers: NonZeroUsize::new(1), ..with(compression) };
            let faults = Faults::fail_once_at(home.path(), fault);
            let outcome = archive_wal(&layout, &options, now(), |_| {});
            if faults.finish().len() <= fault {
                outcome.unwrap();
                break;
            }
            // A refused link is made good by a copy; all else is told, with the file's name.
            if let Err(error) = outcome {
                let error = error.to_string();
                assert!(error.contains("injected fault"), "{error}");
                assert!(error.contains(&home.path().display().to_string()), "{error}");
            }
            run(&layout, &options);
            assert_eq!(listed(&layout), [ONE, TWO], "fault at step {fault}");
            for name in [ONE, TWO] {
                assert_eq!(archived(&layout, name).unwrap(), format!("content of {name}"));
            }
            assert_eq!(names(&layout.incoming), [""; 0]);
            assert_eq!(names(&layout.wals.join("0000000100000000")), [ONE, TWO], "fault at step {fault}");
        }
    }
}

#[test]
fn a_source_is_removed_only_when_copy_name_and_line_are_durable() {
    for compression in [Compression::None, Compression::Gzip] {
        let (home, layout) = home();
        fs::write(layout.xlogdb(), "").unwrap();
        fs::write(layout.incoming.join(ONE), "one").unwrap();
        let faults = Faults::trace(home.path());
        run(&layout, &with(compression));
        let steps = faults.finish();
        let at = |step: Step, path: &Path| {
            steps
                .iter()
                .position(|done| *done == (step, path.to_owned()))
                .unwrap_or_else(|| panic!("no {step} of {} in {steps:?}", path.display()))
        };
        let (source, target) = (layout.incoming.join(ONE), layout.wal(&ONE.parse().unwrap()));
        let content = if compression == Compression::None { &source } else { &target };
        let naming = if compression == Compression::None { Step::Link } else { Step::Rename };
        let order = [
            at(Step::Sync, content),
            at(naming, &target),
            at(Step::SyncDirectory, target.parent().unwrap()),
            at(Step::Sync, &layout.xlogdb()),
            at(Step::Remove, &source),
            at(Step::SyncDirectory, &layout.incoming),
        ];
        // The directory is synced once when it is created, and the last time after the file has its name.
        let named =
            steps.iter().rposition(|done| *done == (Step::SyncDirectory, target.parent().unwrap().into()));
        assert!(named.unwrap() > order[1] && named.unwrap() < order[3], "{steps:?}");
        assert!(order[0] < order[1] && order[3] < order[4] && order[4] < order[5], "{steps:?}");
    }
}

#[test]
fn leftovers_of_a_crash_are_cleared() {
    let (_home, layout) = home();
    let file: WalFile = ONE.parse().unwrap();
    fs::create_dir_all(layout.wal_directory(&file)).unwrap();
    let leftover = layout.wal_directory(&file).join(format!(".{ONE}.barkeep-1-2.tmp"));
    fs::write(&leftover, "half").unwrap();
    fs::write(layout.incoming.join(ONE), "one").unwrap();
    run(&layout, &with(Compression::Gzip));
    assert!(!leftover.exists());
}

#[test]
fn one_unreadable_source_does_not_stop_the_others() {
    let (_home, layout) = home();
    fs::write(layout.incoming.join(ONE), b"\x85 encrypted").unwrap();
    fs::write(layout.incoming.join(TWO), "two").unwrap();
    let (report, events) = run(&layout, &with(Compression::None));
    assert_eq!((report.archived, report.left), (1, 1));
    assert!(events[3].contains("encrypted by gpg"), "{events:?}");
    assert_eq!(names(&layout.incoming), [ONE]);
}

#[test]
fn only_one_process_archives() {
    let (_home, layout) = home();
    fs::create_dir_all(layout.private()).unwrap();
    // Barman's archiver and ours.
    for task in [Task::ArchiveWal, Task::Archiver] {
        let _lock = ServerLock::try_acquire(&layout, task).unwrap();
        let error = archive_wal(&layout, &ArchiveOptions::default(), now(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("holds the lock"), "{error}");
    }
}

#[test]
fn a_missing_directory_is_an_empty_one() {
    let (_home, layout) = home();
    fs::remove_dir(&layout.incoming).unwrap();
    assert_eq!(run(&layout, &ArchiveOptions::default()).0, ArchiveReport::default());
}
