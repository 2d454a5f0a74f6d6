use super::*;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// Closes a manifest with the right checksum.
fn closed(body: &str) -> String {
    let checksum: [u8; 32] = Sha256::digest(body.as_bytes()).into();
    format!("{body}\"Manifest-Checksum\": \"{}\"}}\n", algorithm::to_hex(&checksum))
}

/// A manifest laid out as PostgreSQL does it, with these lines for files.
fn manifest(version: u32, files: &[&str]) -> String {
    let identifier = if version == 2 { "\"System-Identifier\": 7710937153959999515,\n" } else { "" };
    closed(&format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n{identifier}\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
         {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n",
        files.join(",\n")
    ))
}

const LABEL: &str = r#"{ "Path": "backup_label", "Size": 1, "Last-Modified": "2026-11-22 10:15:39 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "ad7bd6a1" }"#;
const EMPTY: &str = r#"{ "Path": "base/1/2", "Size": 0, "Last-Modified": "2026-11-22 10:15:39 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }"#;

fn facts(text: &str) -> Result<(ManifestFacts, Vec<ManifestFile>), ManifestError> {
    let mut files = Vec::new();
    let facts = read(text.as_bytes(), |file| files.push(file))?;
    Ok((facts, files))
}

/// What arrived: paths with contents.
fn inventory(algorithm: ChecksumAlgorithm, files: &[(&str, &[u8])]) -> Inventory {
    let mut inventory = Inventory::new(algorithm);
    for (path, data) in files {
        let mut hasher = algorithm.hasher();
        hasher.update(data);
        inventory.add([path.as_bytes()], data.len() as u64, hasher).unwrap();
    }
    inventory
}

fn label_entry(data: &[u8]) -> String {
    let mut hasher = ChecksumAlgorithm::Crc32c.hasher();
    hasher.update(data);
    let mut checksum = Vec::new();
    hasher.finish_into(&mut checksum);
    LABEL.replace("ad7bd6a1", &algorithm::to_hex(&checksum))
}

fn faults(manifest: &str, files: &[(&str, &[u8])]) -> Vec<FileFault> {
    inventory(ChecksumAlgorithm::Crc32c, files).compare(manifest.as_bytes()).unwrap().faults
}

#[test]
fn reads_both_versions() {
    let (first, files) = facts(&manifest(1, &[LABEL, EMPTY])).unwrap();
    assert_eq!((first.version, first.system_identifier, first.files, first.total_bytes), (1, None, 2, 1));
    assert_eq!(files[1].path, b"base/1/2");
    assert_eq!(first.wal_ranges[0].end.to_string(), "0/2000100");
    let (second, _) = facts(&manifest(2, &[])).unwrap();
    assert_eq!(second.system_identifier, Some(7_710_937_153_959_999_515));
}

#[test]
fn unknown_versions_are_refused() {
    assert!(matches!(facts(&manifest(3, &[])), Err(ManifestError::Version(3))));
}

#[test]
fn encoded_paths_are_bytes() {
    let file = r#"{ "Encoded-Path": "66fF", "Size": 0, "Last-Modified": "x" }"#;
    let (_, files) = facts(&manifest(1, &[file])).unwrap();
    assert_eq!(files[0], ManifestFile { path: b"f\xff".to_vec(), bytes: 0, checksum: None });
}

#[test]
fn any_change_breaks_the_checksum() {
    let text = manifest(1, &[LABEL]);
    let changed = text.replace("\"Size\": 1", "\"Size\": 2");
    assert!(matches!(facts(&changed), Err(ManifestError::Checksum { .. })));
}

#[test]
fn a_truncated_manifest_is_refused() {
    let text = manifest(1, &[LABEL]);
    for length in 0..text.len() {
        assert!(facts(&text[..length]).is_err(), "{length} of {} bytes", text.len());
    }
    let unclosed = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": []}\n";
    assert!(matches!(facts(unclosed), Err(ManifestError::Unclosed)));
}

