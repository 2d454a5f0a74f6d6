//! Where segments come from: a directory, or whatever else implements [`SegmentSource`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{SegmentName, WalFile};

/// How much of a segment is read at a time, in bytes: small enough to stay in a core's cache between being read and
/// being decoded.
pub const CHUNK_BYTES: usize = 64 << 10;

/// A set of segments that can be opened by name, from several threads.
pub trait SegmentSource: Sync {
    /// Opens a segment to be read from its start; `None` when there is no such segment.
    ///
    /// # Errors
    /// When it is there but can't be opened.
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn Read + '_>>>;
}

/// A directory of plain segments, like `pg_wal`.
#[derive(Debug, Clone)]
pub struct SegmentDir {
    path: PathBuf,
}

impl SegmentDir {
    /// The segments in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        SegmentDir { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its segments, in order; other files are passed over.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn segments(&self) -> io::Result<Vec<SegmentName>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if let Some(Ok(WalFile::Segment(segment))) = name.to_str().map(str::parse) {
                segments.push(segment);
            }
        }
        segments.sort();
        Ok(segments)
    }
}

impl SegmentSource for SegmentDir {
    /// Opens the segment, or else its `.partial` file.
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn Read + '_>>> {
        for file in [WalFile::Segment(segment), WalFile::Partial(segment)] {
            match File::open(self.path.join(file.to_string())) {
                Ok(file) => return Ok(Some(Box::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Reads until `buffer` is full or the input ends; returns how much was read.
pub(crate) fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
