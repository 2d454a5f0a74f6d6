//! Against the servers themselves, where there is no `pg_waldump` at hand: pg_walinspect's records (16 and later), and what
//! SQL says of commits (13 and 14).

use std::collections::BTreeMap;

use pgwal::rmgr::xact::Xact;
use pgwal::rmgr::{Description, Operation};
use pgwal::{Decoder, Lsn, Parts, PgTimestamp, Record, Rmgr, SegmentSize};

use crate::workload::Workload;

fn each_record(workload: &Workload, mut each: impl FnMut(&Record<'_>, &Parts)) {
    let size = SegmentSize::new(workload.segment_bytes).unwrap();
    let segments = workload.segments();
    let mut decoder = Decoder::new(segments[0].first_lsn(size).unwrap(), size);
    let mut parts = Parts::new();
    for segment in segments {
        let bytes = std::fs::read(workload.wal_dir().join(segment.to_string())).unwrap();
        let mut input = &bytes[..];
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Err(_) => return,
                Ok(Some(record)) => {
                    parts.read(&record).unwrap();
                    each(&record, &parts);
                }
            }
        }
    }
}

fn check_against_walinspect(major: u32) {
    let mut workload = Workload::run(major, 16);
    let mut ours = BTreeMap::new();
    let mut description = Description::new();
    let mut range: Option<(Lsn, Lsn)> = None;
    each_record(&workload, |record, parts| {
        range = Some((range.map_or(record.lsn, |(start, _)| start), record.end));
        description.read(record, parts);
        let header = &record.header;
        let line = format!(
            "{}|{}|{}|{}|{}|{}",
            header.prev,
            header.xid,
            record.rmgr(),
            record.operation_name().unwrap_or_default(),
            header.total_bytes,
            description.text().trim_end()
        );
        ours.insert(record.lsn.to_string(), line);
    });
    let (start, end) = range.unwrap();
    workload.cluster.start_again();
    workload.cluster.execute("CREATE EXTENSION pg_walinspect");
    let theirs = workload.cluster.query_text(&format!(
        "SET timezone = 'UTC'; SELECT start_lsn || '=' || prev_lsn || '|' || xid || '|' || resource_manager || '|' || record_type
             || '|' || record_length || '|' || rtrim(coalesce(description, ''))
         FROM pg_get_wal_records_info('{start}', '{end}')"
    ));
    assert!(theirs.len() > 20_000, "{}", theirs.len());
    let mut differences = Vec::new();
    for line in &theirs {
        let (lsn, theirs) = line.split_once('=').unwrap();
        let ours = &ours[lsn];
        // The server prints times without trailing zeros, and its own way.
        let comparable = |line: &str| without_times(line);
        if comparable(ours) != comparable(theirs) && differences.len() < 20 {
            differences.push(format!("{lsn}\nours:   {ours}\ntheirs: {theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(theirs.len(), ours.len());
}

/// Cuts times down to the second, and the zone's name off.
fn without_times(line: &str) -> String {
    let is_time = |word: &&str| word.len() >= 8 && word.as_bytes()[2] == b':' && word.as_bytes()[5] == b':';
    let words = line.split(' ').filter(|word| !word.starts_with("UTC"));
    let words = words.map(|word| if is_time(&word) { &word[..8] } else { word.trim_end_matches("+00") });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn records_of_16_and_later_are_those_of_pg_walinspect() {
    for major in [16, 17] {
        testkit::require_pg!(major);
        check_against_walinspect(major);
    }
}

/// Commit timestamps by SQL, for the transactions whose commits are in the WAL.
fn check_commits(major: u32) {
    let mut workload = Workload::run(major, 16);
    let mut commits = BTreeMap::new();
    let (mut records, mut last, mut restore_point) = (0, Lsn::INVALID, Lsn::INVALID);
    let mut description = Description::new();
    each_record(&workload, |record, parts| {
        records += 1;
        last = record.lsn;
        if record.rmgr() == Rmgr::Xlog && record.operation_name() == Some("RESTORE_POINT") {
            restore_point = record.end;
        }
        description.read(record, parts);
        let operation = Operation::read(record, parts);
        assert!(operation.is_some() && record.operation_name().is_some(), "{record:?}");
        if let Some(Operation::Transaction(Xact::Commit(commit))) = operation {
            let xid = commit.prepared_xid.unwrap_or(record.header.xid);
            commits.insert(xid, commit.time);
            commits.extend(commit.subxacts.iter().map(|xid| (xid, commit.time)));
        }
    });
    assert!(records > 20_000, "{records}");
    workload.cluster.start_again();
    // The last record is the checkpoint that the control file names; the restore point is where its function said.
    let checkpoint = workload.cluster.value("SELECT checkpoint_lsn FROM pg_control_checkpoint()");
    assert_eq!(last.to_string(), checkpoint);
    assert_eq!(restore_point.to_string(), workload.restore_point);
    // Transactions before the settings took effect, and those without a number, have no timestamp.
    let theirs = workload.cluster.query_text(
        "SELECT xid || '=' || round(extract(epoch FROM at) * 1000000)::bigint FROM generate_series(700, txid_current() - 1) xid,
             LATERAL (SELECT CASE WHEN txid_status(xid) = 'committed' THEN pg_xact_commit_timestamp(xid::text::xid) END AS at) t
         WHERE at IS NOT NULL",
    );
    assert!(theirs.len() > 50, "{}", theirs.len());
    for line in theirs {
        let (xid, micros) = line.split_once('=').unwrap();
        let time = PgTimestamp::from_unix_micros(micros.parse().unwrap()).unwrap();
        let ours = commits.get(&xid.parse().unwrap()).copied();
        // The origin's own time replaces the commit's in the timestamps that SQL tells.
        let from_origin = ours.is_some_and(|ours| (ours.as_micros() - time.as_micros()).abs() < 1_000_000);
        assert!(ours == Some(time) || from_origin, "{xid}: {ours:?} {time}");
    }
}

#[test]
fn commits_of_13_and_14_are_those_that_sql_knows() {
    for major in [13, 14] {
        testkit::require_pg!(major);
        check_commits(major);
    }
}
