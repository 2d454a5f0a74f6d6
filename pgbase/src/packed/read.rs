//! Reading a compressed file, from anywhere in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use barkeep_transport::codec::Compression;

use super::index::{Index, TAIL_BYTES, bytes_behind};

/// A compressed file, open.
pub(crate) struct PackedFile {
    file: File,
    compression: Compression,
    index: Index,
    /// Where each block begins in the file, and where the last one ends.
    starts: Vec<u64>,
    /// Where in the decompressed file the next byte is read.
    at: u64,
    /// A decompressed block and its number.
    block: Vec<u8>,
    number: Option<usize>,
}

impl std::fmt::Debug for PackedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedFile")
            .field("file", &self.file)
            .field("size", &self.index.size)
            .finish_non_exhaustive()
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl PackedFile {
    /// Reads the index of a file.
    ///
    /// # Errors
    /// When it is not whole: `InvalidData`.
    pub(crate) fn new(file: File, compression: Compression) -> io::Result<Self> {
        let cut_off = || invalid("not a whole compressed file: it is cut off");
        let stored = file.metadata()?.len();
        let end = stored.checked_sub(bytes_behind(compression) as u64).ok_or_else(cut_off)?;
        let mut tail = [0; TAIL_BYTES];
        file.read_exact_at(&mut tail, end.checked_sub(TAIL_BYTES as u64).ok_or_else(cut_off)?)?;
        let length = Index::length(&tail)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, end.checked_sub(length as u64).ok_or_else(cut_off)?)?;
        let index = Index::decode(&bytes)?;
        let mut starts = Vec::with_capacity(index.lengths.len() + 1);
        let mut start = 0_u64;
        starts.push(start);
        for block in &index.lengths {
            start += u64::from(*block);
            starts.push(start);
        }
        if start >= end {
            return Err(invalid("not a whole compressed file: its blocks are longer than it is"));
        }
        Ok(PackedFile { file, compression, index, starts, at: 0, block: Vec::new(), number: None })
    }

    /// The file's size, decompressed.
    pub(crate) const fn size(&self) -> u64 {
        self.index.size
    }

    /// How it is compressed.
    pub(crate) const fn compression(&self) -> Compression {
        self.compression
    }

    /// The file as it is stored.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// The same; reading from it says nothing to this.
    pub(crate) const fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Reads exactly so much from anywhere.
    pub(crate) fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let next = std::mem::replace(&mut self.at, offset);
        let read = self.read_exact(buffer);
        self.at = next;
        read
    }

    /// Decompresses a block, unless it is the one at hand.
    fn load(&mut self, number: usize) -> io::Result<()> {
        if self.number == Some(number) {
            return Ok(());
        }
        self.number = None;
        let (Some(start), Some(end)) = (self.starts.get(number), self.starts.get(number + 1)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let block_bytes = u64::from(self.index.block_bytes);
        let holds = (self.index.size - number as u64 * block_bytes).min(block_bytes);
        let mut packed = vec![0; usize::try_from(end - start).map_err(|_| invalid("a block is too long"))?];
        self.file.read_exact_at(&mut packed, *start)?;
        self.block.clear();
        // One byte more shows a block that is longer than it may be.
        let mut reader = self.compression.reader(&packed[..])?.take(holds + 1);
        let read = reader.read_to_end(&mut self.block);
        read.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("block {number}: {error}")))?;
        if self.block.len() as u64 != holds {
            return Err(invalid("a block is not as long as it should be"));
        }
        self.number = Some(number);
        Ok(())
    }
}

impl Read for PackedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.index.size || buffer.is_empty() {
            return Ok(0);
        }
        let block_bytes = u64::from(self.index.block_bytes);
        self.load(usize::try_from(self.at / block_bytes).unwrap_or(usize::MAX))?;
        let rest = self.block.get((self.at % block_bytes) as usize..).unwrap_or_default();
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        self.at += bytes as u64;
        Ok(bytes)
    }
}
