//! `retention` and `keep`: what is told, what is done, and that the two agree.

use std::fs;

use barkeep_catalog::{Catalog, Keep, Kept, Status};
use jiff::{SignedDuration, Timestamp, Zoned};
use pgwal::WalFile;
use serde_json::Value;

use crate::stored::{archive, archived, backup, home, layout, names, save, segment};
use crate::support::Home;

/// Backups that ended so many days ago, each two segments further, and a segment more.
fn aged(home: &Home, days: &[i64]) -> Vec<String> {
    let mut ids = Vec::new();
    for (index, days) in days.iter().enumerate() {
        let number = 2 * index as u64 + 1;
        let mut info = backup(home, u32::try_from(index + 1).unwrap(), segment(1, number));
        let end: Zoned = "2026-11-22T12:00:00+00:00[UTC]".parse().unwrap();
        info.end_time = Some(end.checked_sub(SignedDuration::from_hours(24 * days)).unwrap());
        save(home, &info);
        ids.push(info.id.to_string());
    }
    archived(home, (1..=2 * days.len() as u64 + 1).map(|number| WalFile::Segment(segment(1, number))));
    ids
}

const AT: &str = "2026-11-22T12:00:00Z";

fn retention(home: &Home, options: &[&str]) -> Value {
    let words = ["-f", "json", "retention", "main", "--at", AT].iter().chain(options);
    home.run(words).success().json()["main"].clone()
}

