use std::time::SystemTime;

use super::temp_file::NAME_BYTES_MAX;
use super::*;
use crate::faults::Faults;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Runs `action` with a crash at each of its steps in turn; `verify` sees what every crash left behind.
fn crash_everywhere(action: impl Fn(&Path) -> Result<()>, verify: impl Fn(&Path, usize)) {
    for crash in 0.. {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("state"), "old").unwrap();
        let faults = Faults::crash_at(directory.path(), crash);
        let outcome = action(directory.path());
        let steps = faults.finish().len();
        verify(directory.path(), crash);
        if steps <= crash {
            outcome.unwrap();
            return;
        }
        outcome.unwrap_err();
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_content_or_the_new() {
    crash_everywhere(
        |root| write(&root.join("state"), b"new"),
        |root, crash| {
            let content = fs::read_to_string(root.join("state")).unwrap();
            assert!(content == "old" || content == "new", "crash at step {crash}: {content:?}");
            for name in names(root) {
                assert!(name == "state" || is_temporary(OsStr::new(&name)), "left behind: {name}");
            }
            remove_temporary_files(root).unwrap();
            assert_eq!(names(root), ["state"]);
        },
    );
}

#[test]
fn the_content_is_durable_before_the_name_and_the_name_before_success() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::trace(directory.path());
    write(&directory.path().join("state"), b"new").unwrap();
    let steps: Vec<Step> = faults.finish().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncDirectory]);
}

#[test]
fn a_failure_that_is_not_a_crash_removes_the_temporary_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    for fault in 0..4 {
        let faults = Faults::fail_once_at(directory.path(), fault);
        let error = write(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("state"), "{error}");
        drop(faults);
        assert_eq!(names(directory.path()), [""; 0], "fault {fault}");
    }
}

#[test]
fn a_new_file_never_replaces_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    write_new(&path, b"first").unwrap();
    let error = write_new(&path, b"second").unwrap_err();
    assert_eq!((error.step, error.kind()), (Step::Rename, io::ErrorKind::AlreadyExists));
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(names(directory.path()), ["state"]);

    let other = directory.path().join("other");
    write(&other, b"second").unwrap();
    assert_eq!(rename_new(&other, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"first");
    rename(&other, &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
}

#[test]
fn a_failed_append_leaves_the_file_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    assert_eq!(append(&path, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::write(&path, "one\n").unwrap();
    for fault in 0..4 {
        let faults = Faults::fail_once_at(directory.path(), fault);
        append(&path, b"two\n").unwrap_err();
        drop(faults);
        assert_eq!(fs::read(&path).unwrap(), b"one\n", "fault {fault}");
    }
    append(&path, b"two\n").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
}

#[test]
fn a_rename_across_directories_syncs_the_new_name_before_the_old_ones_absence() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    create_dir_all(&root.join("a/b")).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    let faults = Faults::trace(root);
    rename_new(&root.join("file"), &root.join("a/b/file")).unwrap();
    assert_eq!(
        faults.finish(),
        [
            (Step::Rename, root.join("a/b/file")),
            (Step::SyncDirectory, root.join("a/b")),
            (Step::SyncDirectory, root.to_owned())
        ]
    );
}

#[test]
fn removing_says_whether_there_was_something() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    assert!(!remove(&path).unwrap());
    fs::write(&path, "x").unwrap();
    assert!(remove(&path).unwrap());
    create_dir_all(&path.join("below")).unwrap();
    assert_eq!(remove_dir(&path).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
    assert!(remove_dir_all(&path).unwrap());
    assert!(!remove_dir_all(&path).unwrap());
    assert!(!remove_dir(&path).unwrap());
}

#[test]
fn removing_a_tree_follows_no_link() {
    let directory = tempfile::tempdir().unwrap();
    let (outside, tree) = (directory.path().join("outside"), directory.path().join("tree"));
    create_dir_all(&outside.join("kept")).unwrap();
    create_dir_all(&tree).unwrap();
    std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
    remove_dir_all(&tree).unwrap();
    assert!(outside.join("kept").is_dir());
}

#[test]
fn every_directory_created_is_durable_in_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let faults = Faults::trace(root);
    create_dir_all(&root.join("a/b")).unwrap();
    assert_eq!(
        faults.finish(),
        [
            (Step::CreateDirectory, root.join("a")),
            (Step::SyncDirectory, root.to_owned()),
            (Step::CreateDirectory, root.join("a/b")),
            (Step::SyncDirectory, root.join("a")),
        ]
    );
    fs::write(root.join("file"), "x").unwrap();
    create_dir_all(&root.join("file/below")).unwrap_err();
}

#[test]
fn the_longest_name_can_be_published() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n".repeat(NAME_BYTES_MAX));
    write(&path, b"x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x");
}

#[test]
fn only_our_own_leftovers_are_temporary() {
    for (name, expected) in [
        (".file.barkeep-12-3.tmp", true),
        ("file.barkeep-12-3.tmp", false),
        (".file.tmp", false),
        (".file.barkeep-12-3", false),
    ] {
        assert_eq!(is_temporary(OsStr::new(name)), expected, "{name}");
    }
}

#[test]
fn mode_and_time_are_kept() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_700);
    let mut file = TempFile::create(&path).unwrap();
    file.write_bytes(b"x").unwrap();
    file.set_metadata(Some(0o640), Some(time)).unwrap();
    file.publish().unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    assert_eq!(metadata.modified().unwrap(), time);
}

#[test]
fn of_the_temporary_files_those_that_are_meant_go() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let others = TempFile::create(&root.join("list")).unwrap();
    for leftover in [".a.barkeep-1.barkeep-7-1.tmp", ".b.barkeep-7-2.tmp", ".c.tmp"] {
        fs::write(root.join(leftover), "half").unwrap();
    }
    let meant = |name: &str| name == "a.barkeep-1" || name == "b";
    assert_eq!(remove_temporary_files_of(root, meant).unwrap(), 2);
    others.publish().unwrap();
    assert_eq!(names(root), [".c.tmp", "list"]);
}
