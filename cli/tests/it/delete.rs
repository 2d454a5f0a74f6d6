//! `delete`: what goes, what stays, who refuses.

use std::fs;

use barkeep_catalog::{Catalog, Keep, Kept, ServerLock, Status, Task};
use pgwal::WalFile;

use crate::stored::{archive, archived, backup, home, layout, listed, names, save, segment};
use crate::support::Home;

fn catalog(home: &Home) -> Catalog {
    Catalog::new(layout(home))
}

fn segments(numbers: std::ops::RangeInclusive<u64>) -> Vec<WalFile> {
    numbers.map(|number| WalFile::Segment(segment(1, number))).collect()
}

#[test]
fn removes_the_backup_and_the_wal_that_only_it_needed() {
    let home = home();
    let (first, second) = (backup(&home, 1, segment(1, 3)), backup(&home, 2, segment(1, 6)));
    archived(&home, segments(1..=8));
    archived(
        &home,
        ["00000002.history".parse().unwrap(), format!("{}.00000028.backup", segment(1, 3)).parse().unwrap()],
    );
    let run = home.run(["delete", "main", "oldest"]).success();
    assert!(run.stdout.starts_with(&format!(
        "Deleting backup {} for server main\nDelete associated WAL segments:\n\t{}\n",
        first.id,
        segment(1, 1)
    )));
    assert!(run.stdout.contains(&format!("Deleted backup {} (start time: ", first.id)), "{run:?}");
    let mut expected: Vec<String> = segments(6..=8).iter().map(ToString::to_string).collect();
    expected.push("00000002.history".to_owned());
    assert_eq!(archive(&home), expected);
    assert_eq!(listed(&home), expected);
    assert_eq!(names(home.join("main/base")), [second.id.to_string()]);
    assert_eq!(names(home.join("main/meta")), [format!("{}-backup.info", second.id)]);
}

#[test]
fn a_newer_backup_takes_no_wal_along() {
    let home = home();
    backup(&home, 1, segment(1, 3));
    backup(&home, 2, segment(1, 6));
    archived(&home, segments(3..=8));
    let run = home.run(["delete", "main", "latest"]).success();
    assert!(!run.stdout.contains("WAL"), "{run:?}");
    assert_eq!(archive(&home).len(), 6);
}

#[test]
fn the_last_backup_that_can_be_restored_stays() {
    let home = home();
    let last = backup(&home, 1, segment(1, 3));
    let mut failed = backup(&home, 2, segment(1, 5));
    failed.status = Status::Failed;
    save(&home, &failed);
    archived(&home, segments(1..=8));
    for options in [&["--dry-run"][..], &[]] {
        let words = ["delete", "main", "oldest"].iter().chain(options);
        home.run(words).fails_with_one_line(1, &[last.id.as_str(), "the last backup that can be restored"]);
    }
    assert_eq!(names(home.join("main/base")).len(), 2);
    assert_eq!(archive(&home).len(), 8);
}

#[test]
fn when_only_rubbish_is_left_its_wal_from_its_beginning_on_stays() {
    let home = home();
    let mut failed = backup(&home, 1, segment(1, 3));
    failed.status = Status::Failed;
    save(&home, &failed);
    archived(&home, segments(1..=8));
    home.run(["delete", "main", "last-failed"]).success();
    assert_eq!(archive(&home)[0], segment(1, 3).to_string());
    assert_eq!(names(home.join("main/base")), [""; 0]);
}

#[test]
fn a_dry_run_tells_all_and_touches_nothing() {
    let home = home();
    let root = backup(&home, 1, segment(1, 3));
    let mut child = backup(&home, 2, segment(1, 4));
    child.parent_backup_id = Some(root.id);
    save(&home, &child);
    backup(&home, 3, segment(1, 6));
    archived(&home, segments(1..=8));
    let run = home.run(["delete", "main", "oldest", "--dry-run"]).success();
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], format!("Would delete backup {} for server main (4 B)", child.id));
    assert_eq!(lines[1], format!("Would delete backup {} for server main (4 B)", root.id));
    assert_eq!(lines[2], "Would delete associated WAL segments:");
    assert_eq!(lines[3..8], (1..=5).map(|number| format!("\t{}", segment(1, number))).collect::<Vec<_>>());
    assert_eq!(lines[8], "This would free 183 B");
    let json = home.run(["-f", "json", "delete", "main", "oldest", "--dry-run"]).success().json();
    assert_eq!(json["main"]["would_delete"]["wals"].as_array().map(Vec::len), Some(5), "{json}");
    assert_eq!(names(home.join("main/base")).len(), 3);
    assert_eq!(archive(&home).len(), 8);
    home.run(["delete", "main", "oldest"]).success();
    assert_eq!(archive(&home)[0], segment(1, 6).to_string());
}

