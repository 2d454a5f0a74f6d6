//! Page images: from what a record stores back to the page (`RestoreBlockImage` in `access/transam/xlogreader.c`).

use crate::record::{BLOCK_BYTES, Image, ImageCompression, Record};

/// A page image that can't be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The record's bytes weren't kept, see [`Keep`](crate::Keep).
    #[error("the page image was not kept")]
    NotKept,
    /// The compressed bytes are damaged, or don't give a page.
    #[error("the page image can't be decompressed with {}", .0.name())]
    Damaged(ImageCompression),
    /// This build doesn't have the method.
    #[error("page images compressed with {} can't be read by this build", .0.name())]
    NotBuilt(ImageCompression),
    /// The hole reaches beyond the page. Images that [`Parts`](crate::Parts) has read have no such.
    #[error("the hole in the page image reaches beyond the page")]
    Hole,
}

/// A page of a relation.
pub type Page = [u8; BLOCK_BYTES as usize];

impl Image {
    /// Restores the page that `record` stores in this image.
    ///
    /// # Errors
    /// When the image is damaged, or compressed by a method that this build doesn't have: Zstandard needs the feature
    /// `zstd`.
    pub fn restore(&self, record: &Record<'_>, page: &mut Page) -> Result<(), ImageError> {
        let stored = record.slice(&self.stored);
        if stored.len() != self.stored_bytes() as usize {
            return Err(ImageError::NotKept);
        }
        page.fill(0);
        let hole =
            usize::from(self.hole_offset)..usize::from(self.hole_offset) + usize::from(self.hole_length);
        if hole.end > usize::from(BLOCK_BYTES) {
            return Err(ImageError::Hole);
        }
        let bytes = usize::from(BLOCK_BYTES) - hole.len();
        match self.compression {
            None => page[..bytes].copy_from_slice(stored.get(..bytes).ok_or(ImageError::NotKept)?),
            Some(method) => decompress(method, stored, &mut page[..bytes])?,
        }
        // The bytes lie without the hole: move what follows it to its place.
        page.copy_within(hole.start..bytes, hole.end);
        page[hole].fill(0);
        Ok(())
    }
}

/// Decompresses into exactly `output`.
fn decompress(method: ImageCompression, input: &[u8], output: &mut [u8]) -> Result<(), ImageError> {
    let whole = match method {
        ImageCompression::Pglz => pglz(input, output),
        ImageCompression::Lz4 => lz4(input, output),
        #[cfg(feature = "zstd")]
        ImageCompression::Zstd => {
            let wanted = output.len();
            zstd::bulk::decompress_to_buffer(input, output)
                .ok()
                .filter(|written| *written == wanted)
                .map(|_| ())
        }
        unavailable => return Err(ImageError::NotBuilt(unavailable)),
    };
    whole.ok_or(ImageError::Damaged(method))
}

/// PostgreSQL's LZ (`common/pg_lzcompress.c`): a control byte, then eight items, each a byte or a match of two or three
/// bytes: 12 bits of distance, 4 bits of length less 3, and one more byte of length where they are all set.
fn pglz(input: &[u8], output: &mut [u8]) -> Option<()> {
    let mut input = input.iter().copied();
    let mut at = 0;
    'controls: while at < output.len() {
        let Some(control) = input.next() else { break };
        for bit in 0..8 {
            if at == output.len() {
                break 'controls;
            }
            if control & (1 << bit) == 0 {
                let Some(byte) = input.next() else { break 'controls };
                output[at] = byte;
                at += 1;
                continue;
            }
            let (first, second) = (usize::from(input.next()?), usize::from(input.next()?));
            let mut length = (first & 0x0F) + 3;
            if length == 18 {
                length += usize::from(input.next()?);
            }
            at = repeat(output, at, (first & 0xF0) << 4 | second, length.min(output.len() - at))?;
        }
    }
    (at == output.len() && input.next().is_none()).then_some(())
}

