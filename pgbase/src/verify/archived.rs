//! Backups that are stored as tar archives: what is in them against the manifest beside them, unpacked in memory only.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use barkeep_transport::codec;
use bytes::Bytes;

use super::listed::Listed;
use super::{Fault, FaultKind, Faults, PG_CONTROL, Verified, VerifyError, VerifyOptions, wrong_system};
use crate::copy::Directory;
use crate::manifest::{ChecksumAlgorithm, FileHasher, MANIFEST_FILE, ManifestFacts};
use crate::pool;
use crate::scan::{ScanObserver, is_not_listed};
use crate::tar::{Entry, EntryKind, Event, TarParser, Trailer};

/// How much is decompressed at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// How much of the control file holds the system identifier, in bytes.
const SYSTEM_ID_BYTES: usize = 8;

/// Where the archives of a backup are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupArchives {
    /// The directory with the manifest.
    pub directory: PathBuf,
    /// The data directory's archive.
    pub data: PathBuf,
    /// Those of tablespaces, by object id.
    pub tablespaces: Vec<(u32, PathBuf)>,
}

/// Verifies a backup in tar format, compressed or not.
///
/// # Errors
/// As for [`verify_backup`](super::verify_backup). An archive that can't be read to its end is no error but a fault.
pub fn verify_archives(
    backup: &BackupArchives,
    options: VerifyOptions,
    observer: &dyn ScanObserver,
) -> Result<Verified, VerifyError> {
    let (listed, manifest) = read_manifest(&backup.directory)?;
    let mut tally = Tally { listed, ..Tally::default() };
    let repeated: Vec<Fault> =
        tally.listed.repeated().map(|path| Fault::new(path, FaultKind::Duplicate)).collect();
    repeated.into_iter().for_each(|fault| tally.faults.add(fault));
    let mut archives = vec![Archive::new(String::new(), &backup.data)];
    for (oid, path) in &backup.tablespaces {
        archives.push(Archive::new(format!("pg_tblspc/{oid}/"), path));
    }
    observer.total(archives.len() as u64, archives.iter().map(Archive::stored_bytes).sum());
    let tally = Mutex::new(tally);
    pool::run(
        &archives,
        options.jobs,
        || (),
        |(), archive, stop| {
            let outcome = archive.verify(&tally, observer, stop);
            if observer.cancelled() {
                return Err(VerifyError::Cancelled);
            }
            if let Err(error) = outcome {
                let mut tally = lock(&tally);
                tally.faults.add(Fault::new(archive.name().as_bytes(), FaultKind::unreadable(&error)));
                tally.broken.push(archive.prefix.clone());
            }
            Ok(())
        },
    )?;
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(tally.finish(manifest, &archives, options.system_id))
}

