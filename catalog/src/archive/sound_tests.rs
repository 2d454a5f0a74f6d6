//! What becomes of segments that are sound, odd, damaged, or another cluster's.

use super::tests::{home, names, now};
use super::*;
use crate::inspect::Soundness;
use crate::wal::OpenWal;
use pgwal::SegmentName;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use testkit::wal::{SEGMENT_BYTES, segment, segment_of};

fn name(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number / 4096, number % 4096)
}

fn start(number: u64) -> u64 {
    number * SEGMENT_BYTES as u64
}

fn deliver(layout: &Layout, number: u64) -> PathBuf {
    let path = layout.incoming.join(name(1, number));
    fs::write(&path, segment(1, start(number), SEGMENT_BYTES, 0)).unwrap();
    path
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[track_caller]
fn archive(layout: &Layout, verify: Verify) -> (ArchiveReport, Vec<String>) {
    let options = ArchiveOptions { verify, compression: Compression::Zstd, ..ArchiveOptions::default() };
    let mut told = Vec::new();
    let report = archive_wal(layout, &options, now(), |event| match event {
        ArchiveEvent::Doubtful { soundness, note, .. } => told.push(format!("{soundness:?}: {note}")),
        ArchiveEvent::Rejected { reason, moved_to, .. } => {
            let name = moved_to.file_name().unwrap().to_string_lossy().into_owned();
            told.push(format!("{name}: {reason}"));
        }
        ArchiveEvent::NotIndexed(error) => panic!("{error}"),
        _ => {}
    })
    .unwrap();
    (report, told)
}

#[test]
fn every_archived_segment_has_an_index_made_with_the_one_before() {
    let (_home, layout) = home();
    for number in 1..=70 {
        deliver(&layout, number);
    }
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, told), (70, Vec::new()));
    let indexes = IndexStore::of(&layout).load().unwrap();
    assert_eq!(indexes.len(), 70);
    for (number, entry) in (1..).zip(indexes.iter()) {
        assert_eq!(entry.facts.segment.to_string(), name(1, number));
        assert_eq!(entry.facts.soundness, Soundness::Sound);
        assert_eq!(entry.facts.chained, number > 1, "{number}");
        let index = entry.index().unwrap();
        assert!(index.complete);
        assert_eq!((index.records, index.head_missing), (128, false));
    }
}

#[test]
fn a_damaged_segment_is_kept_apart_and_told() {
    let (_home, layout) = home();
    deliver(&layout, 1);
    flip(&deliver(&layout, 2), 500_000);
    deliver(&layout, 3);
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, report.rejected), (2, 1));
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with(&format!("{}.20261122T101555Z.damaged: incorrect", name(1, 2))), "{told:?}");
    assert_eq!(names(&layout.errors), [format!("{}.20261122T101555Z.damaged", name(1, 2))]);
    assert_eq!(names(&layout.incoming), [""; 0]);
    let indexes = IndexStore::of(&layout).load().unwrap();
    assert_eq!(indexes.len(), 2);
    assert!(!indexes.iter().next_back().unwrap().facts.chained);
}

#[test]
fn what_postgresql_would_replay_is_archived_with_a_warning() {
    let (_home, layout) = home();
    // A flag of a page that no server sets, which recovery passes over.
    let odd = deliver(&layout, 1);
    let mut bytes = fs::read(&odd).unwrap();
    // The padding of a page header: the server leaves it zero and never looks.
    bytes[8192 + 20] = 1;
    fs::write(&odd, bytes).unwrap();
    deliver(&layout, 2);
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, report.doubtful), (2, 1));
    assert!(told[0].starts_with("Odd: byte 01 where zero was expected (page header)"), "{told:?}");
    let store = IndexStore::of(&layout);
    let entry = store.entry(name(1, 1).parse().unwrap()).unwrap().unwrap();
    assert_eq!(entry.facts.soundness, Soundness::Odd);
    assert!(entry.index().unwrap().complete, "all of it is indexed, as all of it is replayed");
    let next = store.entry(name(1, 2).parse().unwrap()).unwrap().unwrap();
    assert!(next.facts.chained);

    let (_home, layout) = home();
    fs::write(layout.incoming.join(name(1, 1)), fs::read(odd_copy(&layout)).unwrap()).unwrap();
    assert_eq!(archive(&layout, Verify::Reject).0.rejected, 1, "unless only sound WAL is wanted");
}

