//! `backup_label` and backup history (`.backup`) files: where a base backup starts and ends
//! (`access/transam/xlogbackup.c`, `build_backup_content`).

use crate::{Lsn, SegmentName, TimelineId};

/// Largest label accepted, in bytes (the server's own label argument is at most 1 KiB).
pub const MAX_LABEL_BYTES: usize = 64 << 10;

/// What a label file says. Fields that only backup history files have are optional.
///
/// ```
/// use pgwal::BackupLabel;
/// let label = BackupLabel::parse(b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
/// CHECKPOINT LOCATION: 0/2000060\n\
/// BACKUP METHOD: streamed\n\
/// BACKUP FROM: primary\n\
/// START TIME: 2024-05-01 10:00:00 UTC\n\
/// LABEL: nightly\n\
/// START TIMELINE: 1\n")?;
/// assert_eq!(label.start.to_string(), "0/2000028");
/// assert_eq!(label.label, "nightly");
/// # Ok::<(), pgwal::label::LabelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery has to start reading: the redo position of the backup's checkpoint.
    pub start: Lsn,
    /// The segment that holds it, by the name in the file.
    pub start_segment: SegmentName,
    /// The checkpoint record itself.
    pub checkpoint: Lsn,
    /// The timeline that the backup started on; absent in files older than PostgreSQL 11.
    pub start_timeline: Option<TimelineId>,
    /// Where the backup ended (backup history files only).
    pub stop: Option<Lsn>,
    /// `streamed` or `pg_start_backup`.
    pub method: String,
    /// `primary` or `standby`.
    pub from: String,
    /// The start time as the server printed it.
    pub start_time: String,
    /// The text given by whoever took the backup.
    pub label: String,
    /// `INCREMENTAL FROM LSN`: set in an incremental backup (PostgreSQL 17 and later).
    pub incremental_from: Option<Lsn>,
}

/// A label that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Larger than [`MAX_LABEL_BYTES`].
    #[error("the backup label is {bytes} bytes long, more than {MAX_LABEL_BYTES}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// A line that every label has is missing.
    #[error("the backup label has no '{field}' line")]
    Missing {
        /// The line's name.
        field: &'static str,
    },
    /// A line whose value can't be read.
    #[error("the backup label's '{field}' line can't be read: {value:?}")]
    Value {
        /// The line's name.
        field: &'static str,
        /// Its value, shortened.
        value: String,
    },
}

impl BackupLabel {
    /// Reads a `backup_label` or `.backup` file.
    ///
    /// # Errors
    /// When it is too large, or a line that recovery needs is missing or unreadable.
    pub fn parse(file: &[u8]) -> Result<Self, LabelError> {
        if file.len() > MAX_LABEL_BYTES {
            return Err(LabelError::TooLarge { bytes: file.len() });
        }
        let text = String::from_utf8_lossy(file);
        let find = |field: &'static str| {
            text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": ")).map(str::trim_end)
        };
        let (start, start_segment) = location("START WAL LOCATION", find("START WAL LOCATION"))?
            .ok_or(LabelError::Missing { field: "START WAL LOCATION" })?;
        let checkpoint = parsed("CHECKPOINT LOCATION", find("CHECKPOINT LOCATION"))?
            .ok_or(LabelError::Missing { field: "CHECKPOINT LOCATION" })?;
        let owned = |field| find(field).unwrap_or_default().to_owned();
        Ok(BackupLabel {
            start,
            start_segment,
            checkpoint,
            start_timeline: parsed("START TIMELINE", find("START TIMELINE"))?,
            stop: location("STOP WAL LOCATION", find("STOP WAL LOCATION"))?.map(|(lsn, _)| lsn),
            method: owned("BACKUP METHOD"),
            from: owned("BACKUP FROM"),
            start_time: owned("START TIME"),
            label: owned("LABEL"),
            incremental_from: parsed("INCREMENTAL FROM LSN", find("INCREMENTAL FROM LSN"))?,
        })
    }
}

fn unreadable(field: &'static str, value: &str) -> LabelError {
    LabelError::Value { field, value: value.chars().take(80).collect() }
}

fn parsed<T: std::str::FromStr>(field: &'static str, value: Option<&str>) -> Result<Option<T>, LabelError> {
    value.map(|value| value.parse().map_err(|_| unreadable(field, value))).transpose()
}

/// `0/2000028 (file 000000010000000000000002)`
fn location(field: &'static str, value: Option<&str>) -> Result<Option<(Lsn, SegmentName)>, LabelError> {
    let read = |value: &str| {
        let (lsn, rest) = value.split_once(' ')?;
        let file = rest.strip_prefix("(file ")?.strip_suffix(')')?;
        Some((lsn.parse().ok()?, file.parse().ok()?))
    };
    value.map(|value| read(value).ok_or_else(|| unreadable(field, value))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HISTORY_FILE: &str = "START WAL LOCATION: 0/8000028 (file 000000010000000000000008)\n\
        STOP WAL LOCATION: 0/8000138 (file 000000010000000000000008)\n\
        CHECKPOINT LOCATION: 0/8000060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIME: 2024-05-01 10:00:00 UTC\n\
        LABEL: a: b\nSTART TIMELINE: 1\nSTOP TIME: 2024-05-01 10:00:01 UTC\nSTOP TIMELINE: 1\n";

    #[test]
    fn a_backup_history_file_has_its_stop_position() {
        let label = BackupLabel::parse(HISTORY_FILE.as_bytes()).unwrap();
        assert_eq!(label.stop, Some(Lsn::from_u64(0x800_0138)));
        assert_eq!(label.label, "a: b");
        assert_eq!(label.from, "standby");
    }

    #[test]
    fn what_recovery_needs_must_be_there_and_readable() {
        let without = HISTORY_FILE.replace("CHECKPOINT LOCATION", "NOTHING");
        assert_eq!(
            BackupLabel::parse(without.as_bytes()),
            Err(LabelError::Missing { field: "CHECKPOINT LOCATION" })
        );
        let broken = HISTORY_FILE.replace("0/8000028", "8000028");
        assert!(matches!(BackupLabel::parse(broken.as_bytes()), Err(LabelError::Value { .. })));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text: Vec<u8>) {
            let _ = BackupLabel::parse(&text);
        }
    }
}
