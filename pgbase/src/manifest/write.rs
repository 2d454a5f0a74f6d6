//! A manifest, written as the server writes it (`backup/backup_manifest.c`).

use std::io::{self, Write};

use pgwal::PgTimestamp;
use sha2::{Digest, Sha256};

use super::algorithm::to_hex;
use super::{Checksum, WalRange};

/// First major version whose manifests are of version 2, with the system identifier.
const MAJOR_OF_VERSION_2: u32 = 17;

/// Writes a manifest, file by file.
///
/// ```
/// use pgbase::manifest::{self, ManifestWriter};
///
/// let mut writer = ManifestWriter::new(Vec::new(), 18, Some(7_710_937_153_959_999_515))?;
/// writer.file(b"PG_VERSION", 3, 1_795_342_542, None)?;
/// let text = writer.finish(&[])?;
/// let facts = manifest::read(&text[..], |file| assert_eq!(file.path, b"PG_VERSION"))?;
/// assert_eq!((facts.version, facts.files), (2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ManifestWriter<W> {
    sink: W,
    hasher: Sha256,
    files: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest for a server of this major version.
    ///
    /// # Errors
    /// When `sink` refuses.
    pub fn new(sink: W, major: u32, system_id: Option<u64>) -> io::Result<Self> {
        let mut writer = ManifestWriter { sink, hasher: Sha256::new(), files: 0 };
        let start = match system_id.filter(|_| major >= MAJOR_OF_VERSION_2) {
            Some(id) => format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {id},\n\"Files\": ["
            ),
            None => "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned(),
        };
        writer.write(&start)?;
        Ok(writer)
    }

    /// Adds a file: its path relative to the data directory, its size, its time of last modification in seconds
    /// since 1970, and its checksum unless there is to be none.
    ///
    /// # Errors
    /// When `sink` refuses.
    pub fn file(
        &mut self,
        path: &[u8],
        bytes: u64,
        modified: i64,
        checksum: Option<&Checksum>,
    ) -> io::Result<()> {
        let path = match std::str::from_utf8(path) {
            Ok(path) => format!("\"Path\": {}", serde_json::Value::from(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", to_hex(path)),
        };
        let modified = whole_second(modified);
        let mut line =
            format!("{}\n{{ {path}, \"Size\": {bytes}, \"Last-Modified\": \"{modified}\"", self.comma());
        if let Some(checksum) = checksum {
            let algorithm = checksum.algorithm;
            line.push_str(&format!(
                ", \"Checksum-Algorithm\": \"{algorithm}\", \"Checksum\": \"{checksum}\""
            ));
        }
        line.push_str(" }");
        self.files += 1;
        self.write(&line)
    }

    /// Ends the manifest with the WAL that the backup needs, and gives the sink back.
    ///
    /// # Errors
    /// When `sink` refuses.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> io::Result<W> {
        let ranges: Vec<String> = wal_ranges
            .iter()
            .map(|WalRange { timeline, start, end }| {
                let timeline = timeline.as_u32();
                format!(
                    "\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
                )
            })
            .collect();
        self.write(&format!("\n],\n\"WAL-Ranges\": [{}\n],\n", ranges.join(",")))?;
        let checksum = to_hex(&self.hasher.finalize());
        self.sink.write_all(format!("\"Manifest-Checksum\": \"{checksum}\"}}\n").as_bytes())?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn comma(&self) -> &'static str {
        if self.files == 0 { "" } else { "," }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.hasher.update(text);
        self.sink.write_all(text.as_bytes())
    }
}

/// `2026-11-22 10:15:39 GMT`.
fn whole_second(seconds_since_1970: i64) -> String {
    let moment = seconds_since_1970.checked_mul(1_000_000).and_then(PgTimestamp::from_unix_micros);
    let text = moment.unwrap_or(PgTimestamp::from_micros(0)).to_string();
    let (seconds, _) = text.split_once('.').unwrap_or((&text, ""));
    format!("{seconds} GMT")
}

#[cfg(test)]
mod tests {
    use super::super::{ChecksumAlgorithm, read};
    use super::*;

    #[test]
    fn reads_back_what_was_written_odd_names_included() {
        let mut writer = ManifestWriter::new(Vec::new(), 17, Some(u64::MAX)).unwrap();
        let names: [&[u8]; 4] = [b"plain", b"quo\"te\nline", "\u{e9}".as_bytes(), b"not\xff utf-8"];
        for name in names {
            let bytes = vec![1, 2, 3, 4];
            let checksum = Checksum { algorithm: ChecksumAlgorithm::Crc32c, bytes };
            writer.file(name, 9, -1, Some(&checksum)).unwrap();
        }
        let range = WalRange {
            timeline: pgwal::TimelineId::FIRST,
            start: pgwal::Lsn::from_u64(0x200_0028),
            end: pgwal::Lsn::from_u64(0x200_0100),
        };
        let text = writer.finish(&[range]).unwrap();
        let mut read_names = Vec::new();
        let facts = read(&text[..], |file| read_names.push(file.path)).unwrap();
        assert_eq!(read_names, names);
        assert_eq!((facts.version, facts.system_identifier), (2, Some(u64::MAX)));
        assert_eq!(facts.wal_ranges, [range]);
    }

    #[test]
    fn looks_like_the_servers() {
        let mut writer = ManifestWriter::new(Vec::new(), 15, Some(1)).unwrap();
        writer.file(b"backup_label", 224, 1_604_444_519, None).unwrap();
        let text = String::from_utf8(writer.finish(&[]).unwrap()).unwrap();
        assert!(text.starts_with(
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
             { \"Path\": \"backup_label\", \"Size\": 224, \"Last-Modified\": \"2020-11-03 23:01:59 GMT\" }\n\
             ],\n\"WAL-Ranges\": [\n],\n\"Manifest-Checksum\": \""
        ));
    }
}