fn odd_copy(layout: &Layout) -> PathBuf {
    let mut bytes = segment(1, start(1), SEGMENT_BYTES, 0);
    bytes[8192 + 20] = 1;
    let path = layout.backup_directory.join("odd");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn another_clusters_wal_is_refused() {
    for verify in [Verify::Warn, Verify::Reject] {
        let (_home, layout) = home();
        deliver(&layout, 1);
        archive(&layout, verify);
        let foreign = segment_of(99, 1, start(2), SEGMENT_BYTES, 0);
        fs::write(layout.incoming.join(name(1, 2)), &foreign).unwrap();
        fs::write(layout.incoming.join(name(1, 3) + ".partial"), &foreign).unwrap();
        let (report, told) = archive(&layout, verify);
        assert_eq!((report.archived, report.rejected), (0, 2));
        assert!(told[0].contains(".foreign: the WAL is from a different database system"), "{told:?}");
    }
}

#[test]
fn another_clusters_wal_is_refused_though_nothing_is_archived_yet() {
    let another = |number| segment_of(99, 1, start(number), SEGMENT_BYTES, 0);
    for verify in [Verify::Warn, Verify::Reject] {
        let (home, layout) = home();
        deliver(&layout, 1);
        fs::write(layout.incoming.join(name(1, 2)), another(2)).unwrap();
        deliver(&layout, 3);
        // Nor does it go there directly.
        let file: WalFile = name(1, 4).parse().unwrap();
        let path = home.path().join(name(1, 4));
        fs::write(&path, another(4)).unwrap();
        let options = ArchiveOptions { verify, ..ArchiveOptions::default() };
        assert!(!archive_directly(&layout, &options, file, &path, now(), |_| {}).unwrap());
        let (report, told) = archive(&layout, verify);
        assert_eq!((report.archived, report.rejected), (2, 1), "{told:?}");
        assert!(told[0].contains(".foreign: the WAL is from a different database system"), "{told:?}");
        assert_eq!(names(&layout.errors).len(), 1);

        // Not even if the other cluster delivers its first while this one is read.
        let (home, layout) = super::tests::home();
        let path = home.path().join(name(1, 4));
        fs::write(&path, another(4)).unwrap();
        let meanwhile = || drop(deliver(&layout, 1));
        assert!(!direct::archive_with(&layout, &options, file, &path, now(), |_| {}, meanwhile).unwrap());
        assert_eq!(archive(&layout, verify).0.archived, 1);
    }
}

#[test]
fn the_recorded_identity_counts_before_anything_is_archived() {
    let (_home, layout) = home();
    fs::write(layout.identity(), "{\"systemid\": \"99\", \"version\": \"15\"}").unwrap();
    deliver(&layout, 1);
    fs::write(layout.incoming.join(name(1, 2)), "no WAL at all").unwrap();
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, report.rejected), (0, 2));
    assert!(
        told[0].contains(".foreign:") && told[1].contains(".damaged: it does not begin with"),
        "{told:?}"
    );
}

#[test]
fn what_cannot_be_judged_is_archived_with_a_warning() {
    let (_home, layout) = home();
    fs::write(layout.incoming.join(name(1, 1)), "WAL of PostgreSQL 99").unwrap();
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, report.doubtful), (1, 1));
    assert!(
        told[0].starts_with("Unknown: it does not begin with a WAL page of PostgreSQL 13 to 18"),
        "{told:?}"
    );
}

#[test]
fn a_broken_first_page_of_a_known_version_is_damage_though_nothing_is_known_of_the_server() {
    // The flag of a long header, and the segment size in it.
    for offset in [2, 32] {
        let (_home, layout) = home();
        let path = deliver(&layout, 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset] ^= 2;
        fs::write(&path, bytes).unwrap();
        let (report, told) = archive(&layout, Verify::Warn);
        assert_eq!((report.archived, report.rejected), (0, 1), "{told:?}");
        assert!(told[0].contains("no long header, or one with an impossible segment size"), "{told:?}");
    }
}

#[test]
fn a_segment_under_the_wrong_name_is_refused() {
    let (_home, layout) = home();
    fs::rename(deliver(&layout, 7), layout.incoming.join(name(1, 8))).unwrap();
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!(report.rejected, 1);
    assert!(told[0].contains("unexpected pageaddr 0/700000"), "{told:?}");
}

#[test]
fn a_segment_that_does_not_follow_is_told_of() {
    let (_home, layout) = home();
    deliver(&layout, 1);
    // Sound in itself, but its first record names another one before it.
    let mut bytes = segment(1, start(2), SEGMENT_BYTES, 0);
    let data = bytes[40 + 24..8192].to_vec();
    bytes[40 + 8..40 + 16].copy_from_slice(&(start(2) - 4096).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &bytes[40..40 + 20]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(layout.incoming.join(name(1, 2)), bytes).unwrap();
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, report.doubtful), (2, 1));
    assert!(told[0].starts_with("Unlinked: it does not follow the segment before it"), "{told:?}");
}

