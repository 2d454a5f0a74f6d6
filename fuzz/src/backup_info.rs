//! A damaged `backup.info`: no panic; what can be read can be written, and reads the same again.

use barkeep_catalog::{BackupId, backup_info};

/// Runs it on these bytes.
pub fn run(file: &[u8]) {
    let id: BackupId = "20261122T101605".parse().expect("an identifier");
    let Ok(parsed) = backup_info::parse(id, file) else { return };
    let Ok(text) = backup_info::render(&parsed.info) else { return };
    let again = backup_info::parse(id, text.as_bytes()).expect("what was written can be read");
    assert_eq!(again.unknown_keys, Vec::<String>::new());
    assert_eq!(backup_info::render(&again.info).expect("and written again"), text);
}
