//! For how long the archiver keeps others waiting.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use barkeep_catalog::xlogdb;
use testkit::wait_for;

use crate::stored::{archive, deliver, home, layout, listed, segment};

/// A script in the home that is executable.
fn script(home: &crate::support::Home, name: &str, text: &str) -> String {
    let path = home.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn no_lock_of_the_archive_is_held_while_a_hook_runs() {
    let home = home().with("main", "compression", "zstd");
    let told = home.join("told");
    let locks = script(
        &home,
        "locks",
        &format!(
            "for lock in archive-wal xlogdb; do\n\
             if flock --nonblock '{0}'/.main-$lock.lock true; then free=free; else free=held; fi\n\
             echo \"$BARMAN_PHASE $BARMAN_SEGMENT $lock $free\" >> '{1}'\ndone",
            home.path().display(),
            told.display()
        ),
    );
    let keys = [
        "pre_archive_script",
        "pre_archive_retry_script",
        "post_archive_retry_script",
        "post_archive_script",
    ];
    let home = keys.into_iter().fold(home, |home, key| home.with("main", key, &locks));
    let files = [segment(1, 1), segment(1, 2), segment(1, 3)];
    files.iter().for_each(|file| drop(deliver(&home, *file)));
    home.run(["archive-wal", "main"]).success();
    let text = std::fs::read_to_string(&told).unwrap();
    assert_eq!(text.lines().count(), files.len() * keys.len() * 2, "{text}");
    assert!(text.lines().all(|line| line.ends_with(" free")), "{text}");
    assert_eq!(archive(&home).len(), files.len());
}

/// A hook may archive by itself: nothing is archived twice, and nothing is left out.
#[test]
fn a_hook_may_call_the_archiver() {
    let home = home();
    let inner = home.join("inner.conf");
    let again = script(
        &home,
        "again",
        &format!("'{}' -q -c '{}' archive-wal main", crate::support::barkeep(), inner.display()),
    );
    // The same home, without the hook.
    std::fs::copy(home.config(), &inner).unwrap();
    let home = home.with("main", "pre_archive_script", &again);
    for number in 1..=3 {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home).len(), 3);
    assert_eq!(listed(&home).len(), 3);
}

#[test]
fn the_list_can_be_read_while_files_are_compressed() {
    let home = home().with("main", "compression", "xz");
    for number in 1..=8 {
        deliver(&home, segment(1, number));
    }
    let layout = layout(&home);
    std::fs::create_dir_all(&layout.wals).unwrap();
    let list = xlogdb::Locked::acquire(&layout).unwrap();
    let mut archiver =
        home.command().args(["-q", "archive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
    // All of them are compressed and have their names, while the list is ours.
    wait_for("the files to be compressed", 60, || (archive(&home).len() == 8).then_some(()));
    assert!(archiver.try_wait().unwrap().is_none(), "it has to wait before it ends");
    drop(list);
    assert!(archiver.wait().unwrap().success());
    assert_eq!(listed(&home).len(), 8);
}
