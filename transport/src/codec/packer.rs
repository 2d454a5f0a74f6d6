//! Compressing what is in memory as a whole, which is quicker than piece by piece.

use std::io;

use libdeflater::{CompressionError, CompressionLvl};

use super::{Compression, Level};

/// Compresses buffers one after another, with the same memory.
///
/// What comes out is what [`Compression::writer`] would write, but for the choices that a compressor is free to make.
pub struct Packer {
    kind: Kind,
    output: Vec<u8>,
}

enum Kind {
    Gzip(libdeflater::Compressor),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Other,
}

impl Packer {
    /// A packer whose output is at most `output_bytes_max` long.
    ///
    /// # Errors
    /// When the compressor can't be set up.
    pub fn new(compression: Compression, level: Level, output_bytes_max: usize) -> io::Result<Self> {
        let number = compression.level_number(level);
        let kind = match compression {
            Compression::Gzip => {
                let level = CompressionLvl::new(number).unwrap_or_default();
                Kind::Gzip(libdeflater::Compressor::new(level))
            }
            Compression::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(number)?;
                compressor.include_checksum(true)?;
                for parameter in super::zstd_parameters(level) {
                    compressor.set_parameter(*parameter)?;
                }
                Kind::Zstd(Box::new(compressor))
            }
            _ => Kind::Other,
        };
        let output = match kind {
            Kind::Other => Vec::new(),
            _ => vec![0; output_bytes_max],
        };
        Ok(Packer { kind, output })
    }

    /// Compresses `bytes`. `None` when it can't be done at once: by a format that has no way to, or when the output would
    /// be too long. It then takes a [writer](Compression::writer).
    pub fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        let length = match &mut self.kind {
            Kind::Gzip(compressor) => match compressor.gzip_compress(bytes, &mut self.output) {
                Ok(length) => length,
                Err(CompressionError::InsufficientSpace) => return None,
            },
            Kind::Zstd(compressor) => compressor.compress_to_buffer(bytes, &mut self.output[..]).ok()?,
            Kind::Other => return None,
        };
        self.output.get(..length)
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_packed_at_once_is_read_like_anything_else() {
        let text = b"some bytes that repeat, ".repeat(4000);
        for compression in Compression::ALL {
            for level in [Level::Low, Level::Medium, Level::High, Level::Number(99), Level::Number(-99)] {
                let mut packer = Packer::new(compression, level, 1 << 20).unwrap();
                for bytes in [&text[..], b"", &text[..100]] {
                    let Some(packed) = packer.pack(bytes) else {
                        assert!(!matches!(compression, Compression::Gzip | Compression::Zstd));
                        continue;
                    };
                    assert_eq!(Compression::detect(packed), compression);
                    let mut back = Vec::new();
                    compression.reader(packed).unwrap().read_to_end(&mut back).unwrap();
                    assert_eq!(back, bytes);
                }
            }
        }
    }

    #[test]
    fn too_much_output_is_none() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(100_000)
        .collect();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut packer = Packer::new(compression, Level::Medium, 50_000).unwrap();
            assert!(packer.pack(&noise).is_none());
            assert!(packer.pack(&noise[..20_000]).is_some(), "and the next is none the worse");
        }
    }
}
