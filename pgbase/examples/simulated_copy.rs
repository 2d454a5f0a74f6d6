//! How much memory the copy of a cluster of many files takes: the cluster is simulated, the copy is real.
//!
//! usage: simulated_copy DIRECTORY [FILES]      (a million files unless said otherwise; the directory must not be there)

use std::io;
use std::path::{Path, PathBuf};

use barkeep_transport::host::{
    Access, Change, Entry, FileEnd, HashJob, Hashed, Host, HostError, Inspectors, Kind, LocalHost, Owner,
    ReadJob, ReadOptions, ReadSink, Root,
};
use pgbase::file_backup::{BackupEnd, FileBackupObserver, FileBackupPlan, copy_files};
use pgbase::manifest::ChecksumAlgorithm;
use pgwal::Lsn;

/// Files in one of the simulated directories.
const DIRECTORY_FILES: u32 = 1000;
/// What each of them holds.
const CONTENT: &[u8] = b"not much";

const LABEL: &str = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n\
    CHECKPOINT LOCATION: 0/6000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
    START TIME: 2026-11-22 10:15:39 UTC\nLABEL: simulated\nSTART TIMELINE: 1\n";

/// A host whose cluster has many small relations, as they are named in earnest.
#[derive(Debug)]
struct Simulated {
    inner: LocalHost,
    files: u32,
}

fn entry(path: PathBuf, kind: Kind) -> Entry {
    Entry {
        path,
        kind,
        size: CONTENT.len() as u64,
        modified_ns: 1_700_000_000_000_000_000,
        mode: 0o600,
        owner: Owner { uid: 0, gid: 0 },
        links: 1,
        target: PathBuf::new(),
    }
}

impl Host for Simulated {
    fn open(&self, path: &Path, access: Access) -> Result<Root, HostError> {
        self.inner.open(path, access)
    }

    fn walk(
        &self,
        _: Root,
        _: &[PathBuf],
        found: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), HostError> {
        let mut tell = |path: PathBuf, kind| found(entry(path, kind)).map_err(HostError::Sink);
        tell("base".into(), Kind::Directory)?;
        for directory in 0..self.files.div_ceil(DIRECTORY_FILES) {
            let database = PathBuf::from(format!("base/{}", 16_384 + directory));
            tell(database.clone(), Kind::Directory)?;
            for file in 0..DIRECTORY_FILES.min(self.files - directory * DIRECTORY_FILES) {
                tell(database.join(format!("{}_fsm", 1_000_000 + file)), Kind::File)?;
            }
        }
        tell("global".into(), Kind::Directory)?;
        tell("global/pg_control".into(), Kind::File)
    }

    fn read(&self, jobs: &[ReadJob], _: &ReadOptions, sink: &mut dyn ReadSink) -> Result<(), HostError> {
        for index in 0..jobs.len() {
            sink.data(index, 0, CONTENT).map_err(HostError::Sink)?;
            let end = FileEnd {
                bytes: CONTENT.len() as u64,
                modified_ns: 1_700_000_000_000_000_000,
                findings: Vec::new(),
            };
            sink.end(index, Ok(end)).map_err(HostError::Sink)?;
        }
        Ok(())
    }

    fn hash(&self, jobs: &[HashJob]) -> Result<Vec<io::Result<Hashed>>, HostError> {
        self.inner.hash(jobs)
    }

    fn change(&self, changes: &[Change]) -> Result<Vec<io::Result<()>>, HostError> {
        self.inner.change(changes)
    }

    fn sync(&self, root: Root) -> Result<(), HostError> {
        self.inner.sync(root)
    }

    fn free_bytes(&self, root: Root) -> Result<u64, HostError> {
        self.inner.free_bytes(root)
    }
}

struct Silent;

impl FileBackupObserver for Silent {
    fn listed(&self, files: u64, _bytes: u64) {
        println!("{files} files, {} MiB at most while listing", peak_mib());
    }
    fn copied(&self, _bytes: u64) {}
    fn warning(&self, message: &str) {
        eprintln!("{message}");
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// The most memory that this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: simulated_copy DIRECTORY [FILES]")?);
    let files = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let host = Simulated { inner: LocalHost::new(Inspectors::none()), files };
    let plan = FileBackupPlan {
        data_directory: PathBuf::from("/"),
        tablespaces: Vec::new(),
        outside_files: Vec::new(),
        major: 15,
        system_id: None,
        start: Lsn::from_u64(0x600_0028),
        pages: None,
        manifest_checksum: ChecksumAlgorithm::Crc32c,
        jobs: 4,
        limit_kib: None,
        references: Vec::new(),
        remote: true,
        packing: None,
    };
    let end =
        BackupEnd { stop: Lsn::from_u64(0x600_0100), label: LABEL.to_owned(), tablespace_map: String::new() };
    let backup = copy_files(&host, &directory, plan, &Silent)?.finish(&end)?;
    println!("{} files copied, {} MiB at most", backup.files, peak_mib());
    Ok(())
}
