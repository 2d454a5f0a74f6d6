//! The text of `backup.info`: `key=value` lines in alphabetical order, `None` for what is not known.

use std::fmt::Display;
use std::str::FromStr;

use pgwal::SegmentSize;

use super::{BackupInfo, Tablespace};
use crate::literal::Literal;
use crate::{BackupId, time};

/// Largest `backup.info` accepted, in bytes. Real ones have some 2 KiB; a cluster with ten thousand tablespaces has 1 MiB.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// How much of a wrong value errors show, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// A `backup.info` that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupInfoError {
    /// Larger than [`FILE_BYTES_MAX`].
    #[error("{bytes} bytes are more than a backup.info has (at most {FILE_BYTES_MAX})")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8 text (at byte {at})")]
    Encoding {
        /// The first wrong byte.
        at: usize,
    },
    /// A line that is not `key=value`.
    #[error("line {line} is not key=value: {text:?}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A value that its key can't have.
    #[error("line {line}: {key} can't be {value:?}")]
    Value {
        /// The line's number, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The value, shortened.
        value: String,
    },
}

/// A value that one line of `backup.info` can't hold, or that would read back as another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backup.info can't hold {key} = {value:?}")]
pub struct Unrepresentable {
    /// The key.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// What a `backup.info` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The facts.
    pub info: BackupInfo,
    /// Keys that are not Barman 3.20's, in order. They are not written again, and make Barman refuse the file.
    pub unknown_keys: Vec<String>,
}

/// Reads the `backup.info` of the backup `id`. An empty file is an empty record.
///
/// # Errors
/// When it is too large, not text, or a line has no meaning.
pub fn parse(id: BackupId, file: &[u8]) -> Result<Parsed, BackupInfoError> {
    if file.len() > FILE_BYTES_MAX {
        return Err(BackupInfoError::TooLarge { bytes: file.len() });
    }
    let text =
        std::str::from_utf8(file).map_err(|error| BackupInfoError::Encoding { at: error.valid_up_to() })?;
    let mut parsed = Parsed { info: BackupInfo::empty(id), unknown_keys: Vec::new() };
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| BackupInfoError::Line { line: number, text: shortened(line) })?;
        let (key, value) = (key.trim(), value.trim());
        match set(&mut parsed.info, key, value) {
            Some(true) => {}
            Some(false) => parsed.unknown_keys.push(key.to_owned()),
            None => {
                let (key, value) = (shortened(key), shortened(value));
                return Err(BackupInfoError::Value { line: number, key, value });
            }
        }
    }
    Ok(parsed)
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// Sets one field. `None` when the value has no meaning for it, `Some(false)` when there is no such field.
fn set(info: &mut BackupInfo, key: &str, value: &str) -> Option<bool> {
    let value = (value != "None").then_some(value);
    match key {
        "backup_label" => info.backup_label = value.map(text_literal),
        "backup_name" => info.backup_name = text(value),
        "begin_offset" => info.begin_offset = parsed(value)?,
        "begin_time" => info.begin_time = moment(value)?,
        "begin_wal" => info.begin_wal = parsed(value)?,
        "begin_xlog" => info.begin_xlog = parsed(value)?,
        "children_backup_ids" => info.children_backup_ids = ids(value)?,
        "cluster_size" => info.cluster_size = size(value)?,
        "compression" => info.compression = text(value),
        "config_file" => info.config_file = text(value),
        "copy_stats" => info.copy_stats = literal(value)?,
        "data_checksums" => info.data_checksums = text(value),
        "deduplicated_size" => info.deduplicated_size = parsed(value)?,
        "encryption" => info.encryption = text(value),
        "end_offset" => info.end_offset = parsed(value)?,
        "end_time" => info.end_time = moment(value)?,
        "end_wal" => info.end_wal = parsed(value)?,
        "end_xlog" => info.end_xlog = parsed(value)?,
        "error" => info.error = text(value),
        "hba_file" => info.hba_file = text(value),
        "ident_file" => info.ident_file = text(value),
        "included_files" => info.included_files = texts(value)?,
        "mode" => info.mode = text(value),
        "parent_backup_id" => info.parent_backup_id = parsed(value)?,
        "pgdata" => info.pgdata = text(value),
        "server_name" => info.server_name = text(value),
        "size" => info.size = parsed(value)?,
        "snapshots_info" => info.snapshots_info = literal(value)?,
        "status" => info.status = parsed(value)?.unwrap_or(crate::Status::Empty),
        "summarize_wal" => info.summarize_wal = text(value),
        "systemid" => info.system_id = text(value),
        "tablespaces" => info.tablespaces = tablespaces(value)?,
        "timeline" => info.timeline = parsed(value)?,
        "version" => info.version = parsed(value)?,
        "xlog_segment_size" => {
            let bytes = parsed::<u64>(value)?;
            info.segment_size = bytes.map_or(Some(SegmentSize::DEFAULT), SegmentSize::new)?;
        }
        _ => return Some(false),
    }
    Some(true)
}

