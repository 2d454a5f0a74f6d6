//! Compressing a file block by block.

use std::io::{self, Write as _};

use barkeep_transport::codec::{Compression, Level, Packer};

use super::index::Index;

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// By which format: gzip, lz4 or zstd.
    pub compression: Compression,
    /// How hard.
    pub level: Level,
}

/// Compresses the blocks of one file, or of a range of it that begins with a block.
pub(crate) struct BlockPacker {
    packing: Packing,
    packer: Packer,
    block_bytes: u32,
    /// What is not yet a block.
    rest: Vec<u8>,
    /// Blocks that nobody has taken yet, and how long each is.
    packed: Vec<u8>,
    lengths: Vec<u32>,
}

impl std::fmt::Debug for BlockPacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockPacker").field("packing", &self.packing).finish_non_exhaustive()
    }
}

impl BlockPacker {
    /// With blocks of this size, which is [`block_bytes`] of a file's.
    pub(crate) fn with_blocks(packing: Packing, block_bytes: u32) -> io::Result<Self> {
        // What can't be compressed grows by less than this.
        let output_bytes_max = block_bytes as usize + (block_bytes as usize >> 6) + 1024;
        let packer = Packer::new(packing.compression, packing.level, output_bytes_max)?;
        Ok(BlockPacker {
            packing,
            packer,
            block_bytes,
            rest: Vec::new(),
            packed: Vec::new(),
            lengths: Vec::new(),
        })
    }

    /// Starts with another file or range, whose blocks have the same size.
    pub(crate) fn reset(&mut self) {
        self.rest.clear();
        self.packed.clear();
        self.lengths.clear();
    }

    /// The next bytes.
    pub(crate) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let block = self.block_bytes as usize;
        while !bytes.is_empty() {
            if self.rest.is_empty() && bytes.len() >= block {
                let (whole, later) = bytes.split_at(block);
                self.pack(whole)?;
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(block - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == block {
                let whole = std::mem::take(&mut self.rest);
                self.pack(&whole)?;
                self.rest = whole;
                self.rest.clear();
            }
        }
        Ok(())
    }

    fn pack(&mut self, block: &[u8]) -> io::Result<()> {
        let before = self.packed.len();
        match self.packer.pack(block) {
            Some(packed) => self.packed.extend_from_slice(packed),
            None => {
                let mut writer = self.packing.compression.writer(&mut self.packed, self.packing.level)?;
                writer.write_all(block)?;
                writer.finish()?;
            }
        }
        self.lengths.push((self.packed.len() - before) as u32);
        Ok(())
    }

    /// Makes the last, shorter block of what is left.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.rest);
        self.pack(&rest)
    }

    /// What is not yet a block, to go on with elsewhere.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// Gives the blocks made so far to `take`.
    pub(crate) fn drain(&mut self, take: impl FnOnce(&[u8], &[u32]) -> io::Result<()>) -> io::Result<()> {
        take(&self.packed, &self.lengths)?;
        self.packed.clear();
        self.lengths.clear();
        Ok(())
    }

    /// How much compressed data waits to be taken, in bytes.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.packed.len()
    }
}

/// The end of a file whose blocks have these lengths.
pub(crate) fn file_end(
    packing: Packing,
    block_bytes: u32,
    size: u64,
    lengths: Vec<u32>,
) -> io::Result<Vec<u8>> {
    Index { block_bytes, size, lengths }.encode(packing.compression)
}

/// All of a compressed file of this content, which is not so large that it needs larger blocks.
pub(crate) fn whole_file(packer: &mut BlockPacker, content: &[u8]) -> io::Result<Vec<u8>> {
    packer.reset();
    packer.put(content)?;
    packer.finish()?;
    let mut file = std::mem::take(&mut packer.packed);
    let lengths = std::mem::take(&mut packer.lengths);
    file.extend(file_end(packer.packing, packer.block_bytes, content.len() as u64, lengths)?);
    Ok(file)
}
