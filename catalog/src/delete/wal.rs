//! Removing files from the archive.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use barkeep_transport::durable;
use pgwal::WalFile;

use super::{DeletionHooks, DoomedWal};
use crate::Layout;
use crate::store::{CatalogError, names_in};
use crate::xlogdb::{Locked, WalEntry};

/// Most threads that remove files at once.
const THREADS_MAX: usize = 8;
/// Directories from which on more than one thread is worth its start.
const HELPED_FROM: usize = 4;

/// Removes files from the archive: first from its list, then themselves, then the directories that are empty. Files that
/// are not there are fine, so an interrupted removal can be repeated. What was removed, as the list had it.
///
/// # Errors
/// When storage fails, or a hook stops it; what has not been removed is in the list again then.
pub fn remove_wal(
    layout: &Layout,
    files: &[WalFile],
    hooks: &dyn DeletionHooks,
) -> Result<Vec<WalEntry>, CatalogError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let entries = unlist(layout, files)?;
    let outcome = if hooks.about_wal() {
        remove_one_by_one(layout, &entries, hooks)
    } else {
        remove_all(layout, &entries)
    };
    if let Err(error) = outcome {
        let remaining: Vec<WalEntry> =
            entries.into_iter().filter(|entry| layout.wal(&entry.file).symlink_metadata().is_ok()).collect();
        // The first failure is the one to tell; a file that stays unlisted is found by the next removal.
        let _ = Locked::acquire(layout).and_then(|list| list.append(&remaining));
        return Err(error);
    }
    remove_empty_directories(layout, files)?;
    Ok(entries)
}

/// Takes the files off the list, and tells what it said of them. Those that it did not name are described as found.
fn unlist(layout: &Layout, files: &[WalFile]) -> Result<Vec<WalEntry>, CatalogError> {
    let gone: HashSet<WalFile> = files.iter().copied().collect();
    let mut taken = Vec::new();
    {
        let list = Locked::acquire(layout)?;
        let mut listed = list.read()?;
        let mut seen = HashSet::new();
        for entry in &listed.entries {
            if gone.contains(&entry.file) && seen.insert(entry.file) {
                taken.push(entry.clone());
            }
        }
        listed.entries.retain(|entry| !gone.contains(&entry.file));
        list.replace(&listed.entries)?;
        taken.extend(gone.iter().filter(|file| !seen.contains(file)).filter_map(|file| {
            // One that is nowhere needs no removal.
            WalEntry::of_file(*file, &layout.wal(file)).ok()
        }));
    }
    taken.sort_by_cached_key(|entry| entry.file.to_string());
    Ok(taken)
}

fn remove_one_by_one(
    layout: &Layout,
    entries: &[WalEntry],
    hooks: &dyn DeletionHooks,
) -> Result<(), CatalogError> {
    for entry in entries {
        let path = layout.wal(&entry.file);
        let doomed = DoomedWal { entry, path: &path };
        hooks.before_wal(&doomed)?;
        let outcome = remove_in_directory(layout, std::slice::from_ref(entry));
        hooks.after_wal(&doomed, outcome.as_ref().err().map(ToString::to_string).as_deref());
        outcome?;
    }
    Ok(())
}

