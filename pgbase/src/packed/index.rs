//! The index behind a file's blocks: how long each is, in a frame or member that decompressors skip.

use std::io;

use barkeep_transport::codec::Compression;

/// What the index begins with.
const MAGIC: &[u8; 4] = b"BKPF";
/// The format's version.
const VERSION: u8 = 1;
/// What a file ends with, but for what a gzip member needs after its header.
const END: &[u8; 4] = b"BKPE";
/// Size of the index without the lengths, in bytes: magic, version, three zeros, size of a block, size of the file, count,
/// and behind the lengths a CRC-32C, the whole's length, and the end mark.
const FIXED_BYTES: usize = 4 + 4 + 4 + 8 + 4 + 4 + 4 + 4;
/// Size of what stands at the end, in bytes: the index's length and the end mark.
pub(super) const TAIL_BYTES: usize = 8;
/// Smallest block, in bytes.
pub(crate) const SMALLEST_BLOCK_BYTES: u32 = 1 << 20;
/// Smallest and largest block, in bytes.
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = SMALLEST_BLOCK_BYTES..=64 << 20;
/// Most blocks: so that the index fits into a gzip member's header.
const BLOCKS_MAX: usize = 16_000;
/// A frame that both zstd and LZ4 skip.
const SKIPPABLE: u32 = 0x184d_2a5b;
/// The body and the end of an empty gzip member.
const EMPTY_MEMBER: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where the blocks of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// How much of the file each block holds but the last, in bytes.
    pub(super) block_bytes: u32,
    /// The file's own size in bytes.
    pub(super) size: u64,
    /// The compressed length of each block in bytes.
    pub(super) lengths: Vec<u32>,
}

/// The size of the blocks of a file that is so large, more or less, in bytes.
pub(crate) fn block_bytes(size: u64) -> u32 {
    let mut block = *BLOCK_BYTES.start();
    while block < *BLOCK_BYTES.end() && size.div_ceil(u64::from(block)) > BLOCKS_MAX as u64 {
        block *= 2;
    }
    block
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a whole compressed file: {what}"))
}

/// What follows the index in a file of this compression.
pub(super) const fn bytes_behind(compression: Compression) -> usize {
    match compression {
        Compression::Gzip => EMPTY_MEMBER.len(),
        _ => 0,
    }
}

impl Index {
    /// The index in its frame, to be put behind the blocks.
    pub(super) fn encode(&self, compression: Compression) -> io::Result<Vec<u8>> {
        let count = u32::try_from(self.lengths.len()).ok().filter(|count| *count as usize <= BLOCKS_MAX);
        let count = count.ok_or_else(|| io::Error::other("too large to be compressed"))?;
        let mut index = MAGIC.to_vec();
        index.extend_from_slice(&[VERSION, 0, 0, 0]);
        index.extend_from_slice(&self.block_bytes.to_le_bytes());
        index.extend_from_slice(&self.size.to_le_bytes());
        index.extend_from_slice(&count.to_le_bytes());
        index.extend_from_slice(
            self.lengths.iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<_>>().as_slice(),
        );
        index.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        let length = (index.len() + TAIL_BYTES) as u32;
        index.extend_from_slice(&length.to_le_bytes());
        index.extend_from_slice(END);
        Ok(match compression {
            Compression::Gzip => {
                let field = (index.len() as u16).to_le_bytes();
                let extra = (index.len() as u16 + 4).to_le_bytes();
                let header = [
                    0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, extra[0], extra[1], b'B', b'K', field[0], field[1],
                ];
                [&header[..], &index, &EMPTY_MEMBER].concat()
            }
            _ => [&SKIPPABLE.to_le_bytes()[..], &length.to_le_bytes(), &index].concat(),
        })
    }

    /// How long the index is, by the last [`TAIL_BYTES`] of it.
    pub(super) fn length(tail: &[u8; TAIL_BYTES]) -> io::Result<usize> {
        let (length, end) = tail.split_at(4);
        let length = length.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
        match end == END && (FIXED_BYTES..=FIXED_BYTES + 4 * BLOCKS_MAX).contains(&length) {
            true => Ok(length),
            false => Err(wrong("it has no index")),
        }
    }

    /// Reads an index, whose frame is gone.
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let damaged = || wrong("its index is damaged");
        let (body, tail) = bytes.split_last_chunk::<TAIL_BYTES>().ok_or_else(damaged)?;
        let (body, crc) = body.split_last_chunk::<4>().ok_or_else(damaged)?;
        if Self::length(tail)? != bytes.len() || crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        let (magic, rest) = body.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (block, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (size, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        if magic != MAGIC || version[0] != VERSION {
            return Err(wrong("its index is of a version that is not known here"));
        }
        let (block_bytes, size) = (u32::from_le_bytes(*block), u64::from_le_bytes(*size));
        let (lengths, odd) = rest.as_chunks::<4>();
        let fits = BLOCK_BYTES.contains(&block_bytes)
            && odd.is_empty()
            && lengths.len() == u32::from_le_bytes(*count) as usize
            && lengths.len() as u64 == size.div_ceil(u64::from(block_bytes));
        if !fits {
            return Err(damaged());
        }
        Ok(Index {
            block_bytes,
            size,
            lengths: lengths.iter().map(|length| u32::from_le_bytes(*length)).collect(),
        })
    }
}
