//! Names and small texts that come from servers, archives and users: what is parsed is printed as it was.

use pgwal::{BackupLabel, History, Lsn, SegmentName, TimelineId, WalFile};

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<SegmentName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
    }
    if let Ok(file) = text.parse::<WalFile>() {
        assert_eq!(file.to_string(), text);
    }
    if let Some(timeline) = TimelineId::new(2) {
        let _ = History::parse(timeline, text.as_bytes());
    }
    let _ = BackupLabel::parse(text.as_bytes());
}
