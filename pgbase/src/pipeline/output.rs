//! One file being written: small ones through the page cache, large ones around it where that is known to be good.
//!
//! Copying a large file through the page cache takes more processor time than all other work on it together, and leaves
//! the system with gigabytes to write back at the end. So large files are written directly (`O_DIRECT`), in large
//! aligned pieces, on the local file systems that do this well; anywhere else, and when the system refuses, as usual.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;

use barkeep_transport::direct::{self, ALIGNMENT, AlignedBuffer};
use bytes::Bytes;
use rustix::fs::Advice;

/// Files from this size on are worth writing directly, in bytes.
const DIRECT_FILE_BYTES: u64 = 1 << 20;

/// Bytes per direct write: enough for the disk to work on several requests at once.
const DIRECT_WRITE_BYTES: usize = 2 << 20;

/// Bytes gathered before they are written through the page cache: fewer system calls, little memory.
const GATHER_BYTES: usize = 256 << 10;

/// Most pieces gathered: below the limit of one `writev` (1024), and a bound when pieces are tiny.
const GATHER_PIECES: usize = 64;

/// Bytes after which the kernel is told to start writing to disk, so that little is left for the barrier at the end.
const WRITEBACK_BYTES: u64 = 8 << 20;

const _: () = assert!(DIRECT_WRITE_BYTES.is_multiple_of(ALIGNMENT));

/// How files are written to one file system.
#[derive(Debug)]
pub(super) struct Disk {
    /// The buffer for direct writes; `None` when they are not possible.
    direct: Option<AlignedBuffer>,
}

impl Disk {
    /// The file system that `directory` is on.
    pub(super) fn of(directory: &File) -> Self {
        Disk { direct: direct::suits(directory).then(|| AlignedBuffer::new(DIRECT_WRITE_BYTES)) }
    }

    /// Writes through the page cache, always.
    #[cfg(test)]
    fn cached() -> Self {
        Disk { direct: None }
    }
}

/// A file that is being written from its start, in pieces.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: File,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Through the page cache.
    Cached {
        gathered: Vec<Bytes>,
        gathered_bytes: usize,
        written: u64,
        /// Up to where the kernel was told to write back.
        flushed: u64,
    },
    /// Around it; the pieces are in the disk's buffer. False once the file is written the usual way after all.
    Direct { is_direct: bool },
}

impl OutputFile {
    /// A new file, which will have this many bytes.
    pub(super) fn new(file: File, bytes: u64, disk: &Disk) -> Self {
        let large = bytes >= DIRECT_FILE_BYTES && disk.direct.is_some();
        let way = if large && direct::set(&file, true).is_ok() {
            Way::Direct { is_direct: true }
        } else {
            Way::Cached { gathered: Vec::new(), gathered_bytes: 0, written: 0, flushed: 0 }
        };
        OutputFile { file, way }
    }

