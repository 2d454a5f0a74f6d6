//! Writing around the page cache: where, and how it is switched on.
//!
//! What is written once and not read soon needs no copy in memory, and leaves nothing to be written back at the end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::OFlags;

/// `statfs` types of file systems on which writing directly is known to be sound and quick: ext4 and XFS. Network
/// file systems would wait for each write, those that compress or checksum would copy anyway.
const FILE_SYSTEMS: [i64; 2] = [0xEF53, 0x5846_5342];

/// What position, length and memory address of a direct write must be multiples of, in bytes.
pub const ALIGNMENT: usize = 4096;

/// Whether files in this directory are better written directly when they are large.
pub fn suits(directory: impl AsFd) -> bool {
    rustix::fs::fstatfs(directory)
        .is_ok_and(|statfs| FILE_SYSTEMS.iter().any(|known| *known as u64 == statfs.f_type as u64))
}

/// Switches direct writing of an open file on or off.
///
/// # Errors
/// When the file system can't write this way.
pub fn set(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// Memory at an address that direct writes accept, filled from its start.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl AlignedBuffer {
    /// With room for `capacity` bytes, a multiple of [`ALIGNMENT`].
    pub fn new(capacity: usize) -> Self {
        let memory = vec![0; capacity + ALIGNMENT];
        // At worst writes are not direct: who writes sees to that.
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        AlignedBuffer { memory, start, capacity, filled: 0 }
    }

    /// Takes as much of `data` as there is room for; the rest of it.
    pub fn fill<'data>(&mut self, data: &'data [u8]) -> &'data [u8] {
        let (taken, rest) = data.split_at(data.len().min(self.capacity - self.filled));
        let at = self.start + self.filled;
        self.memory[at..at + taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        rest
    }

    /// Fills up with zeros to a length that can be written directly.
    pub fn pad(&mut self) {
        let whole = self.filled.next_multiple_of(ALIGNMENT).min(self.capacity);
        self.memory[self.start + self.filled..self.start + whole].fill(0);
        self.filled = whole;
    }

    /// What it was filled with.
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// Whether there is room for nothing more.
    pub const fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    /// Whether nothing was filled in.
    pub const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what it was filled with.
    pub const fn clear(&mut self) {
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_takes_what_it_has_room_for_and_is_aligned() {
        let mut buffer = AlignedBuffer::new(2 * ALIGNMENT);
        let data: Vec<u8> = (0..3 * ALIGNMENT).map(|at| (at % 251) as u8).collect();
        assert!(buffer.is_empty());
        assert_eq!(buffer.fill(&data[..5]), b"");
        buffer.pad();
        assert_eq!((buffer.filled().len(), &buffer.filled()[..6]), (ALIGNMENT, &[0, 1, 2, 3, 4, 0][..]));
        assert_eq!(buffer.fill(&data).len(), 2 * ALIGNMENT);
        assert!(buffer.is_full());
        assert_eq!(buffer.filled()[ALIGNMENT..], data[..ALIGNMENT]);
        assert_eq!(buffer.filled().as_ptr().align_offset(ALIGNMENT), 0);
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
