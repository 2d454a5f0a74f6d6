//! Listing a tree.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Access, Entry, Files, HostError, Kind, Owner, Root};

/// The deepest tree that is listed; PostgreSQL's own are five deep.
const DEPTH_MAX: usize = 64;

/// Takes what is found.
type Found<'a> = dyn FnMut(Entry) -> Result<(), HostError> + 'a;

impl Files {
    /// See [`Host::walk`](super::Host::walk).
    pub(crate) fn walk(
        &self,
        root: Root,
        closed: &[PathBuf],
        found: &mut Found<'_>,
    ) -> Result<(), HostError> {
        let base = self.base_or_refusal(root)?;
        let mut walk = Walk {
            follow: base.access == Access::Read,
            closed: closed.iter().map(PathBuf::as_path).collect(),
            above: Vec::new(),
            found,
        };
        walk.directory(base.fd.as_fd(), Path::new(""))
    }
}

struct Walk<'a, 'f> {
    follow: bool,
    closed: HashSet<&'a Path>,
    /// Device and inode of the directories on the way here: a link to one of them leads round in circles.
    above: Vec<(u64, u64)>,
    found: &'a mut Found<'f>,
}

impl Walk<'_, '_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), HostError> {
        let failed = |errno: Errno| HostError::Directory {
            action: "list the directory",
            path: path.to_owned(),
            source: errno.into(),
        };
        if self.above.len() >= DEPTH_MAX {
            return Err(failed(Errno::NAMETOOLONG));
        }
        let own = rustix::fs::fstat(directory).map_err(failed)?;
        let id = (own.st_dev as u64, own.st_ino as u64);
        if self.above.contains(&id) {
            return Ok(());
        }
        self.above.push(id);
        // Read whole before anything is opened: few directories are open at a time, and the names come sorted.
        let mut names = names(directory).map_err(failed)?;
        names.sort_unstable();
        // Some file systems tell a name twice when others change the directory meanwhile.
        names.dedup();
        for name in names {
            let here = path.join(&name);
            let Some((stat, kind)) = self.look(directory, &name).map_err(failed)? else { continue };
            let target = match kind {
                Kind::Link => match rustix::fs::readlinkat(directory, &name, Vec::new()) {
                    Ok(target) => PathBuf::from(OsString::from_vec(target.into_bytes())),
                    Err(Errno::NOENT | Errno::INVAL) => continue,
                    Err(errno) => return Err(failed(errno)),
                },
                _ => PathBuf::new(),
            };
            (self.found)(entry(here.clone(), kind, &stat, target))?;
            if kind == Kind::Directory && !self.closed.contains(here.as_path()) {
                match self.enter(directory, &name) {
                    Ok(inner) => self.directory(inner.as_fd(), &here)?,
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(errno) => {
                        let (action, source) = ("open the directory", errno.into());
                        return Err(HostError::Directory { action, path: here, source });
                    }
                }
            }
        }
        self.above.pop();
        Ok(())
    }

    /// What a name stands for, `None` when it has vanished.
    fn look(&self, directory: BorrowedFd<'_>, name: &OsString) -> Result<Option<(Stat, Kind)>, Errno> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let kind = kind(&stat);
        if kind == Kind::Link && self.follow {
            // A link that leads nowhere stays a link.
            if let Ok(led_to) = rustix::fs::statat(directory, name, AtFlags::empty()) {
                let kind = self::kind(&led_to);
                return Ok(Some((led_to, kind)));
            }
        }
        Ok(Some((stat, kind)))
    }

    fn enter(&self, directory: BorrowedFd<'_>, name: &OsString) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        rustix::fs::openat(directory, name, flags, Mode::empty())
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}

fn entry(path: PathBuf, kind: Kind, stat: &Stat, target: PathBuf) -> Entry {
    Entry {
        path,
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: modified_ns(stat),
        mode: stat.st_mode & 0o7777,
        owner: Owner { uid: stat.st_uid, gid: stat.st_gid },
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        target,
    }
}

/// Nanoseconds since 1970, as far as they fit.
pub(super) fn modified_ns(stat: &Stat) -> i64 {
    let fraction = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(fraction)
}
