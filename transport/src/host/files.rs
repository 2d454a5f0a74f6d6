//! The open directories of a host.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;

use super::beneath::Base;
use super::{Access, HostError, Inspectors, ROOTS_MAX, Root};

/// The files of this machine, for [`LocalHost`](super::LocalHost) and the agent alike.
#[derive(Debug)]
pub(crate) struct Files {
    bases: RwLock<Vec<Arc<Base>>>,
    pub(super) inspectors: Inspectors,
}

impl Files {
    pub(crate) const fn new(inspectors: Inspectors) -> Self {
        Files { bases: RwLock::new(Vec::new()), inspectors }
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
