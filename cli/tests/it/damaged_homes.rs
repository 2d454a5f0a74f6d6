//! Homes with something wrong in them: it is named, skipped or mended, and everything else goes on.

use std::fs;

use barkeep_catalog::{BackupId, Layout, xlogdb};
use pgwal::WalFile;

use crate::stored::{archive, archived, backup, deliver, home, layout, listed, save, segment};
use crate::support::{Home, Run};

/// A home with the server `main`, which something will happen to, and `other`, which it must not touch: two backups of
/// `main`, and WAL from the first on.
fn two_servers() -> (Home, [BackupId; 2]) {
    let home = home()
        .server("other", "host=/nonexistent user=postgres")
        .with("main", "retention_policy", "REDUNDANCY 5")
        .with("other", "streaming_archiver", "off")
        .with("other", "archiver", "on");
    let ids = [(1, 2), (2, 5)].map(|(hour, begin)| backup(&home, hour, segment(1, begin)).id);
    archived(&home, (2..8).map(|number| WalFile::Segment(segment(1, number))));
    let other = Layout::new("other", &home.join("other"), home.path());
    for directory in other.directories() {
        fs::create_dir_all(directory).unwrap();
    }
    fs::copy(layout(&home).backup_info(ids[0]), other.backup_info(ids[0])).unwrap();
    fs::create_dir_all(other.backup_data(ids[0])).unwrap();
    fs::write(other.xlogdb(), "").unwrap();
    (home, ids)
}

/// A line of `check main`.
#[track_caller]
fn check_line(home: &Home, name: &str) -> (String, String, Vec<String>) {
    let told = home.run(["-f", "json", "check", "main"]).json();
    let line = &told["main"][name];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let notes = told["_INFO"].as_array().into_iter().flatten().map(text).collect();
    (text(&line["status"]), text(&line["hint"]), notes)
}

/// Everything that reads both servers goes on as if nothing had happened.
#[track_caller]
fn all_goes_on(home: &Home, ids: [BackupId; 2]) {
    let listed = home.run(["list-backups", "all"]).success().stdout;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    for words in [
        &["show-backup", "main", "latest"][..],
        &["show-backup", "other", "latest"],
        &["list-files", "--target", "full", "main", "oldest"],
        &["status", "all"],
        &["list-servers"],
        &["show-servers", "all"],
        &["diagnose"],
        &["keep", "--status", "main", ids[0].as_str()],
        &["check-backup", "main", ids[0].as_str()],
        &["check-backup", "other", ids[0].as_str()],
        &["list-processes", "main"],
        &["retention", "main"],
        &["cron"],
        &["restore", "--plan", "main", "latest", "/nowhere/restored"],
    ] {
        let run = home.run(words);
        // The made-up files are no cluster: a plan is refused for that, and for nothing else.
        if words[0] == "restore" {
            assert!(!run.stderr.contains("xlog") && !run.stderr.contains("backup.info"), "{run:#?}");
        } else {
            run.success();
        }
    }
}

#[test]
fn a_record_with_keys_of_another_version_is_named_and_read() {
    let (home, ids) = two_servers();
    let path = layout(&home).backup_info(ids[0]);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}shoe_size=43\n")).unwrap();
    all_goes_on(&home, ids);
    let (status, hint, notes) = check_line(&home, "backup_records");
    assert_eq!((status.as_str(), hint.as_str()), ("OK", "1 cannot be read by Barman"));
    assert!(
        notes.iter().any(|note| note.contains(ids[0].as_str()) && note.contains("shoe_size")),
        "{notes:?}"
    );
    assert!(fs::read_to_string(&path).unwrap().contains("shoe_size=43"), "looking changes nothing");
    home.run(["delete", "main", "oldest"]).success();
    assert_eq!(check_line(&home, "backup_records").0, "");
}

