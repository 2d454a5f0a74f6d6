//! `check-backup`, `check-wal-archive`, `check-archived-wal-range`, `rebuild-xlogdb`: what is there, and what is missing.

use std::fs;
use std::process::Command;

use barkeep_catalog::Status;
use pgwal::WalFile;

use crate::stored::{archived, backup, content, home, layout, listed, save, segment};
use crate::support::{Home, Run};

fn barman(home: &Home, arguments: &[&str]) -> Run {
    let program = testkit::programs::barman_bin_dir().expect("Barman").join("barman");
    Run::of(Command::new(program).arg("-c").arg(home.config()).args(arguments))
}

fn status(home: &Home) -> String {
    let json = home.run(["-f", "json", "list-backups", "main"]).success().json();
    json["main"][0]["status"].as_str().unwrap().to_owned()
}

#[test]
fn check_wal_archive_answers_as_barman() {
    testkit::require_barman!();
    let home = home();
    let check = |arguments: &[&str]| {
        let (ours, theirs) = (home.run(arguments), barman(&home, arguments));
        assert_eq!((&ours.stdout, ours.code), (&theirs.stdout, theirs.code), "{ours:?} {theirs:?}");
        assert_eq!(ours.stderr.lines().last(), theirs.stderr.lines().last());
        ours
    };
    archived(&home, []);
    check(&["check-wal-archive", "main"]).success();
    archived(&home, [WalFile::Segment(segment(2, 1)), WalFile::Segment(segment(1, 1))]);
    check(&["check-wal-archive", "main"]).exits_with(1);
    check(&["check-wal-archive", "main", "--timeline", "3"]).success();
    check(&["check-wal-archive", "main", "--timeline", "2"]).exits_with(1);
    check(&["check-wal-archive", "main", "--timeline", "1"]).exits_with(1);
    home.run(["check-wal-archive", "main", "--timeline", "0"]).exits_with(2);
}

#[test]
fn check_archived_wal_range_answers_as_barman() {
    testkit::require_barman!();
    let home = home();
    backup(&home, 1, segment(1, 2));
    archived(&home, [2, 3, 5, 4095, 4096, 4098].map(|number| WalFile::Segment(segment(1, number))));
    let name = |number| segment(1, number).to_string();
    let check = |begin: &str, end: &str, code: i32| {
        for format in [&[][..], &["-f", "json"]] {
            let arguments = [format, &["check-archived-wal-range", "main", begin, end]].concat();
            let (ours, theirs) = (home.run(&arguments).exits_with(code), barman(&home, &arguments));
            assert_eq!(ours.code, theirs.code, "{theirs:?}");
            if format.is_empty() {
                assert_eq!(ours.stdout, theirs.stdout, "{ours:?} {theirs:?}");
                assert_eq!(ours.stderr.lines().last(), theirs.stderr.lines().last());
            } else if theirs.stdout.contains("missing_wals") {
                assert_eq!(ours.json()["main"], theirs.json()["main"]);
            }
        }
    };
    check(&name(2), &name(3), 0);
    check(&name(2), &name(5), 1);
    check(&name(4095), &name(4098), 1);
    check(&name(4095), &name(4096), 0);
    check(&name(5), &name(2), 1);
    check(&name(2), &segment(2, 3).to_string(), 1);
    check("rubbish", &name(2), 1);
    check("00000002.history", &name(2), 1);
    home.run(["check-archived-wal-range", "main", &name(0), "00000001FFFFFFFF00000FFF"])
        .fails_with_one_line(1, &["more than any archive holds"]);
}

#[test]
fn a_range_can_be_checked_without_a_backup() {
    let home = home();
    let one = segment(1, 1);
    archived(&home, []);
    fs::create_dir_all(layout(&home).wal_directory(&WalFile::Segment(one))).unwrap();
    fs::write(layout(&home).wal(&WalFile::Segment(one)), content(one)).unwrap();
    let (one, three) = (one.to_string(), segment(1, 3).to_string());
    let run = home.run(["check-archived-wal-range", "main", &one, &three]).exits_with(1);
    assert!(run.stdout.contains("2 missing segment(s)"), "{run:?}");
}

#[test]
fn check_backup_moves_a_backup_on_and_back() {
    let home = home();
    let mut info = backup(&home, 1, segment(1, 2));
    info.set_end(segment(1, 4).timeline(), segment(1, 5).first_lsn(crate::stored::SIZE).unwrap());
    info.status = Status::WaitingForWals;
    save(&home, &info);
    let id = info.id.to_string();
    let check = |numbers: &[u64], code: i32, expected: &str| {
        archived(&home, numbers.iter().map(|number| WalFile::Segment(segment(1, *number))));
        let run = home.run(["check-backup", "main", &id]).exits_with(code);
        assert_eq!(status(&home), expected, "{run:?}");
        run
    };
    check(&[], 0, "WAITING_FOR_WALS");
    check(&[2, 3], 0, "WAITING_FOR_WALS");
    check(&[4], 0, "DONE");
    fs::remove_file(layout(&home).wal(&WalFile::Segment(segment(1, 4)))).unwrap();
    check(&[], 0, "WAITING_FOR_WALS");
    fs::remove_file(layout(&home).wal(&WalFile::Segment(segment(1, 3)))).unwrap();
    let run = check(&[4, 5], 1, "FAILED");
    assert!(run.stderr.contains(&format!("The first missing WAL file is {}", segment(1, 3))), "{run:?}");
    home.run(["check-backup", "main", &id]).fails_with_one_line(1, &["its status is FAILED"]);
    home.run(["check-backup", "main", "20200101T000000"]).exits_with(1);
}

