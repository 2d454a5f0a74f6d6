//! A plain file, read by mapping it: the kernel's copy costs as much as all else that is done with WAL.
//!
//! The start is read all the same: who only wants to know what a file is, or how a record ends that began in the segment
//! before, gets it at once. A window is brought in piece by piece, and what has been used of it is let go. That interrupts the
//! other threads of the process, whose processors have to forget it too: so the fewer the readers, the smaller a piece, but
//! alone a reader takes what stays in its processor's cache.
//!
//! Memory that a file lends is sound only while nobody changes or cuts the file. So each window is mapped under a read lease
//! (`fcntl(2)`, `F_SETLEASE`): the kernel grants it only while nobody has the file open for writing, and lets whoever then
//! opens it for writing or truncates it wait until the lease is given back: some milliseconds later. Where there is
//! no lease to be had (a segment that is being written, another user's file, a network file system), or pages can't be brought
//! in (a bad disk, of which reading tells in a way that can be reported), the rest is read.
//!
//! So this is for readers that wait for nobody: not for one whose output somebody reads, nor for the files of a running server
//! ([`is_live`](super::is_live)). What is left: a process that is stopped (SIGSTOP) within a window keeps a writer waiting for
//! up to `/proc/sys/fs/lease-break-time` (45 seconds), and dies by SIGBUS when it goes on after another has then cut the file.
//!
//! Miri knows neither leases nor mappings of files: the tests below run on the real thing, and under AddressSanitizer
//! (`make unsafe`), which knows what is mapped.
#![allow(
    unsafe_code,
    reason = "WAL that is mapped rather than copied is verified in five sixths of the time"
)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Advice, Mmap, MmapOptions, UncheckedAdvice};

use super::CHUNK_BYTES;

/// How much of the file is mapped at a time, in bytes: a multiple of any page size. Small enough that a lease is short, large
/// enough that threads, which wait for one another where they map and unmap, seldom do.
const WINDOW_BYTES: u64 = 16 << 20;
/// How much of a window is in memory at a time, in bytes, if nobody else reads in this way.
const PIECE_BYTES: usize = 1 << 20;
/// How much is in memory at a time if others do, in bytes, of all of them together. Shared out among 16 or more, it is a
/// [`PIECE_BYTES`] for each.
const PIECES_BYTES: usize = 16 << 20;
/// `F_SETSIG` of Linux: the signal that tells of someone who waits for the lease.
const F_SETSIG: libc::c_int = 10;

/// How many files are read in this way.
static READERS: AtomicUsize = AtomicUsize::new(0);

/// A file that is mapped a window at a time, or read where it can't be.
#[derive(Debug)]
pub(super) struct MappedFile {
    stage: Stage,
    /// Under a lease, always.
    window: Option<Mmap>,
    /// Where the window starts, or what comes next if there is none, in bytes from the file's start.
    start: u64,
    /// Bytes of the window that have been consumed: at most `present`.
    used: usize,
    /// Bytes of the window that have been brought in: at most its length.
    present: usize,
    /// Where the last piece of them starts: at most `present`.
    piece: usize,
    // After the window, so that it is closed after the window is unmapped.
    reader: BufReader<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first chunk is read.
    Start,
    /// What follows is mapped.
    Mapping,
    /// Mapping has been given up.
    Reading,
}

impl MappedFile {
    /// Reads `file` from its start.
    pub(super) fn new(file: File) -> Self {
        let reader = BufReader::with_capacity(CHUNK_BYTES, file);
        READERS.fetch_add(1, Ordering::Relaxed);
        MappedFile { stage: Stage::Start, window: None, start: 0, used: 0, present: 0, piece: 0, reader }
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
        self.start += self.used as u64;
        (self.used, self.present, self.piece) = (0, 0, 0);
    }

    /// Brings in what comes next: of this window, or else of the next one. There is nothing at the file's end, and where
    /// mapping is given up.
    fn advance(&mut self) -> io::Result<()> {
        if self.window.as_ref().is_none_or(|window| self.present == window.len()) {
            self.release();
            if self.take_lease() {
                let left = self.reader.get_ref().metadata()?.len().saturating_sub(self.start);
                if left == 0 {
                    self.give_back_lease();
                    return Ok(());
                }
                // At most WINDOW_BYTES.
                self.window = self.map(left.min(WINDOW_BYTES) as usize);
                if self.window.is_none() {
                    self.give_back_lease();
                }
            }
        }
        if !self.bring_in() {
            self.release();
            self.stage = Stage::Reading;
            self.reader.seek(SeekFrom::Start(self.start))?;
        }
        Ok(())
    }

    /// Maps what comes next. The lease is held, and the file is at least that long.
    fn map(&self, length: usize) -> Option<Mmap> {
        // SAFETY: while the lease is held nobody can write to the file or truncate it, and the map is dropped before the lease
        // is given back: see `release` and the order of the fields.
        unsafe { MmapOptions::new().offset(self.start).len(length).map(self.reader.get_ref()) }.ok()
    }