/// LZ4's block format: a token with two lengths, literals, a distance; the last sequence has literals only.
fn lz4(input: &[u8], output: &mut [u8]) -> Option<()> {
    let mut input = input;
    let mut at: usize = 0;
    loop {
        let (token, rest) = input.split_first()?;
        input = rest;
        let literals = lz4_length(&mut input, usize::from(token >> 4))?;
        let (bytes, rest) = input.split_at_checked(literals)?;
        output.get_mut(at..at.checked_add(literals)?)?.copy_from_slice(bytes);
        at += literals;
        input = rest;
        if input.is_empty() {
            return (at == output.len()).then_some(());
        }
        let (distance, rest) = input.split_first_chunk::<2>()?;
        input = rest;
        let length = lz4_length(&mut input, usize::from(token & 0x0F))?.checked_add(4)?;
        if length > output.len() - at {
            return None;
        }
        at = repeat(output, at, usize::from(u16::from_le_bytes(*distance)), length)?;
    }
}

/// A length of four bits, with bytes of 255 and a last smaller one after it if all bits are set.
fn lz4_length(input: &mut &[u8], nibble: usize) -> Option<usize> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let (byte, rest) = input.split_first()?;
            *input = rest;
            length = length.checked_add(usize::from(*byte))?;
            if *byte != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Repeats `length` bytes from `distance` before `at`, which may overlap what is being written. Returns the new end.
fn repeat(output: &mut [u8], at: usize, distance: usize, length: usize) -> Option<usize> {
    let from = at.checked_sub(distance).filter(|_| distance != 0)?;
    for offset in 0..length {
        output[at + offset] = output[from + offset];
    }
    Some(at + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(method: ImageCompression, input: &[u8], expected: &[u8]) {
        let mut output = vec![0; expected.len()];
        assert_eq!(decompress(method, input, &mut output), Ok(()));
        assert_eq!(output, expected);
        // Anything left over, or missing, is damage.
        let mut longer = vec![0; expected.len() + 1];
        assert_eq!(decompress(method, input, &mut longer), Err(ImageError::Damaged(method)));
        let mut shorter = vec![0; expected.len() - 1];
        // PostgreSQL cuts a match at the page's end.
        let cut = method == ImageCompression::Pglz;
        assert_eq!(decompress(method, input, &mut shorter).is_ok(), cut);
    }

    #[test]
    fn repeats_overlapping_matches() {
        // One literal, then a match of distance 1 and length 9.
        check(ImageCompression::Pglz, &[0b10, b'a', 0x06, 0x01], b"aaaaaaaaaa");
        // One literal, a match of distance 1 and length 4, then five literals.
        check(ImageCompression::Lz4, &[0x10, b'a', 1, 0, 0x50, b'b', b'c', b'd', b'e', b'f'], b"aaaaabcdef");
    }

    #[test]
    fn a_hole_beyond_the_page_is_refused() {
        use crate::record::{Record, RecordHeader};
        use crate::{Lsn, WalVersion};
        let image =
            Image { stored: 0..0, hole_offset: 8000, hole_length: 9000, apply: true, compression: None };
        let header = RecordHeader { total_bytes: 0, xid: 0, prev: Lsn::INVALID, info: 0, rmid: 0, crc: 0 };
        let version = WalVersion::V18;
        let record = Record { lsn: Lsn::INVALID, end: Lsn::INVALID, version, header, bytes: &[] };
        assert_eq!(image.restore(&record, &mut [0; 8192]), Err(ImageError::Hole));
    }

    #[test]
    fn a_distance_before_the_start_is_damage() {
        let mut output = [0; 10];
        let damaged = |method| Err(ImageError::Damaged(method));
        assert_eq!(
            decompress(ImageCompression::Pglz, &[0b10, b'a', 0x06, 0x02], &mut output),
            damaged(ImageCompression::Pglz)
        );
        assert_eq!(
            decompress(ImageCompression::Lz4, &[0x10, b'a', 0, 0], &mut output),
            damaged(ImageCompression::Lz4)
        );
    }

    proptest! {
        #[test]
        fn decompressing_never_panics(input: Vec<u8>) {
            let mut output = [0; 300];
            let _ = decompress(ImageCompression::Pglz, &input, &mut output);
            let _ = decompress(ImageCompression::Lz4, &input, &mut output);
        }
    }
}
