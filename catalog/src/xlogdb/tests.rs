use super::*;
use proptest::prelude::*;

const REAL: &str = "000000010000000000000006\t16523\t1795342542.3666706\tgzip\tNone\n\
    000000010000000000000006.00000028.backup\t260\t1795342542.3809018\tgzip\tNone\n\
    00000002.history\t41\t1795342800.0\tNone\tNone\n\
    000000010000000000000013\t1039\t1795342889.7866635\tzstd\tgpg\n";

fn home() -> (tempfile::TempDir, Layout) {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new("pg", &home.path().join("pg"), home.path());
    fs::create_dir_all(&layout.wals).unwrap();
    (home, layout)
}

fn entry(name: &str) -> WalEntry {
    let file = name.parse().unwrap();
    WalEntry { file, size: 1, time: 2.5, compression: None, encryption: None }
}

fn put(layout: &Layout, name: &str, content: &[u8]) {
    let file: WalFile = name.parse().unwrap();
    fs::create_dir_all(layout.wal_directory(&file)).unwrap();
    fs::write(layout.wal(&file), content).unwrap();
}

fn names(list: &XlogDb) -> Vec<String> {
    list.entries.iter().map(|entry| entry.file.to_string()).collect()
}

#[test]
fn barmans_own_lines_keep_every_byte() {
    let list = parse(REAL.as_bytes());
    assert_eq!(list.faults, []);
    let again: String = list.entries.iter().map(|entry| format!("{entry}\n")).collect();
    assert_eq!(again, REAL);
}

#[test]
fn older_lines_have_fewer_columns() {
    let list = parse(b"000000010000000000000001\t5\t1.5\n000000010000000000000002 5 1.5 gzip\n");
    assert_eq!(list.entries[0].compression, None);
    assert_eq!(list.entries[1].compression.as_deref(), Some("gzip"));
    assert_eq!(list.faults, []);
}

#[test]
fn a_wrong_line_is_told_and_the_others_stay() {
    let text = format!("{REAL}half a line\n\n{REAL}000000010000000000000001\t5\tnan\tNone\tNone\n");
    let list = parse(text.as_bytes());
    assert_eq!(list.entries.len(), 8);
    assert_eq!(list.faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [5, 11]);
    assert!(list.faults[0].to_string().starts_with("line 5 is not"));
}

#[test]
fn a_missing_list_is_made_from_the_archive() {
    let (_home, layout) = home();
    put(&layout, "000000010000000000000002", b"plain");
    put(&layout, "000000010000000000000001", b"\x1f\x8b\x08 packed");
    put(&layout, "000000010000000000000001.00000028.backup", b"label");
    put(&layout, "00000002.history", b"1\t0/1\tx\n");
    fs::write(layout.wals.join("0000000100000000/.000000010000000000000003.barkeep-1-1.tmp"), "x").unwrap();
    fs::write(layout.wals.join("0000000100000000/000000020000000000000003"), "in the wrong place").unwrap();
    let list = read(&layout).unwrap();
    assert_eq!(
        names(&list),
        [
            "000000010000000000000001",
            "000000010000000000000001.00000028.backup",
            "000000010000000000000002",
            "00000002.history"
        ]
    );
    assert_eq!(list.entries[0].compression.as_deref(), Some("gzip"));
    assert!(!layout.xlogdb().exists(), "reading must not write");

    Locked::acquire(&layout).unwrap().append(&[entry("000000010000000000000002")]).unwrap();
    assert_eq!(read(&layout).unwrap().entries.len(), 4);
    assert!(layout.xlogdb().exists());
}

#[test]
fn appending_adds_and_replacing_replaces() {
    let (_home, layout) = home();
    fs::write(layout.xlogdb(), REAL).unwrap();
    fs::write(layout.old_xlogdb(), "old").unwrap();
    let locked = Locked::acquire(&layout).unwrap();
    locked.append(&[entry("000000010000000000000014")]).unwrap();
    let text = fs::read_to_string(layout.xlogdb()).unwrap();
    assert_eq!(text, format!("{REAL}000000010000000000000014\t1\t2.5\tNone\tNone\n"));
    locked.replace(&[entry("000000010000000000000015")]).unwrap();
    assert_eq!(names(&locked.read().unwrap()), ["000000010000000000000015"]);
    assert!(!layout.old_xlogdb().exists());
}

#[test]
fn a_line_torn_by_a_crash_is_mended_by_the_next_append() {
    let (_home, layout) = home();
    put(&layout, "000000010000000000000014", b"here");
    fs::write(layout.xlogdb(), format!("{REAL}000000010000000000000014\t1")).unwrap();
    assert_eq!(read(&layout).unwrap().entries.len(), 4);
    Locked::acquire(&layout).unwrap().append(&[entry("000000010000000000000015")]).unwrap();
    let list = read(&layout).unwrap();
    assert_eq!(list.faults, []);
    assert_eq!(names(&list)[4..], ["000000010000000000000014", "000000010000000000000015"]);
    assert_eq!(list.entries[4].size, 4);

    fs::write(layout.xlogdb(), "00000001000000000").unwrap();
    Locked::acquire(&layout).unwrap().append(&[entry("000000010000000000000015")]).unwrap();
    assert_eq!(names(&read(&layout).unwrap()), ["000000010000000000000015"]);
}

proptest! {
    #[test]
    fn reading_never_panics(file: Vec<u8>) {
        let _ = parse(&file);
    }

    #[test]
    fn lines_round_trip(size: u64, micros in 0_u64..4_000_000_000_000_000, packed: bool) {
        let entry = WalEntry {
            size,
            time: micros as f64 / 1e6,
            compression: packed.then_some(Cow::Borrowed("lz4")),
            ..entry("0000000A000000FF000000FE.partial")
        };
        prop_assert_eq!(WalEntry::parse(&entry.to_string()), Some(entry));
    }
}
