//! What writers that were killed leave behind where other writers may be at work.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Result, Step, remove_temporaries, remove_unsynced, step};

/// How long a temporary file must have been left alone: between its creation and its lock, its writer does not have it yet.
const LEFT_ALONE_MIN: Duration = Duration::from_secs(60);

/// Removes the temporary files in a directory that nobody writes any more: [`TempFile`](super::TempFile) holds a lock on its file,
/// which ends with its process. How many there were. A directory that does not exist has none.
///
/// # Errors
/// When the directory can't be read or a file can't be removed.
pub fn remove_abandoned_files(directory: &Path) -> Result<usize> {
    remove_temporaries(directory, |path| remove_if_abandoned(path, LEFT_ALONE_MIN))
}

fn remove_if_abandoned(path: &Path, left_alone: Duration) -> Result<bool> {
    let file = match step(Step::Remove, path, || File::open(path)) {
        Ok(file) => file,
        // Whoever may not read it is not its writer's user.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let metadata = step(Step::Remove, path, || file.metadata())?;
    let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or_default());
    let is_old = SystemTime::now().duration_since(changed).is_ok_and(|age| age >= left_alone);
    if !is_old || file.try_lock().is_err() {
        return Ok(false);
    }
    remove_unsynced(path)
}

#[cfg(test)]
mod tests {
    use super::super::{TempFile, is_temporary};
    use super::*;
    use std::fs;

    #[test]
    fn what_a_writer_holds_stays_and_what_a_killed_one_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let held = TempFile::create(&path).unwrap();
        let left = directory.path().join(".segment.barkeep-1-2.tmp");
        fs::write(&left, "half").unwrap();
        assert!(is_temporary(left.file_name().unwrap()));
        for path in [&left, held.temporary_path()] {
            assert!(!remove_if_abandoned(path, LEFT_ALONE_MIN).unwrap(), "it may have been made just now");
        }
        assert_eq!(remove_abandoned_files(directory.path()).unwrap(), 0);
        assert!(!remove_if_abandoned(held.temporary_path(), Duration::ZERO).unwrap());
        assert!(remove_if_abandoned(&left, Duration::ZERO).unwrap());
        assert!(!remove_if_abandoned(&left, Duration::ZERO).unwrap());
        held.publish().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(remove_abandoned_files(&directory.path().join("nowhere")).unwrap(), 0);
    }
}