fn text(value: Option<&str>) -> Option<String> {
    value.map(str::to_owned)
}

fn parsed<T: FromStr>(value: Option<&str>) -> Option<Option<T>> {
    value.map(|value| value.parse().ok()).map_or(Some(None), |parsed| parsed.map(Some))
}

/// A size that some versions wrote as a float.
fn size(value: Option<&str>) -> Option<Option<u64>> {
    let Some(value) = value else { return Some(None) };
    match value.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|b| b.is_ascii_digit()) => {
            whole.parse().ok().map(Some)
        }
        _ => value.parse().ok().map(Some),
    }
}

fn moment(value: Option<&str>) -> Option<Option<jiff::Zoned>> {
    value.map_or(Some(None), |value| time::parse(value).map(Some))
}

fn literal(value: Option<&str>) -> Option<Option<Literal>> {
    value.map_or(Some(None), |value| Literal::parse(value).ok().map(Some))
}

/// The label: a literal, written twice over by passive nodes of some versions, and bare by very old ones.
fn text_literal(value: &str) -> String {
    match Literal::parse(value) {
        Ok(Literal::Text(text)) => match Literal::parse(&text) {
            Ok(Literal::Text(inner)) if text.starts_with(['\'', '"']) => inner,
            _ => text,
        },
        _ => value.to_owned(),
    }
}

fn texts(value: Option<&str>) -> Option<Vec<String>> {
    let Some(list) = literal(value)? else { return Some(Vec::new()) };
    list.items()?.iter().map(|item| item.as_text().map(str::to_owned)).collect()
}

fn ids(value: Option<&str>) -> Option<Vec<BackupId>> {
    let list = value.unwrap_or_default();
    list.split(',').map(str::trim).filter(|id| !id.is_empty()).map(|id| id.parse().ok()).collect()
}

fn tablespaces(value: Option<&str>) -> Option<Vec<Tablespace>> {
    let Some(list) = literal(value)? else { return Some(Vec::new()) };
    let tablespace = |item: &Literal| {
        let [Literal::Text(name), Literal::Number(oid), Literal::Text(location)] = item.items()? else {
            return None;
        };
        Some(Tablespace { name: name.clone(), oid: oid.parse().ok()?, location: location.clone() })
    };
    list.items()?.iter().map(tablespace).collect()
}

/// The text of `backup.info`, byte for byte as Barman 3.20 writes it.
///
/// # Errors
/// When a text would not read back as it is: it holds a line break, has space at its ends, or is `None`.
pub fn render(info: &BackupInfo) -> Result<String, Unrepresentable> {
    let mut lines = Lines(String::new());
    lines.literal("backup_label", info.backup_label.as_ref().map(Literal::text).as_ref());
    if info.backup_name.is_some() {
        lines.text("backup_name", info.backup_name.as_deref())?;
    }
    lines.shown("begin_offset", info.begin_offset);
    lines.shown("begin_time", info.begin_time.as_ref().map(time::render));
    lines.shown("begin_wal", info.begin_wal);
    lines.shown("begin_xlog", info.begin_xlog);
    lines.shown("children_backup_ids", joined(&info.children_backup_ids));
    lines.shown("cluster_size", info.cluster_size);
    lines.text("compression", info.compression.as_deref())?;
    lines.text("config_file", info.config_file.as_deref())?;
    lines.literal("copy_stats", info.copy_stats.as_ref());
    lines.text("data_checksums", info.data_checksums.as_deref())?;
    lines.shown("deduplicated_size", info.deduplicated_size);
    lines.text("encryption", info.encryption.as_deref())?;
    lines.shown("end_offset", info.end_offset);
    lines.shown("end_time", info.end_time.as_ref().map(time::render));
    lines.shown("end_wal", info.end_wal);
    lines.shown("end_xlog", info.end_xlog);
    lines.text("error", info.error.as_deref())?;
    lines.text("hba_file", info.hba_file.as_deref())?;
    lines.text("ident_file", info.ident_file.as_deref())?;
    let files = info.included_files.iter().map(Literal::text).collect();
    lines.literal("included_files", Some(&Literal::List(files)));
    lines.text("mode", info.mode.as_deref())?;
    lines.shown("parent_backup_id", info.parent_backup_id);
    lines.text("pgdata", info.pgdata.as_deref())?;
    lines.text("server_name", info.server_name.as_deref())?;
    lines.shown("size", info.size);
    // Only backups of disks have the key; what says as little as `None` reads as if it were not there.
    if let Some(snapshots) = info.snapshots_info.as_ref().filter(|value| !value.is_falsy()) {
        lines.literal("snapshots_info", Some(snapshots));
    }
    lines.shown("status", Some(info.status));
    lines.text("summarize_wal", info.summarize_wal.as_deref())?;
    lines.text("systemid", info.system_id.as_deref())?;
    let tablespace = |one: &Tablespace| {
        Literal::Tuple(vec![
            Literal::text(&one.name),
            Literal::integer(one.oid),
            Literal::text(&one.location),
        ])
    };
    let tablespaces = info.tablespaces.iter().map(tablespace).collect();
    lines.literal("tablespaces", Some(&Literal::List(tablespaces)));
    lines.shown("timeline", info.timeline);
    lines.shown("version", info.version);
    lines.shown("xlog_segment_size", Some(info.segment_size.bytes()));
    Ok(lines.0)
}

