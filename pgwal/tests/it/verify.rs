//! Verification of real WAL: sound as it is, and never with a bit flipped.

use std::io::{BufRead, Cursor};

use pgwal::reader::{SegmentDir, SegmentSource};
use pgwal::verify::{SegmentReport, VerifyOptions, verify_segments};
use pgwal::{FaultKind, SegmentName};

use testkit::{Cluster, StopMode};

use crate::workload::Workload;

/// Segments in memory.
struct InMemory(Vec<(SegmentName, Vec<u8>)>);

impl SegmentSource for InMemory {
    fn open(&self, segment: SegmentName) -> std::io::Result<Option<Box<dyn BufRead + '_>>> {
        let found = self.0.iter().find(|(name, _)| *name == segment);
        Ok(found.map(|(_, bytes)| Box::new(Cursor::new(bytes)) as Box<dyn BufRead>))
    }
}

impl InMemory {
    fn load(workload: &Workload, segments: &[SegmentName]) -> Self {
        let read =
            |segment: &SegmentName| std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        InMemory(segments.iter().map(|segment| (*segment, read(segment))).collect())
    }

    fn names(&self) -> Vec<SegmentName> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

fn reports(
    source: &dyn SegmentSource,
    segments: &[SegmentName],
    may_end: bool,
    threads: usize,
) -> Vec<SegmentReport> {
    let options = VerifyOptions { may_end, ..VerifyOptions::default() };
    let mut reports = Vec::new();
    verify_segments(source, segments, &options, threads, |report| reports.push(report)).unwrap();
    reports
}

fn check_sound(major: u32) {
    testkit::require_pg!(major);
    let workload = Workload::run(major, 1);
    let dir = SegmentDir::new(workload.wal_dir());
    let segments = dir.segments().unwrap();
    assert_eq!(segments, workload.segments());
    // The server makes segments in advance: the WAL ends before them.
    let one = reports(&dir, &segments[..1], false, 1);
    assert!(one[0].is_sound(), "{:?}", one[0].faults);
    let ends = |report: &SegmentReport| !report.is_sound();
    let used = reports(&dir, &segments, false, 2).iter().position(ends).unwrap_or(segments.len() - 1) + 1;
    let all = reports(&dir, &segments[..used], true, 1);
    for report in &all {
        assert!(report.is_sound(), "{}: {:?}", report.segment, report.faults);
        assert!(report.unfinished.is_none());
    }
    assert_eq!(all.last().unwrap().end.unwrap().kind, FaultKind::RecordLength { found: 0 });
    let records: u64 = all.iter().map(|report| report.records).sum();
    assert!(records > 20_000, "{records}");
    let twice = reports(&dir, &segments[..used], true, 2);
    assert_eq!(format!("{all:?}"), format!("{twice:?}"));
}

#[test]
fn what_servers_write_is_sound() {
    for major in [13, 14, 15, 16, 17, 18] {
        check_sound(major);
    }
}

/// Every bit of the headers around a few places, and one bit in each of many bytes.
fn flips(bytes: &[u8]) -> Vec<(usize, u8)> {
    let headers = (0..40).chain(8192..8192 + 24).chain(bytes.len() - 8192..bytes.len() - 8192 + 24);
    let every_bit = headers.flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)));
    let scattered = (0..bytes.len()).step_by(8117).map(|at| (at, 1 << (at % 8)));
    every_bit.chain(scattered).collect()
}

#[test]
fn a_flipped_bit_is_found() {
    testkit::require_pg!(18);
    let workload = Workload::run(18, 1);
    let segments = workload.segments();
    let mut source = InMemory::load(&workload, &segments[9..12]);
    let names = source.names();
    assert!(reports(&source, &names, false, 1).iter().take(2).all(SegmentReport::is_sound));
    // The damage is done in the second; the third's part in its last record plays no role.
    source.0.truncate(2);
    let names = source.names();
    let mut missed = Vec::new();
    for (at, bit) in flips(&source.0[1].1) {
        source.0[1].1[at] ^= bit;
        let found = reports(&source, &names, false, 1).iter().any(|report| !report.is_sound());
        source.0[1].1[at] ^= bit;
        // The flag that says that backup blocks may be removed is the one exception.
        let unused_flag = at % 8192 == 2 && bit == 4;
        if !found && !unused_flag {
            missed.push((at, bit));
        }
    }
    assert_eq!(missed, []);
}

#[test]
fn a_fault_says_where_it_is_and_what_was_expected() {
    testkit::require_pg!(15);
    let workload = Workload::run(15, 1);
    let segments = workload.segments();
    let mut source = InMemory::load(&workload, &segments[2..5]);
    let names = source.names();
    let sound = reports(&source, &names[..2], false, 1);
    let record = sound[1].first.unwrap().0;
    let offset = (record.as_u64() % (1 << 20)) as usize;
    // The record's payload: one fault, at the record.
    source.0[1].1[offset + 24] ^= 1;
    let damaged = reports(&source, &names, false, 1);
    assert_eq!(damaged[1].faults.len(), 1, "{:?}", damaged[1].faults);
    assert_eq!(damaged[1].faults[0].lsn, record);
    assert!(matches!(damaged[1].faults[0].kind, FaultKind::Checksum { .. }));
    source.0[1].1[offset + 24] ^= 1;
    // The address of the third page.
    source.0[1].1[2 * 8192 + 8] ^= 0x80;
    let damaged = reports(&source, &names, false, 1);
    let expected = names[1].first_lsn(pgwal::SegmentSize::MIN).unwrap().checked_add(16384).unwrap();
    assert_eq!(damaged[1].faults[0].lsn, expected);
    assert!(matches!(damaged[1].faults[0].kind, FaultKind::PageAddress { .. }));
    source.0[1].1[2 * 8192 + 8] ^= 0x80;
    // A segment too short.
    source.0[1].1.truncate(1 << 19);
    let damaged = reports(&source, &names, false, 1);
    assert!(damaged[1].faults.iter().any(|fault| matches!(fault.kind, FaultKind::SegmentLength { .. })));
}

#[test]
fn a_promotion_is_sound() {
    for major in [13, 18] {
        testkit::require_pg!(major);
        let mut primary = Cluster::builder(major).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
        let mut standby = primary.standby("second");
        primary.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g");
        primary.wait_for_replay_by(&standby);
        standby.promote();
        standby.execute("INSERT INTO t SELECT generate_series(1, 30000)");
        standby.switch_wal();
        primary.stop(StopMode::Fast);
        standby.stop(StopMode::Fast);
        let dir = SegmentDir::new(standby.data_dir().join("pg_wal"));
        let segments = dir.segments().unwrap();
        let second: Vec<SegmentName> =
            segments.iter().copied().filter(|segment| segment.timeline().as_u32() == 2).collect();
        assert!(second.len() >= 2, "{segments:?}");
        // The first of them holds the end of timeline 1 and the start of timeline 2.
        let first = reports(&dir, &second[..1], false, 1);
        assert!(first[0].is_sound(), "{:?}", first[0].faults);
        assert_eq!(first[0].timeline.unwrap().as_u32(), 2);
        let whole = reports(&dir, &second, true, 1);
        let sound = whole.iter().take_while(|report| report.is_sound()).count();
        assert!(sound >= 2, "{whole:?}");
    }
}
