//! Where a backup is written: directories made by us alone, files in ranges, large ones around the page cache.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use barkeep_transport::direct::{self, ALIGNMENT, AlignedBuffer};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use crate::copy::Directory;
use crate::pipeline::DESTINATION_MODE;

/// Files from this size on are written directly where that is good, in bytes.
const DIRECT_FILE_BYTES: u64 = 1 << 20;
/// Bytes per direct write.
const BUFFER_BYTES: usize = 1 << 20;

/// One of the backup's directories: that of the data directory or a tablespace.
#[derive(Debug)]
pub(super) struct TargetTree {
    pub(super) directory: Directory,
    pub(super) path: PathBuf,
}

/// Where a backup is written.
#[derive(Debug)]
pub(super) struct Target {
    /// Held open from before the first write: an error of writing anything back reaches its `syncfs`.
    pub(super) root: File,
    pub(super) path: PathBuf,
    pub(super) trees: Vec<TargetTree>,
    direct: bool,
}

impl Target {
    /// Makes the directories, which must not be there yet.
    pub(super) fn create(path: &Path, names: &[String]) -> Result<Self, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| (path, error)
        };
        let path = std::path::absolute(path).map_err(at(path))?;
        DirBuilder::new().recursive(true).mode(DESTINATION_MODE).create(&path).map_err(at(&path))?;
        let root = File::open(&path).map_err(at(&path))?;
        let parent = Directory::open(&path).map_err(at(&path))?;
        let mut trees = Vec::new();
        for name in names {
            let tree = path.join(name);
            parent.create_directory(Path::new(name), 0o700, None).map_err(at(&tree))?;
            let directory = parent.directory(Path::new(name)).map_err(at(&tree))?;
            trees.push(TargetTree { directory, path: tree });
        }
        let direct = direct::suits(&root);
        Ok(Target { root, path, trees, direct })
    }

    /// A new file of this size, more or less.
    pub(super) fn new_file(
        &self,
        directory: &Directory,
        name: &OsStr,
        mode: u32,
        size: u64,
    ) -> io::Result<Output> {
        // Readable for whoever keeps the backup, whatever it was at home.
        let file = directory.create(Path::new(name), mode | 0o600, None)?;
        let direct = self.direct && size >= DIRECT_FILE_BYTES && direct::set(&file, true).is_ok();
        Ok(Output { file, direct: std::sync::atomic::AtomicBool::new(direct) })
    }
}

/// A file being written, by one thread or several.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    direct: std::sync::atomic::AtomicBool,
}

impl Output {
    pub(super) fn set_len(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// The last step: the file's size, and when it was changed last at home.
    pub(super) fn finish(&self, size: u64, modified_ns: i64) -> io::Result<()> {
        if self.is_direct() {
            self.file.set_len(size)?;
        }
        set_modified(&self.file, modified_ns)
    }

    fn is_direct(&self) -> bool {
        self.direct.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.file.write_all_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.is_direct() => {
                // The file system does not do this after all.
                direct::set(&self.file, false)?;
                self.file.write_all_at(bytes, offset)
            }
            outcome => outcome,
        }
    }
}

/// Notes when a file was changed last at home, in nanoseconds since 1970.
pub(super) fn set_modified(file: &File, modified_ns: i64) -> io::Result<()> {
    const SECOND: i64 = 1_000_000_000;
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let modified =
        Timespec { tv_sec: modified_ns.div_euclid(SECOND), tv_nsec: modified_ns.rem_euclid(SECOND) as _ };
    let times = Timestamps { last_access: omitted, last_modification: modified };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Gathers the bytes of one range of one file after the other into writes that may be direct; each thread has one.
#[derive(Debug)]
pub(super) struct Writer {
    buffer: AlignedBuffer,
    /// Where in the file the gathered bytes belong.
    at: u64,
}

impl Writer {
    pub(super) fn new() -> Self {
        Writer { buffer: AlignedBuffer::new(BUFFER_BYTES), at: 0 }
    }

    /// The next bytes of a range, now or with later ones.
    pub(super) fn put(&mut self, output: &Output, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        if !output.is_direct() {
            return output.write(bytes, offset);
        }
        let aligned = bytes.as_ptr().align_offset(ALIGNMENT) == 0
            && bytes.len().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        if self.buffer.is_empty() && aligned {
            return output.write(bytes, offset);
        }
        if self.buffer.is_empty() {
            self.at = offset;
        }
        while !bytes.is_empty() {
            bytes = self.buffer.fill(bytes);
            if self.buffer.is_full() {
                output.write(self.buffer.filled(), self.at)?;
                self.at += BUFFER_BYTES as u64;
                self.buffer.clear();
            }
        }
        Ok(())
    }

    /// Writes what was gathered. Directly written files end in zeros until they are [finished](Output::finish).
    pub(super) fn flush(&mut self, output: &Output) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.buffer.pad();
            output.write(self.buffer.filled(), self.at)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Forgets what was gathered, after an error.
    pub(super) const fn clear(&mut self) {
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_out_whole_in_any_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::create(&dir.path().join("new"), &["data".to_owned()]).unwrap();
        let mut writer = Writer::new();
        for size in [0, 1, 4095, 4096, (1 << 20) - 1, 1 << 20, (3 << 20) + 77] {
            let content: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
            for piece in [1000, 256 << 10, 1 << 20] {
                let name = format!("{size}-{piece}");
                let directory = &target.trees[0].directory;
                let output = target.new_file(directory, OsStr::new(&name), 0o400, size as u64).unwrap();
                output.set_len(size as u64).unwrap();
                for (index, bytes) in content.chunks(piece).enumerate() {
                    writer.put(&output, (index * piece) as u64, bytes).unwrap();
                }
                writer.flush(&output).unwrap();
                output.finish(size as u64, 1_700_000_000_123_456_789).unwrap();
                let path = target.trees[0].path.join(&name);
                assert_eq!(std::fs::read(&path).unwrap(), content, "{name}");
                use std::os::unix::fs::MetadataExt;
                let stat = std::fs::metadata(path).unwrap();
                assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_700_000_000, 123_456_789));
            }
        }
        assert!(Target::create(&dir.path().join("new"), &["data".to_owned()]).is_err(), "is there already");
    }
}
