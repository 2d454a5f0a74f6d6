//! Where the WAL ends: the cases of PostgreSQL's recovery test 039_end_of_wal, and what stands in for a broken end.

use pgwal::page::PAGE_BYTES;
use pgwal::{FaultKind, Lsn, WalVersion};
use proptest::prelude::*;

use crate::built::{Built, SIZE};

const HUGE: u32 = 2 << 30;
const CONTINUES: u16 = 1;
const OVERWRITES: u16 = 8;

/// A segment with a few records, ending well within a page; the last one's prev link is known.
fn within_a_page(version: WalVersion) -> Built {
    let mut built = Built::new(version);
    built.fill_page(2000);
    built.record(0, 0x20, b"the last one");
    built
}

/// The same, ending so close to a page's end that the next record's header is split.
fn at_a_pages_end(version: WalVersion) -> Built {
    let mut built = Built::new(version);
    built.fill_page(16);
    built
}

/// The start of the next page, as offset and position.
fn next_page(built: &Built) -> (usize, u64) {
    let offset = built.at.next_multiple_of(PAGE_BYTES as usize);
    (offset, built.start + offset as u64)
}

/// Breaks the end, and checks that the WAL ends there: at the broken record, or at its page.
#[track_caller]
fn check(make: fn(WalVersion) -> Built, spoil: impl Fn(&mut Built), kind: FaultKind, at_next_page: bool) {
    for version in WalVersion::ALL {
        let sound = make(version);
        let before = sound.read(SIZE.bytes() as usize).0;
        let mut built = sound.clone();
        spoil(&mut built);
        let at = if at_next_page { Lsn::from_u64(next_page(&sound).1) } else { sound.lsn() };
        for chunk_bytes in [SIZE.bytes() as usize, 8192, 777, 1] {
            let (records, fault) = built.read(chunk_bytes);
            let mut fault = fault.unwrap();
            if let FaultKind::Magic { expected, .. } = &mut fault.kind {
                // The pages before have told the version.
                assert_eq!(expected.take(), Some(version.magic()));
            }
            assert_eq!((fault.kind, fault.lsn), (kind, at), "{version}, chunks of {chunk_bytes}");
            assert_eq!(records, before, "{version}, chunks of {chunk_bytes}");
        }
    }
}

#[test]
fn at_a_length_of_zero() {
    check(within_a_page, |_| (), FaultKind::RecordLength { found: 0 }, false);
}

#[test]
fn at_a_length_too_short() {
    check(within_a_page, |wal| wal.header(23, 0), FaultKind::RecordLength { found: 23 }, false);
}

#[test]
fn at_a_length_too_short_at_the_end_of_a_page() {
    check(at_a_pages_end, |wal| wal.header(1, 0), FaultKind::RecordLength { found: 1 }, false);
}

#[test]
fn at_a_bad_prev_link_before_more_pages_are_asked_for() {
    for version in WalVersion::ALL {
        let mut built = within_a_page(version);
        let expected = Some(Lsn::from_u64(built.prev));
        built.header(HUGE, 0xDEAD_BEEF);
        let kind = FaultKind::PrevLink { found: Lsn::from_u64(0xDEAD_BEEF), expected };
        assert_eq!(built.read(8192).1.unwrap().kind, kind);
    }
}

#[test]
fn at_a_bad_checksum() {
    for version in WalVersion::ALL {
        let mut built = within_a_page(version);
        let lsn = built.record(0, 0x20, b"spoiled");
        built.bytes[built.at - 8] ^= 1;
        let fault = built.read(8192).1.unwrap();
        assert!(matches!(fault.kind, FaultKind::Checksum { .. }));
        assert_eq!(fault.lsn, lsn);
    }
}

/// A record that needs another page, with a good header.
fn needs_a_page(built: &mut Built) {
    built.header(HUGE, built.prev);
}

#[test]
fn at_a_next_page_of_zeros() {
    check(within_a_page, needs_a_page, FaultKind::Magic { found: 0, expected: None }, true);
}

#[test]
fn at_a_next_page_with_a_bad_magic() {
    let spoil = |wal: &mut Built| {
        needs_a_page(wal);
        wal.page(next_page(wal).0, 0xCAFE, 0, 0, 0);
    };
    check(within_a_page, spoil, FaultKind::Magic { found: 0xCAFE, expected: None }, true);
}

#[test]
fn at_a_next_page_from_a_recycled_segment() {
    let spoil = |wal: &mut Built| {
        needs_a_page(wal);
        wal.page(next_page(wal).0, wal.version.magic(), 0, 0xBAAA_AAAD, 0);
    };
    check(within_a_page, spoil, FaultKind::PageAddress { found: Lsn::from_u64(0xBAAA_AAAD) }, true);
}

