//! A manifest for a stored backup that has none: every file read and hashed, by several threads.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use barkeep_transport::durable::{self, DurableError, Step, TempFile};

use crate::copy::{Directory, Kind};
use crate::manifest::{Checksum, ChecksumAlgorithm, MANIFEST_FILE, ManifestWriter, WalRange};
use crate::scan::{BackupTrees, HashJob, ScanObserver, Trees};

/// How much of the manifest is written at a time, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// What the manifest is made of, besides the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// The server's major version.
    pub major: u32,
    /// The cluster's system identifier, which manifests have from PostgreSQL 17 on.
    pub system_id: Option<u64>,
    /// How files are hashed.
    pub algorithm: ChecksumAlgorithm,
    /// The WAL that makes the backup consistent.
    pub wal_ranges: Vec<WalRange>,
    /// How many files are read at the same time; at least one.
    pub jobs: usize,
}

/// What was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Where the manifest is.
    pub path: PathBuf,
    /// How many files it lists.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A manifest that can't be made. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// There is one already.
    #[error("the backup has a manifest already, {path:?}")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Something of the backup can't be read.
    #[error("{path:?} can't be read")]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something is neither file nor directory: no manifest could account for it.
    #[error("{path:?} is not a regular file or directory")]
    NotAFile {
        /// What.
        path: PathBuf,
    },
    /// A file has another size than a moment ago: someone is at work in the backup.
    #[error("{path:?} changed while it was read")]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The link to a tablespace can't be made.
    #[error("{path:?} can't be made")]
    Link {
        /// The link.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest can't be written.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// The observer asked for it.
    #[error("the manifest was not finished: interrupted")]
    Cancelled,
}

/// Makes a manifest of all that is in the backup, tablespaces included, and publishes it durably in the data directory.
///
/// Where a tablespace is not linked to from `pg_tblspc`, as in backups that Barman took by rsync, the link is made: by
/// it `pg_verifybackup` finds the files, and both tools leave it out of a restore.
///
/// # Errors
/// When there is one already, something can't be read or has no place in a manifest, or it can't be written.
pub fn generate_manifest(
    backup: &BackupTrees,
    options: &GenerateOptions,
    observer: &dyn ScanObserver,
) -> Result<Generated, GenerateError> {
    let path = backup.data.join(MANIFEST_FILE);
    if path.symlink_metadata().is_ok() {
        return Err(GenerateError::Exists { path });
    }
    // What an earlier run left when it was killed must not be listed.
    durable::remove_temporary_files(&backup.data)?;
    let trees = Trees::open(backup).map_err(|(path, source)| GenerateError::Unreadable { path, source })?;
    let place = |name: &[u8]| {
        use std::os::unix::ffi::OsStrExt;
        backup.data.join(Path::new(std::ffi::OsStr::from_bytes(name)))
    };
    let files = list(&trees, &place)?;
    let jobs: Vec<HashJob> = files
        .iter()
        .enumerate()
        .map(|(tag, file)| HashJob {
            path: file.path.clone(),
            bytes: file.bytes,
            algorithm: options.algorithm,
            tag,
        })
        .collect();
    let sums = Mutex::new((vec![Vec::new(); files.len()], None));
    let done = |job: &HashJob, hashed: crate::scan::Hashed| {
        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match hashed {
            Ok((bytes, sum)) if bytes == job.bytes => return sums.0[job.tag] = sum,
            Ok(_) => GenerateError::Changed { path: place(&job.path) },
            Err(source) => GenerateError::Unreadable { path: place(&job.path), source },
        };
        sums.1.get_or_insert(failure);
    };
    trees.hash(jobs, options.jobs, observer, done).map_err(|_| GenerateError::Cancelled)?;
    let (sums, failure) = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = failure {
        return Err(failure);
    }
    link_tablespaces(backup)?;
    publish(&path, options, &files, sums)?;
    Ok(Generated { path, files: files.len() as u64, bytes: files.iter().map(|file| file.bytes).sum() })
}

struct Listed {
    path: Vec<u8>,
    bytes: u64,
    modified: i64,
}

/// All files in the order of their paths.
fn list(trees: &Trees, place: &dyn Fn(&[u8]) -> PathBuf) -> Result<Vec<Listed>, GenerateError> {
    let (mut files, mut strange, mut unreadable) = (Vec::new(), None, None);
    trees.walk(
        |found| match found.kind {
            Kind::File => {
                files.push(Listed { path: found.path, bytes: found.bytes, modified: found.modified });
            }
            _ => _ = strange.get_or_insert(found.path),
        },
        |path, error| _ = unreadable.get_or_insert((path, error)),
    );
    if let Some((path, source)) = unreadable {
        return Err(GenerateError::Unreadable { path: place(&path), source });
    }
    if let Some(path) = strange {
        return Err(GenerateError::NotAFile { path: place(&path) });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn publish(
    path: &Path,
    options: &GenerateOptions,
    files: &[Listed],
    sums: Vec<Vec<u8>>,
) -> Result<(), GenerateError> {
    let mut temporary = TempFile::create(path)?;
    let written = write(&mut temporary, options, files, sums);
    written.map_err(|source| temporary.failed(Step::Write, source))?;
    temporary.publish_new().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => GenerateError::Exists { path: path.to_owned() },
        _ => GenerateError::Write(error),
    })
}

