//! The directories that a restore builds in: claimed empty, cleared again when it fails.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::super::destination::{DestinationState, INCOMPLETE_MARKER, state_of};
use super::{PRIVATE_FILE, RestoreError};
use crate::copy::{Directory, Kind, Owner};

/// A directory being filled.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) directory: Directory,
    /// Whether it had something in it, which a delta restore keeps where it is right.
    pub(super) in_use: bool,
}

/// All of them, the data directory first.
#[derive(Debug)]
pub(super) struct Ground {
    owner: Option<Owner>,
    roots: Vec<Root>,
    /// Directories that were not there before, in the order they were made.
    made: Vec<PathBuf>,
    /// The mark that the data directory isn't finished, locked; so none of what is there is somebody else's.
    mark: Option<File>,
}

impl Root {
    /// A directory of this one.
    pub(super) fn below(&self, path: &Path) -> Result<Root, RestoreError> {
        let full = self.path.join(path);
        match self.directory.directory(path) {
            Ok(directory) => Ok(Root { path: full, directory, in_use: self.in_use }),
            Err(source) => Err(RestoreError::write(&full, source)),
        }
    }

    /// Removes what is at a path, whatever it is.
    pub(super) fn remove_any(&self, path: &Path) -> Result<(), RestoreError> {
        let remove = || match self.directory.kind_at(path)? {
            None => Ok(()),
            Some(Kind::Directory) => self.directory.remove_directory(path),
            Some(_) => self.directory.remove(path),
        };
        remove().map_err(|source| RestoreError::write(&self.path.join(path), source))
    }

    /// Makes a directory, unless this restore has made it already (for a tablespace inside the data directory).
    pub(super) fn make_directory(
        &self,
        path: &Path,
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<(), RestoreError> {
        match self.directory.create_directory(path, mode, owner) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = self.directory.directory(path);
                let kept =
                    there.and_then(|there| if self.in_use { there.hand_over(mode, owner) } else { Ok(()) });
                kept.map_err(|source| (path, source))
            }
            made => made.map_err(|source| (path, source)),
        }
        .map_err(|(path, source)| RestoreError::write(&self.path.join(path), source))
    }
}

