//! Changing files beneath a directory.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::beneath::Base;
use super::{Access, Action, Change, Files, PIECE_BYTES};
use crate::direct::{self, ALIGNMENT, AlignedBuffer};

impl Files {
    /// Makes one change.
    pub(crate) fn change(&self, change: &Change) -> io::Result<()> {
        let base = self.base(change.root)?;
        if base.access != Access::Change {
            return Err(Errno::ROFS.into());
        }
        match change.action {
            Action::Lock => {
                self.lock(base.open_at(&change.path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?)
            }
            _ => change.make(&base),
        }
    }
}

impl Change {
    fn make(&self, base: &Base) -> io::Result<()> {
        let path = &self.path;
        match &self.action {
            Action::CreateDirectory { mode } => {
                let (parent, name) = base.parent_of(path)?;
                rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
                let directory = base.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                Ok(rustix::fs::fchmod(directory, permissions(*mode))?)
            }
            Action::CreateFile { mode } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = base.open_at(path, flags, Mode::RUSR | Mode::WUSR)?;
                Ok(rustix::fs::fchmod(file, permissions(*mode))?)
            }
            Action::Write { data, .. } if data.len() > PIECE_BYTES => Err(Errno::MSGSIZE.into()),
            Action::Write { offset, data } => write(base, &writable(base, path)?, data, *offset),
            Action::Truncate { size } => writable(base, path)?.set_len(*size),
            Action::SymbolicLink { target } => {
                let (parent, name) = base.parent_of(path)?;
                Ok(rustix::fs::symlinkat(target, &parent, name)?)
            }
            Action::HardLink { to } => {
                let (from_parent, from) = base.parent_of(path)?;
                let (to_parent, to) = base.parent_of(to)?;
                // Without AT_SYMLINK_FOLLOW a link would be linked itself.
                Ok(rustix::fs::linkat(&from_parent, from, &to_parent, to, AtFlags::empty())?)
            }
            Action::Rename { to } => {
                let (from_parent, from) = base.parent_of(path)?;
                let (to_parent, to) = base.parent_of(to)?;
                Ok(rustix::fs::renameat(&from_parent, from, &to_parent, to)?)
            }
            Action::RemoveFile => {
                let (parent, name) = base.parent_of(path)?;
                Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty())?)
            }
            Action::RemoveDirectory => {
                let (parent, name) = base.parent_of(path)?;
                Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
            }
            Action::SetMetadata { mode, owner, modified_ns } => {
                let file = open_or_itself(base, path)?;
                if let Some(owner) = owner {
                    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                    rustix::fs::fchown(&file, Some(uid), Some(gid))?;
                }
                if let Some(mode) = mode {
                    rustix::fs::fchmod(&file, permissions(*mode))?;
                }
                match modified_ns {
                    Some(modified_ns) => set_modified(&File::from(file), *modified_ns),
                    None => Ok(()),
                }
            }
            Action::Sync => Ok(rustix::fs::fsync(open_or_itself(base, path)?)?),
            // Not for the moment of a change, but as long as the host lives.
            Action::Lock => Err(Errno::INVAL.into()),
        }
    }
}

/// A file, or a directory: also the open one itself, which is `.`.
fn open_or_itself(base: &Base, path: &Path) -> io::Result<OwnedFd> {
    match path == Path::new(".") {
        true => base.fd.try_clone(),
        false => base.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()),
    }
}

/// Set-user-id bits are nothing that a backup brings along.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

fn writable(base: &Base, path: &Path) -> io::Result<File> {
    let file = File::from(base.open_at(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::INVAL.into()) }
}

thread_local! {
    /// What comes over a connection is nowhere in particular in memory.
    static ALIGNED: RefCell<Option<AlignedBuffer>> = const { RefCell::new(None) };
}

/// Writes whole pieces around the page cache where that is good: there are many of them, and the last step of a restore
/// waits until all is on disk.
fn write(base: &Base, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    let whole = data.len() == PIECE_BYTES && offset.is_multiple_of(ALIGNMENT as u64);
    if !whole || !base.direct || direct::set(file, true).is_err() {
        return file.write_all_at(data, offset);
    }
    let written = ALIGNED.with_borrow_mut(|buffer| {
        let buffer = buffer.get_or_insert_with(|| AlignedBuffer::new(PIECE_BYTES));
        buffer.clear();
        buffer.fill(data);
        file.write_all_at(buffer.filled(), offset)
    });
    match written {
        // The file system does not do this after all.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            direct::set(file, false)?;
            file.write_all_at(data, offset)
        }
        written => written,
    }
}

/// Sets when a file was changed last, in nanoseconds since 1970.
fn set_modified(file: &File, modified_ns: i64) -> io::Result<()> {
    const SECOND: i64 = 1_000_000_000;
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let modified =
        Timespec { tv_sec: modified_ns.div_euclid(SECOND), tv_nsec: modified_ns.rem_euclid(SECOND) as _ };
    let times = Timestamps { last_access: omitted, last_modification: modified };
    Ok(rustix::fs::futimens(file, &times)?)
}
