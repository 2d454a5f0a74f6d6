//! What the system keeps in memory of files that nobody will read soon again.
//!
//! A recovery passes through more WAL than there is memory, reads each byte of it once, and works on data files that it had better
//! find there. New pages cost time too: a virtual machine may have to get each of them from its host, which takes longer than to
//! copy what goes into it, while a page that was just let go is at hand.

use std::fs::File;
use std::io::IoSliceMut;
use std::path::Path;

use rustix::fs::{Advice, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Lets the memory go that holds a file; what is not on stable storage yet stays.
pub(super) fn let_go_of(file: &File) {
    // Advice: nothing is lost where the system doesn't take it.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Like [`let_go_of`], of a file that may not be there.
pub(super) fn let_go_of_path(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
        let_go_of(&File::from(file));
    }
}

/// Whether the end of a file is not in memory: it was not read or written lately. `false` where the system can't tell.
pub(super) fn is_cold(file: &File) -> bool {
    let Some(last) = file.metadata().ok().and_then(|metadata| metadata.len().checked_sub(1)) else {
        return false;
    };
    let mut byte = [0];
    let outcome = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], last, ReadWriteFlags::NOWAIT);
    outcome == Err(Errno::AGAIN)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    /// Makes a file that lies on stable storage and in memory; says if the file system doesn't tell the latter.
    pub(crate) fn write_warm(path: &Path) -> bool {
        fs::write(path, vec![7; 1 << 20]).unwrap();
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        assert!(!is_cold(&file), "it was just written");
        let tells = is_cold_after(path, || let_go_of(&file));
        if !tells {
            println!("SKIPPED: this file system does not tell what is in memory");
        }
        assert_eq!(fs::read(path).unwrap(), vec![7; 1 << 20]);
        assert!(!is_cold(&file), "it was just read");
        tells
    }

    /// Whether it is cold after `act`. The system may be busy with a page just then, and leave it: it is asked some times.
    pub(crate) fn is_cold_after(path: &Path, act: impl Fn()) -> bool {
        (0..100).any(|_| {
            act();
            is_cold(&File::open(path).unwrap()) || {
                std::thread::sleep(std::time::Duration::from_millis(5));
                false
            }
        })
    }

    #[test]
    fn what_was_let_go_is_cold_and_nothing_of_it_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        let tells = write_warm(&path);
        assert_eq!(is_cold_after(&path, || let_go_of_path(&path)), tells);
        assert_eq!(fs::read(&path).unwrap(), vec![7; 1 << 20]);
    }

    #[test]
    fn what_is_missing_or_empty_or_no_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let_go_of_path(&directory.path().join("missing"));
        let_go_of_path(directory.path());
        assert!(!is_cold(&File::create(directory.path().join("empty")).unwrap()));
    }
}
