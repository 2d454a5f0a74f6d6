//! The one way to publish a file, so that it survives a crash whole or not at all.
//!
//! A new file is written under a hidden temporary name in the directory it is meant for, fsynced, renamed, and then
//! the directory is fsynced: after `Ok`, a power cut at any moment leaves the new content; after an error, readers
//! see the old content or none, never a part. Removing and moving names follow the same rule: what is not fsynced in
//! the directory has not happened.
//!
//! Temporary names start with a dot and end in `.tmp` (see [`is_temporary`]), which PostgreSQL's and Barman's
//! directory scans skip.

mod abandoned;
mod error;
mod temp_file;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::{faults, removal};
pub use abandoned::remove_abandoned_files;
pub use error::{DurableError, Result, Step};
pub use temp_file::TempFile;

/// What temporary names have between the final name and the process id.
const TEMPORARY_MARK: &str = ".barkeep-";

/// The mode of such directories.
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Replaces `path` by a file holding `bytes`, for its owner alone.
///
/// # Errors
/// At the first step that fails; `path` then has its old content.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = TempFile::create(path)?;
    file.write_bytes(bytes)?;
    file.publish()
}

/// Creates `path` holding `bytes`, for its owner alone; never touches an existing file.
///
/// # Errors
/// With kind `AlreadyExists` when the name is taken; otherwise at the first step that fails.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = TempFile::create(path)?;
    file.write_bytes(bytes)?;
    file.publish_new()
}

/// Appends `bytes` to the existing file `path`; on `Ok` they are on stable storage. Who else appends or cuts has to be
/// kept out by a lock.
///
/// A crash may leave a part of `bytes`: the format needs an end mark, and its readers must bear a torn end.
///
/// # Errors
/// At the first step that fails; the file is then cut back to what it was, if that still works.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = step(Step::Create, path, || OpenOptions::new().append(true).open(path))?;
    let before = step(Step::Metadata, path, || file.metadata())?.len();
    let outcome = step(Step::Write, path, || file.write_all(bytes))
        .and_then(|()| step(Step::Sync, path, || file.sync_all()));
    if outcome.is_err() {
        let _ = step(Step::Write, path, || file.set_len(before));
    }
    outcome
}

/// Renames `from` to `to`, replacing it, and fsyncs both directories. The content of `from` has to be on stable
/// storage already ([`sync_file`]).
///
/// # Errors
/// At the first step that fails.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    step(Step::Rename, from, || fs::rename(from, to))?;
    sync_parents(from, to)
}

/// Like [`rename`], but fails with kind `AlreadyExists` when `to` exists.
///
/// # Errors
/// At the first step that fails.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    rename_no_replace(from, to)?;
    sync_parents(from, to)
}

/// Gives the file `from` the second name `to`, without fsyncing the directory: for batches, which end in one
/// [`sync_dir`]. Fails with kind `AlreadyExists` when `to` exists.
///
/// # Errors
/// When the link can't be made; with kind `CrossesDevices` when the two are on different file systems.
pub fn link_unsynced(from: &Path, to: &Path) -> Result<()> {
    step(Step::Link, to, || fs::hard_link(from, to))
}

/// Removes a file's name, without fsyncing the directory: for batches, which end in one [`sync_dir`]. True when
/// there was one.
///
/// # Errors
/// When the name is there and can't be removed.
pub fn remove_unsynced(path: &Path) -> Result<bool> {
    absent_is_fine(step(Step::Remove, path, || fs::remove_file(path)))
}

/// Removes names in the directory `name` of the directory `above`, without fsyncing it: for batches, which end in one
/// [`sync_dir`]. Names that are not there are fine, and so is a directory that isn't; a link in its place is not followed.
///
/// # Errors
/// At the first name that can't be removed.
pub fn remove_in_unsynced<'n>(
    above: &Path,
    name: Option<&str>,
    names: impl IntoIterator<Item = &'n str>,
) -> Result<()> {
    let Some(directory) = removal::open_directory(above, name)? else { return Ok(()) };
    let path = name.map_or_else(|| above.to_owned(), |name| above.join(name));
    for name in names {
        let unlink = || unlinkat(&directory, name, AtFlags::empty()).map_err(io::Error::from);
        absent_is_fine(step(Step::Remove, &path.join(name), unlink))?;
    }
    Ok(())
}

/// Removes a file and fsyncs its directory. True when there was one.
///
/// # Errors
/// At the first step that fails.
pub fn remove(path: &Path) -> Result<bool> {
    let removed = remove_unsynced(path)?;
    if removed {
        sync_dir(parent(path))?;
    }
    Ok(removed)
}

/// Removes an empty directory and fsyncs its parent. True when there was one.
///
/// # Errors
/// At the first step that fails; with kind `DirectoryNotEmpty` when it holds something.
pub fn remove_dir(path: &Path) -> Result<bool> {
    let removed = absent_is_fine(step(Step::RemoveDirectory, path, || fs::remove_dir(path)))?;
    if removed {
        sync_dir(parent(path))?;
    }
    Ok(removed)
}

