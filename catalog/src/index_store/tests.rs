use super::*;
use crate::inspect::Soundness;
use pgwal::{Lsn, SegmentSize, TimelineId};

fn home() -> (tempfile::TempDir, Layout) {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new("pg", home.path(), home.path());
    (home, layout)
}

fn segment(number: u64) -> SegmentName {
    SegmentName::at(TimelineId::FIRST, Lsn::from_u64(number << 24), SegmentSize::DEFAULT)
}

fn facts(number: u64) -> Facts {
    Facts {
        segment: segment(number),
        soundness: Soundness::Sound,
        note: String::new(),
        chained: false,
        bytes: 1,
        hash: [number as u8; 16],
        stored_bytes: number,
        modified: None,
    }
}

fn numbers(layout: &Layout) -> Vec<u64> {
    IndexStore::of(layout).load().unwrap().iter().map(|entry| entry.facts.stored_bytes).collect()
}

#[test]
fn entries_come_back_in_order_whatever_the_order_they_were_added_in() {
    let (_home, layout) = home();
    let store = IndexStore::of(&layout);
    assert!(store.load().unwrap().is_empty());
    for number in [300, 1, 256, 255] {
        store.add(&[(facts(number), None)]).unwrap();
    }
    assert_eq!(numbers(&layout), [1, 255, 256, 300]);
    let indexes = store.load().unwrap();
    assert_eq!(indexes.get(segment(256)).unwrap().facts, facts(256));
    assert!(indexes.get(segment(2)).is_none());
    let range: Vec<u64> =
        indexes.range(segment(2), segment(256)).iter().map(|entry| entry.facts.stored_bytes).collect();
    assert_eq!(range, [255, 256]);
    assert_eq!(indexes.missing(&[segment(1), segment(2), segment(300)]), [segment(2)]);
    assert_eq!(store.entry(segment(255)).unwrap().unwrap().facts, facts(255));
    assert!(store.entry(segment(77)).unwrap().is_none());
}

#[test]
fn the_last_entry_of_a_segment_counts() {
    let (_home, layout) = home();
    let store = IndexStore::of(&layout);
    store.add(&[(facts(1), None), (facts(2), None)]).unwrap();
    store.add(&[(Facts { stored_bytes: 77, ..facts(1) }, None)]).unwrap();
    assert_eq!(numbers(&layout), [77, 2]);
}

#[test]
fn a_damaged_pack_loses_what_is_behind_the_damage_and_takes_new_entries() {
    let (_home, layout) = home();
    let store = IndexStore::of(&layout);
    for number in 1..=4 {
        store.add(&[(facts(number), None)]).unwrap();
    }
    let path = store.pack(segment(1));
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let known = numbers(&layout);
        assert!(known.iter().copied().eq(1..=known.len() as u64), "cut at {cut}: {known:?}");
        store.add(&[(facts(9), None)]).unwrap();
        let mut expected = known.clone();
        expected.push(9);
        assert_eq!(numbers(&layout), expected, "cut at {cut}");
    }
    fs::write(&path, b"some other file").unwrap();
    assert_eq!(numbers(&layout), [0; 0]);
    store.add(&[(facts(5), None)]).unwrap();
    assert_eq!(numbers(&layout), [5]);
}

#[test]
fn superseded_entries_do_not_pile_up() {
    let (_home, layout) = home();
    let store = IndexStore::of(&layout);
    let long = |number: u64| (Facts { note: "n".repeat(512), ..facts(number) }, None);
    let many: Vec<_> = (0..512).map(|place| long(1 + place % 2)).collect();
    for _ in 0..8 {
        store.add(&many).unwrap();
    }
    let length = fs::metadata(store.pack(segment(1))).unwrap().len();
    assert!(length < 2 * 512 * 600 + WASTE_BYTES_MAX as u64, "{length}");
    assert_eq!(numbers(&layout), [1, 2]);
}

#[test]
fn segments_that_are_gone_are_forgotten() {
    let (_home, layout) = home();
    let store = IndexStore::of(&layout);
    store.add(&[1, 2, 3, 300, 700].map(|number| (facts(number), None))).unwrap();
    for number in [2, 3, 300] {
        let path = layout.wal(&WalFile::Segment(segment(number)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "WAL").unwrap();
    }
    // One of them was archived again meanwhile.
    let absent = store.load().unwrap().absent(&[segment(2), segment(300)]);
    assert_eq!(absent, [1, 3, 700].map(segment));
    assert_eq!(store.forget_absent(&layout, absent).unwrap(), 2);
    assert_eq!(numbers(&layout), [2, 3, 300]);
    assert!(!store.pack(segment(700)).exists());
    assert_eq!(store.forget_absent(&layout, []).unwrap(), 0);
}

#[test]
fn what_is_not_sound_is_told_by_its_last_entry() {
    let (_home, layout) = home();
    let store = IndexStore::of(&layout);
    assert_eq!(store.doubtful().unwrap(), []);
    let damaged = |number| Facts { soundness: Soundness::Damaged, note: "a bit".to_owned(), ..facts(number) };
    // Two packs, one of them with an entry that belongs to the other.
    store.add(&[(damaged(300), None), (damaged(3), None), (facts(2), None), (damaged(1), None)]).unwrap();
    store.add(&[(facts(3), None), (damaged(2), None)]).unwrap();
    let mut pack = fs::read(store.pack(segment(1))).unwrap();
    format::write(&mut pack, &damaged(301), b"");
    fs::write(store.pack(segment(1)), pack).unwrap();
    assert_eq!(store.doubtful().unwrap(), [damaged(1), damaged(2), damaged(300)]);
    let loaded = store.load().unwrap();
    let by_loading = loaded.iter().filter(|entry| !entry.facts.soundness.is_fine());
    assert!(by_loading.map(|entry| &entry.facts).eq(&store.doubtful().unwrap()));
}
