use super::*;
use crate::checksum::page_checksum;
use crate::manifest::{FileFault, FileHasher};
use crate::tar::{BLOCK_BYTES, TarError, encode_header};
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
    START TIME: 2026-11-22 10:15:39 UTC\nLABEL: test\nSTART TIMELINE: 1\n";
const START: Lsn = Lsn::from_u64(0x200_0028);

/// A stream made by hand, the manifest of what it holds, and a place to unpack it in.
///
/// Around the destination lie files that no stream may touch.
struct Fixture {
    directory: TempDir,
    events: Vec<BackupEvent>,
    manifest: Vec<String>,
    pages: Option<PageGeometry>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        std::fs::write(directory.path().join("outside/canary"), "alive").unwrap();
        let location = Some(Bytes::from_static(b"/srv/ts1"));
        let tablespaces = vec![
            Tablespace { oid: Some(16385), location, size_bytes: None },
            Tablespace { oid: None, location: None, size_bytes: None },
        ];
        let events = vec![BackupEvent::Start { start: START, timeline: TimelineId::FIRST, tablespaces }];
        Fixture { directory, events, manifest: Vec::new(), pages: None }
    }

    fn destination(&self) -> PathBuf {
        self.directory.path().join("backup")
    }

    fn archive(mut self, tablespace: Option<u32>, members: &[Vec<u8>]) -> Self {
        self.events.push(BackupEvent::Archive { tablespace });
        self.events.push(BackupEvent::Data(Bytes::from(members.concat())));
        self
    }

    fn listed(mut self, path: &str, data: &[u8]) -> Self {
        let mut hasher: FileHasher = ChecksumAlgorithm::Sha256.hasher();
        hasher.update(data);
        let mut checksum = Vec::new();
        hasher.finish_into(&mut checksum);
        let checksum: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        self.manifest.push(format!(
            "{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"x\", \
             \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{checksum}\" }}",
            data.len()
        ));
        self
    }

    fn ended(mut self) -> Self {
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}],\n\"WAL-Ranges\": [],\n",
            self.manifest.join(",\n")
        );
        let checksum: String = Sha256::digest(body.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        self.events.push(BackupEvent::Manifest);
        let text = format!("{body}\"Manifest-Checksum\": \"{checksum}\"}}\n");
        self.events.push(BackupEvent::Data(Bytes::from(text)));
        self.events.push(BackupEvent::End { end: Lsn::from_u64(0x200_0100), timeline: TimelineId::FIRST });
        self
    }

    fn unpack(&self) -> Result<Unpacked, UnpackError> {
        let settings = UnpackSettings {
            dialect: BackupDialect::PerArchive,
            manifest_checksum: ChecksumAlgorithm::Sha256,
            pages: self.pages,
        };
        let mut unpacker = Unpacker::new(&self.destination(), settings)?;
        for event in &self.events {
            unpacker.event(event.clone())?;
        }
        unpacker.finish()
    }

    /// The error of a stream that must be refused, having touched nothing outside.
    fn refused(&self) -> UnpackError {
        let error = self.unpack().unwrap_err();
        let beside: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "backup")
            .collect();
        assert_eq!(beside, ["outside"]);
        assert_eq!(std::fs::read_dir(self.directory.path().join("outside")).unwrap().count(), 1);
        assert_eq!(std::fs::read(self.directory.path().join("outside/canary")).unwrap(), b"alive");
        assert!(!self.destination().join("data/backup_manifest").exists(), "never looks complete");
        error
    }
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    let mut member = encode_header(name.as_bytes(), b'0', data.len() as u64, b"").to_vec();
    member.extend_from_slice(data);
    member.resize(member.len().next_multiple_of(BLOCK_BYTES), 0);
    member
}

fn directory(name: &str) -> Vec<u8> {
    encode_header(name.as_bytes(), b'5', 0, b"").to_vec()
}

fn link(name: &str, target: &str) -> Vec<u8> {
    encode_header(name.as_bytes(), b'2', 0, target.as_bytes()).to_vec()
}