fn write(
    sink: impl Write,
    options: &GenerateOptions,
    files: &[Listed],
    sums: Vec<Vec<u8>>,
) -> io::Result<()> {
    let buffered = io::BufWriter::with_capacity(BUFFER_BYTES, sink);
    let mut writer = ManifestWriter::new(buffered, options.major, options.system_id)?;
    for (file, bytes) in files.iter().zip(sums) {
        let checksum = Checksum { algorithm: options.algorithm, bytes };
        let checksum = (options.algorithm != ChecksumAlgorithm::None).then_some(&checksum);
        writer.file(&file.path, file.bytes, file.modified, checksum)?;
    }
    writer.finish(&options.wal_ranges).map(drop)
}

/// Makes the links to tablespaces that are missing: relative ones, so that the backup can be moved.
fn link_tablespaces(backup: &BackupTrees) -> Result<(), GenerateError> {
    for (oid, location) in &backup.tablespaces {
        let name = PathBuf::from(format!("pg_tblspc/{oid}"));
        let link = || -> io::Result<()> {
            let data = Directory::open(&backup.data)?;
            let links = match data.directory(Path::new("pg_tblspc")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    data.create_directory(Path::new("pg_tblspc"), 0o700, None)?;
                    data.directory(Path::new("pg_tblspc"))?
                }
                links => links?,
            };
            let beside = location.parent().is_some() && location.parent() == backup.data.parent();
            let target = match location.file_name() {
                Some(name) if beside => Path::new("../..").join(name),
                _ => std::path::absolute(location)?,
            };
            match data.create_link(&name, &target, None) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.and_then(|()| links.sync()),
            }
        };
        link().map_err(|source| GenerateError::Link { path: backup.data.join(&name), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{VerifyOptions, verify_backup};
    use std::fs;

    fn stage() -> (tempfile::TempDir, BackupTrees) {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["data/PG_VERSION", "data/base/1/1", "data/pg_wal/x", "7/PG_15/1/2", "data/odd \u{e9}\n\"'"]
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let trees = BackupTrees {
            data: dir.path().join("data"),
            tablespaces: vec![(7, dir.path().join("7"))],
            packed: false,
        };
        (dir, trees)
    }

    fn options(algorithm: ChecksumAlgorithm) -> GenerateOptions {
        GenerateOptions { major: 15, system_id: Some(1), algorithm, wal_ranges: Vec::new(), jobs: 2 }
    }

    #[test]
    fn what_was_generated_verifies() {
        for algorithm in ChecksumAlgorithm::ALL {
            let (dir, trees) = stage();
            let generated = generate_manifest(&trees, &options(algorithm), &()).unwrap();
            assert_eq!(generated.files, 4);
            let options = VerifyOptions { jobs: 2, system_id: None };
            let verified = verify_backup(&trees, options, &()).unwrap();
            assert!(verified.is_sound(), "{verified:?}");
            assert_eq!(verified.manifest.files, 4);
            let link = fs::read_link(dir.path().join("data/pg_tblspc/7")).unwrap();
            assert_eq!(link, Path::new("../../7"));
        }
    }

    #[test]
    fn an_existing_manifest_is_left_alone() {
        let (dir, trees) = stage();
        fs::write(dir.path().join("data/backup_manifest"), "mine").unwrap();
        let error = generate_manifest(&trees, &options(ChecksumAlgorithm::Crc32c), &()).unwrap_err();
        assert!(matches!(error, GenerateError::Exists { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join("data/backup_manifest")).unwrap(), b"mine");
    }

    #[test]
    fn what_no_manifest_could_account_for_is_refused_and_nothing_is_left() {
        let (dir, trees) = stage();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("data/base/1/2")).unwrap();
        let error = generate_manifest(&trees, &options(ChecksumAlgorithm::Crc32c), &()).unwrap_err();
        assert!(matches!(error, GenerateError::NotAFile { .. }), "{error}");
        let names: Vec<_> =
            fs::read_dir(&trees.data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("manifest")), "{names:?}");
    }

    #[test]
    fn the_rest_of_a_killed_run_is_cleared_away() {
        let (dir, trees) = stage();
        let left = TempFile::create(&dir.path().join("data/backup_manifest")).unwrap();
        let left_path = left.temporary_path().to_owned();
        std::mem::forget(left);
        generate_manifest(&trees, &options(ChecksumAlgorithm::Crc32c), &()).unwrap();
        assert!(!left_path.exists());
        let verified = verify_backup(&trees, VerifyOptions { jobs: 1, system_id: None }, &()).unwrap();
        assert!(verified.is_sound(), "{verified:?}");
    }
}