/// A timeline that is left at the end of a segment goes on in the next one; one that is left within a segment does not.
#[test]
fn a_timeline_is_followed_from_where_it_was_left() {
    let bytes = SEGMENT_BYTES as u64;
    for (left, told) in [(start(2) - bytes / 2, 0), (start(2), 1)] {
        let (_home, layout) = home();
        let history = format!("1\t0/{left:X}\tno recovery target specified\n");
        fs::create_dir_all(&layout.wals).unwrap();
        fs::write(layout.wals.join("00000002.history"), history).unwrap();
        // Its last record goes on in the next segment, on its own timeline.
        let open = testkit::wal::joined_segment(1, start(1), SEGMENT_BYTES);
        fs::write(layout.incoming.join(name(1, 1)), open).unwrap();
        archive(&layout, Verify::Warn);
        fs::write(layout.incoming.join(name(2, 2)), segment(2, start(2), SEGMENT_BYTES, 0)).unwrap();
        let (report, warned) = archive(&layout, Verify::Warn);
        assert_eq!((report.archived, report.doubtful), (1, told), "{warned:?}");
    }
}

#[test]
fn compressed_arrivals_are_judged_too() {
    let (_home, layout) = home();
    let pack = |bytes: &[u8]| {
        let mut writer = Compression::Gzip.writer(Vec::new(), Level::Low).unwrap();
        std::io::Write::write_all(&mut writer, bytes).unwrap();
        writer.finish().unwrap()
    };
    let mut bytes = segment(1, start(1), SEGMENT_BYTES, 0);
    fs::write(layout.incoming.join(name(1, 1)), pack(&bytes)).unwrap();
    bytes[700_000] ^= 4;
    fs::write(layout.incoming.join(name(1, 2)), pack(&segment(1, start(2), SEGMENT_BYTES, 0)[..900_000]))
        .unwrap();
    let mut torn = pack(&segment(1, start(3), SEGMENT_BYTES, 0));
    let half = torn.len() / 2;
    torn[half] ^= 1;
    fs::write(layout.incoming.join(name(1, 3)), torn).unwrap();
    let (report, told) = archive(&layout, Verify::Warn);
    assert_eq!((report.archived, report.rejected), (1, 2), "{told:?}");
    assert!(told[0].contains("the segment is 900000 bytes long, expected 1048576"), "{told:?}");
    assert!(told[1].contains(".damaged:"), "{told:?}");
    let entry = IndexStore::of(&layout).entry(name(1, 1).parse().unwrap()).unwrap().unwrap();
    assert_eq!(entry.facts.bytes, SEGMENT_BYTES as u64);
}

#[test]
fn the_store_is_made_again_from_the_archive() {
    let (_home, layout) = home();
    for number in 1..=9 {
        deliver(&layout, number);
    }
    archive(&layout, Verify::Warn);
    let before = IndexStore::of(&layout).load().unwrap();
    fs::remove_dir_all(layout.private()).unwrap();
    let segments: Vec<SegmentName> = before.iter().map(|entry| entry.facts.segment).collect();
    let mut told = 0;
    index_archive(&layout, &segments, None, |indexed| {
        assert!(matches!(indexed, Indexed::Read(_)), "{indexed:?}");
        told += 1;
    })
    .unwrap();
    let after = IndexStore::of(&layout).load().unwrap();
    assert_eq!(told, 9);
    for (before, after) in before.iter().zip(after.iter()) {
        assert_eq!((&before.facts, before.index()), (&after.facts, after.index()));
    }
}

#[test]
fn a_sound_segment_takes_the_place_of_a_damaged_one() {
    for crash in [None, Some(3), Some(6), Some(9), Some(12)] {
        let (home, layout) = home();
        deliver(&layout, 1);
        deliver(&layout, 2);
        archive(&layout, Verify::Warn);
        let path = layout.wal(&name(1, 2).parse().unwrap());
        let middle = fs::metadata(&path).unwrap().len() / 2;
        flip(&path, middle);
        deliver(&layout, 2);
        if let Some(step) = crash {
            let faults = barkeep_transport::faults::Faults::crash_at(home.path(), step);
            let options = ArchiveOptions { verify: Verify::Warn, ..ArchiveOptions::default() };
            let _ = archive_wal(&layout, &options, now(), |_| {});
            drop(faults);
        }
        let (_, told) = archive(&layout, Verify::Warn);
        let mut open = OpenWal::open(&path).unwrap().unwrap().plain().unwrap();
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).unwrap();
        assert!(bytes == segment(1, start(2), SEGMENT_BYTES, 0), "{told:?}");
        assert_eq!(names(&layout.errors), [format!("{}.20261122T101555Z.damaged", name(1, 2))]);
        let list = crate::xlogdb::read(&layout).unwrap().entries;
        assert_eq!(list.len(), 2, "crash at {crash:?}");
        assert_eq!(names(&layout.incoming), [""; 0]);
    }
}
