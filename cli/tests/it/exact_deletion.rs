//! Which WAL goes with a backup: what no other needs, and nothing else. Barman 3.13 to 3.20 removes a whole directory of the
//! archive once 256 of its entries are to go, whatever else is in it.

use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

use crate::stored::{archive, archived, backup, home, layout, listed, save, segment};

#[test]
fn the_segment_that_the_next_backup_begins_with_stays() {
    let home = home();
    let size = SegmentSize::DEFAULT;
    let named = |number: u64| SegmentName::at(TimelineId::FIRST, Lsn::from_u64(number * size.bytes()), size);
    // A whole directory of 16 MiB segments and a label: 256 entries are before the last one.
    for (hour, number) in [(1, 0), (2, 255)] {
        let mut info = backup(&home, hour, segment(1, 1));
        info.segment_size = size;
        let start = named(number).first_lsn(size).unwrap();
        info.set_begin(TimelineId::FIRST, start.checked_add(40).unwrap());
        info.set_end(TimelineId::FIRST, start.checked_add(300).unwrap());
        save(&home, &info);
    }
    let label: WalFile = format!("{}.00000028.backup", named(0)).parse().unwrap();
    archived(&home, (0..=255).map(|number| WalFile::Segment(named(number))).chain([label]));
    home.run(["delete", "main", "20260101T010000"]).success();
    assert_eq!(archive(&home), [named(255).to_string()]);
    assert_eq!(listed(&home), [named(255).to_string()]);
    assert!(layout(&home).wal(&WalFile::Segment(named(255))).exists());
}

#[test]
fn segments_of_one_mib_are_told_apart_within_a_directory() {
    let home = home();
    backup(&home, 1, segment(1, 0));
    backup(&home, 2, segment(1, 0x300));
    archived(&home, (0..0x400).map(|number| WalFile::Segment(segment(1, number))));
    home.run(["delete", "main", "20260101T010000"]).success();
    let kept: Vec<String> = (0x300..0x400).map(|number| segment(1, number).to_string()).collect();
    assert_eq!(archive(&home), kept);
    assert_eq!(listed(&home), kept);
}