fn actions(answer: &Value, what: &str) -> Vec<String> {
    let lines = answer[what].as_array().unwrap();
    lines.iter().map(|line| line["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn tells_what_stays_and_goes_and_touches_nothing() {
    let home = home().with("main", "retention_policy", "RECOVERY WINDOW OF 7 DAYS");
    let ids = aged(&home, &[40, 20, 10, 5, 1]);
    let answer = retention(&home, &[]);
    assert_eq!(actions(&answer, "backups"), ["goes", "goes", "stays", "stays", "stays"]);
    assert_eq!(answer["backups"][2]["until"], "2026-11-24T12:00:00Z", "{answer}");
    assert_eq!(answer["frees"]["backups"], 2);
    assert_eq!(answer["frees"]["wal_files"], 4);
    assert_eq!(answer["window_begin"], "2026-11-15T12:00:00Z");
    let ranges = answer["wals"].as_array().unwrap();
    assert_eq!(ranges[0]["begin_wal"], segment(1, 1).to_string());
    assert_eq!(ranges[0]["end_wal"], segment(1, 4).to_string());
    assert_eq!(ranges[1]["needed_by"], ids[2].as_str(), "{answer}");
    let text = home.run(["retention", "main", "--at", AT, "--explain"]).success().stdout;
    for part in [
        "Server main: RECOVERY WINDOW OF 7 DAYS, minimum redundancy 0, WAL: MAIN, as of 2026-11-22 12:00 UTC",
        "Goes:  2 backups (8 B), 4 WAL files (140 B): frees 148 B",
        "the newest backup before 2026-11-15T12:00:00Z",
        "recovery from no remaining backup can ask for it",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    assert_eq!(names(home.join("main/base")).len(), 5);
    assert_eq!(archive(&home).len(), 11);
}

#[test]
fn the_chart_shows_the_window_and_each_backup_in_its_place() {
    let home = home().with("main", "retention_policy", "RECOVERY WINDOW OF 10 DAYS");
    aged(&home, &[59, 29, 0]);
    let text = home.run(["retention", "main", "--at", AT]).success().stdout;
    let lines: Vec<&str> = text.lines().skip(2).take(5).collect();
    assert!(lines[0].trim_start().starts_with("2026-09-24 12:00"), "{text}");
    let column = |line: &str, mark: char| line[48..].find(mark);
    assert_eq!(column(lines[1], '['), Some(49), "{text}");
    assert_eq!(
        (column(lines[2], 'x'), column(lines[3], 'o'), column(lines[4], 'o')),
        (Some(0), Some(30), Some(59)),
        "{text}"
    );
    assert!(lines[2].contains("x----") && lines[3].contains("o===="), "{text}");
}

#[test]
fn what_if_for_another_policy_or_moment() {
    let home = home();
    aged(&home, &[40, 20, 10, 5, 1]);
    let goes = |options: &[&str]| {
        let answer = retention(&home, options);
        actions(&answer, "backups").iter().filter(|action| *action == "goes").count()
    };
    assert_eq!(goes(&[]), 0, "no policy");
    assert_eq!(goes(&["--policy", "redundancy 2"]), 3);
    assert_eq!(goes(&["--policy", "keep 2 daily and recovery window of 11 days"]), 1);
    let later =
        ["-f", "json", "retention", "main", "--policy", "recovery window of 7 days", "--at", "2027-01-01"];
    let answer = home.run(later).success().json();
    assert_eq!(actions(&answer["main"], "backups")[..], ["goes", "goes", "goes", "goes", "stays"]);
    home.run(["retention", "main", "--policy", "recovery_window_of_7_days"])
        .fails_with_one_line(1, &["--policy", "column 1", "did you mean \"RECOVERY WINDOW OF 7 DAYS\"?"]);
    home.run(["retention", "main", "--policy", "keep 1 daily in Europe/Atlantis"])
        .fails_with_one_line(1, &["Europe/Atlantis"]);
    home.run(["retention", "main", "--at", "soon"]).fails_with_one_line(1, &["--at", "soon"]);
    home.run(["retention", "main", "--wal-policy", "recovery window of 3 days"])
        .fails_with_one_line(1, &["--wal-policy", "WINDOW OF 3 DAYS"]);
}

#[test]
fn a_window_for_wal_leaves_older_backups_what_makes_them_consistent() {
    let home = home().with("main", "retention_policy", "REDUNDANCY 9").with(
        "main",
        "wal_retention_policy",
        "WINDOW OF 7 DAYS",
    );
    let now = Timestamp::now();
    for (index, days) in [40, 20, 10, 5].into_iter().enumerate() {
        let number = 3 * index as u64 + 1;
        let mut info = backup(&home, u32::try_from(index + 1).unwrap(), segment(1, number));
        info.end_time = Some((now - SignedDuration::from_hours(24 * days)).to_zoned(jiff::tz::TimeZone::UTC));
        save(&home, &info);
    }
    archived(&home, (1..=13).map(|number| WalFile::Segment(segment(1, number))));
    let told = home.run(["-f", "json", "retention", "main"]).success().json();
    assert_eq!(told["main"]["frees"]["wal_files"], 4, "{told}");
    home.run(["cron"]).success();
    let expected: Vec<String> = [1, 4].into_iter().chain(7..=13).map(|n| segment(1, n).to_string()).collect();
    assert_eq!(archive(&home), expected);
    assert_eq!(names(home.join("main/base")).len(), 4);
}

/// What is told is what the next cron does, and doing it twice does nothing more.
#[test]
fn cron_does_what_was_told() {
    let home =
        home().with("main", "retention_policy", "REDUNDANCY 2").with("main", "minimum_redundancy", "1");
    aged(&home, &[40, 20, 10, 5, 1]);
    Catalog::new(layout(&home))
        .keep("20260101T020000".parse().unwrap(), &Kept::for_good(Keep::Standalone))
        .unwrap();
    let told = home.run(["-f", "json", "retention", "main"]).success().json()["main"].clone();
    let before = archive(&home);
    home.run(["cron"]).success();
    let left: Vec<&str> = told["backups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["action"] == "stays")
        .map(|line| line["backup_id"].as_str().unwrap())
        .collect();
    assert_eq!(names(home.join("main/base")), left);
    let gone = before.len() - archive(&home).len();
    assert_eq!(told["frees"]["wal_files"].as_u64(), Some(gone as u64), "{told}");
    let again = home.run(["-f", "json", "retention", "main"]).success().json();
    assert_eq!(again["main"]["frees"]["bytes"], 0, "{again}");
}

#[test]
fn keeps_are_made_told_and_released() {
    let home = home();
    let ids = aged(&home, &[3, 2, 1]);
    let status = |id: &str| home.run(["keep", "main", id, "--status"]).success().stdout;
    assert_eq!(status(&ids[0]), "Server main:\n\tKeep: nokeep\n");
    assert_eq!(home.run(["keep", "main", "oldest", "--target", "standalone"]).success().stdout, "");
    assert_eq!(status(&ids[0]), "Server main:\n\tKeep: standalone\n");
    let json = home.run(["-f", "json", "keep", "main", "oldest", "-s"]).success().stdout;
    assert_eq!(json, r#"{"main": {"keep_status": {"description": "Keep", "message": "standalone"}}}"#);
    let note = "the year's accounts, \"final\" \u{e9}";
    home.run([
        "keep",
        "main",
        "oldest",
        "--target",
        "full",
        "--until",
        "2999-01-01T00:00:00Z",
        "--note",
        note,
    ])
    .success();
    assert_eq!(
        status(&ids[0]),
        format!("Server main:\n\tKeep: full\n\tUntil: 2999-01-01T00:00:00Z\n\tNote: {note}\n")
    );
    let annotation = layout(&home).annotation(ids[0].parse().unwrap(), "keep");
    assert_eq!(fs::read_to_string(annotation).unwrap(), "full");
    home.run(["delete", "main", "oldest"]).fails_with_one_line(1, &["kept (full)", "keep --release"]);
    home.run(["keep", "main", "oldest", "--release"]).success();
    home.run(["keep", "main", "oldest", "-r"]).success();
    assert_eq!(status(&ids[0]), "Server main:\n\tKeep: nokeep\n");
}

#[test]
fn keep_refuses_what_makes_no_sense() {
    let home = home();
    let ids = aged(&home, &[3, 2, 1]);
    let mut child = backup(&home, 9, segment(1, 7));
    child.parent_backup_id = ids[0].parse().ok();
    save(&home, &child);
    let mut failed = backup(&home, 10, segment(1, 8));
    failed.status = Status::Failed;
    save(&home, &failed);
    home.run(["keep", "main", "oldest"]).fails_with_one_line(1, &["one of the arguments", "--target"]);
    home.run(["keep", "main", "oldest", "--note", "x"]).fails_with_one_line(1, &["--target"]);
    home.run(["keep", "main", "oldest", "--target", "full", "--release"]).exits_with(2);
    home.run(["keep", "main", "oldest", "--target", "half"]).exits_with(2);
    home.run(["keep", "main", "oldest", "--status", "--until", "+1 day"]).exits_with(2);
    home.run(["keep", "main", "oldest", "--target", "full", "--until", "2020-01-01"])
        .fails_with_one_line(1, &["--until 2020-01-01", "past"]);
    home.run(["keep", "main", "last-failed", "--target", "full"])
        .fails_with_one_line(1, &["has status FAILED"]);
    let run = home.run(["keep", "main", child.id.as_str(), "--target", "full"]).exits_with(1);
    assert!(run.stderr.contains("is an incremental backup."), "{run:?}");
    home.run(["keep", "main", "nightly", "--target", "full"]).fails_with_one_line(1, &["list-backups main"]);
    fs::write(layout(&home).annotation(ids[1].parse().unwrap(), "delete_this"), "delete").unwrap();
    home.run(["keep", "main", &ids[1], "--target", "full"])
        .fails_with_one_line(1, &["its deletion has begun"]);
}

#[test]
fn a_keep_that_is_over_is_released_by_cron_and_judged_as_over_before() {
    let home = home().with("main", "retention_policy", "REDUNDANCY 1");
    let ids = aged(&home, &[3, 2, 1]);
    let catalog = Catalog::new(layout(&home));
    let until = Some("2026-01-02T00:00:00Z".parse().unwrap());
    let kept = Kept { keep: Keep::Full, until, note: None };
    catalog.keep(ids[0].parse().unwrap(), &kept).unwrap();
    let future = Kept { until: Some("2999-01-01T00:00:00Z".parse().unwrap()), ..kept };
    catalog.keep(ids[1].parse().unwrap(), &future).unwrap();
    let answer = retention(&home, &[]);
    assert_eq!(actions(&answer, "backups"), ["goes", "stays", "stays"]);
    assert_eq!(answer["backups"][1]["until"], "2999-01-01T00:00:00Z", "{answer}");
    home.run(["cron"]).success();
    assert_eq!(names(home.join("main/base")), ids[1..]);
    assert!(layout(&home).annotation(ids[1].parse().unwrap(), "keep").exists());
}

#[test]
fn a_backup_without_files_and_one_that_is_going_protect_nothing() {
    let home = home().with("main", "retention_policy", "REDUNDANCY 1");
    let ids = aged(&home, &[3, 2, 1, 0]);
    fs::remove_dir_all(home.join("main/base").join(&ids[3])).unwrap();
    fs::write(layout(&home).annotation(ids[2].parse().unwrap(), "delete_this"), "delete").unwrap();
    let answer = retention(&home, &[]);
    assert_eq!(actions(&answer, "backups"), ["goes", "stays", "goes", "stays"], "{answer}");
    assert_eq!(answer["backups"][3]["reason"], "its files are gone");
    home.run(["cron"]).success();
    assert_eq!(names(home.join("main/base")), ids[1..2]);
    // A person can clear away what is left of it.
    home.run(["delete", "main", &ids[3]]).success();
    assert_eq!(names(home.join("main/meta")), [format!("{}-backup.info", ids[1])]);
}
