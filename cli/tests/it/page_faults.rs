//! The page of `windows --html` when storage fails or the command is killed: the one of before, or the whole new one.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::archive_faults::{SmallDisk, failing_fsync};
use crate::killed_steps::{has_strace, killed_at_every};
use crate::stored::{backup, deliver, home, names, segment};
use crate::support::{Home, Run};

const BEFORE: &str = "the page of yesterday";

/// A home with a backup and WAL.
fn stocked() -> Home {
    let home = home();
    (1..=3).for_each(|number| drop(deliver(&home, segment(1, number))));
    home.run(["archive-wal", "main"]).success();
    backup(&home, 1, segment(1, 1));
    home
}

fn draw(home: &Home, page: &Path) -> Command {
    let mut command = home.command();
    command.args(["windows", "main", "--html"]).arg(page);
    command
}

#[track_caller]
fn is_whole(page: &Path) {
    let text = fs::read_to_string(page).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.trim_end().ends_with("</html>"), "{text}");
    assert!(text.contains("20260101T010000"), "{text}");
}

#[test]
fn a_page_that_is_drawn_when_killed_is_the_old_one_or_the_new_one() {
    if !has_strace() {
        return;
    }
    let home = stocked();
    let page = home.join("pages/index.html");
    fs::create_dir_all(page.parent().unwrap()).unwrap();
    killed_at_every(
        &["write", "fsync", "linkat", "rename", "renameat2"],
        None,
        || {
            fs::write(&page, BEFORE).unwrap();
            draw(&home, &page)
        },
        |done| {
            if done || fs::read_to_string(&page).unwrap() != BEFORE {
                is_whole(&page);
            }
        },
    );
    is_whole(&page);
}

#[test]
fn a_disk_that_is_full_or_fails_leaves_the_page_of_before() {
    let home = stocked();
    let page = home.join("pages/index.html");
    let refused = |run: Run, reason: &str| {
        let run = run.exits_with(1);
        let told = run.stderr.lines().last().unwrap_or_default();
        assert!(told.contains("index.html") && told.contains(reason), "{run:?}");
        assert!(!run.stdout.contains("The page is in") && !run.stderr.contains("The page is in"), "{run:?}");
    };
    refused(home.run(["windows", "main", "--html", page.to_str().unwrap()]), "No such file or directory");
    fs::create_dir_all(page.parent().unwrap()).unwrap();
    fs::write(&page, BEFORE).unwrap();

    let (library, flag) = (failing_fsync(home.path()), home.join("fsync-fails"));
    fs::write(&flag, "").unwrap();
    let mut failing = draw(&home, &page);
    failing.env("LD_PRELOAD", &library).env("FSYNC_FAILS", &flag);
    refused(Run::of(failing.stdin(Stdio::null())), "Input/output error");
    assert_eq!(fs::read_to_string(&page).unwrap(), BEFORE);
    assert_eq!(names(page.parent().unwrap()), ["index.html"]);

    let Some(disk) = SmallDisk::over(home.join("small"), "8k") else { return };
    let page = home.join("small/index.html");
    fs::write(&page, BEFORE).unwrap();
    fs::write(home.join("small/filler"), "x").unwrap();
    refused(Run::of(&mut draw(&home, &page)), "No space left on device");
    assert_eq!(fs::read_to_string(&page).unwrap(), BEFORE);
    assert_eq!(names(home.join("small")), ["filler", "index.html"]);
    disk.remount("size=4m");
    Run::of(&mut draw(&home, &page)).success();
    is_whole(&page);
    assert_eq!(names(home.join("small")), ["filler", "index.html"]);
}
