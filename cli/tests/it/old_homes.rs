//! Homes as older versions of Barman left them, read by barkeep as Barman 3.20 reads them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use barkeep_catalog::{BackupId, Layout};
use pgwal::SegmentName;

use crate::restored_trees;
use crate::shared_home::{SharedHome, Spot, Tool, archive};
use crate::stored::content;

/// Records as Barman 2.12 and 3.4 wrote them.
const RECORD_OF_2_12: &str = include_str!("../../../catalog/tests/golden/barman-2.12-backup.info");
const RECORD_OF_3_4: &str = include_str!("../../../catalog/tests/golden/barman-3.4-backup.info");

/// What a version left behind.
#[derive(Debug, Clone, Copy)]
struct Era {
    record: &'static str,
    /// Whether records and marks lie in `meta` (3.13.2) rather than with the backup.
    meta: bool,
    /// Whether the list of WAL has its server's name (3.13) rather than being `xlog.db`.
    own_list: bool,
    /// How many columns its lines have.
    columns: usize,
    /// Whether a backup can be kept (2.13).
    keeps: bool,
}

const ERAS: [Era; 4] = [
    Era { record: RECORD_OF_2_12, meta: false, own_list: false, columns: 4, keeps: false },
    Era { record: RECORD_OF_2_12, meta: false, own_list: false, columns: 3, keeps: false },
    Era { record: RECORD_OF_3_4, meta: false, own_list: true, columns: 4, keeps: true },
    Era { record: RECORD_OF_3_4, meta: true, own_list: true, columns: 5, keeps: true },
];

const BACKUPS: [(&str, u64); 3] = [("20260102T000000", 3), ("20260103T000000", 6), ("20260104T000000", 9)];
const LAST_SEGMENT: u64 = 10;
/// When the WAL was archived, in seconds since 1970.
const TIME_SECONDS: u64 = 1_767_400_000;

fn segment(number: u64) -> SegmentName {
    Spot { size: pgwal::SegmentSize::MIN, timeline: 1, segment: number }.name()
}

fn home(era: Era) -> SharedHome {
    let home = SharedHome::new("minimum_redundancy = 1\nretention_policy = REDUNDANCY 9");
    let layout = home.layout();
    for number in BACKUPS[0].1..=LAST_SEGMENT {
        let file = pgwal::WalFile::Segment(segment(number));
        fs::create_dir_all(layout.wal_directory(&file)).unwrap();
        fs::write(layout.wal(&file), content(segment(number))).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(TIME_SECONDS * 1000 + number * 60_250);
        fs::File::options().write(true).open(layout.wal(&file)).unwrap().set_modified(time).unwrap();
    }
    let list: String = (BACKUPS[0].1..=LAST_SEGMENT).map(|number| line(era, number)).collect();
    fs::write(if era.own_list { layout.xlogdb() } else { layout.old_xlogdb() }, list).unwrap();
    for (number, (id, begin)) in BACKUPS.into_iter().enumerate() {
        let id: BackupId = id.parse().unwrap();
        fs::create_dir_all(layout.backup(id)).unwrap();
        let place = |new, old| if era.meta { new } else { old };
        fs::write(layout.backup_info(id), record(era, id, begin)).unwrap();
        restored_trees::furnish(&layout, id, u32::try_from(number).unwrap());
        let record = place(layout.backup_info(id), layout.old_backup_info(id));
        fs::rename(layout.backup_info(id), record).unwrap();
        if era.keeps && number == 1 {
            let mark = place(layout.annotation(id, "keep"), layout.old_annotation(id, "keep"));
            fs::create_dir_all(mark.parent().unwrap()).unwrap();
            fs::write(mark, "standalone").unwrap();
        }
    }
    // With a mark to be moved there, Barman 3.20 itself fails without it; its `check` makes it.
    if !era.meta && !era.keeps {
        fs::remove_dir(layout.meta()).unwrap();
    }
    // What no earlier version knew.
    assert!(!layout.private().exists());
    home.hand_over();
    home
}

/// A line of the list. Without the columns that say how it is stored, nothing is known about that.
fn line(era: Era, number: u64) -> String {
    let size = content(segment(number)).len();
    let columns = [segment(number).to_string(), size.to_string(), format!("{}.25", TIME_SECONDS + number)];
    let columns = columns.into_iter().chain(["None".to_owned(), "None".to_owned()]);
    columns.take(era.columns).collect::<Vec<_>>().join("\t") + "\n"
}

