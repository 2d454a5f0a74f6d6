//! How a file's bytes get from one place to another on this machine.
//!
//! Its blocks are shared where the file system can (`FICLONE`), else copied inside the kernel (`copy_file_range`), else
//! through a buffer. What does not work once is not tried again for the same pair of trees. Holes stay holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;

/// How much is copied between two looks at the progress, in bytes.
const STEP_BYTES: u64 = 16 << 20;
/// The buffer of the slowest way, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// The unit of `st_blocks`, in bytes.
const STAT_BLOCK_BYTES: u64 = 512;

/// The fastest way known to work between two trees; shared by the threads that copy.
#[derive(Debug, Default)]
pub(crate) struct CopyMethod(AtomicU8);

const CLONE: u8 = 0;
const RANGE: u8 = 1;
const BUFFER: u8 = 2;

impl CopyMethod {
    /// Copies all of `from` into the empty `to`, telling `progress` the bytes of each step.
    ///
    /// # Errors
    /// As reading and writing do; also when `from` doesn't have `size` bytes.
    pub(crate) fn copy(
        &self,
        from: &mut File,
        to: &mut File,
        size: u64,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if size > 0 && self.0.load(Ordering::Relaxed) == CLONE {
            match rustix::fs::ioctl_ficlone(&*to, &*from) {
                Ok(()) => return check_size(to.metadata()?.len(), size).and_then(|()| progress(size)),
                Err(error) if unsupported(error) => _ = self.0.fetch_max(RANGE, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            }
        }
        if from.metadata()?.blocks().saturating_mul(STAT_BLOCK_BYTES) < size {
            return self.copy_around_holes(from, to, size, progress);
        }
        check_size(self.copy_run(from, to, size, true, progress)?, size)
    }

    /// Copies what the file system has of a file that has holes.
    fn copy_around_holes(
        &self,
        from: &mut File,
        to: &mut File,
        size: u64,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        check_size(from.metadata()?.len(), size)?;
        to.set_len(size)?;
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
                Ok(start) => start.min(size),
                Err(Errno::NXIO) => size,
                // Such a file system says nothing of holes: all is data.
                Err(error) if at == 0 && unsupported(error) => 0,
                Err(error) => return Err(error.into()),
            };
            let end = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(start)) {
                _ if start == size => size,
                Ok(end) => end.clamp(start, size),
                Err(_) => size,
            };
            progress(start - at)?;
            from.seek(SeekFrom::Start(start))?;
            to.seek(SeekFrom::Start(start))?;
            check_size(self.copy_run(from, to, end - start, false, progress)?, end - start)?;
            at = end;
        }
        Ok(())
    }

    /// Copies `bytes` bytes from where both files are; how many there were. `to_the_end` sees to it that none follow.
    fn copy_run(
        &self,
        from: &mut File,
        to: &mut File,
        bytes: u64,
        to_the_end: bool,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut copied = 0;
        while copied < bytes && self.0.load(Ordering::Relaxed) == RANGE {
            let step = usize::try_from((bytes - copied).min(STEP_BYTES)).unwrap_or(BUFFER_BYTES);
            match rustix::fs::copy_file_range(&*from, None, &*to, None, step) {
                Ok(0) => return Ok(copied),
                Ok(step) => {
                    copied += step as u64;
                    progress(step as u64)?;
                }
                Err(Errno::INTR) => {}
                Err(error) if copied == 0 && unsupported(error) => {
                    _ = self.0.fetch_max(BUFFER, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if copied < bytes {
            let left = bytes - copied;
            copied += if to_the_end {
                copy_buffered(from, to, progress)?
            } else {
                copy_buffered(&mut from.take(left), to, progress)?
            };
        }
        Ok(copied)
    }

    /// Finds out whether blocks can be shared between two trees, with a file of the one and a new one of the other.
    pub(crate) fn try_sharing(&self, from: &File, to: &File) {
        if rustix::fs::ioctl_ficlone(to, from).is_err() {
            self.0.fetch_max(RANGE, Ordering::Relaxed);
        }
    }

    /// Whether blocks are shared rather than copied, as far as was tried.
    pub(crate) fn shares_blocks(&self) -> bool {
        self.0.load(Ordering::Relaxed) == CLONE
    }
}

/// Copies to the end of a stream, telling `progress` the bytes of each step.
pub(crate) fn copy_buffered(
    from: &mut impl Read,
    to: &mut impl Write,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..bytes])?;
        copied += bytes as u64;
        progress(bytes as u64)?;
    }
}

