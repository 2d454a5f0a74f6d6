//! A file that appears whole or not at all, and leaves nothing behind when the process is killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// A file being written that has no name yet, where the file system knows such files.
///
/// It is not brought to stable storage: PostgreSQL asks for it again after a crash.
#[derive(Debug)]
pub(super) struct Landing {
    file: File,
    directory: PathBuf,
    /// Its name, where it has to have one.
    temporary: Option<PathBuf>,
}

impl Landing {
    /// A file that is to appear in `directory`, readable by its owner alone, as PostgreSQL has it.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let mode = Mode::RUSR | Mode::WUSR;
        let nameless = rustix::fs::open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode);
        let directory = directory.to_owned();
        if let Ok(file) = nameless {
            return Ok(Landing { file: File::from(file), directory, temporary: None });
        }
        // Some network file systems don't know nameless files.
        let temporary = temporary_path(&directory);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        Ok(Landing { file, directory, temporary: Some(temporary) })
    }

    /// What was written so far, to be read from its beginning.
    pub(super) fn reopen(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Gives it its name, replacing what has it.
    pub(super) fn land(mut self, destination: &Path) -> io::Result<()> {
        if self.temporary.is_none() {
            let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |to: &Path| rustix::fs::linkat(CWD, &open, CWD, to, AtFlags::SYMLINK_FOLLOW);
            match link(destination) {
                Err(rustix::io::Errno::EXIST) => {
                    let temporary = temporary_path(&self.directory);
                    let _ = fs::remove_file(&temporary);
                    link(&temporary)?;
                    self.temporary = Some(temporary);
                }
                outcome => return outcome.map_err(io::Error::from),
            }
        }
        match self.temporary.take() {
            Some(temporary) => fs::rename(&temporary, destination).inspect_err(|_| {
                let _ = fs::remove_file(&temporary);
            }),
            None => Ok(()),
        }
    }
}

impl Write for Landing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

fn temporary_path(directory: &Path) -> PathBuf {
    directory.join(format!(".wal-restore.barkeep-{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("RECOVERYXLOG");
        for content in ["first", "second"] {
            let mut landing = Landing::create(directory.path()).unwrap();
            landing.write_all(content.as_bytes()).unwrap();
            landing.land(&destination).unwrap();
            assert_eq!(fs::read_to_string(&destination).unwrap(), content);
        }
        let mut dropped = Landing::create(directory.path()).unwrap();
        dropped.write_all(b"third").unwrap();
        drop(dropped);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