    /// Brings in the next piece of the window, and lets the one before go; whether that worked. What can't be brought in fails
    /// here rather than where it is touched.
    fn bring_in(&mut self) -> bool {
        let Some(window) = &self.window else { return false };
        let before = self.present - self.piece;
        if before > 0 {
            // SAFETY: nothing of this piece is lent, since all of it has been consumed, and nothing is written to the map that
            // would be lost. A failure only means that it stays in memory until the window goes.
            let _ = unsafe { window.unchecked_advise_range(UncheckedAdvice::DontNeed, self.piece, before) };
        }
        let length = piece_bytes(READERS.load(Ordering::Relaxed)).min(window.len() - self.present);
        let there = window.advise_range(Advice::PopulateRead, self.present, length).is_ok();
        self.piece = self.present;
        self.present += if there { length } else { 0 };
        there
    }
}

/// How much is brought in at a time while there are so many readers, in bytes: a multiple of any page size.
fn piece_bytes(readers: usize) -> usize {
    match readers {
        0 | 1 => PIECE_BYTES,
        many => (PIECES_BYTES / many.next_power_of_two()).max(PIECE_BYTES),
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BufRead for MappedFile {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.stage == Stage::Start && self.start > 0 && self.reader.buffer().is_empty() {
            self.stage = Stage::Mapping;
        }
        if self.stage == Stage::Mapping && self.used == self.present {
            self.advance()?;
        }
        match (self.stage, &self.window) {
            (Stage::Mapping, Some(window)) => Ok(&window[self.used..self.present]),
            (Stage::Mapping, None) => Ok(&[]),
            (Stage::Start | Stage::Reading, _) => self.reader.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        if self.window.is_some() {
            self.used = self.present.min(self.used + amount);
        } else {
            self.start += amount.min(self.reader.buffer().len()) as u64;
            self.reader.consume(amount);
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
#[cfg(not(miri))]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    const WINDOW: usize = WINDOW_BYTES as usize;

    /// A file whose next bytes are the first that are mapped.
    fn past_the_start(path: &Path) -> MappedFile {
        let mut file = MappedFile::new(File::open(path).unwrap());
        assert_eq!(file.fill_buf().unwrap().len(), CHUNK_BYTES);
        file.consume(CHUNK_BYTES);
        file
    }

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
        let (mapped, piece) = (CHUNK_BYTES, CHUNK_BYTES + PIECE_BYTES);
        let lengths = [0, 1, 4095, mapped, mapped + 1, piece - 1, piece, piece + 1];
        for length in lengths.into_iter().chain([WINDOW - 1, mapped + WINDOW, mapped + WINDOW + 4097]) {
            let bytes = write(&path, length);
            let file = MappedFile::new(File::open(&path).unwrap());
            assert!(read_all(file) == bytes, "{length}");
        }
    }

    #[test]
    fn readers_share_the_memory_that_there_is() {
        assert_eq!((0..=3).map(|readers| piece_bytes(readers) >> 20).collect::<Vec<_>>(), [1, 1, 8, 4]);
        assert!((1..=16).all(|readers| readers * piece_bytes(readers) <= PIECES_BYTES));
        assert_eq!((piece_bytes(17), piece_bytes(100_000)), (PIECE_BYTES, PIECE_BYTES));
    }

    #[test]
    fn maps_a_file_that_nobody_writes_and_reads_one_that_somebody_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let bytes = write(&path, 2 * WINDOW);
        let mut alone = past_the_start(&path);
        // More of it where other tests read at the same time.
        assert!(alone.fill_buf().unwrap().len() >= PIECE_BYTES);
        assert_eq!(alone.stage, Stage::Mapping);
        drop(alone);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let mut written = past_the_start(&path);
        assert!(written.fill_buf().unwrap().len() <= CHUNK_BYTES);
        assert_eq!(written.stage, Stage::Reading);
        // Cut while it is read: an early end, and no signal.
        writer.set_len(150_000).unwrap();
        assert!(read_all(written) == bytes[CHUNK_BYTES..150_000]);
    }

    #[test]
    fn who_opens_the_file_for_writing_waits_for_the_window_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let bytes = write(&path, 3 * WINDOW);
        let mut file = past_the_start(&path);
        // Into the second window: a lease taken again is as quiet as the first.
        while file.start < WINDOW_BYTES {
            let length = file.fill_buf().unwrap().len();
            file.consume(length);
        }
        let at = file.start as usize + file.used;
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
        let mut read = vec![0; WINDOW - file.used];
        file.read_exact(&mut read).unwrap();
        assert!(read == bytes[at..at + read.len()]);
        // The next window needs the lease again, and whether the writer was first is not said.
        file.fill_buf().unwrap();
        drop(file);
        told.recv_timeout(Duration::from_secs(20)).unwrap();
        writer.join().unwrap();
        assert!(std::fs::read(&path).unwrap().ends_with(b"more"));
    }
}