/// Removes files that nobody wants to hear of one by one: directories are shared out among threads, since names of different
/// directories can be removed at the same time.
fn remove_all(layout: &Layout, entries: &[WalEntry]) -> Result<(), CatalogError> {
    let directory = |entry: &WalEntry| entry.file.segment().map(|segment| segment.directory());
    let directories: Vec<&[WalEntry]> = entries.chunk_by(|a, b| directory(a) == directory(b)).collect();
    let threads = match directories.len() {
        0..HELPED_FROM => 1,
        many => available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(many),
    };
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some(entries) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = remove_in_directory(layout, entries) {
                // Nobody begins another one.
                next.store(directories.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Removes files of one directory, beneath its handle.
fn remove_in_directory(layout: &Layout, entries: &[WalEntry]) -> Result<(), CatalogError> {
    let Some(first) = entries.first() else { return Ok(()) };
    let directory = first.file.segment().map(|segment| segment.directory());
    let names: Vec<String> = entries.iter().map(|entry| entry.file.to_string()).collect();
    durable::remove_in_unsynced(&layout.wals, directory.as_deref(), names.iter().map(String::as_str))?;
    Ok(())
}

fn remove_empty_directories(layout: &Layout, files: &[WalFile]) -> Result<(), CatalogError> {
    let directories: BTreeSet<_> = files.iter().map(|file| layout.wal_directory(file)).collect();
    for directory in directories {
        if !directory.exists() {
            continue;
        }
        durable::sync_dir(&directory)?;
        if directory != layout.wals && names_in(&directory)?.is_empty() {
            match durable::remove_dir(&directory) {
                // The archiver has just put something into it.
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                outcome => drop(outcome?),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;
    use crate::delete::Stopped;
    use crate::xlogdb;
    use std::sync::Mutex;

    /// Writes down what it is told, and stops at one file.
    struct Recorder {
        told: Mutex<Vec<String>>,
        stop_at: Option<&'static str>,
    }

    impl DeletionHooks for Recorder {
        fn about_wal(&self) -> bool {
            true
        }

        fn before_wal(&self, wal: &DoomedWal<'_>) -> Result<(), Stopped> {
            assert!(wal.path.exists());
            self.told.lock().unwrap().push(format!("before {}", wal.entry.file));
            match self.stop_at {
                Some(name) if name == wal.entry.file.to_string() => Err(Stopped { by: "a hook".to_owned() }),
                _ => Ok(()),
            }
        }

        fn after_wal(&self, wal: &DoomedWal<'_>, error: Option<&str>) {
            assert!(!wal.path.exists());
            self.told.lock().unwrap().push(format!("after {} {error:?}", wal.entry.file));
        }
    }

    fn names() -> [String; 3] {
        [1, 2, 3].map(|number| format!("00000001000000000000000{number}"))
    }

    fn home() -> (tempfile::TempDir, Catalog) {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        catalog.create_directories().unwrap();
        for name in names() {
            let path = catalog.layout().wal(&name.parse().unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "wal").unwrap();
        }
        let list = xlogdb::scan(catalog.layout()).unwrap();
        Locked::acquire(catalog.layout()).unwrap().replace(&list).unwrap();
        (home, catalog)
    }

    #[test]
    fn hooks_are_called_around_each_file() {
        let (_home, catalog) = home();
        let recorder = Recorder { told: Mutex::default(), stop_at: None };
        let files: Vec<WalFile> = names()[..2].iter().map(|name| name.parse().unwrap()).collect();
        let removed = remove_wal(catalog.layout(), &files, &recorder).unwrap();
        assert_eq!(removed.iter().map(|entry| entry.size).collect::<Vec<_>>(), [3, 3]);
        let [first, second, _] = names();
        let told = [
            format!("before {first}"),
            format!("after {first} None"),
            format!("before {second}"),
            format!("after {second} None"),
        ];
        assert_eq!(*recorder.told.lock().unwrap(), told);
    }

    #[test]
    fn files_of_many_directories_go_and_those_that_cannot_are_listed_again() {
        let (home, catalog) = home();
        let layout = catalog.layout();
        let files: Vec<WalFile> = (0..300_u32)
            .map(|number| format!("00000001{:08X}{:08X}", number / 20 + 1, number % 20).parse().unwrap())
            .collect();
        for file in &files {
            std::fs::create_dir_all(layout.wal_directory(file)).unwrap();
            std::fs::write(layout.wal(file), "wal").unwrap();
        }
        // One directory is a link to somewhere else, whatever it was.
        let linked = layout.wal_directory(&files[100]);
        let elsewhere = home.path().join("elsewhere");
        std::fs::rename(&linked, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &linked).unwrap();
        Locked::acquire(layout).unwrap().replace(&xlogdb::scan(layout).unwrap()).unwrap();
        let error = remove_wal(layout, &files, &crate::delete::NoHooks).unwrap_err().to_string();
        assert!(error.contains(linked.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 20, "what is behind a link is not ours");
        let listed: HashSet<WalFile> =
            xlogdb::read(layout).unwrap().entries.iter().map(|entry| entry.file).collect();
        for file in &files {
            assert!(!layout.wal(file).exists() || listed.contains(file), "{file}");
        }
        std::fs::remove_file(&linked).unwrap();
        remove_wal(layout, &files, &crate::delete::NoHooks).unwrap();
        assert!(files.iter().all(|file| !layout.wal_directory(file).exists()));
        assert_eq!(xlogdb::read(layout).unwrap().entries.len(), names().len());
    }

    #[test]
    fn a_hook_that_stops_leaves_the_rest_in_the_archive_and_in_its_list() {
        let (_home, catalog) = home();
        let recorder = Recorder { told: Mutex::default(), stop_at: Some("000000010000000000000002") };
        let files: Vec<WalFile> = names().iter().map(|name| name.parse().unwrap()).collect();
        let error = remove_wal(catalog.layout(), &files, &recorder).unwrap_err();
        assert_eq!(error.to_string(), "the deletion was stopped by a hook");
        let list = xlogdb::read(catalog.layout()).unwrap();
        let listed: Vec<String> = list.entries.iter().map(|entry| entry.file.to_string()).collect();
        assert_eq!(listed, names()[1..]);
        assert!(!catalog.layout().wal(&files[0]).exists());
        assert!(catalog.layout().wal(&files[1]).exists());
        // The next time goes on.
        assert_eq!(remove_wal(catalog.layout(), &files, &crate::delete::NoHooks).unwrap().len(), 2);
    }
}
