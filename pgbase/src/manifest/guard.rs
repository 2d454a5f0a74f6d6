//! Watches a manifest's bytes on their way to the parser: limits, and the checksum over all lines but the last.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::{MAX_LINE_BYTES, MAX_MANIFEST_BYTES, ManifestError};

/// Longest last line, in bytes: a key, 64 digits and punctuation take about 100.
const MAX_LAST_LINE_BYTES: usize = 512;

pub(super) struct Guard<R> {
    source: R,
    hasher: Sha256,
    /// The most recent bytes, not hashed yet since the last line doesn't count.
    tail: Vec<u8>,
    total_bytes: u64,
    line_bytes: usize,
    exceeded: Option<ManifestError>,
}

impl<R: Read> Guard<R> {
    pub(super) fn new(source: R) -> Self {
        let (hasher, tail) = (Sha256::new(), Vec::new());
        Guard { source, hasher, tail, total_bytes: 0, line_bytes: 0, exceeded: None }
    }

    /// The limit that was hit, if one was.
    pub(super) fn exceeded(&mut self) -> Option<ManifestError> {
        self.exceeded.take()
    }

    /// SHA-256 of all lines but the last; `None` when there is no complete last line.
    pub(super) fn finish(mut self) -> Option<[u8; 32]> {
        let lines = self.tail.strip_suffix(b"\n")?;
        let last_line_start = lines.iter().rposition(|byte| *byte == b'\n')? + 1;
        self.hasher.update(&self.tail[..last_line_start]);
        Some(self.hasher.finalize().into())
    }

    fn limit(&mut self, data: &[u8]) -> Result<(), ManifestError> {
        self.total_bytes += data.len() as u64;
        if self.total_bytes > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong);
        }
        let mut lines = data.split(|byte| *byte == b'\n');
        self.line_bytes += lines.next().map_or(0, <[u8]>::len);
        for line in lines {
            if self.line_bytes > MAX_LINE_BYTES {
                return Err(ManifestError::LineTooLong);
            }
            self.line_bytes = line.len();
        }
        if self.line_bytes > MAX_LINE_BYTES { Err(ManifestError::LineTooLong) } else { Ok(()) }
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        let data = &buffer[..length];
        if let Err(limit) = self.limit(data) {
            self.exceeded = Some(limit);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.tail.extend_from_slice(data);
        if let Some(settled) = self.tail.len().checked_sub(MAX_LAST_LINE_BYTES) {
            self.hasher.update(&self.tail[..settled]);
            self.tail.drain(..settled);
        }
        Ok(length)
    }
}