/// A whole small backup whose data archive has `members` besides the label.
fn backup_with(members: &[Vec<u8>]) -> Fixture {
    let data = [&[file("backup_label", LABEL.as_bytes()), directory("pg_tblspc/")], members].concat();
    Fixture::new()
        .archive(Some(16385), &[directory("PG_15_1/"), file("PG_15_1/x", b"ts")])
        .listed("pg_tblspc/16385/PG_15_1/x", b"ts")
        .archive(None, &data)
        .listed("backup_label", LABEL.as_bytes())
}

/// A page with the right checksum for its block.
fn page(block: u32) -> Vec<u8> {
    let mut page = vec![7; 8192];
    page[..8].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

#[test]
fn unpacks_as_pg_basebackup_does() {
    let big = vec![9; 700_000];
    let members = [
        link("pg_tblspc/16385/", "/srv/ts1"),
        directory("base/"),
        directory("base/1/"),
        file("base/1/2", &big),
    ];
    let fixture = backup_with(&members).listed("base/1/2", &big).ended();
    let unpacked = fixture.unpack().unwrap();
    let at = |path: &str| fixture.destination().join(path);
    assert_eq!(std::fs::read(at("data/base/1/2")).unwrap(), big);
    assert_eq!(std::fs::read(at("16385/PG_15_1/x")).unwrap(), b"ts");
    assert_eq!(std::fs::read_link(at("data/pg_tblspc/16385")).unwrap(), at("16385"));
    assert_eq!(std::fs::read(at("data/pg_tblspc/16385/PG_15_1/x")).unwrap(), b"ts");
    assert!(!at("backup_manifest.tmp").exists());
    let mode = |path: &str| std::fs::metadata(at(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("data"), mode("16385"), mode("data/base/1/2")), (0o700, 0o700, 0o600));
    let manifest_bytes = std::fs::metadata(at("data/backup_manifest")).unwrap().len();
    assert_eq!(unpacked.total_bytes, 700_000 + 2 + LABEL.len() as u64 + manifest_bytes);
    assert_eq!((unpacked.files, unpacked.label_text.as_str()), (4, LABEL));
    assert_eq!(unpacked.tablespaces, [UnpackedTablespace { oid: 16385, location: "/srv/ts1".into() }]);
}

#[test]
fn an_existing_backup_is_never_written_to() {
    let fixture = backup_with(&[]).ended();
    fixture.unpack().unwrap();
    assert!(matches!(fixture.unpack(), Err(UnpackError::Exists { .. })));
}

#[test]
fn hostile_names_are_refused() {
    for name in ["/tmp/x", "../outside/x", "base/../../outside/x"] {
        let error = backup_with(&[file(name, b"x")]).refused();
        assert!(matches!(error, UnpackError::Tar { source: TarError::Name(_), .. }), "{name}: {error}");
    }
}

#[test]
fn no_file_is_written_through_a_link() {
    let members = [link("pg_tblspc/16385/", "/srv/ts1"), file("pg_tblspc/16385/x", b"x")];
    let error = backup_with(&members).refused();
    assert!(matches!(error, UnpackError::NoDirectory { .. }), "{error}");
}

#[test]
fn links_lead_only_to_announced_tablespaces() {
    let error = backup_with(&[link("pg_tblspc/666/", "/etc")]).refused();
    assert!(matches!(error, UnpackError::UnknownTablespace { oid: 666 }), "{error}");
    let error = backup_with(&[link("pg_tblspc/16385/", "/etc")]).refused();
    assert!(matches!(error, UnpackError::LinkTarget { .. }), "{error}");
    let error = backup_with(&[link("pg_wal", "/etc")]).refused();
    assert!(matches!(error, UnpackError::Tar { source: TarError::Link { .. }, .. }), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let error = backup_with(&[file("x", b"1"), file("x", b"2")]).refused();
    assert!(matches!(error, UnpackError::Exists { .. }), "{error}");
    let error = backup_with(&[file("backup_manifest", b"forged")]).refused();
    assert!(matches!(error, UnpackError::Reserved { .. }), "{error}");
}

#[test]
fn files_of_a_restored_cluster_with_odd_names_are_kept() {
    let fixture =
        backup_with(&[file("backup_manifest.tmp", b"x")]).listed("backup_manifest.tmp", b"x").ended();
    fixture.unpack().unwrap();
    assert_eq!(std::fs::read(fixture.destination().join("data/backup_manifest.tmp")).unwrap(), b"x");
}

#[test]
fn a_file_needs_its_directory() {
    let error = backup_with(&[file("base/1/2", b"x")]).refused();
    assert!(matches!(error, UnpackError::NoDirectory { .. }), "{error}");
}

#[test]
fn truncated_archives_are_refused() {
    let error = backup_with(&[encode_header(b"x", b'0', 100, b"").to_vec()]).ended().refused();
    assert!(matches!(error, UnpackError::Tar { source: TarError::Truncated { .. }, .. }), "{error}");
}

#[test]
fn what_differs_from_the_manifest_is_refused() {
    let error = backup_with(&[file("x", b"1")]).listed("x", b"2").ended().refused();
    let UnpackError::ManifestMismatch { faults, fault_count: 1 } = error else { panic!("{error}") };
    assert_eq!(faults, [FileFault::Contents { path: "x".into() }]);
}

#[test]
fn archives_come_once_and_all() {
    let error = Fixture::new().archive(None, &[file("backup_label", LABEL.as_bytes())]).ended().refused();
    assert!(matches!(error, UnpackError::MissingArchive { place: Place::Tablespace(16385) }), "{error}");
    let error = backup_with(&[]).archive(None, &[]).refused();
    assert!(matches!(error, UnpackError::RepeatedArchive { place: Place::Data }), "{error}");
    let error = backup_with(&[]).archive(Some(99), &[]).refused();
    assert!(matches!(error, UnpackError::UnknownTablespace { oid: 99 }), "{error}");
}

#[test]
fn a_backup_without_end_or_manifest_is_incomplete() {
    assert!(matches!(backup_with(&[]).refused(), UnpackError::Incomplete));
    let mut fixture = backup_with(&[]);
    fixture.events.push(BackupEvent::End { end: START, timeline: TimelineId::FIRST });
    assert!(matches!(fixture.refused(), UnpackError::NoManifest));
}

#[test]
fn the_label_must_be_there_and_of_this_backup() {
    let archives = || Fixture::new().archive(Some(16385), &[]);
    assert!(matches!(archives().archive(None, &[]).ended().refused(), UnpackError::NoLabel));
    let other = LABEL.replace("0/2000028", "0/3000028");
    let fixture = archives().archive(None, &[file("backup_label", other.as_bytes())]);
    let error = fixture.listed("backup_label", other.as_bytes()).ended().refused();
    assert!(matches!(error, UnpackError::LabelStart { .. }), "{error}");
}

#[test]
fn tablespaces_within_the_data_directory_are_refused() {
    let mut fixture = Fixture::new();
    let location = Some(Bytes::from_static(b"pg_tblspc/1"));
    let tablespaces = vec![Tablespace { oid: Some(1), location, size_bytes: None }];
    fixture.events = vec![BackupEvent::Start { start: START, timeline: TimelineId::FIRST, tablespaces }];
    assert!(matches!(fixture.refused(), UnpackError::InPlaceTablespace { oid: 1, .. }));
}

#[test]
fn corrupt_pages_are_named() {
    let mut data = [page(0), page(1), page(2)].concat();
    data[8192 + 4000] ^= 1;
    let members = [directory("base/"), directory("base/5/"), file("base/5/16384", &data)];
    let mut fixture = backup_with(&members).listed("base/5/16384", &data).ended();
    fixture.pages = Some(PageGeometry::DEFAULT);
    let error = fixture.refused();
    assert!(
        error.to_string().contains("1 data page has a wrong checksum: block 1 in 'base/5/16384'"),
        "{error}"
    );
    // Without data checksums in the cluster the same bytes are fine.
    let mut fixture = backup_with(&members).listed("base/5/16384", &data).ended();
    fixture.pages = None;
    fixture.unpack().unwrap();
}
