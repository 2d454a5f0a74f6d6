//! The directory that WAL is received into: segments, `.partial` segments and timeline histories.
//!
//! Every path is opened beneath the directory's handle without following links, so that a link planted there can't
//! lead a write elsewhere.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::{SegmentName, SegmentSize, TimelineId, WalFile};

/// Suffix of a file that is not yet known to be whole. Everything that reads a streaming directory, Barman included,
/// passes over it.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// How many zeros are written at once where the file system can't reserve space, in bytes.
const ZEROS_PER_WRITE: usize = 256 << 10;

/// What the segment writer needs from a file. Tests put failing ones in its place.
pub(super) trait SegmentFile: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns once everything written is on stable storage.
    fn sync_data(&self) -> io::Result<()>;
}

/// What the segment writer needs from a directory. Tests put failing ones in its place.
pub(super) trait SegmentDirectory: Send + 'static {
    /// The files it opens.
    type File: SegmentFile;
    /// Opens `<segment>.partial`, made if it is missing, and of the segment's full size in either case.
    fn open_partial(&self, segment: SegmentName, size: SegmentSize) -> io::Result<Self::File>;
    /// Gives `<segment>.partial` its final name. Not durable before [`sync`](Self::sync).
    fn complete(&self, segment: SegmentName) -> io::Result<()>;
    /// Removes `<segment>.partial`.
    fn remove_partial(&self, segment: SegmentName) -> io::Result<()>;
    /// Returns once all names are on stable storage.
    fn sync(&self) -> io::Result<()>;
    /// The path of a file in it, for messages.
    fn path_of(&self, name: &str) -> PathBuf;
}

/// The name of a segment that is still being received.
pub(super) fn partial_name(segment: SegmentName) -> String {
    WalFile::Partial(segment).to_string()
}

/// A real directory.
#[derive(Debug)]
pub(super) struct StreamingDirectory {
    handle: OwnedFd,
    path: PathBuf,
}

impl StreamingDirectory {
    /// Opens an existing directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(StreamingDirectory {
            handle: rustix::fs::open(path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// The segments here, whole and partial, in no order. Names of anything else are passed over.
    pub(super) fn segments(&self) -> io::Result<Vec<WalFile>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.handle)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if let Ok(file @ (WalFile::Segment(_) | WalFile::Partial(_))) = name.parse() {
                found.push(file);
            }
        }
        Ok(found)
    }

    /// The size in bytes of a regular file here; `None` if there is none of that name.
    pub(super) fn size_of(&self, name: &str) -> io::Result<Option<u64>> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(u64::try_from(stat.st_size).unwrap_or(0)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes a timeline's history: durable under its final name once this returns. Says whether it is new here.
    /// A different history of the same timeline is never replaced: two clusters then claim one number.
    pub(super) fn write_history(&self, timeline: TimelineId, content: &[u8]) -> io::Result<bool> {
        let name = WalFile::History(timeline).to_string();
        if let Some(size) = self.size_of(&name)? {
            if size == content.len() as u64 && self.read(&name, content.len())? == content {
                self.sync()?;
                return Ok(false);
            }
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "its content is not what the server has",
            ));
        }
        let temporary = format!("{name}{TEMPORARY_SUFFIX}");
        let mut file = self.create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.handle, &temporary, &self.handle, &name)?;
        self.sync()?;
        Ok(true)
    }

    /// Makes an empty `<segment>.partial`, the mark that receiving starts there; durable once this returns.
    pub(super) fn mark_start(&self, segment: SegmentName) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.handle, partial_name(segment), flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).sync_all()?;
        self.sync()
    }

    /// Whether a file here holds nothing but zeros.
    pub(super) fn is_blank(&self, name: &str) -> io::Result<bool> {
        let file = self.open_existing(name, OFlags::RDONLY)?;
        let mut buffer = vec![0; ZEROS_PER_WRITE];
        let mut offset = 0;
        loop {
            let count = file.read_at(&mut buffer, offset)?;
            if count == 0 {
                return Ok(true);
            }
            if buffer.iter().take(count).any(|&byte| byte != 0) {
                return Ok(false);
            }
            offset += count as u64;
        }
    }

    fn read(&self, name: &str, size: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; size];
        self.open_existing(name, OFlags::RDONLY)?.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    fn open_existing(&self, name: &str, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name, flags, Mode::empty())?.into())
    }

    /// Creates or empties a file, readable and writable by its owner only, as pg_receivewal makes them.
    fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn create_partial(&self, name: &str, size: SegmentSize) -> io::Result<File> {
        // Under a temporary name until it has its full size: pg_receivewal refuses a partial segment of any size but
        // that and zero, and an administrator may go back to it after a crash of this program.
        let temporary = format!("{name}{TEMPORARY_SUFFIX}");
        let file = self.create(&temporary)?;
        let published = extend(&file, 0, size)
            .and_then(|()| Ok(rustix::fs::renameat(&self.handle, &temporary, &self.handle, name)?));
        match published {
            Ok(()) => Ok(file),
            Err(error) => {
                // The space it took may be what others wait for. The first error is the one to tell.
                let _ = rustix::fs::unlinkat(&self.handle, &temporary, AtFlags::empty());
                Err(error)
            }
        }
    }
}

impl SegmentDirectory for StreamingDirectory {
    type File = File;

