//! A file's checksum, put together from those of its ranges where the algorithm allows it.

use crate::manifest::{ChecksumAlgorithm, FileHasher};

/// A checksum that can be put together from those of ranges, or one that can't.
pub(super) enum Hash {
    Crc(u32),
    Other(Box<FileHasher>),
}

impl Hash {
    pub(super) fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32c => Hash::Crc(0),
            other => Hash::Other(Box::new(other.hasher())),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Crc(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Hash::Other(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Hash::Crc(crc) => crc.to_le_bytes().to_vec(),
            Hash::Other(hasher) => {
                let mut bytes = Vec::new();
                hasher.finish_into(&mut bytes);
                bytes
            }
        }
    }
}

/// Adds zeros to a checksum.
pub(super) fn pad(hash: &mut Hash, mut zeros: u64) {
    const ZEROS: [u8; 8192] = [0; 8192];
    while zeros > 0 {
        let step = zeros.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..step as usize]);
        zeros -= step;
    }
}
