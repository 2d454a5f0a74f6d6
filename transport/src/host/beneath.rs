//! Opening things beneath a directory handle.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Access, PATH_BYTES_MAX};
use crate::direct;

/// An open directory, and what it was opened for.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) fd: OwnedFd,
    pub(super) access: Access,
    /// Whether large pieces are better written around the page cache.
    pub(super) direct: bool,
}

/// Set once the kernel turned out not to have `openat2`.
static STEPWISE: AtomicBool = AtomicBool::new(false);

/// Refuses a path that is not made of plain names; it is then beneath whatever it is opened from, but for links.
pub(crate) fn check_relative(path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().len();
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if bytes == 0 || !plain {
        return Err(Errno::INVAL.into());
    }
    if bytes >= PATH_BYTES_MAX { Err(Errno::NAMETOOLONG.into()) } else { Ok(()) }
}

impl Base {
    /// Opens a directory by a path that its owner gave: links in it are the owner's wish, and followed.
    pub(super) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let direct = access == Access::Change && direct::suits(&fd);
        Ok(Base { fd, access, direct })
    }

    /// Opens what is at `path`. Links are followed only where that was allowed.
    pub(super) fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        check_relative(path)?;
        let flags = flags | OFlags::CLOEXEC;
        if self.access == Access::Read {
            return Ok(rustix::fs::openat(&self.fd, path, flags, mode)?);
        }
        open_without_links(self.fd.as_fd(), path, flags | OFlags::NOFOLLOW, mode)
    }

    /// The directory that holds `path`, for what needs a directory and a name.
    pub(super) fn parent_of<'path>(&self, path: &'path Path) -> io::Result<(Parent<'_>, &'path Path)> {
        check_relative(path)?;
        let name = path.file_name().map(Path::new).ok_or(Errno::INVAL)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                Ok((Parent::Opened(self.open_at(parent, flags, Mode::empty())?), name))
            }
            _ => Ok((Parent::Base(self.fd.as_fd()), name)),
        }
    }
}

/// The directory that holds a name.
pub(super) enum Parent<'base> {
    Base(BorrowedFd<'base>),
    Opened(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Base(fd) => *fd,
            Parent::Opened(fd) => fd.as_fd(),
        }
    }
}

fn open_without_links(base: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    if !STEPWISE.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(base, path, flags, mode, resolve) {
            // Old kernels don't have it; some sandboxes forbid what they don't know.
            Err(Errno::NOSYS | Errno::PERM) => STEPWISE.store(true, Ordering::Relaxed),
            opened => return Ok(opened?),
        }
    }
    step_by_step(base, path, flags, mode)
}

/// Without `openat2`: each directory on the way opened from the one before, none through a link.
fn step_by_step(base: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut parent: Option<OwnedFd> = None;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let from = parent.as_ref().map_or(base, AsFd::as_fd);
        if names.peek().is_none() {
            return Ok(rustix::fs::openat(from, name.as_os_str(), flags, mode)?);
        }
        let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        parent = Some(rustix::fs::openat(from, name.as_os_str(), step, Mode::empty())?);
    }
    Err(Errno::INVAL.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_plain_relative_names_are_opened() {
        for wrong in ["", "/etc/passwd", "..", "a/../b", "./../a", "a/.."] {
            assert!(check_relative(Path::new(wrong)).is_err(), "{wrong:?}");
        }
        assert!(check_relative(Path::new(&"a/".repeat(PATH_BYTES_MAX))).is_err());
        assert!(check_relative(Path::new("base/5/16384")).is_ok());
    }

    #[test]
    fn both_ways_refuse_links_on_the_way_and_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "x").unwrap();
        symlink(dir.path().join("real"), dir.path().join("linked")).unwrap();
        symlink("file", dir.path().join("real/link")).unwrap();
        let base = Base::open(dir.path(), Access::Change).unwrap();
        for open in [open_without_links, step_by_step] {
            let at = |path: &str| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                open(base.fd.as_fd(), Path::new(path), flags, Mode::empty())
            };
            assert!(at("real/file").is_ok());
            assert!(at("linked/file").is_err());
            assert!(at("real/link").is_err());
        }
        let readable = Base::open(dir.path(), Access::Read).unwrap();
        assert!(readable.open_at(Path::new("linked/file"), OFlags::RDONLY, Mode::empty()).is_ok());
    }
}
