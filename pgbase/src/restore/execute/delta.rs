//! Changing what is there into what should be there, by writing only blocks that differ.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

/// What is compared and written as a whole, in bytes: a page of a relation, as nearly all clusters have them.
pub(super) const BLOCK_BYTES: usize = 8192;
/// How much is read at a time, in bytes.
pub(super) const PIECE_BYTES: usize = 1 << 20;

const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES));

/// The old contents of a file that is being restored: on this machine, or behind a connection that tells digests.
pub(super) trait OldFile {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// The parts of `new`, whole blocks but for its end, that differ from what is at `offset`, in order.
    fn differences(&mut self, offset: u64, new: &[u8]) -> io::Result<Vec<Range<usize>>>;

    /// Writes bytes at an offset.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file at `size`, or makes it longer with zeros.
    fn resize(&mut self, size: u64) -> io::Result<()>;
}

/// A file here, with a buffer of [`PIECE_BYTES`] to compare in.
#[derive(Debug)]
pub(super) struct LocalFile<'a> {
    file: File,
    size: u64,
    buffer: &'a mut [u8],
}

impl<'a> LocalFile<'a> {
    pub(super) fn new(file: File, buffer: &'a mut [u8]) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(LocalFile { file, size, buffer })
    }

    pub(super) fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.file.set_modified(time)
    }
}

impl OldFile for LocalFile<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn differences(&mut self, offset: u64, new: &[u8]) -> io::Result<Vec<Range<usize>>> {
        let old = &mut self.buffer[..new.len()];
        let mut filled = 0;
        while filled < old.len() {
            match self.file.read_at(&mut old[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let old = &old[..filled];
        // Nearly always, and quicker than block by block.
        if old == new {
            return Ok(Vec::new());
        }
        let mut different: Vec<Range<usize>> = Vec::new();
        for start in (0..new.len()).step_by(BLOCK_BYTES) {
            let end = new.len().min(start + BLOCK_BYTES);
            if old.get(start..end) == Some(&new[start..end]) {
                continue;
            }
            match different.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => different.push(start..end),
            }
        }
        Ok(different)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }
}

/// Makes `old` what `new` is, `size` bytes of it, telling `progress` what was compared; how many bytes were written.
///
/// # Errors
/// As reading and writing do; also when `new` doesn't have `size` bytes.
pub(super) fn update(
    new: &mut dyn Read,
    size: u64,
    old: &mut dyn OldFile,
    buffer: &mut [u8],
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let (mut at, mut written) = (0, 0);
    loop {
        let bytes = fill(new, buffer)?;
        if bytes == 0 {
            break;
        }
        let piece = &buffer[..bytes];
        for range in old.differences(at, piece)? {
            written += range.len() as u64;
            old.write(at + range.start as u64, &piece[range])?;
        }
        at += bytes as u64;
        progress(bytes as u64)?;
        if bytes < buffer.len() || at > size {
            break;
        }
    }
    if at != size {
        return Err(io::Error::other(format!("the file has {at} bytes where {size} were expected")));
    }
    if old.size() > size {
        old.resize(size)?;
    }
    Ok(written)
}

fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What became of `old`, and how much was written for it.
    fn updated(old: &[u8], new: &[u8]) -> (Vec<u8>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, old).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (mut compare, mut buffer) = (vec![0; 4 * BLOCK_BYTES], vec![0; 4 * BLOCK_BYTES]);
        let mut file = LocalFile::new(file, &mut compare).unwrap();
        let written = update(&mut &new[..], new.len() as u64, &mut file, &mut buffer, &|_| Ok(())).unwrap();
        (std::fs::read(path).unwrap(), written)
    }

    #[test]
    fn only_blocks_that_differ_are_written() {
        let old = vec![1; 10 * BLOCK_BYTES + 100];
        assert_eq!(updated(&old, &old), (old.clone(), 0));
        let mut new = old.clone();
        new[3 * BLOCK_BYTES + 7] = 2;
        new[9 * BLOCK_BYTES] = 2;
        assert_eq!(updated(&old, &new), (new.clone(), 2 * BLOCK_BYTES as u64));
        new[10 * BLOCK_BYTES + 99] = 2;
        assert_eq!(updated(&old, &new), (new.clone(), 2 * BLOCK_BYTES as u64 + 100));
    }

    #[test]
    fn a_source_of_another_size_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"old").unwrap();
        let (mut compare, mut buffer) = (vec![0; 64], vec![0; 64]);
        let mut file = LocalFile::new(file, &mut compare).unwrap();
        for size in [2, 4] {
            assert!(update(&mut &b"new"[..], size, &mut file, &mut buffer, &|_| Ok(())).is_err());
        }
        assert!(
            update(&mut &b"new"[..], 3, &mut file, &mut buffer, &|_| Err(io::ErrorKind::Other.into()))
                .is_err()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn anything_becomes_anything(
            old in prop::collection::vec(0_u8..3, 0..100_000),
            new in prop::collection::vec(0_u8..3, 0..100_000),
        ) {
            prop_assert_eq!(updated(&old, &new).0, new);
        }
    }
}
