//! Copying files quickly and beneath a directory: no symbolic link is followed on either side.

mod method;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

pub(crate) use method::{CopyMethod, copy_buffered, copy_without_zeros};

/// The deepest path followed beneath a directory; PostgreSQL's own trees are five deep.
const DEPTH_MAX: usize = 64;
/// How directories are opened.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A user and a group to give new files to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

/// A directory that everything happens beneath.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
}

impl Directory {
    /// Opens a directory by a path that the user gave: links in it are the user's wish, and followed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Directory { fd: rustix::fs::open(path, DIRECTORY, Mode::empty())? })
    }

    /// Opens what is at `path` beneath this directory; no component may be a link.
    fn open_beneath(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        if let Some(opened) = self.open_at_once(path, flags | OFlags::CLOEXEC, mode) {
            return Ok(opened?);
        }
        let (parent, name) = self.parent_of(path)?;
        let parent = parent.as_ref().unwrap_or(&self.fd);
        Ok(rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?)
    }

    /// The same in one call, where the kernel can (Linux 5.6, and no sandbox that forbids it).
    fn open_at_once(&self, path: &Path, flags: OFlags, mode: Mode) -> Option<Result<OwnedFd, Errno>> {
        static REFUSED: AtomicBool = AtomicBool::new(false);
        let depth = path.components().count();
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || depth == 0 || depth > DEPTH_MAX || REFUSED.load(Ordering::Relaxed) {
            return None;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.fd, path, flags, mode, resolve) {
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::AGAIN) => {
                // Whether it was this call or this file shows when it is tried the long way.
                let known = rustix::fs::openat2(&self.fd, ".", DIRECTORY, Mode::empty(), resolve);
                REFUSED.fetch_or(known.is_err(), Ordering::Relaxed);
                None
            }
            opened => Some(opened),
        }
    }

    /// The directory that holds `path` (`None` when it is this one), and the last name.
    fn parent_of<'path>(&self, path: &'path Path) -> io::Result<(Option<OwnedFd>, &'path Path)> {
        let mut parent: Option<OwnedFd> = None;
        let mut components = path.components().peekable();
        let mut depth = 0;
        while let Some(component) = components.next() {
            depth += 1;
            let Component::Normal(name) = component else { return Err(Errno::INVAL.into()) };
            if depth > DEPTH_MAX {
                return Err(Errno::NAMETOOLONG.into());
            }
            if components.peek().is_none() {
                return Ok((parent, Path::new(name)));
            }
            let flags = DIRECTORY | OFlags::NOFOLLOW;
            let from = parent.as_ref().unwrap_or(&self.fd);
            parent = Some(rustix::fs::openat(from, name, flags, Mode::empty())?);
        }
        Err(Errno::INVAL.into())
    }

    /// Opens a directory beneath this one.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<Directory> {
        let fd = self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Directory { fd })
    }

    /// This directory once more.
    pub(crate) fn again(&self) -> io::Result<Directory> {
        Ok(Directory { fd: self.fd.try_clone()? })
    }

    /// Opens an ordinary file for reading.
    pub(crate) fn read(&self, path: &Path) -> io::Result<File> {
        // Without NONBLOCK, opening a named pipe would wait for ever.
        let file = File::from(self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not an ordinary file"));
        }
        Ok(file)
    }

    /// Creates a file that must not exist yet.
    pub(crate) fn create(&self, path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<File> {
        self.create_with(path, OFlags::EXCL, mode, owner)
    }

    /// Creates a file, or empties one that is there.
    pub(crate) fn replace(&self, path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<File> {
        self.create_with(path, OFlags::TRUNC, mode, owner)
    }

    fn create_with(&self, path: &Path, how: OFlags, mode: u32, owner: Option<Owner>) -> io::Result<File> {
        let fd = self.open_beneath(path, OFlags::WRONLY | OFlags::CREATE | how, Mode::RUSR | Mode::WUSR)?;
        hand_over(&fd, mode, owner)?;
        Ok(File::from(fd))
    }

    /// Opens an ordinary file to be changed in place, with the mode and the owner it is to have; `None` when there is
    /// none, or one that has a second name, by which somebody else knows it as it is.
    pub(crate) fn change(&self, path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<Option<File>> {
        let fd = match self.open_beneath(path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(io::Error::other("not an ordinary file"));
        }
        if stat.st_nlink > 1 {
            return Ok(None);
        }
        let owned = owner.is_none_or(|owner| (stat.st_uid, stat.st_gid) == (owner.uid, owner.gid));
        if !owned || stat.st_mode & 0o7777 != mode {
            hand_over(&fd, mode, owner)?;
        }
        Ok(Some(File::from(fd)))
    }

    /// Creates a directory that must not exist yet.
    pub(crate) fn create_directory(&self, path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let parent = parent.as_ref().unwrap_or(&self.fd);
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        let made = rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        hand_over(&made, mode, owner)
    }

    /// Creates a symbolic link that must not exist yet.
    pub(crate) fn create_link(&self, path: &Path, target: &Path, owner: Option<Owner>) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let parent = parent.as_ref().unwrap_or(&self.fd);
        rustix::fs::symlinkat(target, parent, name)?;
        if let Some(owner) = owner {
            let (uid, gid) = ids(owner);
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Where a link points.
    pub(crate) fn read_link(&self, path: &Path) -> io::Result<std::path::PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let (parent, name) = self.parent_of(path)?;
        let target = rustix::fs::readlinkat(parent.as_ref().unwrap_or(&self.fd), name, Vec::new())?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }

    /// Gives a file another name in the same directory.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        Ok(rustix::fs::unlinkat(parent.as_ref().unwrap_or(&self.fd), name, rustix::fs::AtFlags::empty())?)
    }

    /// Removes a directory and all that is in it.
    pub(crate) fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.directory(path)?.remove_contents(0)?;
        let (parent, name) = self.parent_of(path)?;
        Ok(rustix::fs::unlinkat(parent.as_ref().unwrap_or(&self.fd), name, rustix::fs::AtFlags::REMOVEDIR)?)
    }

    /// What is at a name, links not followed; `None` when there is nothing.
    pub(crate) fn kind_at(&self, path: &Path) -> io::Result<Option<Kind>> {
        let (parent, name) = match self.parent_of(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            parent => parent?,
        };
        let parent = parent.as_ref().unwrap_or(&self.fd);
        match rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Kind::of(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all that is in this directory, links themselves rather than what they point to.
    pub(crate) fn remove_contents(&self, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        for entry in self.entries()? {
            if entry.kind == Kind::Directory {
                self.directory(Path::new(&entry.name))?.remove_contents(depth + 1)?;
                rustix::fs::unlinkat(&self.fd, &entry.name, rustix::fs::AtFlags::REMOVEDIR)?;
            } else {
                rustix::fs::unlinkat(&self.fd, &entry.name, rustix::fs::AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// What is in this directory, with sizes and modes; a file that vanishes meanwhile is left out.
    pub(crate) fn entries(&self) -> io::Result<Vec<Entry>> {
        use std::os::unix::ffi::OsStringExt;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let name = std::ffi::OsString::from_vec(name);
            let stat = match rustix::fs::statat(&self.fd, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let kind = Kind::of(stat.st_mode);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let modified = stat.st_mtime;
            entries.push(Entry { name, kind, size, mode: stat.st_mode & 0o777, modified });
        }
        Ok(entries)
    }

    /// Where a link points.
    pub(crate) fn stat(&self) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// Space that may still be used on this file system, in bytes.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Sets this directory's mode and owner.
    pub(crate) fn hand_over(&self, mode: u32, owner: Option<Owner>) -> io::Result<()> {
        hand_over(&self.fd, mode, owner)
    }

    /// Brings the names in this directory to stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Brings everything written to this directory's file system to stable storage.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

impl Kind {
    fn of(mode: u32) -> Self {
        match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::Directory => Kind::Directory,
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        }
    }
}

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: std::ffi::OsString,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// The permission bits.
    pub(crate) mode: u32,
    /// When it was last modified, in seconds since 1970.
    pub(crate) modified: i64,
}

fn hand_over(fd: impl AsFd, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    if let Some(owner) = owner {
        let (uid, gid) = ids(owner);
        rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
    }
    Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?)
}

fn ids(owner: Owner) -> (Uid, Gid) {
    (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A directory with a way out of it at every place.
    fn trap() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside/deep")).unwrap();
        fs::create_dir_all(dir.path().join("inside/real")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        symlink("../outside", dir.path().join("inside/way-out")).unwrap();
        symlink("../outside/secret", dir.path().join("inside/secret")).unwrap();
        let inside = Directory::open(&dir.path().join("inside")).unwrap();
        (dir, inside)
    }

    #[test]
    fn nothing_leads_out_of_a_directory() {
        let (dir, inside) = trap();
        for path in
            ["way-out/secret", "secret", "../outside/secret", "/etc/passwd", "", ".", "real/../secret"]
        {
            assert!(inside.read(Path::new(path)).is_err(), "{path:?}");
            assert!(inside.replace(Path::new(path), 0o600, None).is_err(), "{path:?}");
        }
        for path in ["way-out/new", "../new", "real/../../new"] {
            let path = Path::new(path);
            assert!(inside.create(path, 0o600, None).is_err(), "{path:?}");
            assert!(inside.create_directory(path, 0o700, None).is_err(), "{path:?}");
            assert!(inside.create_link(path, Path::new("/"), None).is_err(), "{path:?}");
            assert!(inside.remove(path).is_err(), "{path:?}");
        }
        assert!(inside.directory(Path::new("way-out")).is_err());
        assert_eq!(fs::read_to_string(dir.path().join("outside/secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 2);
    }

    #[test]
    fn removing_the_contents_removes_links_and_not_what_they_point_to() {
        let (dir, inside) = trap();
        fs::write(dir.path().join("inside/real/file"), "").unwrap();
        inside.remove_contents(0).unwrap();
        assert!(inside.entries().unwrap().is_empty());
        assert!(dir.path().join("outside/secret").exists());
    }

    #[test]
    fn what_exists_is_not_created_again() {
        let (_dir, inside) = trap();
        let there = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::AlreadyExists;
        assert!(there(inside.create(Path::new("secret"), 0o600, None).map(drop)));
        assert!(there(inside.create_directory(Path::new("real"), 0o700, None)));
        assert!(there(inside.create_link(Path::new("way-out"), Path::new("/"), None)));
    }

    #[test]
    fn a_named_pipe_is_no_file_and_nobody_waits_for_it() {
        let (dir, inside) = trap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("inside/pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(inside.read(Path::new("pipe")).is_err());
        let entries = inside.entries().unwrap();
        assert!(entries.iter().any(|entry| entry.name == "pipe" && entry.kind == Kind::Other));
    }
}
