//! The manifest's JSON as a stream: files are handed on one by one, nothing of them is kept.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use pgwal::{Lsn, TimelineId};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::algorithm::from_hex;
use super::{Checksum, ChecksumAlgorithm, MAX_WAL_RANGES, ManifestFile, WalRange};

/// The top level's fields, each as found.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) version: Option<u64>,
    pub(super) system_identifier: Option<u64>,
    pub(super) files: u64,
    pub(super) total_bytes: u64,
    pub(super) wal_ranges: Vec<WalRange>,
    pub(super) checksum: Option<String>,
}

pub(super) fn parse(source: impl Read, file: impl FnMut(ManifestFile)) -> Result<Parsed, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(source);
    let parsed = json.deserialize_map(TopLevel { file })?;
    json.end()?;
    Ok(parsed)
}

struct TopLevel<F> {
    file: F,
}

impl<'de, F: FnMut(ManifestFile)> Visitor<'de> for TopLevel<F> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup manifest")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        let mut seen_files = false;
        while let Some(key) = map.next_key::<String>()? {
            match &key[..] {
                "PostgreSQL-Backup-Manifest-Version" => once(&mut parsed.version, map.next_value()?, &key)?,
                "System-Identifier" => once(&mut parsed.system_identifier, map.next_value()?, &key)?,
                "Manifest-Checksum" => once(&mut parsed.checksum, map.next_value()?, &key)?,
                "WAL-Ranges" => parsed.wal_ranges = map.next_value_seed(Ranges)?,
                "Files" if !seen_files => {
                    seen_files = true;
                    let files = Files { file: &mut self.file, parsed: &mut parsed };
                    map.next_value_seed(files)?;
                }
                other => return Err(Error::custom(format_args!("unexpected key '{other}'"))),
            }
        }
        if seen_files { Ok(parsed) } else { Err(Error::missing_field("Files")) }
    }
}

fn once<T, E: Error>(slot: &mut Option<T>, value: T, key: &str) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format_args!("the key '{key}' comes twice"))),
    }
}

struct Files<'a, F> {
    file: &'a mut F,
    parsed: &'a mut Parsed,
}

impl<'de, F: FnMut(ManifestFile)> DeserializeSeed<'de> for Files<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(ManifestFile)> Visitor<'de> for Files<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(raw) = sequence.next_element::<RawFile<'_>>()? {
            let file = raw.check().map_err(Error::custom)?;
            self.parsed.files += 1;
            self.parsed.total_bytes = self.parsed.total_bytes.saturating_add(file.bytes);
            (self.file)(file);
        }
        Ok(())
    }
}

/// A file as written. The modification time is of no use to anyone and is skipped.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawFile<'a> {
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    size: u64,
    #[serde(rename = "Last-Modified", default)]
    _last_modified: Option<serde::de::IgnoredAny>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(borrow)]
    checksum: Option<Cow<'a, str>>,
}

impl RawFile<'_> {
    fn check(self) -> Result<ManifestFile, String> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(hex)) => from_hex(&hex).ok_or_else(|| format!("'{hex}' isn't an encoded path"))?,
            _ => return Err("a file has either a path or an encoded path".into()),
        };
        let named = || String::from_utf8_lossy(&path).into_owned();
        let checksum = match (self.algorithm, self.checksum) {
            (None, None) => None,
            (Some(algorithm), Some(checksum)) => {
                let algorithm: ChecksumAlgorithm =
                    algorithm.parse().map_err(|error| format!("'{}': {error}", named()))?;
                let bytes = from_hex(&checksum)
                    .filter(|bytes| bytes.len() == algorithm.checksum_bytes())
                    .ok_or_else(|| format!("'{}' has a malformed checksum '{checksum}'", named()))?;
                Some(Checksum { algorithm, bytes })
            }
            _ => return Err(format!("'{}' has a checksum without algorithm or the reverse", named())),
        };
        Ok(ManifestFile { path, bytes: self.size, checksum })
    }
}

struct Ranges;

impl<'de> DeserializeSeed<'de> for Ranges {
    type Value = Vec<WalRange>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Ranges {
    type Value = Vec<WalRange>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the list of WAL ranges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut ranges = Vec::new();
        while let Some(raw) = sequence.next_element::<RawRange>()? {
            if ranges.len() == MAX_WAL_RANGES {
                return Err(Error::custom("too many WAL ranges"));
            }
            ranges.push(raw.check().ok_or_else(|| Error::custom("a WAL range is malformed"))?);
        }
        Ok(ranges)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl RawRange {
    fn check(&self) -> Option<WalRange> {
        let timeline = TimelineId::new(self.timeline)?;
        let (start, end): (Lsn, Lsn) = (self.start.parse().ok()?, self.end.parse().ok()?);
        (start <= end).then_some(WalRange { timeline, start, end })
    }
}
