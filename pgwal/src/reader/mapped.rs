//! A plain file, read by mapping it: the kernel's copy costs as much as all else that is done with WAL.
//!
//! Memory that a file lends is sound only while nobody changes or cuts the file. So each window is mapped under a read lease
//! (`fcntl(2)`, `F_SETLEASE`): the kernel grants it only while nobody has the file open for writing, and lets whoever then
//! opens it for writing or truncates it wait until the lease is given back, a fraction of a millisecond later. Where there is
//! no lease to be had (a segment that is being written, another user's file, a network file system), or pages can't be brought
//! in (a bad disk, of which reading tells in a way that can be reported), the rest is read.
//!
//! What is left: a process that is stopped within that fraction for longer than the kernel grants a lease
//! (`/proc/sys/fs/lease-break-time`, 45 seconds), while another cuts the file, dies by SIGBUS without a report.
//!
//! Miri knows neither file mappings nor leases: the tests below run on the real thing.
#![allow(
    unsafe_code,
    reason = "WAL that is mapped rather than copied is verified in five sixths of the time"
)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use memmap2::{Advice, Mmap, MmapOptions};

use super::CHUNK_BYTES;

/// How much of the file is mapped at a time, in bytes: a multiple of any page size. Small enough that a lease is short and
/// memory stays small, large enough that the system calls don't count.
const WINDOW_BYTES: u64 = 1 << 20;
/// `F_SETSIG` of Linux: the signal that tells of someone who waits for the lease.
const F_SETSIG: libc::c_int = 10;

/// A file that is mapped a window at a time, or read where it can't be.
#[derive(Debug)]
pub(super) struct MappedFile {
    /// Under a lease, always.
    window: Option<Mmap>,
    /// Bytes of the window that have been consumed.
    used: usize,
    /// Where the next window starts, in bytes from the file's start.
    next: u64,
    /// Whether mapping has been given up.
    reads: bool,
    // After the window, so that it is closed after the window is unmapped.
    reader: BufReader<File>,
}

impl MappedFile {
    /// Reads `file` from its start.
    pub(super) fn new(file: File) -> Self {
        let reader = BufReader::with_capacity(CHUNK_BYTES, file);
        MappedFile { window: None, used: 0, next: 0, reads: false, reader }
    }

    /// Takes the lease on the file; whether that worked.
    fn take_lease(&self) -> bool {
        // Who waits for the lease is announced by a signal: by one that is ignored, instead of SIGIO, which ends a process.
        // Giving back a lease undoes this, so it is said each time.
        self.control(F_SETSIG, libc::SIGURG) && self.control(libc::F_SETLEASE, libc::F_RDLCK)
    }

    fn give_back_lease(&self) {
        self.control(libc::F_SETLEASE, libc::F_UNLCK);
    }

    fn control(&self, command: libc::c_int, argument: libc::c_int) -> bool {
        // SAFETY: the descriptor is open, and neither command takes a pointer.
        unsafe { libc::fcntl(self.reader.get_ref().as_raw_fd(), command, argument) == 0 }
    }

    /// Unmaps the window and gives back the lease, in this order.
    fn release(&mut self) {
        if self.window.take().is_some() {
            self.give_back_lease();
        }
    }

    /// Goes on to the next window; there is none at the file's end, and where mapping is given up.
    fn advance(&mut self) -> io::Result<()> {
        self.release();
        if self.take_lease() {
            let left = self.reader.get_ref().metadata()?.len().saturating_sub(self.next);
            if left == 0 {
                self.give_back_lease();
                return Ok(());
            }
            // At most WINDOW_BYTES.
            let length = left.min(WINDOW_BYTES) as usize;
            self.window = self.map(length);
            if self.window.is_some() {
                self.used = 0;
                self.next += length as u64;
                return Ok(());
            }
            self.give_back_lease();
        }
        self.reads = true;
        if self.next > 0 {
            self.reader.seek(SeekFrom::Start(self.next))?;
        }
        Ok(())
    }

    /// Maps what comes next. The lease is held, and the file is at least that long.
    fn map(&self, length: usize) -> Option<Mmap> {
        // SAFETY: while the lease is held nobody can write to the file or truncate it, and the map is dropped before the lease
        // is given back: see `release` and the order of the fields.
        let map =
            unsafe { MmapOptions::new().offset(self.next).len(length).map(self.reader.get_ref()) }.ok()?;
        // What can't be brought in fails here rather than where it is touched.
        map.advise(Advice::PopulateRead).ok()?;
        Some(map)
    }
}

impl BufRead for MappedFile {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if !self.reads && self.window.as_ref().is_none_or(|window| self.used == window.len()) {
            self.advance()?;
        }
        match &self.window {
            Some(window) => Ok(&window[self.used..]),
            None if self.reads => self.reader.fill_buf(),
            None => Ok(&[]),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &self.window {
            Some(window) => self.used = window.len().min(self.used + amount),
            None => self.reader.consume(amount),
        }
    }
}

impl Read for MappedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    const WINDOW: usize = WINDOW_BYTES as usize;

    fn write(path: &Path, length: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
        std::fs::write(path, &bytes).unwrap();
        bytes
    }

    fn read_all(mut file: MappedFile) -> Vec<u8> {
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        read
    }

    #[test]
    fn gives_every_byte_of_files_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        for length in [0, 1, 4095, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 4097] {
            let bytes = write(&path, length);
            let file = MappedFile::new(File::open(&path).unwrap());
            assert!(read_all(file) == bytes, "{length}");
        }
    }

    #[test]
    fn maps_a_file_that_nobody_writes_and_reads_one_that_somebody_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let bytes = write(&path, 2 * WINDOW);
        let mut alone = MappedFile::new(File::open(&path).unwrap());
        assert_eq!(alone.fill_buf().unwrap().len(), WINDOW);
        assert!(!alone.reads);
        drop(alone);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let mut written = MappedFile::new(File::open(&path).unwrap());
        assert!(written.fill_buf().unwrap().len() <= CHUNK_BYTES);
        assert!(written.reads);
        // Cut while it is read: an early end, and no signal.
        writer.set_len(100_000).unwrap();
        assert!(read_all(written) == bytes[..100_000]);
    }

    #[test]
    fn who_opens_the_file_for_writing_waits_for_the_window_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let bytes = write(&path, 3 * WINDOW);
        let mut file = MappedFile::new(File::open(&path).unwrap());
        assert_eq!(file.fill_buf().unwrap().len(), WINDOW);
        // Into the second window: a lease taken again is as quiet as the first.
        file.consume(WINDOW);
        assert_eq!(file.fill_buf().unwrap().len(), WINDOW);
        let (tell, told) = mpsc::channel();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut writer = OpenOptions::new().append(true).open(path).unwrap();
                writer.set_len(2 * WINDOW_BYTES).unwrap();
                writer.write_all(b"more").unwrap();
                tell.send(()).unwrap();
            }
        });
        assert!(told.try_recv().is_err(), "nobody was to write yet");
        assert!(file.fill_buf().unwrap() == &bytes[WINDOW..2 * WINDOW]);
        file.consume(WINDOW);
        // The next window needs the lease again, and whether the writer was first is not said.
        file.fill_buf().unwrap();
        drop(file);
        told.recv_timeout(Duration::from_secs(20)).unwrap();
        writer.join().unwrap();
        assert!(std::fs::read(&path).unwrap().ends_with(b"more"));
    }
}