    /// Appends a piece, now or with a later one.
    pub(super) fn write(&mut self, piece: Bytes, disk: &mut Disk) -> io::Result<()> {
        match (&mut self.way, &mut disk.direct) {
            (Way::Direct { is_direct }, Some(buffer)) => {
                let mut rest = &piece[..];
                while !rest.is_empty() {
                    rest = buffer.fill(rest);
                    if buffer.is_full() {
                        write_all(&mut self.file, buffer.filled(), is_direct)?;
                        buffer.clear();
                    }
                }
                Ok(())
            }
            (Way::Cached { gathered, gathered_bytes, .. }, _) => {
                *gathered_bytes += piece.len();
                gathered.push(piece);
                if *gathered_bytes >= GATHER_BYTES || gathered.len() >= GATHER_PIECES {
                    self.write_gathered()?;
                }
                Ok(())
            }
            // A file is only ever written directly by a disk that has a buffer.
            (Way::Direct { .. }, None) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Writes what is left. The file is not durable yet.
    pub(super) fn finish(mut self, disk: &mut Disk) -> io::Result<()> {
        match (&mut self.way, &mut disk.direct) {
            (Way::Direct { is_direct }, Some(buffer)) => {
                let whole = buffer.filled().len() / ALIGNMENT * ALIGNMENT;
                let (aligned, tail) = buffer.filled().split_at(whole);
                write_all(&mut self.file, aligned, is_direct)?;
                if !tail.is_empty() {
                    direct::set(&self.file, false)?;
                    write_all(&mut self.file, tail, &mut false)?;
                }
                buffer.clear();
                Ok(())
            }
            _ => self.write_gathered(),
        }
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        let Way::Cached { gathered, gathered_bytes, written, flushed } = &mut self.way else { return Ok(()) };
        write_all_vectored(&mut self.file, gathered)?;
        *written += *gathered_bytes as u64;
        gathered.clear();
        *gathered_bytes = 0;
        let behind = *written - *flushed;
        if let (true, Some(length)) = (behind >= WRITEBACK_BYTES, NonZeroU64::new(behind)) {
            // Only advice: on Linux it starts writing back, and drops from the cache what is written already, which
            // nobody is going to read soon. The barrier at the end finds any error.
            let _ = rustix::fs::fadvise(&self.file, *flushed, Some(length), Advice::DontNeed);
            *flushed = *written;
        }
        Ok(())
    }
}

/// Writes all of `data`, the usual way from where the system refuses to do it directly.
fn write_all(file: &mut File, mut data: &[u8], is_direct: &mut bool) -> io::Result<()> {
    while !data.is_empty() {
        match file.write(data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && *is_direct => {
                direct::set(file, false)?;
                *is_direct = false;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all_vectored(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes `data` in pieces and reads it back.
    fn round_trip(disk: &mut Disk, data: &[u8], piece: usize, announced: u64) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut output = OutputFile::new(File::create_new(&path).unwrap(), announced, disk);
        for piece in data.chunks(piece) {
            output.write(Bytes::copy_from_slice(piece), disk).unwrap();
        }
        output.finish(disk).unwrap();
        std::fs::read(path).unwrap()
    }

    /// Bytes that tell where they belong.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 251 + at) as u8).collect()
    }

    fn here() -> Disk {
        Disk { direct: Some(AlignedBuffer::new(DIRECT_WRITE_BYTES)) }
    }

    #[test]
    fn files_of_all_sizes_come_out_whole_either_way() {
        let mut disk = here();
        for length in [0, 1, 4095, 4096, 4097, (1 << 20) + 1, 2 << 20, (2 << 20) + 8192, (5 << 20) + 123] {
            let data = pattern(length);
            for piece in [4096, 32 << 10, 1_000_003] {
                // The same buffer again and again: nothing of one file may get into the next.
                assert_eq!(
                    round_trip(&mut disk, &data, piece, u64::MAX),
                    data,
                    "direct: {length} by {piece}"
                );
                assert_eq!(
                    round_trip(&mut Disk::cached(), &data, piece, u64::MAX),
                    data,
                    "{length} by {piece}"
                );
            }
        }
    }

    #[test]
    fn small_files_go_through_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create_new(directory.path().join("file")).unwrap();
        let output = OutputFile::new(file, DIRECT_FILE_BYTES - 1, &here());
        assert!(matches!(output.way, Way::Cached { .. }));
    }

    #[test]
    fn a_refused_direct_write_is_done_the_usual_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = File::create_new(&path).unwrap();
        if direct::set(&file, true).is_err() {
            return; // Such a file system is never written to directly.
        }
        // Neither its length nor its address suits.
        let data = pattern(10_001);
        let mut is_direct = true;
        write_all(&mut file, &data[1..], &mut is_direct).unwrap();
        assert!(!is_direct);
        assert_eq!(std::fs::read(path).unwrap(), data[1..]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_pieces_make_the_same_file(lengths in prop::collection::vec(1_usize..700_000, 0..12)) {
            let data = pattern(lengths.iter().sum());
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            let mut disk = here();
            let mut output = OutputFile::new(File::create_new(&path).unwrap(), u64::MAX, &disk);
            let mut rest = Bytes::from(data.clone());
            for length in lengths {
                output.write(rest.split_to(length), &mut disk).unwrap();
            }
            output.finish(&mut disk).unwrap();
            prop_assert_eq!(std::fs::read(path).unwrap(), data);
        }
    }
}
