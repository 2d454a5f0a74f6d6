//! Verification of a stored backup: every file against the manifest, with `pg_verifybackup`'s verdicts.
//!
//! What counts is decided as PostgreSQL's own tool decides it (`bin/pg_verifybackup/pg_verifybackup.c`): files that are
//! missing, files that the manifest does not list, sizes, checksums, and for manifests of version 2 the system
//! identifier. WAL, `postgresql.auto.conf` and the signal files are left out. Unlike it, links are never followed:
//! tablespaces are looked for where they are said to be, and anything that is neither file nor directory is a fault.

mod archived;
mod fault;
mod listed;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Mutex;

use crate::copy::Kind;
use crate::manifest::{ChecksumAlgorithm, MANIFEST_FILE, ManifestError, ManifestFacts};
use crate::scan::{BackupTrees, Found, HashJob, Hashed, ScanObserver, Trees};

pub use archived::{BackupArchives, verify_archives};
pub use fault::{Fault, FaultKind, Faults, MAX_FAULTS};
use listed::Listed;

/// The file that holds the cluster's system identifier, in its first eight bytes.
const PG_CONTROL: &[u8] = b"global/pg_control";

/// How a backup is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyOptions {
    /// How many files are read at the same time; at least one.
    pub jobs: usize,
    /// The cluster's system identifier, where it is known from elsewhere.
    pub system_id: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What the manifest says besides its files.
    pub manifest: ManifestFacts,
    /// Files whose contents were read and compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the manifest lists without a checksum: of these only the size is known to be right.
    pub without_checksum: u64,
    /// What is wrong.
    pub faults: Faults,
    /// Tablespaces that the manifest says nothing of, as with those that Barman generates: nothing is known of them.
    pub uncovered: Vec<u32>,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// A backup that can't be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A directory of the backup can't be opened.
    #[error("{path:?} can't be read")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no manifest.
    #[error("there is no backup manifest {path:?}")]
    NoManifest {
        /// Where it should be.
        path: PathBuf,
    },
    /// The manifest can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The observer asked for it.
    #[error("the verification was interrupted")]
    Cancelled,
}

/// Verifies a backup in plain format.
///
/// # Errors
/// When there is no telling: the manifest is missing or damaged, a directory can't be opened. What is wrong with the
/// backup's files is no error but the result.
pub fn verify_backup(
    backup: &BackupTrees,
    options: VerifyOptions,
    observer: &dyn ScanObserver,
) -> Result<Verified, VerifyError> {
    let trees = Trees::open(backup).map_err(|(path, source)| VerifyError::Unreadable { path, source })?;
    let (mut listed, manifest) = read_manifest(backup, &trees)?;
    let mut faults = Faults::default();
    listed.repeated().for_each(|path| faults.add(Fault::new(path, FaultKind::Duplicate)));
    let uncovered = uncovered(backup, &trees, &listed);
    let mut without_checksum = 0;
    let mut jobs = Vec::new();
    let mut unreadable = Vec::new();
    trees.walk(
        |found| {
            if uncovered.iter().any(|oid| found.path.starts_with(format!("pg_tblspc/{oid}/").as_bytes())) {
                return;
            }
            match compare(&mut listed, found) {
                Compared::Differs(fault) => faults.add(fault),
                Compared::SizeOnly => without_checksum += 1,
                Compared::ToHash(job) => jobs.push(job),
            }
        },
        |path, error| {
            let fault = Fault::new(&path, FaultKind::unreadable(&error));
            unreadable.push((path, fault));
        },
    );
    for (path, fault) in unreadable {
        // It is there, so it is not missing as well.
        listed.take(&path);
        faults.add(fault);
    }
    listed.unmatched().for_each(|path| faults.add(Fault::new(path, FaultKind::Missing)));

    let (files, bytes) = (jobs.len() as u64, jobs.iter().map(|job| job.bytes).sum());
    let shared = Mutex::new(faults);
    let judge = |job: &HashJob, hashed: Hashed| {
        if let Some(kind) = judge(&listed, job, hashed) {
            let mut faults = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            faults.add(Fault::new(&job.path, kind));
        }
    };
    trees.hash(jobs, options.jobs, observer, judge).map_err(|_| VerifyError::Cancelled)?;
    let mut faults = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    check_control(&trees, &manifest, options.system_id, &mut faults);
    faults.sort();
    Ok(Verified { manifest, files, bytes, without_checksum, faults, uncovered })
}

