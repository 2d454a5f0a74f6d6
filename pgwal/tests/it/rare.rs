//! Records that servers write too seldom for a test to provoke: built by hand, and read as `pg_waldump` reads them.

use std::collections::BTreeSet;
use std::process::Command;

use pgwal::rmgr::{Description, Operation};
use pgwal::waldump::WaldumpLine;
use pgwal::{Decoder, Lsn, Parts, Rmgr, SegmentName, TimelineId, WalVersion};

use crate::built::{Built, SIZE};

/// Manager, operation, and what its payload is longer than in every version, in bytes.
const RARE: &[(u8, u8, usize)] = &[
    (0, 0x20, 8),   // XLOG NOOP
    (0, 0xD0, 16),  // XLOG OVERWRITE_CONTRECORD
    (0, 0x90, 24),  // XLOG END_OF_RECOVERY
    (3, 0x00, 8),   // CLOG ZEROPAGE
    (3, 0x10, 16),  // CLOG TRUNCATE
    (6, 0x00, 8),   // MultiXact ZERO_OFF_PAGE
    (6, 0x30, 20),  // MultiXact TRUNCATE_ID
    (9, 0x00, 8),   // Heap2 REWRITE
    (11, 0x20, 8),  // Btree INSERT_META
    (11, 0xD0, 40), // Btree REUSE_PAGE
    (12, 0xC0, 16), // Hash VACUUM_ONE_PAGE
    (13, 0x50, 8),  // Gin DELETE_PAGE
    (14, 0x10, 16), // Gist DELETE
    (14, 0x20, 40), // Gist PAGE_REUSE
    (14, 0x70, 8),  // Gist ASSIGN_LSN
    (17, 0x20, 24), // BRIN UPDATE
    (17, 0xA0, 24), // BRIN UPDATE+INIT
    (18, 0x10, 16), // CommitTs TRUNCATE
];

/// Heap HOT_UPDATE+INIT: no update within a page can be the first thing in it.
const HOT_UPDATE_INIT: (u8, u8) = (10, 0xC0);
/// Block 0 of 1663/5/16384, made anew by the record, without data; and 14 bytes of main data.
const HOT_UPDATE_INIT_HEADERS: &[u8] =
    &[0, 0x40, 0, 0, 0x7F, 6, 0, 0, 5, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 255, 14];

/// Their names.
pub(crate) fn operations(version: WalVersion) -> BTreeSet<String> {
    let name = |(rmid, operation)| {
        let rmgr = Rmgr::from_id(rmid);
        format!("{rmgr}/{}", rmgr.operation_name(operation, version).unwrap_or_default())
    };
    let rare = RARE.iter().map(|(rmid, operation, _)| (*rmid, *operation));
    rare.chain([HOT_UPDATE_INIT]).map(name).collect()
}

/// Small numbers that differ, so that a field read from the wrong place shows, and none of them a count beyond the payload.
fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| if at % 4 == 0 { (at / 4 + 1) as u8 } else { 0 }).collect()
}

fn our_lines(wal: &Built) -> Vec<String> {
    let mut decoder = Decoder::new(Lsn::from_u64(wal.start), SIZE);
    let (mut input, mut lines) = (&wal.bytes[..], Vec::new());
    let (mut parts, mut description) = (Parts::new(), Description::new());
    while let Ok(Some(record)) = decoder.next(&mut input) {
        parts.read(&record).unwrap();
        description.read(&record, &parts);
        assert!(
            Operation::read(&record, &parts).is_some() && record.operation_name().is_some(),
            "{record:?}"
        );
        let (parts, description) = (&parts, &description);
        lines.push(WaldumpLine { record: &record, parts, description, block_details: false }.to_string());
    }
    lines
}

#[test]
fn are_what_pg_waldump_reads() {
    for version in [WalVersion::V15, WalVersion::V16, WalVersion::V18] {
        testkit::require_pg!(version.major());
        let Some(pg_waldump) = testkit::client_tool("pg_waldump", version.major()) else { continue };
        let mut wal = Built::new(version);
        for (rmid, operation, bytes) in RARE {
            wal.record(*rmid, *operation, &payload(*bytes));
        }
        let body = [HOT_UPDATE_INIT_HEADERS, &payload(14)].concat();
        wal.record_of(HOT_UPDATE_INIT.0, HOT_UPDATE_INIT.1, &body);
        let dir = testkit::TestDir::new();
        let segment = SegmentName::at(TimelineId::new(1).unwrap(), Lsn::from_u64(wal.start), SIZE);
        dir.write(segment.to_string(), &wal.bytes);
        let dump =
            Command::new(pg_waldump).arg(dir.join(segment.to_string())).env("TZ", "UTC").output().unwrap();
        let theirs = String::from_utf8(dump.stdout).unwrap();
        let ours = our_lines(&wal);
        assert_eq!(ours.len(), RARE.len() + 1);
        for (ours, theirs) in ours.iter().zip(theirs.lines()) {
            assert_eq!(ours.trim_end(), theirs.trim_end(), "{version:?}");
        }
        assert_eq!(theirs.lines().count(), RARE.len() + 1, "{}", String::from_utf8_lossy(&dump.stderr));
    }
}
