//! Removing a directory with all that is in it: beneath handles, without following a link, by several threads.
//!
//! Each directory is opened in the one above it, never by a path, so nothing outside can be reached, whatever is renamed
//! or replaced by a link meanwhile. File systems remove names of one directory one after the other, but those of
//! different directories at the same time; so directories are what the threads share out.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, openat, unlinkat};
use rustix::io::Errno;

use crate::durable::{DurableError, Result, Step};
use crate::faults;

/// Most threads at work at once.
const THREADS_MAX: usize = 16;
/// Directories that have to wait before other threads help.
const HELPED_FROM: usize = 4;
/// How many times a directory is read again that is not empty after all that it held was removed: names may be skipped
/// while others are removed, or somebody puts new ones there.
const READINGS_MAX: usize = 64;
/// How much of a directory is read at once, in bytes.
const READ_BYTES: usize = 32 << 10;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes what is at `path`: a directory with all below it, or a file or link as such. False when nothing is there.
/// Nothing is brought to stable storage.
pub(crate) fn remove_tree(path: &Path) -> Result<bool> {
    let Some((above, above_path, name)) = open_above(path)? else { return Ok(false) };
    // A link is removed, not what it leads to.
    match unlinkat(&above, &*name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(failed(path, error)),
    }
    remove_all(vec![Directory::within(Above::Outside(above, above_path), name)])?;
    Ok(true)
}

/// Removes all that is in the directory at `path` but for these names. Does nothing when there is no directory, which a
/// link is not. Nothing is brought to stable storage.
pub(crate) fn empty_directory(path: &Path, but_for: &[&str]) -> Result<()> {
    let Some((above, _, name)) = open_above(path)? else { return Ok(()) };
    let handle = match openat(&above, &*name, DIRECTORY, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(failed(path, error)),
    };
    let failed_here = |error: Errno| failed(path, error);
    let mut directories = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); READ_BYTES];
    let mut entries = RawDir::new(&handle, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed_here)?;
        let name = entry.file_name();
        let is_spared = but_for.iter().any(|spared| spared.as_bytes() == name.to_bytes());
        if is_spared || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let handle = rustix::io::fcntl_dupfd_cloexec(&handle, 0).map_err(failed_here)?;
                directories.push(Directory::within(Above::Outside(handle, path.to_owned()), name.to_owned()));
            }
            Err(error) => return Err(failed(&path.join(OsStr::from_bytes(name.to_bytes())), error)),
        }
    }
    remove_all(directories)
}

/// Opens the directory `above`, however one gets there, or the one of this name in it, which may not be a link. `None`
/// when there is none.
pub(crate) fn open_directory(above: &Path, name: Option<&str>) -> Result<Option<OwnedFd>> {
    let opened = openat(CWD, above, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty());
    let opened = match name {
        Some(name) => opened.and_then(|above| openat(&above, name, DIRECTORY, Mode::empty())),
        None => opened,
    };
    match opened {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => {
            let path = name.map_or_else(|| above.to_owned(), |name| above.join(name));
            Err(DurableError { step: Step::Remove, path, source: error.into() })
        }
    }
}