/// Removes a directory and all below it beneath handles, following no link, then fsyncs its parent. Large trees take
/// several threads. True when there was one; a file or a link at its place is removed as such.
///
/// # Errors
/// At the first step that fails; what was removed until then stays removed.
pub fn remove_dir_all(path: &Path) -> Result<bool> {
    let removed = step(Step::RemoveDirectory, path, || Ok(())).and_then(|()| removal::remove_tree(path))?;
    if removed {
        sync_dir(parent(path))?;
    }
    Ok(removed)
}

/// Removes all that is in a directory but for these names, as [`remove_dir_all`] would, then fsyncs the directory. A
/// directory that does not exist is empty; a link is not a directory.
///
/// # Errors
/// At the first step that fails; what was removed until then stays removed.
pub fn empty_dir(path: &Path, but_for: &[&str]) -> Result<()> {
    step(Step::RemoveDirectory, path, || Ok(()))?;
    removal::empty_directory(path, but_for)?;
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => sync_dir(path),
        _ => Ok(()),
    }
}

/// Creates a directory and its missing ancestors, for their owner alone, and fsyncs the parent of each one
/// created.
///
/// # Errors
/// At the first step that fails, also when a file is in the way.
pub fn create_dir_all(path: &Path) -> Result<()> {
    create_dir_all_mode(path, PRIVATE_DIRECTORY)
}

/// Like [`create_dir_all`], with a mode (less the umask) for the directories that are created.
///
/// # Errors
/// At the first step that fails, also when a file is in the way.
pub fn create_dir_all_mode(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above != path {
        create_dir_all_mode(above, mode)?;
    }
    match step(Step::CreateDirectory, path, || DirBuilder::new().mode(mode).create(path)) {
        Ok(()) => sync_dir(above),
        // Another process was quicker: the directory is there, but perhaps not durably so.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => sync_dir(above),
        Err(error) => Err(error),
    }
}

/// Brings a file's content and metadata to stable storage.
///
/// # Errors
/// When it can't be opened or fsynced. After a failed fsync its content must be taken as lost.
pub fn sync_file(path: &Path) -> Result<()> {
    step(Step::Sync, path, || File::open(path)?.sync_all())
}

/// Brings a directory's names to stable storage.
///
/// # Errors
/// When it can't be opened or fsynced.
pub fn sync_dir(path: &Path) -> Result<()> {
    step(Step::SyncDirectory, path, || File::open(path)?.sync_all())
}

/// Whether a file name is one of this module's temporary names: what a crash leaves behind, and may be removed by
/// whoever knows that no writer is at work in the directory.
pub fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let marked = || name.windows(TEMPORARY_MARK.len()).any(|part| part == TEMPORARY_MARK.as_bytes());
    name.first() == Some(&b'.') && name.ends_with(b".tmp") && marked()
}

/// Removes the temporary files that a crash left in a directory; how many there were. A directory that does not
/// exist has none. To be called only by who knows that no writer is at work there.
///
/// # Errors
/// When the directory can't be read or a file can't be removed.
pub fn remove_temporary_files(directory: &Path) -> Result<usize> {
    remove_temporaries(directory, remove_unsynced)
}

/// Like [`remove_temporary_files`], of the files alone whose final names are these: to be called by who knows that nobody
/// writes one of them.
///
/// # Errors
/// As for [`remove_temporary_files`].
pub fn remove_temporary_files_of(directory: &Path, is_meant: impl Fn(&str) -> bool) -> Result<usize> {
    remove_temporaries(directory, |path| match final_name(path) {
        Some(name) if is_meant(name) => remove_unsynced(path),
        _ => Ok(false),
    })
}

/// The name that a temporary file was to get; shortened, where the temporary one would not have fitted.
fn final_name(temporary: &Path) -> Option<&str> {
    let name = temporary.file_name()?.to_str()?.strip_prefix('.')?;
    name.rsplit_once(TEMPORARY_MARK).map(|(name, _)| name)
}

/// Has `remove` decide about each temporary file in a directory; how many it removed.
fn remove_temporaries(directory: &Path, remove: impl Fn(&Path) -> Result<bool>) -> Result<usize> {
    let failed = |source| DurableError { step: Step::Remove, path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if is_temporary(&entry.file_name()) && remove(&entry.path())? {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The directory of a path; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn sync_parents(from: &Path, to: &Path) -> Result<()> {
    // The new name first: between the two, the file may have both names but not none.
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// Renames without replacing. File systems that don't know the flag get a link and an unlink, which are as safe.
fn rename_no_replace(from: &Path, to: &Path) -> Result<()> {
    step(Step::Rename, to, || match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        outcome => outcome.map_err(io::Error::from),
    })
}

fn step<T>(step: Step, path: &Path, action: impl FnOnce() -> io::Result<T>) -> Result<T> {
    faults::check(step, path).and_then(|()| action()).map_err(|source| DurableError {
        step,
        path: path.to_owned(),
        source,
    })
}

fn absent_is_fine(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