#[test]
fn lines_of_the_list_that_say_nothing_are_named_and_made_good() {
    let (home, ids) = two_servers();
    let path = layout(&home).xlogdb();
    let text = fs::read_to_string(&path).unwrap();
    let broken = text.replacen("000000010000000000000003\t", "0000000100000000", 1) + "\u{fffd}\0rubbish\n";
    fs::write(&path, &broken).unwrap();
    all_goes_on(&home, ids);
    // What the broken line stood for is found by the file.
    let sizes = home.run(["-f", "json", "show-backup", "main", "oldest"]).success().json();
    assert_eq!(sizes["main"]["wal_information"]["no_of_files"], 3, "{sizes}");
    let (status, hint, notes) = check_line(&home, "wal_archive_list");
    assert_eq!((status.as_str(), hint.as_str()), ("FAILED", "2 lines cannot be read"));
    assert!(notes.iter().any(|note| note.contains("line 2 is not")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("rebuild-xlogdb main")), "{notes:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), broken, "looking changes nothing");

    home.run(["rebuild-xlogdb", "main"]).success();
    assert_eq!(check_line(&home, "wal_archive_list").0, "");
    assert_eq!(listed(&home), archive(&home));
    // A deletion makes it good as well.
    fs::write(&path, &broken).unwrap();
    home.run(["delete", "main", "oldest"]).success();
    assert_eq!(listed(&home), archive(&home));
}

#[test]
fn a_missing_directory_of_wal_is_named_and_stops_nothing() {
    let (home, ids) = two_servers();
    let lost = layout(&home).wals.join(segment(1, 2).directory());
    fs::remove_dir_all(&lost).unwrap();
    let (status, hint, _) = check_line(&home, "wal_archive_gaps");
    assert_eq!(status, "FAILED");
    assert!(hint.contains(&segment(1, 2).to_string()), "{hint}");
    all_goes_on(&home, ids);
    let name = segment(1, 3).to_string();
    home.run(["get-wal", "main", &name]).fails_with_one_line(1, &[&name]);
    home.run(["check-archived-wal-range", "main", &name, &name]).exits_with(1);
    // Barman dies midway, and every minute again.
    home.run(["delete", "main", "oldest"]).success();
    let marks = crate::stored::names(layout(&home).meta());
    assert_eq!(marks, [format!("{}-backup.info", ids[1])]);
    home.run(["cron"]).success();
    home.run(["rebuild-xlogdb", "main"]).success();
    assert_eq!(xlogdb::read(&layout(&home)).unwrap().entries, []);
}

#[test]
fn a_damaged_record_stops_only_what_is_about_it() {
    let (home, ids) = two_servers();
    fs::write(layout(&home).backup_info(ids[0]), "status=DONE\nbegin_wal=rubbish\n").unwrap();
    let run = home.run(["list-backups", "all"]).exits_with(1);
    assert_eq!(run.stdout.lines().count(), 2, "{run:#?}");
    assert!(run.stderr.contains(ids[0].as_str()), "{run:#?}");
    for words in [&["show-backup", "main", "latest"][..], &["show-backup", "other", "latest"], &["diagnose"]]
    {
        home.run(words).success();
    }
    let run = home.run(["status", "all"]).exits_with(1);
    assert!(run.stdout.contains("Server other:") && run.stderr.contains(ids[0].as_str()), "{run:#?}");
    home.run(["show-backup", "main", ids[0].as_str()]).fails_with_one_line(1, &["begin_wal", "line 2"]);
    assert_eq!(check_line(&home, "backup_records").1, "1 cannot be read");
    // Nothing goes while it is not known what the damaged one needs.
    home.run(["cron"]).success();
    assert_eq!(archive(&home).len(), 6);
    home.run(["delete", "main", ids[0].as_str()]).success();
    let run: Run = home.run(["list-backups", "all"]).success();
    assert_eq!(run.stdout.lines().count(), 2);
}

#[test]
fn cron_tells_once_of_records_whose_files_are_gone() {
    let home = home();
    let layout = layout(&home);
    let info = backup(&home, 1, segment(1, 1));
    save(&home, &info);
    let id = info.id.as_str();
    for number in 1..=3 {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    let told = |home: &Home| {
        let run = home.run(["cron"]).success();
        run.stderr.lines().filter(|line| line.contains("gone") || line.contains("listed")).count()
    };
    assert_eq!(told(&home), 0);
    let lost = segment(1, 2);
    fs::remove_file(layout.wal(&WalFile::Segment(lost))).unwrap();
    fs::remove_dir_all(layout.backup_data(info.id)).unwrap();
    let run = home.run(["cron"]).success();
    for part in [&format!("delete main {id}"), &lost.to_string(), "rebuild-xlogdb main"] {
        assert!(run.stderr.contains(part), "{part}: {run:#?}");
    }
    assert_eq!(told(&home), 0, "it was told");
    home.run(["rebuild-xlogdb", "main"]).success();
    home.run(["delete", "main", id]).exits_with(1);
    assert_eq!(told(&home), 0, "the one that is left was told, too");
    fs::create_dir_all(layout.backup_data(info.id)).unwrap();
    assert_eq!(told(&home), 0);
    fs::remove_dir_all(layout.backup_data(info.id)).unwrap();
    assert_eq!(told(&home), 1, "it was lost again");
}
