//! Facts for the tests of this module.

use std::path::{Path, PathBuf};

use pgwal::{History, Lsn, SegmentSize, TimelineId};

use super::{AvailableWal, BackupFacts, BackupFormat};

/// A backup from 0/2000028 to 0/3000100 on timeline 1.
pub(super) fn backup() -> BackupFacts {
    BackupFacts {
        id: "20261122T101539".into(),
        major: 15,
        timeline: TimelineId::FIRST,
        begin: Lsn::from_u64(0x200_0028),
        end: Lsn::from_u64(0x300_0100),
        end_time: None,
        system_id: None,
        segment_size: SegmentSize::DEFAULT,
        format: BackupFormat::Plain,
        data: PathBuf::from("/backup/data"),
        tablespaces: Vec::new(),
    }
}

pub(super) fn history(timeline: u32, text: &str) -> History {
    History::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap()
}

pub(super) fn wal(names: &[&str]) -> Vec<AvailableWal> {
    names
        .iter()
        .map(|name| AvailableWal { file: name.parse().unwrap(), directory: Path::new("/wals").into() })
        .collect()
}