#[test]
fn at_a_next_page_with_unknown_flags() {
    let spoil = |wal: &mut Built| {
        needs_a_page(wal);
        let (at, address) = next_page(wal);
        wal.page(at, wal.version.magic(), 0x1234, address, 0);
    };
    check(within_a_page, spoil, FaultKind::PageFlags { found: 0x1234 }, true);
}

#[test]
fn at_a_next_page_that_continues_nothing() {
    let spoil = |wal: &mut Built| {
        needs_a_page(wal);
        let (at, address) = next_page(wal);
        wal.page(at, wal.version.magic(), 0, address, 0);
    };
    check(within_a_page, spoil, FaultKind::ContinuationMissing, false);
}

#[test]
fn at_a_next_page_that_continues_another_length() {
    let spoil = |wal: &mut Built| {
        needs_a_page(wal);
        let (at, address) = next_page(wal);
        wal.page(at, wal.version.magic(), CONTINUES, address, 123_456);
    };
    check(
        within_a_page,
        spoil,
        FaultKind::ContinuationLength { found: 123_456, expected: HUGE - 2000 + 40 },
        false,
    );
}

#[test]
fn a_split_header_is_not_believed_before_the_next_page_is() {
    let bad = |wal: &mut Built| wal.header(HUGE, 0xDEAD_BEEF);
    check(at_a_pages_end, bad, FaultKind::Magic { found: 0, expected: None }, true);
    let recycled = |wal: &mut Built| {
        bad(wal);
        wal.page(next_page(wal).0, wal.version.magic(), CONTINUES, 0xBAAA_AAAD, 0);
    };
    check(at_a_pages_end, recycled, FaultKind::PageAddress { found: Lsn::from_u64(0xBAAA_AAAD) }, true);
    let length = |wal: &mut Built| {
        bad(wal);
        let (at, address) = next_page(wal);
        wal.page(at, wal.version.magic(), CONTINUES, address, 123_456);
    };
    check(
        at_a_pages_end,
        length,
        FaultKind::ContinuationLength { found: 123_456, expected: HUGE - 16 },
        false,
    );
}

#[test]
fn an_overwritten_record_is_passed_over() {
    for version in WalVersion::ALL {
        let mut built = within_a_page(version);
        let before = built.read(8192).0;
        let (lost, prev) = (built.lsn(), built.prev);
        built.header(100_000, prev);
        let (at, address) = next_page(&built);
        built.page(at, version.magic(), OVERWRITES, address, 0);
        built.at = at + 24;
        let mut payload = lost.as_u64().to_le_bytes().to_vec();
        payload.extend([0; 8]);
        let overwrite = built.record(0, 0xD0, &payload);
        let next = built.record(0, 0x20, b"life goes on");
        for chunk_bytes in [1 << 20, 100, 1] {
            let (records, fault) = built.read(chunk_bytes);
            assert_eq!(records[before.len()..], [overwrite, next]);
            assert_eq!(fault.unwrap().kind, FaultKind::RecordLength { found: 0 });
            assert_eq!(built.read_strictly(chunk_bytes), (records, fault));
        }
        // In strict reading the record has to name what it overwrites.
        let mut other = built.clone();
        other.at = at + 24;
        other.prev = prev;
        other.record(0, 0xD0, &[7; 16]);
        let fault = other.read_strictly(8192).1.unwrap();
        assert_eq!(fault.kind, FaultKind::Overwrite { overwritten: lost });
    }
}

#[test]
fn a_switch_ends_the_segment() {
    let mut built = within_a_page(WalVersion::V18);
    let switch = built.record(0, 0x40, &[]);
    let (records, fault) = built.read(1000);
    assert_eq!((records.last(), fault), (Some(&switch), None));
}

#[test]
fn a_custom_manager_is_carried_along() {
    let mut built = within_a_page(WalVersion::V15);
    let custom = built.record(200, 0x30, b"whatever it is");
    assert_eq!(built.read(1 << 20).0.last(), Some(&custom));
    let mut built = within_a_page(WalVersion::V14);
    built.record(200, 0x30, b"whatever it is");
    assert_eq!(built.read(1 << 20).1.unwrap().kind, FaultKind::ResourceManager { found: 200 });
}

proptest! {
    /// Any bytes, anywhere in sound WAL: no panic, no endless loop, and the same whatever the chunks.
    #[test]
    fn any_bytes_anywhere_are_survived(
        at in 0usize..40_000,
        noise in prop::collection::vec(any::<u8>(), 1..200),
        chunk_bytes in 1usize..20_000,
    ) {
        let mut built = Built::new(WalVersion::V17);
        (0..60).for_each(|index| { built.record(10, 0, &vec![index; usize::from(index) * 20]); });
        built.write(at, &noise);
        let whole = built.read(1 << 20);
        prop_assert_eq!(whole, built.read(chunk_bytes));
    }
}
