//! Reading and hashing ranges of files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::walk::modified_ns;
use super::{
    DIGEST_BYTES, Digest, FileEnd, Files, HASH_BLOCK_BYTES, HASH_BLOCKS_MAX, HashJob, Hashed, HostError,
    Inspection, Known, PIECE_BYTES, ReadJob, ReadOptions, Root,
};

/// What a reading buffer's address is a multiple of, in bytes, so that it can be written directly to a disk.
const ALIGNMENT: usize = 4096;

/// A part of a range.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// What the file has.
    Data { offset: u64, bytes: &'a [u8] },
    /// The file has what the caller has.
    Same { offset: u64, length: u64 },
}

thread_local! {
    /// Reading happens on few threads, again and again: each keeps its buffer.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs `action` with a buffer of [`PIECE_BYTES`] at an aligned address.
fn with_buffer<T>(action: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => action(aligned(&mut buffer)),
        // Somebody reads while taking what is read: rare, and no reason to fail.
        Err(_) => action(aligned(&mut Vec::new())),
    })
}

fn aligned(memory: &mut Vec<u8>) -> &mut [u8] {
    if memory.is_empty() {
        memory.resize(PIECE_BYTES + ALIGNMENT, 0);
    }
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    &mut memory[start..start + PIECE_BYTES]
}

impl Files {
    /// Reads a range; the outer error ends everything, the inner one is the file's.
    pub(crate) fn read(
        &self,
        job: &ReadJob,
        options: &ReadOptions,
        give: &mut dyn FnMut(Piece<'_>) -> Result<(), HostError>,
    ) -> Result<io::Result<FileEnd>, HostError> {
        let file = match self.open_file(job.root, &job.path) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut inspection = self.inspection(options, &job.path, job.offset)?;
        let modified_ns = match rustix::fs::fstat(&file) {
            Ok(stat) => modified_ns(&stat),
            Err(errno) => return Ok(Err(errno.into())),
        };
        let known = match &job.known {
            Some(known) => Some(check_known(known)?),
            None => None,
        };
        with_buffer(|buffer| {
            let mut done = 0;
            while done < job.length {
                let Some(offset) = job.offset.checked_add(done) else { break };
                let want = usize::try_from(job.length - done).map_or(PIECE_BYTES, |n| n.min(PIECE_BYTES));
                let bytes = match read_full(&file, offset, &mut buffer[..want]) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(Err(error)),
                };
                let piece = &mut buffer[..bytes];
                if let Some(inspection) = &mut inspection {
                    let mut reread = |offset: u64, bytes: &mut [u8]| read_full(&file, offset, bytes);
                    if let Err(error) = inspection.look(offset, piece, &mut reread) {
                        return Ok(Err(error));
                    }
                }
                match known {
                    None if bytes == 0 => {}
                    None => give(Piece::Data { offset, bytes: piece })?,
                    Some(known) => give_differences(known, done, offset, piece, give)?,
                }
                done += bytes as u64;
                if bytes < want {
                    break;
                }
            }
            let findings = inspection.map(Inspection::findings).unwrap_or_default();
            Ok(Ok(FileEnd { bytes: done, modified_ns, findings }))
        })
    }

    /// Hashes a range block by block.
    pub(crate) fn hash(&self, job: &HashJob) -> io::Result<Hashed> {
        let blocks = job.length / u64::from(job.block_bytes.max(1));
        if !HASH_BLOCK_BYTES.contains(&job.block_bytes) || blocks > HASH_BLOCKS_MAX {
            return Err(Errno::INVAL.into());
        }
        let file = self.open_file(job.root, &job.path)?;
        let block = job.block_bytes as usize;
        // Whole blocks in every piece.
        let piece_bytes = PIECE_BYTES / block * block;
        with_buffer(|buffer| {
            let mut hashed = Hashed { bytes: 0, digests: Vec::new() };
            while hashed.bytes < job.length {
                let Some(offset) = job.offset.checked_add(hashed.bytes) else { break };
                let left = job.length - hashed.bytes;
                let want = usize::try_from(left).map_or(piece_bytes, |left| left.min(piece_bytes));
                let bytes = read_full(&file, offset, &mut buffer[..want])?;
                hashed.digests.extend(buffer[..bytes].chunks(block).map(block_digest));
                hashed.bytes += bytes as u64;
                if bytes < want {
                    break;
                }
            }
            Ok(hashed)
        })
    }

    /// Opens an ordinary file for reading.
    fn open_file(&self, root: Root, path: &Path) -> io::Result<File> {
        // Without NONBLOCK, opening a named pipe would wait for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = File::from(self.base(root)?.open_at(path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not an ordinary file"));
        }
        Ok(file)
    }

    fn inspection(
        &self,
        options: &ReadOptions,
        path: &Path,
        offset: u64,
    ) -> Result<Option<Box<dyn Inspection>>, HostError> {
        let Some((name, parameters)) = &options.inspector else { return Ok(None) };
        let unknown = || HostError::Refused(format!("there is no inspector '{name}' here"));
        let inspector = self.inspectors.find(name).ok_or_else(unknown)?;
        inspector
            .begin(parameters, path, offset)
            .map_err(|reason| HostError::Refused(format!("the inspector '{name}': {reason}")))
    }
}

/// The digest of a block, as hosts compare them.
pub fn block_digest(block: &[u8]) -> Digest {
    let whole = Sha256::digest(block);
    let mut half = [0; DIGEST_BYTES];
    half.copy_from_slice(&whole[..DIGEST_BYTES]);
    half
}

fn check_known(known: &Known) -> Result<&Known, HostError> {
    let fits = HASH_BLOCK_BYTES.contains(&known.block_bytes)
        && PIECE_BYTES.is_multiple_of(known.block_bytes as usize);
    if fits {
        return Ok(known);
    }
    Err(HostError::Refused(format!("blocks of {} bytes can't be compared", known.block_bytes)))
}

/// Gives what differs from what is known, neighbouring blocks together.
fn give_differences(
    known: &Known,
    done: u64,
    offset: u64,
    piece: &[u8],
    give: &mut dyn FnMut(Piece<'_>) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let block = known.block_bytes as usize;
    let first = usize::try_from(done / u64::from(known.block_bytes)).unwrap_or(usize::MAX);
    let same: Vec<bool> = piece
        .chunks(block)
        .enumerate()
        .map(|(index, bytes)| known.digests.get(first.saturating_add(index)) == Some(&block_digest(bytes)))
        .collect();
    let mut at = 0;
    for run in same.chunk_by(|a, b| a == b) {
        let end = (at + run.len() * block).min(piece.len());
        let offset = offset + at as u64;
        match run.first() {
            Some(true) => give(Piece::Same { offset, length: (end - at) as u64 })?,
            _ => give(Piece::Data { offset, bytes: &piece[at..end] })?,
        }
        at = end;
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
