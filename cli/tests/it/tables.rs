//! Tables of what Barman computes: names and positions in WAL, sizes and lengths of time as text. Barman is asked for the same.

use std::io::Write as _;
use std::process::{Command, Stdio};

use barkeep::config::{Interval, Kind, Value};
use barkeep::output::text;
use jiff::SignedDuration;
use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId, WalFile};
use serde_json::json;

/// A position with its segment's name and its offset there, for each size of segments.
const POSITIONS: [(u64, &str, u64); 4] = [
    (1 << 20, "000000030000000100000C3A", 252_144),
    (16 << 20, "0000000300000001000000C3", 10_737_904),
    (64 << 20, "000000030000000100000030", 61_069_552),
    (1 << 30, "000000030000000100000003", 61_069_552),
];
const POSITION: &str = "1/C3A3D8F0";

/// Neighbours across the end of a log, for each size of segments.
const NEIGHBOURS: [(u64, &str, &str); 5] = [
    (1 << 20, "000000010000000100000FFF", "000000010000000200000000"),
    (16 << 20, "0000000100000001000000FF", "000000010000000200000000"),
    (16 << 20, "0000000100000001000000FE", "0000000100000001000000FF"),
    (64 << 20, "00000001000000010000003F", "000000010000000200000000"),
    (1 << 30, "000000010000000100000003", "000000010000000200000000"),
];

/// What is a WAL file's name, and what is not.
const NAMES: [(&str, bool); 12] = [
    ("000000010000000100000003", true),
    ("00000001000000010000000A.00000028.backup", true),
    ("00000001000000010000000A.partial", true),
    ("0000000A.history", true),
    ("00000001000000010000000A.gz", false),
    ("00000001000000010000000A.tmp", false),
    ("00000001000000010000000", false),
    ("0000000100000001000000030", false),
    ("0000000A.history.partial", false),
    ("00000001000000010000000A.28.backup", false),
    ("00000001000000010000000g", false),
    ("", false),
];

/// Names that Barman takes for a WAL file's and PostgreSQL never writes.
const NAMES_OF_BARMAN_ALONE: [&str; 3] =
    ["00000001000000010000000a", "0000000a.history", "000000000000000100000001"];

const SIZES: [(i64, &str); 13] = [
    (0, "0 B"),
    (1, "1 B"),
    (1023, "1023 B"),
    (1024, "1.0 KiB"),
    (1076, "1.1 KiB"),
    (1_048_575, "1024.0 KiB"),
    (1_048_576, "1.0 MiB"),
    (123_456_789, "117.7 MiB"),
    (26_739_507, "25.5 MiB"),
    (-1, "-1 B"),
    (-2048, "-2.0 KiB"),
    (5_497_558_138_880, "5.0 TiB"),
    (i64::MAX, "8.0 EiB"),
];

/// Milliseconds, and how they are told.
const TIMES: [(i64, &str); 12] = [
    (0, "less than one second"),
    (999, "less than one second"),
    (1000, "1 second"),
    (59_999, "59 seconds"),
    (60_000, "1 minute"),
    (7_200_000, "2 hours"),
    (90_061_000, "1 day, 1 hour, 1 minute, 1 second"),
    (172_800_000, "2 days"),
    (259_203_000, "3 days, 3 seconds"),
    (-1000, "1 second ago"),
    (-90_061_000, "1 day, 1 hour, 1 minute, 1 second ago"),
    (40_000_000_000, "462 days, 23 hours, 6 minutes, 40 seconds"),
];

/// What a configuration may say for a size in bytes.
const CONFIGURED_SIZES: [(&str, Option<u64>); 14] = [
    ("7", Some(7)),
    ("10k", Some(10_000)),
    ("10Ki", Some(10_240)),
    ("1M", Some(1_000_000)),
    ("1Mi", Some(1 << 20)),
    ("5 Gi ", Some(5 << 30)),
    ("2G", Some(2_000_000_000)),
    ("1T", Some(1_000_000_000_000)),
    ("3Ti", Some(3 << 40)),
    ("1m", None),
    ("1kb", None),
    ("1.5G", None),
    ("-1", None),
    ("Gi", None),
];

/// What a configuration may say for a length of time, in hours.
const CONFIGURED_TIMES: [(&str, Option<u64>); 13] = [
    ("1 HOUR", Some(1)),
    ("12 hours", Some(12)),
    (" 3 DAYS ", Some(72)),
    ("1 day", Some(24)),
    ("2 Weeks", Some(2 * 168)),
    ("1 week", Some(168)),
    ("1 MONTH", Some(744)),
    ("0 months", Some(0)),
    ("5 minutes", None),
    ("1 year", None),
    ("1day", None),
    ("-1 day", None),
    ("DAYS", None),
];

/// Barman's own answers, in the order of the tables: for each its own line, of JSON.
const PYTHON: &str = r#"
import datetime, json, sys
from barman import config, utils, xlog
def told(function, *arguments):
    try:
        return function(*arguments)
    except (ValueError, xlog.BadXlogSegmentName):
        return None
asked = json.load(sys.stdin)
def position(text, size):
    found = xlog.location_to_xlogfile_name_offset(text, 3, size)
    return [found["file_name"], found["file_offset"]]
