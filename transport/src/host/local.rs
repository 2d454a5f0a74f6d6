//! This machine.

use std::io;
use std::path::{Path, PathBuf};

use super::read::Piece;
use super::{
    Access, Change, Entry, Files, HashJob, Hashed, Host, HostError, Inspectors, ReadJob, ReadOptions,
    ReadSink, Root,
};

/// The files of this machine: the same code as the agent's, without a connection.
#[derive(Debug)]
pub struct LocalHost {
    files: Files,
}

impl LocalHost {
    /// With these inspectors.
    pub const fn new(inspectors: Inspectors) -> Self {
        LocalHost { files: Files::new(inspectors) }
    }
}

impl Default for LocalHost {
    fn default() -> Self {
        LocalHost::new(Inspectors::none())
    }
}

impl Host for LocalHost {
    fn open(&self, path: &Path, access: Access) -> Result<Root, HostError> {
        self.files.open(path, access)
    }

    fn walk(
        &self,
        root: Root,
        closed: &[PathBuf],
        found: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), HostError> {
        self.files.walk(root, closed, &mut |entry| found(entry).map_err(HostError::Sink))
    }

    fn read(
        &self,
        jobs: &[ReadJob],
        options: &ReadOptions,
        sink: &mut dyn ReadSink,
    ) -> Result<(), HostError> {
        for (index, job) in jobs.iter().enumerate() {
            let outcome = self.files.read(job, options, &mut |piece| {
                match piece {
                    Piece::Data { offset, bytes } => sink.data(index, offset, bytes),
                    Piece::Same { offset, length } => sink.same(index, offset, length),
                }
                .map_err(HostError::Sink)
            })?;
            sink.end(index, outcome).map_err(HostError::Sink)?;
        }
        Ok(())
    }

    fn hash(&self, jobs: &[HashJob]) -> Result<Vec<io::Result<Hashed>>, HostError> {
        Ok(jobs.iter().map(|job| self.files.hash(job)).collect())
    }

    fn change(&self, changes: &[Change]) -> Result<Vec<io::Result<()>>, HostError> {
        Ok(changes.iter().map(|change| self.files.change(change)).collect())
    }

    fn sync(&self, root: Root) -> Result<(), HostError> {
        self.files.sync(root)
    }

    fn free_bytes(&self, root: Root) -> Result<u64, HostError> {
        self.files.free_bytes(root)
    }
}