/// The directory that `path` is in, its path, and the name in it; `None` when there is no such directory. How one gets
/// there is the caller's business, and may lead through links.
fn open_above(path: &Path) -> Result<Option<(OwnedFd, PathBuf, CString)>> {
    let (Some(name), Some(above)) = (path.file_name(), path.parent()) else {
        return Err(failed(path, Errno::INVAL));
    };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let name = CString::new(name.as_bytes()).map_err(|_| failed(path, Errno::INVAL))?;
    match openat(CWD, above, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()) {
        Ok(handle) => Ok(Some((handle, above.to_owned(), name))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(failed(above, error)),
    }
}

fn remove_all(directories: Vec<Arc<Directory>>) -> Result<()> {
    let work = Work::default();
    work.add(directories);
    work.run();
    let failure = work.state().failure.take();
    failure.map_or(Ok(()), Err)
}

/// A directory to be removed.
#[derive(Default)]
struct Directory {
    above: Above,
    name: CString,
    handle: OnceLock<OwnedFd>,
    /// What keeps it from being removed: directories in it, and its being read.
    holds: AtomicUsize,
    readings: AtomicUsize,
}

#[derive(Default)]
enum Above {
    #[default]
    Nothing,
    /// The directory that the whole is in, and its path.
    Outside(OwnedFd, PathBuf),
    /// One that is to be removed too.
    Inside(Arc<Directory>),
}

impl Directory {
    fn within(above: Above, name: CString) -> Arc<Self> {
        Arc::new(Directory { above, name, ..Directory::default() })
    }

    /// The handle of the directory above it.
    fn above(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.above {
            Above::Outside(handle, _) => Ok(handle.as_fd()),
            Above::Inside(directory) => directory.handle(),
            Above::Nothing => Err(Errno::BADF.into()),
        }
    }

    fn handle(&self) -> io::Result<BorrowedFd<'_>> {
        if self.handle.get().is_none() {
            let handle = openat(self.above()?, &*self.name, DIRECTORY, Mode::empty())?;
            // Only one thread reads a directory; others find the handle there.
            let _ = self.handle.set(handle);
        }
        self.handle.get().map(AsFd::as_fd).ok_or_else(|| Errno::BADF.into())
    }

    /// For messages.
    fn path(&self) -> PathBuf {
        let name = OsStr::from_bytes(self.name.as_bytes());
        match &self.above {
            Above::Outside(_, path) => path.join(name),
            Above::Inside(directory) => directory.path().join(name),
            Above::Nothing => PathBuf::from(name),
        }
    }

    /// Removes the files in it; the directories in it.
    fn read(self: &Arc<Self>) -> Result<Vec<Arc<Directory>>> {
        let failed_here = |error: io::Error| failed(&self.path(), error);
        faults::check(Step::Remove, &self.path()).map_err(failed_here)?;
        let handle = match self.handle() {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed_here(error)),
        };
        rustix::fs::seek(handle, rustix::fs::SeekFrom::Start(0))
            .map_err(|error| failed_here(error.into()))?;
        let mut buffer = vec![MaybeUninit::uninit(); READ_BYTES];
        let mut entries = RawDir::new(handle, &mut buffer);
        let mut directories = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| failed_here(error.into()))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory || !self.unlink(handle, name)? {
                directories.push(Directory::within(Above::Inside(Arc::clone(self)), name.to_owned()));
            }
        }
        Ok(directories)
    }

    /// Removes a name in it; false when it is that of a directory.
    fn unlink(&self, handle: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        match unlinkat(handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(error) => Err(failed(&self.path().join(OsStr::from_bytes(name.to_bytes())), error)),
        }
    }

    /// Removes it; false when it is not empty.
    fn remove(&self) -> Result<bool> {
        let above = self.above().map_err(|error| failed(&self.path(), error))?;
        match unlinkat(above, &*self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(failed(&self.path(), error)),
        }
    }
}

fn failed(path: &Path, source: impl Into<io::Error>) -> DurableError {
    DurableError { step: Step::RemoveDirectory, path: path.to_owned(), source: source.into() }
}