fn joined(ids: &[BackupId]) -> Option<String> {
    let texts: Vec<&str> = ids.iter().map(BackupId::as_str).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

struct Lines(String);

impl Lines {
    /// A value whose text can't be mistaken for anything else.
    fn shown(&mut self, key: &str, value: Option<impl Display>) {
        let value = value.map_or_else(|| "None".to_owned(), |value| value.to_string());
        for part in [key, "=", &value, "\n"] {
            self.0.push_str(part);
        }
    }

    fn literal(&mut self, key: &str, value: Option<&Literal>) {
        self.shown(key, value.filter(|value| !value.is_falsy()));
    }

    fn text(&mut self, key: &'static str, value: Option<&str>) -> Result<(), Unrepresentable> {
        if let Some(text) = value {
            // The reader trims, and splits lines where Python's does.
            let breaks = |c| {
                matches!(
                    c,
                    '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
                )
            };
            if text.contains(breaks) || text.trim() != text || text == "None" {
                return Err(Unrepresentable { key, value: text.to_owned() });
            }
        }
        self.shown(key, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use proptest::prelude::*;

    const RSYNC: &str = include_str!("../../tests/golden/rsync-backup.info");
    const POSTGRES: &str = include_str!("../../tests/golden/postgres-backup.info");

    fn id() -> BackupId {
        "20261122T101539".parse().unwrap()
    }

    #[track_caller]
    fn fault(text: &str) -> String {
        parse(id(), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn snapshots_that_say_nothing_are_written_as_they_read_again() {
        for nothing in ["None", "00", "{}", "''"] {
            let parsed = parse(id(), format!("snapshots_info={nothing}\n").as_bytes()).unwrap();
            let text = render(&parsed.info).unwrap();
            assert_eq!(render(&parse(id(), text.as_bytes()).unwrap().info).unwrap(), text, "{nothing}");
        }
    }

    #[test]
    fn barmans_own_files_keep_every_byte() {
        for golden in [RSYNC, POSTGRES] {
            let parsed = parse(id(), golden.as_bytes()).unwrap();
            assert_eq!(parsed.unknown_keys, [""; 0]);
            assert_eq!(render(&parsed.info).unwrap(), golden);
        }
    }

    #[test]
    fn the_facts_of_a_real_file_are_read() {
        let info = parse(id(), RSYNC.as_bytes()).unwrap().info;
        assert_eq!(info.status, Status::Done);
        assert_eq!(info.backup_name.as_deref(), Some("base-one"));
        assert_eq!(info.begin_wal, Some("000000010000000000000006".parse().unwrap()));
        assert_eq!(info.end_xlog, Some("0/6000100".parse().unwrap()));
        assert_eq!(info.begin_time.unwrap().timestamp().to_string(), "2026-11-22T10:15:39.343309Z");
        assert_eq!(
            info.tablespaces,
            [Tablespace { name: "ts1".to_owned(), oid: 16386, location: "/srv/pg/ts1".to_owned() }]
        );
        assert!(info.backup_label.unwrap().ends_with("START TIMELINE: 1\n"));
        let stats = info.copy_stats.unwrap();
        assert_eq!(stats.get("number_of_workers"), Some(&Literal::integer(2)));
        assert_eq!(info.size, Some(26_679_121));
    }

    #[test]
    fn an_empty_file_is_an_empty_record() {
        let parsed = parse(id(), b"").unwrap();
        assert_eq!(parsed.info.status, Status::Empty);
        assert_eq!(parse(id(), b"# by hand\n\n  status = DONE  \n").unwrap().info.status, Status::Done);
    }

    #[test]
    fn unknown_keys_are_told_and_never_written() {
        let parsed = parse(id(), b"status=DONE\nshoe_size=43\n").unwrap();
        assert_eq!(parsed.unknown_keys, ["shoe_size"]);
        assert!(!render(&parsed.info).unwrap().contains("shoe"));
    }

    #[test]
    fn faults_name_line_and_key() {
        assert_eq!(fault("status=DONE\nrubbish"), "line 2 is not key=value: \"rubbish\"");
        assert_eq!(fault("status=GONE"), "line 1: status can't be \"GONE\"");
        for wrong in [
            "begin_xlog=6000028",
            "begin_wal=00000001",
            "timeline=0",
            "size=-1",
            "xlog_segment_size=17",
            "begin_time=yesterday",
            "tablespaces=[('a', 1)]",
            "tablespaces=__import__('os')",
            "children_backup_ids=latest",
            "included_files=[1]",
        ] {
            assert!(fault(wrong).starts_with("line 1: "), "{wrong}");
        }
        assert!(parse(id(), b"error=\xff").is_err());
        assert!(parse(id(), &vec![b'\n'; FILE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn what_one_line_cannot_hold_is_refused() {
        for text in ["two\nlines", " space", "None", "a\u{2028}b"] {
            let info = BackupInfo { error: Some(text.to_owned()), ..BackupInfo::new(id(), "pg") };
            assert_eq!(render(&info).unwrap_err().key, "error");
        }
        let mut info = BackupInfo::new(id(), "pg");
        info.set_failed("copying files", "disk full\nat line 2");
        assert!(render(&info).unwrap().contains("error=failure copying files (disk full)\n"));
    }

    #[test]
    fn older_spellings_are_read() {
        let read = |text: &str| parse(id(), text.as_bytes()).unwrap().info;
        assert_eq!(read("cluster_size=123.0").cluster_size, Some(123));
        assert_eq!(read(r#"backup_label="'LABEL: x\\n'""#).backup_label.as_deref(), Some("LABEL: x\n"));
        assert_eq!(read("tablespaces=None").tablespaces, []);
    }

    fn any_info() -> impl Strategy<Value = BackupInfo> {
        let word = "[a-zA-Z0-9/_.= '\"\\\\-]{0,20}[a-z]";
        (
            prop::option::of(any::<String>()),
            prop::option::of(word),
            prop::collection::vec((word, any::<u32>(), any::<String>()), 0..3),
            prop::collection::vec(any::<String>(), 0..3),
            prop::option::of(any::<u64>()),
            prop::option::of(0_i64..4_000_000_000_000_000),
            0..Status::ALL.len(),
        )
            .prop_map(|(label, name, tablespaces, included_files, size, micros, status)| {
                let label = label.filter(|text| !text.is_empty() && !text.starts_with(['\'', '"']));
                let zoned = |micros| {
                    let at = jiff::Timestamp::from_microsecond(micros).unwrap();
                    at.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_seconds(-12_600).unwrap()))
                };
                let tablespace = |(name, oid, location)| Tablespace { name, oid, location };
                BackupInfo {
                    status: Status::ALL[status],
                    backup_label: label,
                    backup_name: name.map(|name: String| name.trim().to_owned()),
                    tablespaces: tablespaces.into_iter().map(tablespace).collect(),
                    included_files,
                    size,
                    begin_time: micros.map(zoned),
                    ..BackupInfo::new(id(), "pg")
                }
            })
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(info in any_info()) {
            let text = render(&info).unwrap();
            let back = parse(id(), text.as_bytes()).unwrap();
            prop_assert_eq!(&back.info, &info);
            prop_assert_eq!(render(&back.info).unwrap(), text);
        }

        #[test]
        fn reading_never_panics(file: Vec<u8>) {
            let _ = parse(id(), &file);
        }
    }
}
