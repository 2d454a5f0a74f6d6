//! The manifest on its way to disk: beside the data directory until all that it lists is durable.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::UnpackError;
use super::beneath::{self, Tree};
use crate::manifest::{MANIFEST_FILE, MAX_MANIFEST_BYTES, ManifestError};

/// The name until then. It lies outside of the data directory, where any name may be taken by a file of the cluster.
const TEMPORARY: &str = "backup_manifest.tmp";

#[derive(Debug)]
pub(super) struct ManifestWriter {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl ManifestWriter {
    pub(super) fn create(root: &File, destination: &Path) -> Result<Self, UnpackError> {
        let path = destination.join(TEMPORARY);
        Ok(ManifestWriter { file: beneath::create_file(root, TEMPORARY, &path)?, path, bytes: 0 })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), UnpackError> {
        self.bytes += data.len() as u64;
        if self.bytes > MAX_MANIFEST_BYTES {
            return Err(UnpackError::Manifest(ManifestError::TooLong));
        }
        self.file.write_all(data).map_err(|source| UnpackError::io("write", &self.path, source))
    }

    /// Its contents from the start.
    pub(super) fn reader(&self) -> Result<&File, UnpackError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(|source| UnpackError::io("read", &self.path, source))?;
        Ok(file)
    }

    /// Moves it to its place, durably; its size in bytes. All else is durable already, its own contents too.
    pub(super) fn publish(self, root: &File, data: &Tree) -> Result<u64, UnpackError> {
        rustix::fs::renameat(root, TEMPORARY, data.root(), MANIFEST_FILE)
            .map_err(|errno| UnpackError::io("rename", &self.path, errno))?;
        rustix::fs::fsync(data.root()).map_err(|errno| UnpackError::io("sync", data.path(), errno))?;
        Ok(self.bytes)
    }
}
