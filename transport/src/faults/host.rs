//! A host that is lost in the middle of things.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::{
    Access, Change, Entry, FileEnd, HashJob, Hashed, Host, HostError, ReadJob, ReadOptions, ReadSink, Root,
};

/// Passes everything on to another host, up to a certain step; from then on the connection is lost. Every call is a step,
/// and so is every piece of an answer.
#[derive(Debug)]
pub struct FaultyHost<H> {
    inner: H,
    steps: AtomicUsize,
    lost_at: usize,
}

impl<H: Host> FaultyHost<H> {
    /// Loses the connection at the step with this number, counted from 0.
    pub const fn lost_at(inner: H, step: usize) -> Self {
        FaultyHost { inner, steps: AtomicUsize::new(0), lost_at: step }
    }

    /// How many steps were taken, or tried.
    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    fn step(&self) -> Result<(), HostError> {
        match self.steps.fetch_add(1, Ordering::Relaxed) < self.lost_at {
            true => Ok(()),
            false => Err(HostError::Lost("injected".to_owned())),
        }
    }

    /// The host's own error, or the loss that was injected on the way.
    fn outcome<T>(&self, outcome: Result<T, HostError>) -> Result<T, HostError> {
        match self.steps() > self.lost_at {
            true => Err(HostError::Lost("injected".to_owned())),
            false => outcome,
        }
    }
}

struct FaultySink<'a, H> {
    host: &'a FaultyHost<H>,
    sink: &'a mut dyn ReadSink,
}

impl<H: Host> ReadSink for FaultySink<'_, H> {
    fn data(&mut self, job: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.host.step().map_err(io::Error::other)?;
        self.sink.data(job, offset, bytes)
    }

    fn same(&mut self, job: usize, offset: u64, length: u64) -> io::Result<()> {
        self.host.step().map_err(io::Error::other)?;
        self.sink.same(job, offset, length)
    }

    fn end(&mut self, job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        self.host.step().map_err(io::Error::other)?;
        self.sink.end(job, outcome)
    }
}

impl<H: Host> Host for FaultyHost<H> {
    fn open(&self, path: &Path, access: Access) -> Result<Root, HostError> {
        self.step()?;
        self.inner.open(path, access)
    }

    fn walk(
        &self,
        root: Root,
        closed: &[PathBuf],
        found: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), HostError> {
        self.step()?;
        let walked = self.inner.walk(root, closed, &mut |entry| {
            self.step().map_err(io::Error::other)?;
            found(entry)
        });
        self.outcome(walked)
    }

    fn read(
        &self,
        jobs: &[ReadJob],
        options: &ReadOptions,
        sink: &mut dyn ReadSink,
    ) -> Result<(), HostError> {
        self.step()?;
        let read = self.inner.read(jobs, options, &mut FaultySink { host: self, sink });
        self.outcome(read)
    }

    fn hash(&self, jobs: &[HashJob]) -> Result<Vec<io::Result<Hashed>>, HostError> {
        self.step()?;
        self.inner.hash(jobs)
    }

    fn change(&self, changes: &[Change]) -> Result<Vec<io::Result<()>>, HostError> {
        self.step()?;
        self.inner.change(changes)
    }

    fn sync(&self, root: Root) -> Result<(), HostError> {
        self.step()?;
        self.inner.sync(root)
    }

    fn free_bytes(&self, root: Root) -> Result<u64, HostError> {
        self.step()?;
        self.inner.free_bytes(root)
    }
}
