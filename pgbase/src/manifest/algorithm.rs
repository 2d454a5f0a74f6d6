//! The checksums that a manifest can have (`common/checksum_helper.c`).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// How the files of a manifest are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChecksumAlgorithm {
    /// Not at all: only sizes can be compared.
    None,
    /// CRC-32C, PostgreSQL's default.
    #[default]
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    /// Every algorithm.
    pub const ALL: [ChecksumAlgorithm; 6] =
        [Self::None, Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in `BASE_BACKUP` and in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::None => "NONE",
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
        }
    }

    /// Size of its checksums in bytes.
    pub const fn checksum_bytes(self) -> usize {
        match self {
            ChecksumAlgorithm::None => 0,
            ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Sha224 => 28,
            ChecksumAlgorithm::Sha256 => 32,
            ChecksumAlgorithm::Sha384 => 48,
            ChecksumAlgorithm::Sha512 => 64,
        }
    }

    /// A hasher for one file.
    pub fn hasher(self) -> FileHasher {
        FileHasher(match self {
            ChecksumAlgorithm::None => Inner::None,
            ChecksumAlgorithm::Crc32c => Inner::Crc32c(0),
            ChecksumAlgorithm::Sha224 => Inner::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => Inner::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => Inner::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => Inner::Sha512(Sha512::new()),
        })
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no checksum algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is no manifest checksum: expected NONE, CRC32C, SHA224, SHA256, SHA384 or SHA512")]
pub struct UnknownAlgorithm {
    name: String,
}

impl FromStr for ChecksumAlgorithm {
    type Err = UnknownAlgorithm;

    /// Upper or lower case, as the server reads it.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownAlgorithm { name: name.chars().take(64).collect() })
    }
}

/// A file's checksum with the algorithm that made it.
#[derive(Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// Its bytes in the order in which a manifest prints them.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.bytes))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.algorithm)
    }
}

/// Computes a file's checksum from its bytes in order.
#[derive(Debug, Clone)]
pub struct FileHasher(Inner);

#[derive(Debug, Clone)]
enum Inner {
    None,
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl FileHasher {
    /// Adds the file's next bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            Inner::None => {}
            Inner::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, data),
            Inner::Sha224(hasher) => hasher.update(data),
            Inner::Sha256(hasher) => hasher.update(data),
            Inner::Sha384(hasher) => hasher.update(data),
            Inner::Sha512(hasher) => hasher.update(data),
        }
    }

    /// Appends the checksum's bytes to `out`.
    pub fn finish_into(self, out: &mut Vec<u8>) {
        match self.0 {
            Inner::None => {}
            // PostgreSQL copies the number as it lies in memory: little-endian on all but a few rare machines.
            Inner::Crc32c(crc) => out.extend_from_slice(&crc.to_le_bytes()),
            Inner::Sha224(hasher) => out.extend_from_slice(&hasher.finalize()),
            Inner::Sha256(hasher) => out.extend_from_slice(&hasher.finalize()),
            Inner::Sha384(hasher) => out.extend_from_slice(&hasher.finalize()),
            Inner::Sha512(hasher) => out.extend_from_slice(&hasher.finalize()),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Bytes from pairs of hexadecimal digits of either case.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}