#[test]
fn malformed_manifests_are_refused() {
    for file in [
        r#"{ "Size": 1 }"#,
        r#"{ "Path": "x" }"#,
        r#"{ "Path": "x", "Encoded-Path": "66", "Size": 1 }"#,
        r#"{ "Encoded-Path": "6", "Size": 1 }"#,
        r#"{ "Path": "x", "Size": -1 }"#,
        r#"{ "Path": "x", "Size": 1, "Checksum": "00000000" }"#,
        r#"{ "Path": "x", "Size": 1, "Checksum-Algorithm": "MD5", "Checksum": "00000000" }"#,
        r#"{ "Path": "x", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "0000" }"#,
        r#"{ "Path": "x", "Size": 1, "Surprise": 1 }"#,
    ] {
        assert!(matches!(facts(&manifest(1, &[file])), Err(ManifestError::Malformed(_))), "{file}");
    }
    assert!(matches!(
        facts(&closed("{\n\"Files\": [],\n\"Files\": [],\n")),
        Err(ManifestError::Malformed(_))
    ));
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let long = format!(r#"{{ "Path": "{}", "Size": 1 }}"#, "x".repeat(MAX_LINE_BYTES));
    assert!(matches!(facts(&manifest(1, &[&long])), Err(ManifestError::LineTooLong)));
}

#[test]
fn the_same_files_compare_equal_in_any_order() {
    let label = label_entry(b"x");
    for lines in [[&label[..], EMPTY], [EMPTY, &label[..]]] {
        assert_eq!(faults(&manifest(1, &lines), &[("backup_label", b"x"), ("base/1/2", b"")]), []);
    }
}

#[test]
fn every_difference_is_found() {
    let text = manifest(1, &[&label_entry(b"x"), EMPTY]);
    let path = String::from("backup_label");
    let empty: (&str, &[u8]) = ("base/1/2", b"");
    assert_eq!(faults(&text, &[("backup_label", b"y"), empty]), [FileFault::Contents { path: path.clone() }]);
    assert_eq!(
        faults(&text, &[("backup_label", b"xy"), empty]),
        [FileFault::Size { path: path.clone(), received: 2, listed: 1 }]
    );
    assert_eq!(faults(&text, &[empty]), [FileFault::Missing { path: path.clone() }]);
    let extra = faults(&text, &[("backup_label", b"x"), empty, ("core", b"z"), ("pg_wal/1", b"")]);
    assert_eq!(extra, [FileFault::Unlisted { path: "core".into() }]);
    let twice = manifest(1, &[EMPTY, EMPTY]);
    assert_eq!(faults(&twice, &[empty]), [FileFault::Duplicate { path: "base/1/2".into() }]);
}

#[test]
fn a_checksum_of_another_kind_is_a_difference() {
    let text = manifest(1, &[EMPTY]);
    let found = inventory(ChecksumAlgorithm::Sha256, &[("base/1/2", b"")]).compare(text.as_bytes()).unwrap();
    assert_eq!(found.faults, [FileFault::Contents { path: "base/1/2".into() }]);
}

#[test]
fn faults_are_counted_beyond_those_listed() {
    let files: Vec<String> = (0..250).map(|n| EMPTY.replace("base/1/2", &format!("base/1/{n}"))).collect();
    let lines: Vec<&str> = files.iter().map(String::as_str).collect();
    let found = inventory(ChecksumAlgorithm::Crc32c, &[]).compare(manifest(1, &lines).as_bytes()).unwrap();
    assert_eq!((found.faults.len(), found.fault_count), (MAX_FAULTS, 250));
}

#[test]
fn algorithms_have_the_sizes_they_claim() {
    for algorithm in ChecksumAlgorithm::ALL {
        let mut bytes = Vec::new();
        algorithm.hasher().finish_into(&mut bytes);
        assert_eq!(bytes.len(), algorithm.checksum_bytes());
        assert_eq!(algorithm.name().to_lowercase().parse(), Ok(algorithm));
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text: String) {
        let _ = facts(&text);
    }

    #[test]
    fn damaged_manifests_are_never_accepted(at in 0_usize..700, byte: u8) {
        let text = manifest(2, &[LABEL, EMPTY]);
        let mut bytes = text.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        // Blanks and the case of digits in the last line are all that may differ.
        let last_line = text.trim_end().rfind('\n').unwrap();
        if at <= last_line {
            let outcome = read(&bytes[..], |_| {});
            prop_assert!(outcome.is_err());
        }
    }
}