/// 3.13 to 3.20.1 of Barman remove a whole directory of the archive when 256 entries of it are to go, though the next
/// backup needs some of the others.
#[test]
fn two_hundred_and_fifty_six_entries_mean_nothing() {
    let home = home();
    backup(&home, 1, segment(1, 0));
    backup(&home, 2, segment(1, 0x300));
    archived(&home, segments(0..=0x400));
    archived(&home, [format!("{}.00000028.backup", segment(1, 0)).parse().unwrap()]);
    home.run(["delete", "main", "oldest"]).success();
    let expected: Vec<String> = segments(0x300..=0x400).iter().map(ToString::to_string).collect();
    assert_eq!(archive(&home), expected);
    assert_eq!(listed(&home), expected);
}

#[test]
fn wal_of_another_timeline_stays_while_a_backup_leads_to_it() {
    let home = home();
    backup(&home, 1, segment(1, 1));
    backup(&home, 2, segment(1, 4));
    let on_two = |number| WalFile::Segment(segment(2, number));
    archived(&home, segments(1..=6).into_iter().chain((5..=8).map(on_two)));
    // Timeline 2 left timeline 1 in segment 5, after the second backup.
    let history = layout(&home).wals.join("00000002.history");
    fs::write(&history, "1\t0/500000\tno recovery target specified\n").unwrap();
    home.run(["delete", "main", "oldest"]).success();
    let mut expected: Vec<String> = segments(4..=6).iter().map(ToString::to_string).collect();
    expected.extend((5..=8).map(|number| segment(2, number).to_string()));
    expected.push("00000002.history".to_owned());
    expected.sort();
    let mut found = archive(&home);
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_backup_kept_by_itself_keeps_its_own_wal() {
    let home = home();
    let kept = backup(&home, 1, segment(1, 2));
    backup(&home, 2, segment(1, 4));
    backup(&home, 3, segment(1, 6));
    archived(&home, segments(1..=7));
    catalog(&home).keep(kept.id, &Kept::for_good(Keep::Standalone)).unwrap();
    home.run(["delete", "main", "20260101T020000"]).success();
    // A person spoke of one backup; what lies between it and the next stays until the policy is asked (see `cron`).
    assert_eq!(archive(&home).len(), 7);
}

#[test]
fn increments_go_with_the_backup_they_build_on() {
    let home = home();
    let root = backup(&home, 1, segment(1, 1));
    let mut child = backup(&home, 2, segment(1, 2));
    let mut grandchild = backup(&home, 3, segment(1, 3));
    let other = backup(&home, 4, segment(1, 4));
    child.parent_backup_id = Some(root.id);
    child.children_backup_ids = vec![grandchild.id];
    grandchild.parent_backup_id = Some(child.id);
    let mut parent = root.clone();
    parent.children_backup_ids = vec![child.id];
    for info in [&parent, &child, &grandchild] {
        save(&home, info);
    }
    // A child alone: its parent forgets it.
    home.run(["delete", "main", grandchild.id.as_str()]).success();
    assert_eq!(catalog(&home).read(child.id).unwrap().children_backup_ids, []);
    save(&home, &child);
    save(&home, &grandchild);
    let run = home.run(["delete", "main", "oldest"]).success();
    assert!(run.stderr.contains("Deleting all backups in the tree"), "{run:?}");
    let order: Vec<&str> =
        run.stdout.lines().filter_map(|line| line.strip_prefix("Deleted backup ")).collect();
    for (line, info) in order.iter().zip([&grandchild, &child, &root]) {
        assert!(line.starts_with(info.id.as_str()), "{order:?}");
    }
    assert_eq!(names(home.join("main/base")), [other.id.to_string()]);
}

#[test]
fn kept_and_needed_backups_are_refused() {
    let home = home().with("main", "minimum_redundancy", "1");
    let first = backup(&home, 1, segment(1, 1));
    archived(&home, segments(1..=2));
    home.run(["delete", "main", "latest"]).fails_with_one_line(1, &["minimum_redundancy is 1"]);
    backup(&home, 2, segment(1, 2));
    catalog(&home).keep(first.id, &Kept::for_good(Keep::Full)).unwrap();
    home.run(["delete", "main", "oldest"]).fails_with_one_line(1, &[first.id.as_str(), "kept"]);
    // Whatever the mark says, as long as it is there.
    fs::write(layout(&home).annotation(first.id, "keep"), "perhaps").unwrap();
    home.run(["delete", "main", "oldest"]).fails_with_one_line(1, &["kept (full)"]);
    catalog(&home).release(first.id).unwrap();
    home.run(["delete", "main", "oldest"]).success();
    assert_eq!(archive(&home), [segment(1, 2).to_string()]);
}

#[test]
fn failed_and_damaged_backups_can_go() {
    let home = home().with("main", "minimum_redundancy", "1");
    let done = backup(&home, 1, segment(1, 1));
    let mut failed = backup(&home, 2, segment(1, 2));
    failed.status = Status::Failed;
    save(&home, &failed);
    let mut dead = backup(&home, 3, segment(1, 3));
    dead.status = Status::Started;
    save(&home, &dead);
    archived(&home, segments(1..=3));
    // The one whose process is gone is the last that failed.
    home.run(["delete", "main", "last-failed"]).success();
    home.run(["delete", "main", "last-failed"]).success();
    home.run(["delete", "main", "last-failed"]).fails_with_one_line(1, &["last-failed"]);
    let damaged = "20260101T050000";
    fs::write(layout(&home).meta().join(format!("{damaged}-backup.info")), "status=WHAT\n").unwrap();
    home.run(["delete", "main", damaged]).success();
    assert_eq!(names(home.join("main/base")), [done.id.to_string()]);
    assert_eq!(names(home.join("main/meta")), [format!("{}-backup.info", done.id)]);
    assert_eq!(archive(&home).len(), 3);
}

#[test]
fn no_wal_goes_while_a_record_cannot_be_read() {
    let home = home();
    backup(&home, 1, segment(1, 1));
    backup(&home, 2, segment(1, 4));
    archived(&home, segments(1..=5));
    fs::write(layout(&home).meta().join("20260101T050000-backup.info"), "status=WHAT\n").unwrap();
    let run = home.run(["delete", "main", "oldest"]).success();
    assert!(run.stderr.contains("kept for now") && run.stderr.contains("20260101T050000"), "{run:?}");
    assert_eq!(archive(&home).len(), 5);
}

#[test]
fn a_missing_directory_of_the_archive_is_no_obstacle() {
    let home = home();
    backup(&home, 1, segment(1, 1));
    let second = backup(&home, 2, segment(1, 0x1001));
    archived(&home, segments(1..=2));
    fs::remove_dir_all(home.join("main/wals/0000000100000000")).unwrap();
    home.run(["delete", "main", "oldest"]).success();
    assert_eq!(names(home.join("main/base")), [second.id.to_string()]);
    assert_eq!(listed(&home), [""; 0]);
}

#[test]
fn an_unknown_backup_and_a_busy_server_are_one_clear_line() {
    let home = home();
    backup(&home, 1, segment(1, 1));
    for text in ["20200101T000000", "nightly", "", "st", "fail", "auto"] {
        home.run(["delete", "main", text]).fails_with_one_line(1, &["list-backups main"]);
    }
    let _lock = ServerLock::try_acquire(&layout(&home), Task::Backup).unwrap();
    home.run(["delete", "main", "latest"]).fails_with_one_line(1, &["Another process", "main"]);
    assert_eq!(names(home.join("main/base")).len(), 1);
}
