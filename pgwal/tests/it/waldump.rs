//! Record by record, what this crate reads is what `pg_waldump` of the same major version prints.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use pgwal::rmgr::{Description, Operation};
use pgwal::waldump::WaldumpLine;
use pgwal::{Decoder, Fault, FaultKind, Parts, Rmgr, SegmentSize, WalVersion};

use crate::rare;
use crate::workload::Workload;

/// Every record as `pg_waldump --bkp-details` prints it, and what ended the WAL.
fn our_lines(workload: &Workload, mut each: impl FnMut(String)) -> Fault {
    let size = SegmentSize::new(workload.segment_bytes).unwrap();
    let segments = workload.segments();
    let mut decoder = Decoder::new(segments[0].first_lsn(size).unwrap(), size);
    let (mut parts, mut description) = (Parts::new(), Description::new());
    for segment in segments {
        let bytes = std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        let mut input = &bytes[..];
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Err(fault) => return fault,
                Ok(Some(record)) => {
                    parts.read(&record).unwrap();
                    description.read(&record, &parts);
                    assert!(Operation::read(&record, &parts).is_some(), "{record:?}");
                    let line = WaldumpLine {
                        record: &record,
                        parts: &parts,
                        description: &description,
                        block_details: true,
                    };
                    each(line.to_string());
                }
            }
        }
    }
    panic!("the WAL has no end");
}

fn check_against_waldump(major: u32, segment_size_mib: u32, pg_waldump: &Path) {
    let workload = Workload::run(major, segment_size_mib);
    let size = SegmentSize::new(workload.segment_bytes).unwrap();
    let start = workload.segments()[0].first_lsn(size).unwrap();
    let mut dump = Command::new(pg_waldump)
        .args(["--bkp-details", "-p"])
        .arg(workload.wal_dir())
        .args(["--start", &start.to_string()])
        .env("TZ", "UTC")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut theirs = BufReader::new(dump.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = 0;
    let mut operations = BTreeSet::new();
    let mut differences = Vec::new();
    let fault = our_lines(&workload, |ours| {
        for line in ours.split('\n') {
            let their_line = theirs.next().unwrap_or_else(|| panic!("pg_waldump ended before {line}"));
            if line != their_line && differences.len() < 40 {
                differences.push(format!("ours:   {line}\ntheirs: {their_line}\n"));
            }
        }
        operations.insert(operation_of(&ours));
        seen += 1;
    });
    assert_eq!(theirs.next(), None);
    let complaint = String::from_utf8(dump.wait_with_output().unwrap().stderr).unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // Both end at the same place for the same reason.
    assert_eq!(fault.kind, FaultKind::RecordLength { found: 0 });
    assert!(complaint.contains(&format!("invalid record length at {}", fault.lsn)), "{complaint} {fault}");
    assert!(seen > 20_000, "only {seen} records");
    // Each operation that there is has been compared, here or as a record built by hand.
    let version = WalVersion::from_major(major).unwrap();
    let all = Rmgr::built_in().flat_map(|rmgr| {
        let names = (0..16).filter_map(move |high: u8| rmgr.operation_name(high << 4, version));
        names.map(move |name| format!("{rmgr}/{name}"))
    });
    let rare = rare::operations(version);
    let missing: BTreeSet<String> =
        all.filter(|name| !operations.contains(name) && !rare.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// `Heap/INSERT+INIT` of a record's line.
fn operation_of(line: &str) -> String {
    let word_after = |mark: &str| line.split_once(mark).and_then(|(_, rest)| rest.split_whitespace().next());
    format!("{}/{}", word_after("rmgr: ").unwrap_or_default(), word_after("desc: ").unwrap_or_default())
}

fn check(major: u32, segment_size_mib: u32) {
    let Some(pg_waldump) = testkit::client_tool("pg_waldump", major) else {
        testkit::notice_skipped(&format!("pg_waldump {major}"));
        return;
    };
    check_against_waldump(major, segment_size_mib, &pg_waldump);
}

#[test]
fn postgresql_15_with_small_segments() {
    testkit::require_pg!(15);
    check(15, 1);
}

#[test]
fn postgresql_16() {
    testkit::require_pg!(16);
    check(16, 16);
}

#[test]
fn postgresql_18_with_large_segments() {
    testkit::require_pg!(18);
    check(18, 64);
}
