//! The directories that a restore builds in: claimed empty, cleared again when it fails.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::destination::{DestinationState, INCOMPLETE_MARKER, state_of};
use super::{PRIVATE_FILE, RestoreError};
use crate::copy::{Directory, Owner};

/// A directory being filled.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) directory: Directory,
}

/// All of them, the data directory first.
#[derive(Debug)]
pub(super) struct Ground {
    owner: Option<Owner>,
    roots: Vec<Root>,
    /// Directories that were not there before, in the order they were made.
    made: Vec<PathBuf>,
}

impl Root {
    /// A directory of this one.
    pub(super) fn below(&self, path: &Path) -> Result<Root, RestoreError> {
        let full = self.path.join(path);
        match self.directory.directory(path) {
            Ok(directory) => Ok(Root { path: full, directory }),
            Err(source) => Err(RestoreError::write(&full, source)),
        }
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
                self.directory.directory(path).map(drop).map_err(|source| (path, source))
            }
            made => made.map_err(|source| (path, source)),
        }
        .map_err(|(path, source)| RestoreError::write(&self.path.join(path), source))
    }
}

impl Ground {
    pub(super) const fn new(owner: Option<Owner>) -> Self {
        Ground { owner, roots: Vec::new(), made: Vec::new() }
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The data directory.
    pub(super) fn data(&self) -> Result<&Root, RestoreError> {
        self.roots.first().ok_or(RestoreError::Cancelled)
    }

    /// The directory claimed last, once more.
    pub(super) fn last(&self) -> Result<Root, RestoreError> {
        let path = self.roots.last().ok_or(RestoreError::Cancelled)?.path.clone();
        match Directory::open(&path) {
            Ok(directory) => Ok(Root { path, directory }),
            Err(source) => Err(RestoreError::write(&path, source)),
        }
    }

    /// Takes an empty directory, or makes one with the parents it needs.
    pub(super) fn claim(&mut self, path: &Path, mode: u32) -> Result<(), RestoreError> {
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
        if state != DestinationState::Empty {
            return Err(RestoreError::NotEmpty { path: path.to_owned() });
        }
        let handed = directory.hand_over(mode, self.owner);
        handed.map_err(|source| RestoreError::write(path, source))?;
        self.roots.push(Root { path: path.to_owned(), directory });
        Ok(())
    }

    /// Says in the data directory that it isn't finished.
    pub(super) fn mark(&self, backup_id: &str) -> Result<(), RestoreError> {
        let data = self.data()?;
        let text = format!(
            "This directory is an unfinished restore of backup {backup_id}. No server can be started from it.\n\
             Remove what is in it and restore again.\n"
        );
        let written = data
            .directory
            .create(Path::new(INCOMPLETE_MARKER), PRIVATE_FILE, self.owner)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| RestoreError::write(&data.path.join(INCOMPLETE_MARKER), source))
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

    /// Undoes what a failed restore made. Best effort: what can't be removed can't be started either.
    pub(super) fn clear(&self) {
        for root in self.roots.iter().rev() {
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
