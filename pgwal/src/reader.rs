//! Where segments come from: a directory, or whatever else implements [`SegmentSource`].

#[cfg(all(feature = "fast", target_os = "linux"))]
mod mapped;
mod series;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::{SegmentName, WalFile};

pub use series::{SegmentSeries, SeriesError};

/// How much of a segment is read at a time, in bytes: small enough to stay in a core's cache between being read and
/// being decoded.
pub const CHUNK_BYTES: usize = 64 << 10;

/// A set of segments that can be opened by name, from several threads.
pub trait SegmentSource: Sync {
    /// Opens a segment to be read from its start; `None` when there is no such segment.
    ///
    /// # Errors
    /// When it is there but can't be opened.
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn BufRead + '_>>>;
}

/// A plain file, to be read from where it stands by someone who doesn't wait for anything in between.
///
/// With the feature `fast`, on Linux, a file that nobody has open for writing is read without being copied: see
/// [`read_file`] for one whose reader may stop for long, as for a pager, and for one that [`is_live`].
pub fn map_file(file: File) -> Box<dyn BufRead + Send> {
    #[cfg(all(feature = "fast", target_os = "linux"))]
    return Box::new(mapped::MappedFile::new(file));
    #[cfg(not(all(feature = "fast", target_os = "linux")))]
    read_file(file)
}

/// A plain file, to be read from where it stands.
pub fn read_file(file: File) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(CHUNK_BYTES, file))
}

/// Whether a server writes its WAL to this directory, as to `pg_wal`: its files are better read than mapped, since it may want
/// to write to any of them under a new name, and waits until they are mapped no longer.
pub fn is_live(directory: &Path) -> bool {
    directory.join("archive_status").is_dir()
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
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn BufRead + '_>>> {
        for file in [WalFile::Segment(segment), WalFile::Partial(segment)] {
            match File::open(self.path.join(file.to_string())) {
                Ok(file) if is_live(&self.path) => return Ok(Some(read_file(file))),
                Ok(file) => return Ok(Some(map_file(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The bytes to be read next, at most `limit` of them; none at the end. They have to be consumed.
///
/// # Errors
/// When the input can't be read.
pub fn next_bytes(input: &mut dyn BufRead, limit: usize) -> io::Result<&[u8]> {
    // Asked twice, because a borrow that is returned can't be retried in a loop.
    while let Err(error) = input.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let bytes = input.fill_buf()?;
    Ok(&bytes[..bytes.len().min(limit)])
}
