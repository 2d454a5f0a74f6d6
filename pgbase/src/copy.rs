//! Copying files quickly and beneath a directory: no symbolic link is followed on either side.
//!
//! A file's blocks are shared where the file system can (`FICLONE`), else copied inside the kernel
//! (`copy_file_range`), else through a buffer. What does not work once is not tried again for the same pair of trees.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

/// How much is copied between two looks at the progress, in bytes.
const STEP_BYTES: u64 = 16 << 20;
/// The buffer of the slowest way, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
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

    /// Gives a file another name in the same directory.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        Ok(rustix::fs::unlinkat(parent.as_ref().unwrap_or(&self.fd), name, rustix::fs::AtFlags::empty())?)
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
            let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::Directory => Kind::Directory,
                rustix::fs::FileType::RegularFile => Kind::File,
                rustix::fs::FileType::Symlink => Kind::Link,
                _ => Kind::Other,
            };
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

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Other,
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

/// The fastest way known to work between two trees; shared by the threads that copy.
#[derive(Debug, Default)]
pub(crate) struct CopyMethod(AtomicU8);

const CLONE: u8 = 0;
const RANGE: u8 = 1;
const BUFFER: u8 = 2;

impl CopyMethod {
    /// Copies all of `from` into the empty `to`, telling `progress` the bytes of each step.
    ///
    /// # Errors
    /// As reading and writing do; also when `from` doesn't have `size` bytes.
    pub(crate) fn copy(
        &self,
        from: &mut File,
        to: &mut File,
        size: u64,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if size > 0 && self.0.load(Ordering::Relaxed) == CLONE {
            match rustix::fs::ioctl_ficlone(&*to, &*from) {
                Ok(()) => return check_size(to.metadata()?.len(), size).and_then(|()| progress(size)),
                Err(error) if unsupported(error) => _ = self.0.fetch_max(RANGE, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            }
        }
        let mut copied = 0;
        while copied < size && self.0.load(Ordering::Relaxed) == RANGE {
            let step = usize::try_from((size - copied).min(STEP_BYTES)).unwrap_or(BUFFER_BYTES);
            match rustix::fs::copy_file_range(&*from, None, &*to, None, step) {
                Ok(0) => return check_size(copied, size),
                Ok(bytes) => {
                    copied += bytes as u64;
                    progress(bytes as u64)?;
                }
                Err(Errno::INTR) => {}
                Err(error) if copied == 0 && unsupported(error) => {
                    _ = self.0.fetch_max(BUFFER, Ordering::Relaxed)
                }
                Err(error) => return Err(error.into()),
            }
        }
        if copied < size {
            copied += copy_buffered(from, to, progress)?;
        }
        check_size(copied, size)
    }

    /// Finds out whether blocks can be shared between two trees, with a file of the one and a new one of the other.
    pub(crate) fn try_sharing(&self, from: &File, to: &File) {
        if rustix::fs::ioctl_ficlone(to, from).is_err() {
            self.0.fetch_max(RANGE, Ordering::Relaxed);
        }
    }

    /// Whether blocks are shared rather than copied, as far as was tried.
    pub(crate) fn shares_blocks(&self) -> bool {
        self.0.load(Ordering::Relaxed) == CLONE
    }
}

/// Copies to the end of a stream, telling `progress` the bytes of each step.
pub(crate) fn copy_buffered(
    from: &mut impl Read,
    to: &mut impl Write,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..bytes])?;
        copied += bytes as u64;
        progress(bytes as u64)?;
    }
}

/// The answers of a kernel or file system that can't do it, rather than failed to.
fn unsupported(error: Errno) -> bool {
    matches!(
        error,
        Errno::XDEV
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::OPNOTSUPP
            | Errno::NOTTY
            | Errno::PERM
            | Errno::BADF
    )
}

fn check_size(copied: u64, expected: u64) -> io::Result<()> {
    if copied == expected {
        return Ok(());
    }
    Err(io::Error::other(format!("the file has {copied} bytes where {expected} were expected")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn copy(method: u8, content: &[u8], size: u64) -> io::Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, content).unwrap();
        let mut told = std::sync::atomic::AtomicU64::new(0);
        let progress = |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        };
        let method = CopyMethod(AtomicU8::new(method));
        method.copy(&mut File::open(from)?, &mut File::create(&to)?, size, &progress)?;
        assert_eq!(*told.get_mut(), size);
        fs::read(to)
    }

    #[test]
    fn each_way_copies_the_same_bytes() {
        let content: Vec<u8> = (0..3 * BUFFER_BYTES + 7).map(|at| (at % 251) as u8).collect();
        for method in [CLONE, RANGE, BUFFER] {
            assert_eq!(copy(method, &content, content.len() as u64).unwrap(), content, "{method}");
            assert_eq!(copy(method, b"", 0).unwrap(), b"", "{method}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_or_longer_than_listed_is_an_error() {
        for method in [CLONE, RANGE, BUFFER] {
            assert!(copy(method, b"short", 6).is_err(), "{method}");
        }
        // Inside the kernel just what was listed is copied; the others see the end of the file themselves.
        assert!(copy(BUFFER, b"longer", 5).is_err());
    }

    #[test]
    fn what_the_progress_refuses_stops_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("from"), "content").unwrap();
        let mut from = File::open(dir.path().join("from")).unwrap();
        let mut to = File::create(dir.path().join("to")).unwrap();
        let refuse = |_| Err(io::Error::other("no"));
        assert!(CopyMethod::default().copy(&mut from, &mut to, 7, &refuse).is_err());
    }

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
