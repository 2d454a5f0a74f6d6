//! What a verification says, line by line and as one value.

use barkeep_catalog::BackupInfo;
use pgbase::verify::Verified;
use serde_json::{Map, Value, json};

use super::wal::WalVerdict;
use crate::output::{Output, text};

/// The result of a verification.
pub(super) struct Report<'a> {
    pub(super) server: &'a str,
    pub(super) info: &'a BackupInfo,
    pub(super) files: &'a Verified,
    pub(super) wal: Option<&'a WalVerdict>,
}

impl Report<'_> {
    pub(super) fn is_sound(&self) -> bool {
        self.files.is_sound() && self.wal.is_none_or(WalVerdict::is_sound)
    }

    /// `1 fault`, `12 faults`.
    pub(super) fn count(&self) -> String {
        let count = self.files.faults.count() + self.wal.map_or(0, |wal| wal.faults.len() as u64);
        format!("{count} fault{}", if count == 1 { "" } else { "s" })
    }

    pub(super) fn tell(&self, output: &Output) {
        let faults = &self.files.faults;
        for fault in faults.kept() {
            output.error(fault.to_string());
        }
        let more = faults.count() - faults.kept().len() as u64;
        if more > 0 {
            output.error(format!("and {more} more"));
        }
        for fault in self.wal.iter().flat_map(|wal| &wal.faults) {
            output.error(fault);
        }
        for oid in &self.files.uncovered {
            let known = self.info.tablespaces.iter().find(|tablespace| tablespace.oid == *oid);
            let name = known.map_or("", |tablespace| &tablespace.name);
            output.warning(format!(
                "The manifest says nothing of tablespace {oid} ({name:?}): its files were not verified"
            ));
        }
        if let Some(missing) = self.wal.and_then(|wal| wal.awaited.first()) {
            output.warning(format!("The backup waits for WAL: segment {missing} has not been archived yet"));
        }
        output.debug(format!(
            "Read {} files, {}; {} more have no checksum in the manifest",
            self.files.files,
            text::size_u64(self.files.bytes),
            self.files.without_checksum
        ));
        output.set(self.server, self.json());
    }

    fn json(&self) -> Value {
        let fault = |fault: &pgbase::verify::Fault| json!({"path": fault.path, "fault": fault.kind.name(), "text": fault.to_string()});
        let mut object = Map::new();
        let files = self.files;
        for (key, value) in [
            ("backup_id", json!(self.info.id.to_string())),
            ("verified", json!(self.is_sound())),
            ("files", json!(files.files)),
            ("bytes", json!(files.bytes)),
            ("files_without_checksum", json!(files.without_checksum)),
            ("manifest_version", json!(files.manifest.version)),
            ("fault_count", json!(files.faults.count())),
            ("faults", Value::Array(files.faults.kept().iter().map(fault).collect())),
            ("tablespaces_not_in_manifest", json!(files.uncovered)),
        ] {
            object.insert(key.to_owned(), value);
        }
        if let Some(wal) = self.wal {
            let name = |segment: Option<pgwal::SegmentName>| segment.map(|segment| segment.to_string());
            let awaited: Vec<String> = wal.awaited.iter().map(ToString::to_string).collect();
            object.insert(
                "wal".to_owned(),
                json!({"segments": wal.segments, "first": name(wal.first), "last": name(wal.last),
                       "faults": wal.faults, "awaited": awaited}),
            );
        }
        Value::Object(object)
    }
}