impl Ground {
    pub(super) const fn new(owner: Option<Owner>) -> Self {
        Ground { owner, roots: Vec::new(), made: Vec::new(), mark: None }
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whom everything is given to.
    pub(super) const fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// The data directory.
    pub(super) fn data(&self) -> Result<&Root, RestoreError> {
        self.roots.first().ok_or(RestoreError::Cancelled)
    }

    /// The directory claimed last, once more.
    pub(super) fn last(&self) -> Result<Root, RestoreError> {
        let path = self.roots.last().ok_or(RestoreError::Cancelled)?.path.clone();
        match Directory::open(&path) {
            Ok(directory) => Ok(Root { path, directory, in_use: false }),
            Err(source) => Err(RestoreError::write(&path, source)),
        }
    }

    /// Whether anything was there before, so that this restore is a delta restore in earnest.
    pub(super) fn is_in_use(&self) -> bool {
        self.roots.iter().any(|root| root.in_use)
    }

    /// Takes an empty directory, or makes one with the parents it needs; for a `delta` restore, any directory.
    pub(super) fn claim(&mut self, path: &Path, mode: u32, delta: bool) -> Result<(), RestoreError> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|path| path.symlink_metadata().is_err()).collect();
        for directory in missing.into_iter().rev() {
            // Parents are as open as the user's mask allows; the directory itself is private from its first moment.
            let mode = if directory == path { 0o700 } else { 0o755 };
            let made = DirBuilder::new().mode(mode).create(directory);
            made.map_err(|source| RestoreError::write(directory, source))?;
            self.made.push(directory.to_owned());
            if let Some(owner) = self.owner {
                std::os::unix::fs::chown(directory, Some(owner.uid), Some(owner.gid))
                    .map_err(|source| RestoreError::write(directory, source))?;
            }
        }
        let claim = || -> io::Result<(Directory, DestinationState)> {
            let directory = Directory::open(path)?;
            let state = state_of(&directory)?;
            Ok((directory, state))
        };
        let (directory, state) = claim().map_err(|source| RestoreError::write(path, source))?;
        let in_use = state != DestinationState::Empty;
        if in_use && !delta {
            return Err(RestoreError::NotEmpty { path: path.to_owned() });
        }
        // What is in use has the mode that its owner gave it.
        if !in_use {
            let handed = directory.hand_over(mode, self.owner);
            handed.map_err(|source| RestoreError::write(path, source))?;
        }
        self.roots.push(Root { path: path.to_owned(), directory, in_use });
        Ok(())
    }

    /// Says in the data directory that it isn't finished, durably, and keeps other restores out of it.
    pub(super) fn mark(&mut self, backup_id: &str) -> Result<(), RestoreError> {
        let data = self.data()?;
        let text = format!(
            "This directory is an unfinished restore of backup {backup_id}. No server can be started from it.\n\
             Repeat the restore with --delta-restore, or remove what is in it and restore again.\n"
        );
        let name = Path::new(INCOMPLETE_MARKER);
        let busy = || RestoreError::Busy { path: data.path.clone() };
        let failed = |source: io::Error| RestoreError::write(&data.path.join(name), source);
        let mut file = match data.directory.create(name, PRIVATE_FILE, self.owner) {
            // Whoever made it since the directory was found empty is at work.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !data.in_use => return Err(busy()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let left = data.directory.change(name, PRIVATE_FILE, self.owner).map_err(failed)?;
                left.ok_or_else(busy)?
            }
            made => made.map_err(failed)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            locked => locked.map_err(|error| failed(error.into()))?,
        }
        // The one who had it locked may have finished, and removed it, just before.
        if rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?.st_nlink == 0 {
            return Err(busy());
        }
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        written.and_then(|()| file.sync_all()).and_then(|()| data.directory.sync()).map_err(failed)?;
        self.mark = Some(file);
        Ok(())
    }

    /// Takes away what a server could be started with, durably, before anything else is changed.
    pub(super) fn disarm(&self, control: &[&Path]) -> Result<(), RestoreError> {
        let data = self.data()?;
        for path in control {
            data.remove_any(path)?;
        }
        let sync = || match data.directory.directory(Path::new("global")) {
            Ok(global) => global.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        sync().map_err(|source| RestoreError::write(&data.path.join("global"), source))
    }

    /// The barrier: once per file system.
    pub(super) fn sync_file_systems(&self, wal: &Root) -> Result<(), RestoreError> {
        let mut synced = Vec::new();
        for root in self.roots.iter().chain([wal]) {
            let sync = || -> io::Result<()> {
                let device = root.directory.stat()?.st_dev;
                if !synced.contains(&device) {
                    root.directory.sync_file_system()?;
                    synced.push(device);
                }
                Ok(())
            };
            let mut sync = sync;
            sync().map_err(|source| RestoreError::write(&root.path, source))?;
        }
        Ok(())
    }

    /// Makes the data directory startable, durably, and takes the mark away.
    pub(super) fn finish(&self, waiting: &Path, control: &Path) -> Result<(), RestoreError> {
        let data = self.data()?;
        let finish = || -> io::Result<()> {
            data.directory.rename(waiting, control)?;
            let parent = control.parent().unwrap_or(Path::new(""));
            data.directory.directory(parent)?.sync()?;
            data.directory.remove(Path::new(INCOMPLETE_MARKER))?;
            data.directory.sync()?;
            // New directories are names in their parents.
            for made in &self.made {
                if let Some(parent) = made.parent() {
                    Directory::open(parent)?.sync()?;
                }
            }
            Ok(())
        };
        finish().map_err(|source| RestoreError::write(&data.path.join(control), source))
    }

    /// Undoes what a failed restore made, unless there was something before. Best effort: what can't be removed can't be
    /// started either.
    pub(super) fn clear(&self) {
        let ours = self.mark.is_some() && !self.is_in_use();
        for root in self.roots.iter().rev().filter(|_| ours) {
            if let Err(error) = root.directory.remove_contents(0) {
                tracing::warn!(path = %root.path.display(), %error, "a failed restore could not be removed");
            }
        }
        for path in self.made.iter().rev() {
            if let Err(error) = std::fs::remove_dir(path) {
                tracing::warn!(path = %path.display(), %error, "a failed restore's directory could not be removed");
            }
        }
    }
}
