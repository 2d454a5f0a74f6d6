//! The open directories of a host.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::beneath::Base;
use super::{Access, HostError, Inspectors, ROOTS_MAX, Root};

/// The files of this machine, for [`LocalHost`](super::LocalHost) and the agent alike.
#[derive(Debug)]
pub(crate) struct Files {
    bases: RwLock<Vec<Arc<Base>>>,
    /// Files that are locked as long as they are open.
    locked: Mutex<Vec<OwnedFd>>,
    pub(super) inspectors: Inspectors,
}

impl Files {
    pub(crate) const fn new(inspectors: Inspectors) -> Self {
        Files { bases: RwLock::new(Vec::new()), locked: Mutex::new(Vec::new()), inspectors }
    }

    pub(crate) fn open(&self, path: &Path, access: Access) -> Result<Root, HostError> {
        let opened = Base::open(path, access).map_err(|source| HostError::Directory {
            action: "open the directory",
            path: path.to_owned(),
            source,
        })?;
        let mut bases = self.bases.write().unwrap_or_else(PoisonError::into_inner);
        if bases.len() >= ROOTS_MAX {
            return Err(HostError::Refused(format!("more than {ROOTS_MAX} directories are open")));
        }
        bases.push(Arc::new(opened));
        u32::try_from(bases.len() - 1).map(Root).map_err(|_| HostError::Refused("too many".to_owned()))
    }

    pub(super) fn base(&self, root: Root) -> io::Result<Arc<Base>> {
        let bases = self.bases.read().unwrap_or_else(PoisonError::into_inner);
        bases.get(root.0 as usize).cloned().ok_or_else(|| Errno::BADF.into())
    }

    pub(super) fn base_or_refusal(&self, root: Root) -> Result<Arc<Base>, HostError> {
        self.base(root).map_err(|_| HostError::Refused(format!("directory {} is not open", root.0)))
    }

    /// Locks a file as long as there are these files.
    pub(super) fn lock(&self, file: OwnedFd) -> io::Result<()> {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // The one who had it locked may have removed it just before.
        if rustix::fs::fstat(&file)?.st_nlink == 0 {
            return Err(Errno::WOULDBLOCK.into());
        }
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        if locked.len() >= ROOTS_MAX {
            return Err(Errno::NOLCK.into());
        }
        locked.push(file);
        Ok(())
    }

    pub(crate) fn sync(&self, root: Root) -> Result<(), HostError> {
        let base = self.base_or_refusal(root)?;
        rustix::fs::syncfs(&base.fd).map_err(|errno| this_directory("sync the file system of", errno))
    }

    pub(crate) fn free_bytes(&self, root: Root) -> Result<u64, HostError> {
        let base = self.base_or_refusal(root)?;
        let stat = rustix::fs::fstatvfs(&base.fd).map_err(|errno| this_directory("look at", errno))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// An error about an open directory itself, of which no path is kept.
pub(super) fn this_directory(action: &'static str, source: impl Into<io::Error>) -> HostError {
    HostError::Directory { action, path: Path::new(".").to_owned(), source: source.into() }
}