/// Copies `size` bytes of a stream into an empty file, leaving out what is zero.
pub(crate) fn copy_without_zeros(
    from: &mut impl Read,
    to: &File,
    size: u64,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut at = 0;
    loop {
        buffer.clear();
        let bytes = from.by_ref().take(BUFFER_BYTES as u64).read_to_end(&mut buffer)? as u64;
        if bytes == 0 {
            break;
        }
        if buffer.iter().any(|byte| *byte != 0) {
            to.write_all_at(&buffer, at)?;
        }
        at += bytes;
        progress(bytes)?;
    }
    check_size(at, size)?;
    to.set_len(size)
}

/// The answers of a kernel or file system that can't do it, rather than failed to.
fn unsupported(error: Errno) -> bool {
    matches!(
        error,
        Errno::XDEV
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::OPNOTSUPP
            | Errno::NOTTY
            | Errno::PERM
            | Errno::BADF
    )
}

fn check_size(copied: u64, expected: u64) -> io::Result<()> {
    if copied == expected {
        return Ok(());
    }
    Err(io::Error::other(format!("the file has {copied} bytes where {expected} were expected")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn copy(method: u8, content: &[u8], size: u64) -> io::Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, content).unwrap();
        let mut told = std::sync::atomic::AtomicU64::new(0);
        let progress = |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        };
        let method = CopyMethod(AtomicU8::new(method));
        method.copy(&mut File::open(from)?, &mut File::create(&to)?, size, &progress)?;
        assert_eq!(*told.get_mut(), size);
        fs::read(to)
    }

    #[test]
    fn each_way_copies_the_same_bytes() {
        let content: Vec<u8> = (0..3 * BUFFER_BYTES + 7).map(|at| (at % 251) as u8).collect();
        for method in [CLONE, RANGE, BUFFER] {
            assert_eq!(copy(method, &content, content.len() as u64).unwrap(), content, "{method}");
            assert_eq!(copy(method, b"", 0).unwrap(), b"", "{method}");
        }
    }

    #[test]
    fn holes_stay_holes() {
        for method in [CLONE, RANGE, BUFFER] {
            let dir = tempfile::tempdir().unwrap();
            let size = 64 << 20;
            for data in [&[][..], &[0, 20 << 20, size - 4096], &[1 << 20]] {
                let mut from = File::create(dir.path().join("from")).unwrap();
                for at in data {
                    from.seek(SeekFrom::Start(*at)).unwrap();
                    from.write_all(&[7; 4096]).unwrap();
                }
                from.set_len(size).unwrap();
                let mut from = File::open(dir.path().join("from")).unwrap();
                let mut to = File::create(dir.path().join("to")).unwrap();
                let method = CopyMethod(AtomicU8::new(method));
                let told = std::sync::atomic::AtomicU64::new(0);
                let progress = |bytes| {
                    told.fetch_add(bytes, Ordering::Relaxed);
                    Ok(())
                };
                method.copy(&mut from, &mut to, size, &progress).unwrap();
                assert_eq!(told.into_inner(), size);
                assert!(
                    fs::read(dir.path().join("from")).unwrap() == fs::read(dir.path().join("to")).unwrap()
                );
                assert!(to.metadata().unwrap().blocks() * STAT_BLOCK_BYTES <= 1 << 20, "{data:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_shorter_or_longer_than_listed_is_an_error() {
        for method in [CLONE, RANGE, BUFFER] {
            assert!(copy(method, b"short", 6).is_err(), "{method}");
        }
        // Inside the kernel just what was listed is copied; the others see the end of the file themselves.
        assert!(copy(BUFFER, b"longer", 5).is_err());
    }

    #[test]
    fn what_the_progress_refuses_stops_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("from"), "content").unwrap();
        let mut from = File::open(dir.path().join("from")).unwrap();
        let mut to = File::create(dir.path().join("to")).unwrap();
        let refuse = |_| Err(io::Error::other("no"));
        assert!(CopyMethod::default().copy(&mut from, &mut to, 7, &refuse).is_err());
    }
}
