//! Verification of real WAL: sound as it is, and never with a bit flipped.

use std::io::{BufRead, Cursor};

use pgwal::reader::{SegmentDir, SegmentSeries, SegmentSource};
use pgwal::verify::{SegmentReport, VerifyOptions, verify_segments, verify_series};
use pgwal::{FaultKind, Lsn, SegmentName, SegmentSize, TimelineId, WalVersion};
use proptest::prelude::*;

use testkit::{Cluster, StopMode};

use crate::built::{Built, SIZE};
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

/// What is found in segments that come one after the other.
fn reports_of_series(source: &InMemory, may_end: bool) -> Vec<SegmentReport> {
    let bytes: Vec<u8> = source.0.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let options = VerifyOptions { may_end, ..VerifyOptions::default() };
    let mut reports = Vec::new();
    let mut series = SegmentSeries::new(&bytes[..]).unwrap();
    verify_series(&mut series, &options, |report| reports.push(report)).unwrap();
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
    let in_memory = InMemory::load(&workload, &segments[..used]);
    let mut of_series = reports_of_series(&in_memory, true);
    // How much is read beyond the end is a matter of buffers.
    of_series.last_mut().unwrap().bytes = all.last().unwrap().bytes;
    assert_eq!(format!("{all:?}"), format!("{of_series:?}"));
    let whole = InMemory::load(&workload, &segments[..used - 1]);
    let expected = reports(&whole, &whole.names(), false, 1);
    assert_eq!(format!("{expected:?}"), format!("{:?}", reports_of_series(&whole, false)));
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
        // In a series the second segment's header may be too wrong for it to be one.
        if at >= 40 {
            assert_eq!(reports_of_series(&source, false).iter().any(|report| !report.is_sound()), found);
        }
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

/// A segment full of records of many lengths, and the one that follows it.
fn full_segments(version: WalVersion) -> InMemory {
    let mut built = Built::new(version);
    let length = |number: u32| {
        ((number * number * 37) % if number.is_multiple_of(50) { 20_000 } else { 700 }) as usize
    };
    let mut number = 0;
    while built.at + 21_000 < built.bytes.len() {
        built.record(10, 0, &vec![number as u8; length(number)]);
        number += 1;
    }
    // The last one is a switch: what follows it is zeros to the end, with page headers.
    built.record(0, 0x40, &[]);
    let name = SegmentName::at(TimelineId::FIRST, Lsn::from_u64(built.start), SIZE);
    InMemory(vec![(name, built.bytes)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Headers, records, padding, what follows a switch: whichever bit it is.
    #[test]
    fn any_flipped_bit_is_found_but_for_those_that_mean_nothing(
        version in prop::sample::select(&WalVersion::ALL),
        at in any::<prop::sample::Index>(),
        page_header in prop::option::of((0_usize..128, 0_usize..40)),
        bit in 0_u8..8,
    ) {
        let mut source = full_segments(version);
        let names = source.names();
        prop_assert!(reports(&source, &names, false, 1)[0].is_sound());
        let bytes = &mut source.0[0].1;
        // Headers are few, so half of the flips go there.
        let at = page_header.map_or_else(|| at.index(bytes.len()), |(page, at)| page * 8192 + at);
        bytes[at] ^= 1 << bit;
        let options = VerifyOptions { system_id: Some(0x0123_4567_89AB_CDEF), segment_size: Some(SIZE), may_end: false };
        let mut sound = true;
        verify_segments(&source, &names, &options, 1, |report| sound &= report.is_sound()).unwrap();
        let removable_flag = at % 8192 == 2 && bit == 2;
        prop_assert!(!sound || removable_flag, "bit {} of byte {}", bit, at);
    }
}

/// Between 13 and 17, and between 15 and 18, there is one bit: in a segment of a single page nothing else tells.
#[test]
fn the_version_of_a_segment_that_uses_one_page_is_held_against_its_neighbours() {
    let mut built = Built::new(WalVersion::V15);
    built.record(0, 0x40, &[]);
    let mut after = Built::new(WalVersion::V15);
    after.start += SIZE.bytes();
    after.prev = built.prev;
    after.write(8, &after.start.to_le_bytes());
    after.at = 40;
    after.record(0, 0x40, &[]);
    let name = |built: &Built| SegmentName::at(TimelineId::FIRST, Lsn::from_u64(built.start), SIZE);
    let mut source = InMemory(vec![(name(&built), built.bytes), (name(&after), after.bytes)]);
    let names = source.names();
    let all_sound = |source: &InMemory| {
        [reports(source, &names, false, 1), reports_of_series(source, false)]
            .map(|reports| reports.iter().all(SegmentReport::is_sound))
    };
    assert_eq!(all_sound(&source), [true, true]);
    source.0[1].1[0] ^= 0x08;
    assert_eq!(all_sound(&source), [false, false]);
}

#[test]
fn segments_of_a_gibibyte_are_read() {
    testkit::require_pg!(18);
    let Some(pg_waldump) = testkit::client_tool("pg_waldump", 18) else { return };
    let mut cluster = Cluster::builder(18)
        .segment_size_mib(1024)
        .setting("wal_init_zero", "off")
        .setting("wal_keep_size", "4GB")
        .start();
    cluster.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 20000) g");
    cluster.switch_wal();
    cluster.execute("DELETE FROM t");
    cluster.stop(StopMode::Fast);
    let wal_dir = cluster.data_dir().join("pg_wal");
    let dir = SegmentDir::new(&wal_dir);
    let segments = dir.segments().unwrap();
    let reports = reports(&dir, &segments[..2], true, 2);
    assert!(reports.iter().all(SegmentReport::is_sound), "{reports:?}");
    assert_eq!(reports[0].bytes, 1 << 30);
    let size = SegmentSize::new(1 << 30).unwrap();
    let dump = std::process::Command::new(pg_waldump)
        .args(["--start", &segments[0].first_lsn(size).unwrap().to_string(), "-p"])
        .arg(&wal_dir)
        .output()
        .unwrap();
    let lines = dump.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"rmgr:"));
    let records: u64 = reports.iter().map(|report| report.records).sum();
    assert_eq!(records, lines.count() as u64);
    let complaint = String::from_utf8(dump.stderr).unwrap();
    let end = reports[1].end.unwrap().lsn;
    assert!(complaint.contains(&format!("invalid record length at {end}")), "{complaint}");
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
