//! Creating things beneath a directory handle: no link is followed, nothing that exists is touched.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::UnpackError;
use crate::tar::EntryName;

/// What PostgreSQL demands of a data directory, and gives to what is in it.
const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE_FLAGS: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory of a backup. Its own path is the caller's and may have links in it.
pub(super) fn open_root(path: &Path) -> Result<File, UnpackError> {
    File::open(path).map_err(|source| UnpackError::io("open", path, source))
}

/// A directory of our own making, and what is made in it.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    /// The directory used last; members of a directory follow each other.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Tree {
    /// Makes the directory `name` in `parent`.
    pub(super) fn create(parent: impl AsFd, parent_path: &Path, name: &str) -> Result<Self, UnpackError> {
        let path = parent_path.join(name);
        make_directory(parent.as_fd(), OsStr::new(name), &path)?;
        let root = rustix::fs::openat(parent, name, DIRECTORY_FLAGS, Mode::empty())
            .map_err(|errno| UnpackError::io("open", &path, errno))?;
        Ok(Tree { root, path, last: None })
    }

    /// The path of a member, for messages.
    pub(super) fn path_of(&self, name: &EntryName) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.as_bytes()))
    }

    /// The directory itself.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory's path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn create_directory(&mut self, name: &EntryName) -> Result<(), UnpackError> {
        let path = self.path_of(name);
        let (parent, last) = self.parent(name)?;
        make_directory(parent, last, &path)
    }

    pub(super) fn create_file(&mut self, name: &EntryName) -> Result<File, UnpackError> {
        let path = self.path_of(name);
        let (parent, last) = self.parent(name)?;
        create_file(parent, last, &path)
    }

    pub(super) fn create_link(&mut self, name: &EntryName, target: &Path) -> Result<(), UnpackError> {
        let path = self.path_of(name);
        let (parent, last) = self.parent(name)?;
        rustix::fs::symlinkat(target, parent, last).map_err(|errno| refused("create the link", &path, errno))
    }

    /// Opens the directory that `name` is in, component by component.
    fn parent<'a>(&'a mut self, name: &'a EntryName) -> Result<(BorrowedFd<'a>, &'a OsStr), UnpackError> {
        let (directory, last) = name.split();
        let Some(directory) = directory else { return Ok((self.root.as_fd(), last)) };
        if self.last.as_ref().is_none_or(|(path, _)| path != directory) {
            let handle = self.open(directory, name)?;
            self.last = Some((directory.to_vec(), handle));
        }
        match &self.last {
            Some((_, handle)) => Ok((handle.as_fd(), last)),
            None => Ok((self.root.as_fd(), last)),
        }
    }

    fn open(&self, directory: &[u8], name: &EntryName) -> Result<OwnedFd, UnpackError> {
        let mut handle: Option<OwnedFd> = None;
        for component in directory.split(|byte| *byte == b'/') {
            let at = handle.as_ref().map_or(self.root.as_fd(), |handle| handle.as_fd());
            let next = rustix::fs::openat(at, OsStr::from_bytes(component), DIRECTORY_FLAGS, Mode::empty());
            handle = Some(next.map_err(|errno| match errno {
                // A link or a file where a directory should be, or nothing: nobody sent that directory.
                Errno::NOENT | Errno::LOOP | Errno::NOTDIR => {
                    UnpackError::NoDirectory { name: name.to_string() }
                }
                errno => UnpackError::io("open the directory of", &self.path_of(name), errno),
            })?);
        }
        handle.ok_or_else(|| UnpackError::NoDirectory { name: name.to_string() })
    }
}

/// Makes a file that isn't there yet.
pub(super) fn create_file(
    parent: impl AsFd,
    name: impl rustix::path::Arg,
    path: &Path,
) -> Result<File, UnpackError> {
    let created = rustix::fs::openat(parent, name, FILE_FLAGS, FILE_MODE);
    created.map(File::from).map_err(|errno| refused("create", path, errno))
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), UnpackError> {
    let made = rustix::fs::mkdirat(parent, name, DIRECTORY_MODE);
    made.map_err(|errno| refused("create the directory", path, errno))
}

fn refused(action: &'static str, path: &Path, errno: Errno) -> UnpackError {
    match errno {
        Errno::EXIST => UnpackError::Exists { path: path.to_owned() },
        errno => UnpackError::io(action, path, errno),
    }
}
