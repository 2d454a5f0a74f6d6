//! Barman reads what we write and would write the same, and the other way round.

use std::fs;
use std::path::Path;
use std::process::Command;

use barkeep_catalog::backup_info::{copy_stats, parse, render};
use barkeep_catalog::xlogdb::{self, WalEntry};
use barkeep_catalog::{BackupId, BackupInfo, Status, Tablespace};
use pgwal::{SegmentSize, TimelineId};

/// Has Barman read and write again every file of a directory: `<name>.again` beside each.
fn rewrite_with_barman(directory: &Path, mode: &str) {
    let python = testkit::programs::barman_bin_dir().unwrap().join("python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rewrite.py");
    let output = Command::new(python).arg(script).arg(directory).arg(mode).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn again(path: &Path) -> String {
    fs::read_to_string(path.with_file_name(format!("{}.again", path.file_name().unwrap().display()))).unwrap()
}

const HARD_TEXTS: [&str; 9] = [
    "plain",
    "it's",
    "say \"x\"",
    "both ' and \"",
    "back\\slash\n\ttab\r",
    "caf\u{e9} \u{4e2d}\u{6587} \u{1f600} e\u{301}",
    "\u{a0}\u{ad}\u{200b}\u{2028}\u{feff}\u{e000}\u{85}",
    "nul \0 and \x1f\x7f",
    "%(x)s = y",
];

fn records() -> Vec<BackupInfo> {
    let record = |(number, text): (usize, &&str)| {
        let id: BackupId = format!("202601{:02}T000000", number + 1).parse().unwrap();
        let number = u32::try_from(number).unwrap();
        let mut info = BackupInfo::new(id, "main");
        info.status = Status::ALL[number as usize % 6];
        info.segment_size = SegmentSize::new(1 << (20 + number)).unwrap();
        info.set_begin(TimelineId::FIRST, "1/C3A3D8F0".parse().unwrap());
        info.set_end(TimelineId::FIRST, "2/0".parse().unwrap());
        let time = jiff::Timestamp::from_microsecond(1_795_342_542_000_000 + i64::from(number)).unwrap();
        let offset = jiff::tz::Offset::from_seconds((i32::try_from(number).unwrap() - 4) * 1800).unwrap();
        info.begin_time = Some(time.to_zoned(jiff::tz::TimeZone::fixed(offset)));
        info.backup_label = Some((*text).to_owned());
        info.included_files = HARD_TEXTS[..number as usize].iter().map(|text| (*text).to_owned()).collect();
        info.tablespaces = (0..number % 3)
            .map(|oid| Tablespace { name: (*text).to_owned(), oid, location: format!("/srv/{text}") })
            .collect();
        info.copy_stats =
            Some(copy_stats(1e-7 * f64::from(number), 1e5 / 3.0, (number > 3).then_some(number)));
        info.size = Some(u64::from(number) << 40);
        info.version = Some(180_000);
        info.system_id = Some("7710937153959999515".to_owned());
        info.mode = Some("postgres".to_owned());
        info.pgdata = Some("/srv/pg = data/caf\u{e9}".to_owned());
        info.backup_name = (number % 2 == 1).then(|| format!("name {number}"));
        info.parent_backup_id = (number % 2 == 1).then(|| "20250101T000000".parse().unwrap());
        info.children_backup_ids =
            (0..number % 3).map(|day| format!("2027010{day}T000000").parse().unwrap()).collect();
        if number == 4 {
            info.set_failed("copying files", "the server's \"last words\"\nand more");
        }
        info
    };
    HARD_TEXTS.iter().enumerate().map(record).collect()
}

#[test]
fn barman_would_write_our_records_as_we_do() {
    testkit::require_barman!();
    let directory = tempfile::tempdir().unwrap();
    for info in records() {
        fs::write(directory.path().join(info.id.as_str()), render(&info).unwrap()).unwrap();
    }
    rewrite_with_barman(directory.path(), "keep");
    for info in records() {
        assert_eq!(again(&directory.path().join(info.id.as_str())), render(&info).unwrap());
    }
}

#[test]
fn we_would_write_barmans_records_as_it_does() {
    testkit::require_barman!();
    let directory = tempfile::tempdir().unwrap();
    rewrite_with_barman(directory.path(), "make");
    let mut count = 0;
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(id) = path.file_name().unwrap().to_str().unwrap().parse::<BackupId>() else { continue };
        let text = fs::read_to_string(&path).unwrap();
        let parsed = parse(id, text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        assert_eq!(parsed.unknown_keys, [""; 0]);
        assert_eq!(render(&parsed.info).unwrap(), text);
        count += 1;
    }
    assert_eq!(count, 10);
}

#[test]
fn barman_would_write_our_list_as_we_do() {
    testkit::require_barman!();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("main-xlog.db");
    let mut text = String::new();
    for number in 0..1000_u32 {
        let entry = WalEntry {
            file: format!("0000000100000000{number:08X}").parse().unwrap(),
            size: u64::from(number) << 20,
            time: 1_795_342_542.0 + f64::from(number).powi(3) / 1e7,
            compression: (number % 2 == 1).then_some("zstd".into()),
            encryption: None,
        };
        text.push_str(&format!("{entry}\n"));
    }
    fs::write(&path, &text).unwrap();
    rewrite_with_barman(directory.path(), "keep");
    assert_eq!(again(&path), text);
    assert_eq!(xlogdb::parse(text.as_bytes()).entries.len(), 1000);
}