fn read_manifest(backup: &BackupTrees, trees: &Trees) -> Result<(Listed, ManifestFacts), VerifyError> {
    let path = backup.data.join(MANIFEST_FILE);
    let file = match trees.read(MANIFEST_FILE.as_bytes()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(VerifyError::NoManifest { path });
        }
        Err(source) => return Err(VerifyError::Unreadable { path, source }),
    };
    Ok(Listed::read(file)?)
}

/// Tablespaces outside of the manifest's reach: not linked to from the data directory, and not listed.
fn uncovered(backup: &BackupTrees, trees: &Trees, listed: &Listed) -> Vec<u32> {
    let linked = |oid: u32| {
        let links = trees.place(b"pg_tblspc/").and_then(|(data, path)| data.directory(path).ok());
        links
            .and_then(|links| links.entries().ok())
            .is_some_and(|entries| entries.iter().any(|entry| entry.name.to_str() == Some(&oid.to_string())))
    };
    let oids = backup.tablespaces.iter().map(|(oid, _)| *oid);
    oids.filter(|oid| !listed.any_below(format!("pg_tblspc/{oid}/").as_bytes()) && !linked(*oid)).collect()
}

enum Compared {
    Differs(Fault),
    SizeOnly,
    ToHash(HashJob),
}

/// Compares what can be compared without reading the file.
fn compare(listed: &mut Listed, found: Found) -> Compared {
    let differs = |kind| Compared::Differs(Fault::new(&found.path, kind));
    if found.kind != Kind::File {
        listed.take(&found.path);
        return differs(FaultKind::NotAFile);
    }
    let Some(tag) = listed.take(&found.path) else { return differs(FaultKind::Unlisted) };
    let expected = listed.bytes(tag);
    if found.bytes != expected {
        return differs(FaultKind::Size { found: found.bytes, listed: expected });
    }
    let algorithm = listed.algorithm(tag);
    if algorithm == ChecksumAlgorithm::None {
        return Compared::SizeOnly;
    }
    Compared::ToHash(HashJob { path: found.path, bytes: found.bytes, algorithm, tag })
}

fn judge(listed: &Listed, job: &HashJob, hashed: Hashed) -> Option<FaultKind> {
    match hashed {
        Err(error) => Some(FaultKind::unreadable(&error)),
        Ok((bytes, _)) if bytes != job.bytes => Some(FaultKind::Size { found: bytes, listed: job.bytes }),
        Ok((_, checksum)) => (checksum != listed.checksum(job.tag)).then_some(FaultKind::Checksum),
    }
}

/// Whether the control file is of the cluster that the manifest, and whoever asks, mean.
fn check_control(trees: &Trees, manifest: &ManifestFacts, known: Option<u64>, faults: &mut Faults) {
    let read = || -> io::Result<u64> {
        let mut first = [0; 8];
        trees.read(PG_CONTROL)?.read_exact(&mut first)?;
        Ok(u64::from_le_bytes(first))
    };
    // A control file that is missing or short has been told of already, if it is listed.
    let Ok(found) = read() else { return };
    if let Some(fault) = wrong_system(found, manifest, known) {
        faults.add(fault);
    }
}

fn wrong_system(found: u64, manifest: &ManifestFacts, known: Option<u64>) -> Option<Fault> {
    let mut expected = [manifest.system_identifier, known].into_iter().flatten();
    let expected = expected.find(|expected| *expected != found)?;
    Some(Fault::new(PG_CONTROL, FaultKind::SystemId { found, expected }))
}