fn read_manifest(directory: &Path) -> Result<(Listed, ManifestFacts), VerifyError> {
    let path = directory.join(MANIFEST_FILE);
    match Directory::open(directory).and_then(|directory| directory.read(Path::new(MANIFEST_FILE))) {
        Ok(file) => Ok(Listed::read(file)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(VerifyError::NoManifest { path }),
        Err(source) => Err(VerifyError::Unreadable { path, source }),
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all archives together have shown.
#[derive(Debug, Default)]
struct Tally {
    listed: Listed,
    faults: Faults,
    files: u64,
    bytes: u64,
    without_checksum: u64,
    /// What the control file says.
    system_id: Option<u64>,
    /// The prefixes of archives that could not be read to their end.
    broken: Vec<String>,
}

impl Tally {
    fn finish(mut self, manifest: ManifestFacts, archives: &[Archive], known: Option<u64>) -> Verified {
        // Of what is missing from an archive that breaks off, one fault has told.
        let is_broken = |path: &[u8]| {
            let home = archives.iter().rev().find(|archive| path.starts_with(archive.prefix.as_bytes()));
            home.is_some_and(|archive| self.broken.contains(&archive.prefix))
        };
        let missing = self.listed.unmatched().filter(|path| !is_broken(path));
        let missing: Vec<Fault> = missing.map(|path| Fault::new(path, FaultKind::Missing)).collect();
        missing.into_iter().for_each(|fault| self.faults.add(fault));
        if let Some(fault) = self.system_id.and_then(|found| wrong_system(found, &manifest, known)) {
            self.faults.add(fault);
        }
        self.faults.sort();
        let Tally { faults, files, bytes, without_checksum, .. } = self;
        Verified { manifest, files, bytes, without_checksum, faults, uncovered: Vec::new() }
    }
}

/// One archive.
#[derive(Debug)]
struct Archive {
    path: PathBuf,
    /// What manifests put before the paths in it.
    prefix: String,
}

/// A member whose bytes are passing by.
struct Member {
    path: Vec<u8>,
    /// Its number in the manifest, when its bytes are to be compared.
    number: Option<usize>,
    hasher: FileHasher,
    bytes: u64,
    head: Vec<u8>,
}

impl Archive {
    fn new(prefix: String, path: &Path) -> Self {
        Archive { path: path.to_owned(), prefix }
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn open(&self) -> io::Result<File> {
        match (self.path.parent(), self.path.file_name()) {
            (Some(parent), Some(name)) => Directory::open(parent)?.read(Path::new(name)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn stored_bytes(&self) -> u64 {
        self.path.symlink_metadata().map_or(0, |metadata| metadata.len())
    }

    fn verify(&self, tally: &Mutex<Tally>, observer: &dyn ScanObserver, stop: &AtomicBool) -> io::Result<()> {
        let (compression, source) = codec::sniff(Told { file: self.open()?, observer })?;
        let mut reader = compression.reader(source)?;
        let mut parser = TarParser::new(Trailer::Required);
        let mut member: Option<Member> = None;
        loop {
            if stop.load(Ordering::Relaxed) || observer.cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            if reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)? == 0 {
                return parser.finish().map_err(io::Error::other);
            }
            let mut piece = Bytes::from(piece);
            while let Some(event) = parser.next(&mut piece).map_err(io::Error::other)? {
                match event {
                    Event::Entry(entry) => member = self.begin(&entry, &mut lock(tally)),
                    Event::Data(data) => {
                        if let Some(member) = &mut member {
                            member.pass(&data);
                        }
                    }
                    Event::EndOfFile => {
                        if let Some(member) = member.take() {
                            member.end(&mut lock(tally));
                        }
                    }
                }
            }
        }
    }

    /// Compares what a header says; a file comes back whose bytes are to be looked at.
    fn begin(&self, entry: &Entry, tally: &mut Tally) -> Option<Member> {
        let EntryKind::File { bytes } = entry.kind else { return None };
        let path = [self.prefix.as_bytes(), entry.name.as_bytes()].concat();
        if is_not_listed(&path) {
            return None;
        }
        let Some(number) = tally.listed.take(&path) else {
            tally.faults.add(Fault::new(&path, FaultKind::Unlisted));
            return None;
        };
        let (listed, algorithm) = (tally.listed.bytes(number), tally.listed.algorithm(number));
        let is_right_size = bytes == listed;
        if !is_right_size {
            tally.faults.add(Fault::new(&path, FaultKind::Size { found: bytes, listed }));
        } else if algorithm == ChecksumAlgorithm::None {
            tally.without_checksum += 1;
        }
        let number = (is_right_size && algorithm != ChecksumAlgorithm::None).then_some(number);
        Some(Member { path, number, hasher: algorithm.hasher(), bytes, head: Vec::new() })
    }
}

impl Member {
    fn pass(&mut self, data: &[u8]) {
        if self.number.is_some() {
            self.hasher.update(data);
        }
        let missing = SYSTEM_ID_BYTES.saturating_sub(self.head.len()).min(data.len());
        self.head.extend_from_slice(&data[..missing]);
    }

    fn end(self, tally: &mut Tally) {
        if self.path == PG_CONTROL {
            tally.system_id = self.head.first_chunk().map(|first| u64::from_le_bytes(*first));
        }
        let Some(number) = self.number else { return };
        tally.files += 1;
        tally.bytes += self.bytes;
        let mut checksum = Vec::new();
        self.hasher.finish_into(&mut checksum);
        if checksum != tally.listed.checksum(number) {
            tally.faults.add(Fault::new(&self.path, FaultKind::Checksum));
        }
    }
}

/// A file that tells how much of it was read.
struct Told<'a> {
    file: File,
    observer: &'a dyn ScanObserver,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.observer.read(bytes as u64);
        Ok(bytes)
    }
}