/// Directories that wait to be read.
#[derive(Default)]
struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The one that came last goes first, so that few are open at once.
    waiting: Vec<Arc<Directory>>,
    /// How many threads are at one.
    busy: usize,
    failure: Option<DurableError>,
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, directories: Vec<Arc<Directory>>) {
        self.state().waiting.extend(directories);
        self.changed.notify_all();
    }

    /// Removes all that waits, with as many threads as help.
    fn run(&self) {
        // Most trees are small; a thread costs more than it would save.
        while let Some(directory) = self.take(HELPED_FROM) {
            self.process(&directory);
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        if self.state().waiting.is_empty() {
            return;
        }
        std::thread::scope(|scope| {
            for _ in 1..(2 * cores).clamp(2, THREADS_MAX) {
                let work = || {
                    while let Some(directory) = self.take(usize::MAX) {
                        self.process(&directory);
                    }
                };
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    // Fewer hands do it too.
                    break;
                }
            }
            while let Some(directory) = self.take(usize::MAX) {
                self.process(&directory);
            }
        });
    }

    /// The next directory; `None` when all is done, or when more than `helped_from` wait.
    fn take(&self, helped_from: usize) -> Option<Arc<Directory>> {
        let mut state = self.state();
        loop {
            if state.failure.is_some() || state.waiting.len() > helped_from {
                return None;
            }
            if let Some(directory) = state.waiting.pop() {
                state.busy += 1;
                return Some(directory);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn process(&self, directory: &Arc<Directory>) {
        let outcome = self.empty(directory);
        let mut state = self.state();
        if let Err(error) = outcome {
            state.failure.get_or_insert(error);
        }
        state.busy -= 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Removes the files in a directory, hands on the directories in it, and removes those that are empty then.
    fn empty(&self, directory: &Arc<Directory>) -> Result<()> {
        let inside = directory.read()?;
        // The reading itself is one more hold, so that nobody who is done with one in it removes it too early.
        directory.holds.store(inside.len() + 1, Ordering::SeqCst);
        if !inside.is_empty() {
            self.add(inside);
        }
        let mut emptied = Arc::clone(directory);
        while emptied.holds.fetch_sub(1, Ordering::SeqCst) == 1 {
            if !emptied.remove()? {
                if emptied.readings.fetch_add(1, Ordering::SeqCst) + 1 >= READINGS_MAX {
                    return Err(failed(&emptied.path(), Errno::NOTEMPTY));
                }
                self.add(vec![emptied]);
                return Ok(());
            }
            match &emptied.above {
                Above::Inside(above) => emptied = Arc::clone(above),
                Above::Outside(..) | Above::Nothing => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn whole_trees_go_and_nothing_beside_them() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("tree")).unwrap();
        for wide in 0..40 {
            for deep in 0..5 {
                let directory = at(&format!("tree/{wide}/{deep}/x/y"));
                fs::create_dir_all(&directory).unwrap();
                for file in 0..30 {
                    fs::write(directory.join(format!("{file} \u{e9}")), "x").unwrap();
                }
            }
        }
        fs::create_dir(at("beside")).unwrap();
        fs::write(at("beside/file"), "x").unwrap();
        assert!(remove_tree(&at("tree")).unwrap());
        assert!(!at("tree").exists());
        assert!(at("beside/file").exists());
        assert!(!remove_tree(&at("tree")).unwrap());
        assert!(!remove_tree(&at("nowhere/tree")).unwrap());
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("outside/kept")).unwrap();
        fs::write(at("outside/kept/file"), "x").unwrap();
        fs::create_dir_all(at("tree/pg_tblspc")).unwrap();
        symlink(at("outside"), at("tree/pg_tblspc/16386")).unwrap();
        symlink("..", at("tree/up")).unwrap();
        symlink("/nonexistent", at("tree/dangling")).unwrap();
        assert!(remove_tree(&at("tree")).unwrap());
        symlink(at("outside"), at("tree")).unwrap();
        assert!(remove_tree(&at("tree")).unwrap());
        assert!(at("tree").symlink_metadata().is_err());
        assert!(at("outside/kept/file").exists());
        // The way to it may lead through links.
        symlink(at("outside"), at("way")).unwrap();
        assert!(remove_tree(&at("way/kept")).unwrap());
        assert!(at("outside").exists() && !at("outside/kept").exists());
    }

    #[test]
    fn a_directory_is_emptied_but_for_some_names_and_never_through_a_link() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for directory in ["tree/data/base/1", "tree/16386/x", "tree/annotations"] {
            fs::create_dir_all(at(directory)).unwrap();
            fs::write(at(directory).join("file"), "x").unwrap();
        }
        fs::write(at("tree/backup.info"), "x").unwrap();
        fs::write(at("tree/rest"), "x").unwrap();
        symlink(at("tree"), at("link")).unwrap();
        empty_directory(&at("link"), &[]).unwrap();
        empty_directory(&at("nowhere"), &[]).unwrap();
        empty_directory(&at("tree/rest"), &[]).unwrap();
        assert!(at("tree/data/base/1/file").exists() && at("tree/rest").exists());
        empty_directory(&at("tree"), &["backup.info", "annotations"]).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(at("tree")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["annotations", "backup.info"]);
        assert!(at("tree/annotations/file").exists());
    }

    #[test]
    fn more_names_than_one_reading_holds() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for number in 0..20_000 {
            fs::File::create(tree.join(format!("a name of some length {number}"))).unwrap();
        }
        assert!(remove_tree(&tree).unwrap());
        assert!(!tree.exists());
    }

    #[test]
    fn a_failure_is_told_with_its_path() {
        let home = tempfile::tempdir().unwrap();
        let error = remove_tree(Path::new("/")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // Nobody may remove this, not even root.
        let error = remove_tree(Path::new("/proc/self")).unwrap_err();
        assert!(error.to_string().contains("/proc/self"), "{error}");
        drop(home);
    }
}