def interval(text):
    length = told(config.parse_time_interval, text)
    return None if length is None else length.total_seconds() / 3600
print(json.dumps({
    "positions": [position(asked["position"], size) for size in asked["position_sizes"]],
    "next": [xlog.next_segment_name(name, size) for size, name, _ in asked["neighbours"]],
    "previous": [xlog.previous_segment_name(name, size) for size, _, name in asked["neighbours"]],
    "names": [xlog.is_any_xlog_file(name) for name in asked["names"]],
    "sizes": [utils.pretty_size(size) for size in asked["sizes"]],
    "times": [utils.human_readable_timedelta(datetime.timedelta(milliseconds=time)) for time in asked["times"]],
    "configured_sizes": [told(config.parse_si_suffix, text) for text in asked["configured_sizes"]],
    "configured_times": [interval(text) for text in asked["configured_times"]],
}))
"#;

fn size(bytes: u64) -> SegmentSize {
    SegmentSize::new(bytes).unwrap()
}

fn configured_size(text: &str) -> Option<u64> {
    match Kind::Size.parse(text) {
        Ok(Value::Size(bytes)) => Some(bytes),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

fn configured_time(text: &str) -> Option<Interval> {
    match Kind::Interval.parse(text) {
        Ok(Value::Interval(interval)) => Some(interval),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

#[test]
fn positions_and_names_in_wal_are_computed_as_the_table_says() {
    let (lsn, timeline): (Lsn, _) = (POSITION.parse().unwrap(), TimelineId::new(3).unwrap());
    for (bytes, name, offset) in POSITIONS {
        let found = SegmentName::at(timeline, lsn, size(bytes));
        assert_eq!((found.to_string().as_str(), size(bytes).offset_of(lsn)), (name, offset), "{bytes}");
    }
    for (bytes, left, right) in NEIGHBOURS {
        let (left, right): (SegmentName, SegmentName) = (left.parse().unwrap(), right.parse().unwrap());
        assert_eq!(left.next(size(bytes)), Some(right), "{bytes}");
        assert_eq!(right.previous(size(bytes)), Some(left), "{bytes}");
    }
    for (name, is_wal) in NAMES {
        assert_eq!(name.parse::<WalFile>().is_ok(), is_wal, "{name:?}");
    }
    for name in NAMES_OF_BARMAN_ALONE {
        assert!(name.parse::<WalFile>().is_err(), "{name:?}");
    }
}

#[test]
fn sizes_and_lengths_of_time_are_told_as_the_table_says() {
    for (bytes, told) in SIZES {
        assert_eq!(text::size(bytes as f64), told, "{bytes}");
    }
    for (milliseconds, told) in TIMES {
        assert_eq!(text::age(SignedDuration::from_millis(milliseconds)), told, "{milliseconds}");
    }
}

#[test]
fn sizes_and_lengths_of_time_are_read_as_the_table_says() {
    for (text, bytes) in CONFIGURED_SIZES {
        assert_eq!(configured_size(text), bytes, "{text:?}");
    }
    for (text, hours) in CONFIGURED_TIMES {
        let seconds = configured_time(text).map(|interval| interval.duration().as_secs());
        assert_eq!(seconds, hours.map(|hours| hours * 3600), "{text:?}");
    }
}

#[test]
fn barman_computes_what_the_tables_say() {
    testkit::require_barman!();
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(NAMES_OF_BARMAN_ALONE).collect();
    let asked = json!({
        "position": POSITION,
        "position_sizes": POSITIONS.map(|(bytes, ..)| bytes),
        "neighbours": NEIGHBOURS,
        "names": names,
        "sizes": SIZES.map(|(bytes, _)| bytes),
        "times": TIMES.map(|(milliseconds, _)| milliseconds),
        "configured_sizes": CONFIGURED_SIZES.map(|(text, _)| text),
        "configured_times": CONFIGURED_TIMES.map(|(text, _)| text),
    });
    let told = ask_barman(&asked);
    let is_wal = NAMES.iter().map(|(_, is_wal)| *is_wal).chain(NAMES_OF_BARMAN_ALONE.map(|_| true));
    let expected = json!({
        "positions": POSITIONS.map(|(_, name, offset)| (name, offset)),
        "next": NEIGHBOURS.map(|(_, _, right)| right),
        "previous": NEIGHBOURS.map(|(_, left, _)| left),
        "names": is_wal.collect::<Vec<bool>>(),
        "sizes": SIZES.map(|(_, told)| told),
        "times": TIMES.map(|(_, told)| told),
        "configured_sizes": CONFIGURED_SIZES.map(|(_, bytes)| bytes),
        "configured_times": CONFIGURED_TIMES.map(|(_, hours)| hours.map(|hours| hours as f64)),
    });
    for (table, expected) in expected.as_object().unwrap() {
        assert_eq!(&told[table], expected, "{table}");
    }
}

fn ask_barman(asked: &serde_json::Value) -> serde_json::Value {
    let python = testkit::programs::barman_bin_dir().unwrap().join("python");
    let mut child = Command::new(python)
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}