    fn open_partial(&self, segment: SegmentName, size: SegmentSize) -> io::Result<File> {
        let name = partial_name(segment);
        let file = match self.open_existing(&name, OFlags::RDWR) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create_partial(&name, size),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > size.bytes() {
            let message = format!("not a file of at most {size}, the server's segment size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        // A shorter one is what a crash of another receiver left, or the mark of a reset. What it holds is kept: it
        // may be the only copy until the server has sent it again.
        if metadata.len() < size.bytes() {
            extend(&file, metadata.len(), size)?;
        }
        Ok(file)
    }

    fn complete(&self, segment: SegmentName) -> io::Result<()> {
        let (from, to) = (partial_name(segment), segment.to_string());
        let here = &self.handle;
        match rustix::fs::renameat_with(here, &from, here, &to, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag. Only this process writes here, so looking first is as good.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                if self.size_of(&to)?.is_some() {
                    return Err(Errno::EXIST.into());
                }
                Ok(rustix::fs::renameat(here, &from, here, &to)?)
            }
            result => Ok(result?),
        }
    }

    fn remove_partial(&self, segment: SegmentName) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, partial_name(segment), AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.handle)?)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl SegmentFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

/// Grows a file of `from` bytes with zeros to a segment's size. The space is reserved, so that a full disk is found
/// now and not by the write that holds somebody's commit.
fn extend(file: &File, from: u64, size: SegmentSize) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size.bytes()))
    {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    write_zeros(file, from, size.bytes())
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_PER_WRITE];
    let mut offset = from;
    while offset < to {
        let count = (to - offset).min(ZEROS_PER_WRITE as u64);
        // Fits: at most ZEROS_PER_WRITE.
        FileExt::write_all_at(file, &zeros[..count as usize], offset)?;
        offset += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, StreamingDirectory) {
        let path = tempfile::tempdir().unwrap();
        let directory = StreamingDirectory::open(path.path()).unwrap();
        (path, directory)
    }

    fn segment(name: &str) -> SegmentName {
        name.parse().unwrap()
    }

    const FIRST: &str = "000000010000000000000001";

    #[test]
    fn a_new_partial_has_the_full_size_and_reads_as_zeros() {
        let (path, directory) = directory();
        directory.open_partial(segment(FIRST), SegmentSize::MIN).unwrap();
        let content = std::fs::read(path.path().join(format!("{FIRST}.partial"))).unwrap();
        assert_eq!(content, vec![0; 1 << 20]);
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 1);
        assert!(directory.is_blank(&partial_name(segment(FIRST))).unwrap());
    }

    #[test]
    fn zeros_are_written_where_space_cant_be_reserved() {
        let file = tempfile::tempfile().unwrap();
        FileExt::write_all_at(&file, b"kept", 0).unwrap();
        write_zeros(&file, 4, (1 << 20) - 1).unwrap();
        let mut content = vec![1; (1 << 20) - 1];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (1 << 20) - 1);
        assert!(content.starts_with(b"kept") && content[4..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_short_partial_is_extended_and_keeps_its_content() {
        let (path, directory) = directory();
        let partial = path.path().join(format!("{FIRST}.partial"));
        std::fs::write(&partial, b"received before the crash").unwrap();
        directory.open_partial(segment(FIRST), SegmentSize::MIN).unwrap();
        let content = std::fs::read(&partial).unwrap();
        assert_eq!(content.len(), 1 << 20);
        assert!(content.starts_with(b"received before the crash\0"));
        assert!(!directory.is_blank(&partial_name(segment(FIRST))).unwrap());
    }

    #[test]
    fn a_partial_larger_than_a_segment_is_refused() {
        let (path, directory) = directory();
        std::fs::write(path.path().join(format!("{FIRST}.partial")), vec![7; (1 << 20) + 1]).unwrap();
        let error = directory.open_partial(segment(FIRST), SegmentSize::MIN).unwrap_err();
        assert!(error.to_string().contains("1MB"), "{error}");
    }

    #[test]
    fn a_link_in_place_of_a_partial_is_not_followed() {
        let (path, directory) = directory();
        let elsewhere = path.path().join("elsewhere");
        std::fs::write(&elsewhere, b"precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, path.path().join(format!("{FIRST}.partial"))).unwrap();
        assert!(directory.open_partial(segment(FIRST), SegmentSize::MIN).is_err());
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
    }

    #[test]
    fn a_complete_segment_is_never_overwritten() {
        let (path, directory) = directory();
        std::fs::write(path.path().join(FIRST), b"old").unwrap();
        directory.open_partial(segment(FIRST), SegmentSize::MIN).unwrap();
        let error = directory.complete(segment(FIRST)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(path.path().join(FIRST)).unwrap(), b"old");
    }

    #[test]
    fn only_segments_are_listed() {
        let (path, directory) = directory();
        for name in [FIRST, "00000002.history", "notes.txt", "000000010000000000000002.partial.tmp"] {
            std::fs::write(path.path().join(name), b"").unwrap();
        }
        std::fs::write(path.path().join("000000010000000000000002.partial"), b"").unwrap();
        let mut found: Vec<String> = directory.segments().unwrap().iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(found, [FIRST, "000000010000000000000002.partial"]);
    }

    #[test]
    fn a_history_is_written_once() {
        let (path, directory) = directory();
        let timeline = TimelineId::new(2).unwrap();
        assert!(directory.write_history(timeline, b"1\t0/3000148\tx\n").unwrap());
        assert!(!directory.write_history(timeline, b"1\t0/3000148\tx\n").unwrap());
        assert_eq!(std::fs::read(path.path().join("00000002.history")).unwrap(), b"1\t0/3000148\tx\n");
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 1);
        assert!(directory.write_history(timeline, b"1\t0/4000148\tx\n").is_err());
        assert_eq!(std::fs::read(path.path().join("00000002.history")).unwrap(), b"1\t0/3000148\tx\n");
    }
}