#[test]
fn the_list_is_made_anew_and_barman_reads_it() {
    testkit::require_barman!();
    let home = home();
    let numbers = 1..=40;
    archived(&home, numbers.clone().map(|number| WalFile::Segment(segment(1, number))));
    archived(
        &home,
        ["00000002.history".parse().unwrap(), format!("{}.00000028.backup", segment(1, 7)).parse().unwrap()],
    );
    let expected = listed(&home);
    let path = layout(&home).xlogdb();
    fs::write(&path, "rubbish\n").unwrap();
    fs::write(layout(&home).wals.join("0000000100000000/notes.txt"), "x").unwrap();
    let run = home.run(["rebuild-xlogdb", "main"]).success();
    assert!(
        run.stdout.starts_with("Rebuilding xlogdb for server main\nDone rebuilding xlogdb for server main ")
    );
    assert!(run.stdout.ends_with("(history: 1, backup_labels: 1, wal_file: 40)\n"), "{run:?}");
    assert!(run.stderr.contains("unexpected file") && run.stderr.contains("notes.txt"), "{run:?}");
    assert_eq!(listed(&home), expected);
    let ours = fs::read_to_string(&path).unwrap();
    barman(&home, &["rebuild-xlogdb", "main"]).success();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&fs::read_to_string(&path).unwrap()), sorted(&ours));
}

#[test]
fn a_rebuild_that_is_killed_leaves_a_whole_list() {
    let home = home();
    archived(&home, (1..=300).map(|number| WalFile::Segment(segment(1, number))));
    let expected = listed(&home);
    for round in 0..20_u64 {
        let mut child = home.command().args(["-q", "rebuild-xlogdb", "main"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round));
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(listed(&home), expected, "round {round}");
    }
    home.run(["rebuild-xlogdb", "main"]).success();
    assert_eq!(listed(&home), expected);
}

#[test]
fn check_and_status_name_what_is_missing() {
    let home = home();
    backup(&home, 1, segment(1, 2));
    for number in 2..=7 {
        crate::stored::deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    let gap = |expected: bool| {
        let (check, status) = (home.run(["check", "main"]), home.run(["status", "main"]));
        assert_eq!(check.stdout.contains("WAL archive gaps: FAILED"), expected, "{check:?}");
        assert_eq!(status.stdout.contains("Missing WAL: "), expected, "{status:?}");
        check.stdout + &status.stdout
    };
    gap(false);
    // Whatever the list says.
    for number in [4, 5] {
        fs::remove_file(layout(&home).wal(&WalFile::Segment(segment(1, number)))).unwrap();
    }
    let told = gap(true);
    let first = segment(1, 4);
    assert!(told.contains(&format!("2 segments are missing, the first is {first}")), "{told}");
    assert!(told.contains(&format!("\t\t{first} to {}\n", segment(1, 5))), "{told}");
    // What has arrived is not missing.
    crate::stored::deliver(&home, segment(1, 4));
    assert!(gap(true).contains(&format!("{} is missing", segment(1, 5))));
    crate::stored::deliver(&home, segment(1, 5));
    gap(false);
    home.run(["archive-wal", "main"]).success();
    gap(false);
}

#[test]
fn a_flipped_bit_in_the_archive_is_found() {
    for compression in ["none", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"] {
        let home = home();
        let home = if compression == "none" { home } else { home.with("main", "compression", compression) };
        for number in 1..=4 {
            crate::stored::deliver(&home, segment(1, number));
        }
        home.run(["archive-wal", "main"]).success();
        let deep = home.run(["check", "--deep", "main"]);
        assert!(deep.stdout.contains("WAL archive records: OK (4 segments were read)"), "{deep:?}");
        let path = layout(&home).wal(&WalFile::Segment(segment(1, 3)));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        fs::write(&path, bytes).unwrap();
        let verify = home.run(["wal", "verify", "--server", "main"]).exits_with(1);
        assert!((verify.stdout + &verify.stderr).contains(&segment(1, 3).to_string()), "{compression}");
        let deep = home.run(["check", "--deep", "main"]).exits_with(1);
        assert!(deep.stdout.contains("WAL archive records: FAILED (1 segments are damaged)"), "{deep:?}");
        assert!(deep.stdout.contains(&format!("\t\t{}: ", segment(1, 3))), "{deep:?}");
        // From now on it is known.
        let check = home.run(["check", "main"]).exits_with(1);
        assert!(check.stdout.contains("WAL archive soundness: FAILED (1 segments are damaged)"), "{check:?}");
    }
}