/// The era's record, moved to another place in the WAL.
fn record(era: Era, id: BackupId, begin: u64) -> String {
    let name = segment(begin);
    let day = &id.as_str()[6..8];
    let changed = |line: &str| {
        let (key, value) = line.split_once('=').unwrap();
        let value = match key {
            "begin_wal" | "end_wal" => name.to_string(),
            "begin_xlog" => format!("0/{begin:X}00028"),
            "end_xlog" => format!("0/{begin:X}00100"),
            "begin_time" => format!("2026-01-{day} 00:00:00+00:00"),
            // Before 1.5, times were the local zone's and did not say so.
            "end_time" if begin == BACKUPS[0].1 => format!("2026-01-{day} 00:00:10.5"),
            "end_time" => format!("2026-01-{day} 00:00:10.5+00:00"),
            "end_offset" => "256".to_owned(),
            _ => value.to_owned(),
        };
        format!("{key}={value}\n")
    };
    era.record.lines().map(changed).collect()
}

fn told(home: &SharedHome, tool: Tool, words: &[&str]) -> serde_json::Value {
    let text = home.json(tool, words).to_string();
    // Where the home is, is of no interest.
    serde_json::from_str(&text.replace(home.layout().backup_directory.to_str().unwrap(), "HOME")).unwrap()
}

#[test]
fn homes_of_older_versions_are_read_by_every_command_as_barman_reads_them() {
    testkit::require_barman!();
    for era in ERAS {
        // One home each: Barman brings what it reads up to date.
        let (theirs, ours) = (home(era), home(era));
        let mut questions: Vec<Vec<&str>> = vec![
            vec!["list-backups", "main"],
            vec!["list-backups", "--minimal", "all"],
            vec!["show-backup", "main", "latest"],
            vec!["show-backup", "main", "oldest"],
            vec!["list-files", "--target", "full", "main", "oldest"],
            vec!["list-files", "--target", "standalone", "main", "latest"],
            vec!["status", "main"],
        ];
        for (id, _) in &BACKUPS {
            questions.push(vec!["show-backup", "main", id]);
            questions.push(vec!["keep", "--status", "main", id]);
            questions.push(vec!["check-backup", "main", id]);
        }
        for question in questions {
            assert_eq!(
                told(&ours, Tool::Barkeep, &question),
                told(&theirs, Tool::Barman, &question),
                "{era:?} {question:?}"
            );
        }
        let name = segment(7).to_string();
        let bytes =
            |home: &SharedHome, tool| home.command(tool, &["get-wal", "main", &name]).output().unwrap();
        assert_eq!(bytes(&ours, Tool::Barkeep), bytes(&theirs, Tool::Barman), "{era:?}");
        for words in [
            ["check-archived-wal-range", "main", &segment(4).to_string(), &segment(9).to_string()],
            ["check-archived-wal-range", "main", &segment(9).to_string(), &segment(12).to_string()],
            ["check-wal-archive", "--timeline", "2", "main"],
        ] {
            let codes = [(&ours, Tool::Barkeep), (&theirs, Tool::Barman)]
                .map(|(home, tool)| home.run(tool, &words).code);
            assert_eq!(codes[0], codes[1], "{era:?} {words:?}");
        }
    }
}

#[test]
fn backups_of_older_versions_are_kept_restored_and_deleted() {
    testkit::require_barman!();
    for era in ERAS {
        let (theirs, ours) = (home(era), home(era));
        let latest: BackupId = BACKUPS[2].0.parse().unwrap();
        let restored =
            |home: &SharedHome, tool| restored_trees::restore(home, tool, latest, &["--target-immediate"]);
        let differs =
            restored_trees::differences(&restored(&ours, Tool::Barkeep), &restored(&theirs, Tool::Barman));
        assert_eq!(differs, [""; 0], "{era:?}");
        // Barman reads on what barkeep has changed in such a home.
        for (home, tool) in [(&ours, Tool::Barkeep), (&theirs, Tool::Barman)] {
            home.run(tool, &["keep", "--target", "full", "main", BACKUPS[2].0]).success();
            home.run(tool, &["delete", "main", BACKUPS[0].0]).success();
        }
        assert_eq!(archive(&ours.layout()), archive(&theirs.layout()), "{era:?}");
        assert!(!Path::new(&ours.layout().backup(BACKUPS[0].0.parse().unwrap())).exists());
        for question in [&["list-backups", "main"][..], &["keep", "--status", "main", BACKUPS[2].0]] {
            let by_barman = told(&theirs, Tool::Barman, question);
            assert_eq!(told(&ours, Tool::Barman, question), by_barman, "{era:?} {question:?}");
            assert_eq!(told(&ours, Tool::Barkeep, question), by_barman, "{era:?} {question:?}");
        }
        assert!(lists(&ours.layout()) == ["main-xlog.db"], "{era:?}");
    }
}

/// The lists of WAL that there are.
fn lists(layout: &Layout) -> Vec<String> {
    crate::stored::names(&layout.wals).into_iter().filter(|name| name.ends_with("xlog.db")).collect()
}
