//! A WAL file on its way out: opened once, hashed while it is sent, and known again afterwards.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use barkeep_transport::codec::{Compression, Level};
use pgwal::page::{LONG_HEADER_BYTES, identify_segment};
use pgwal::{SegmentSize, WalFile};
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

/// Size of the pieces in which files are read, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// The largest file that is compressed in memory, in bytes; a larger one goes through a temporary file.
const IN_MEMORY_BYTES_MAX: u64 = 16 << 20;

/// A WAL file that is to be shipped.
#[derive(Debug)]
pub(super) struct Parcel {
    /// Which.
    pub(super) file: WalFile,
    path: PathBuf,
    source: File,
    /// What it was when it was opened.
    pub(super) identity: Identity,
    modified_unix_seconds: u64,
}

/// What tells whether a file is still the same, without reading it: any write to it changes the last of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified_nanoseconds: i128,
    pub(super) changed_nanoseconds: i128,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified_nanoseconds: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_nanoseconds: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Parcel {
    /// Opens a WAL file.
    ///
    /// # Errors
    /// A kind `InvalidInput` when the name is not a WAL file's or it is no regular file; else the system's.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let file: WalFile = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| invalid("it is not a WAL file's name"))?;
        // Without this, opening a named pipe would wait for ever.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let source = File::options().read(true).custom_flags(nonblocking).open(path)?;
        let metadata = source.metadata()?;
        if !metadata.is_file() {
            return Err(invalid("it is not a regular file"));
        }
        Ok(Parcel {
            file,
            path: path.to_owned(),
            source,
            identity: Identity::of(&metadata),
            modified_unix_seconds: u64::try_from(metadata.mtime()).unwrap_or(0),
        })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.identity.size
    }

    /// When it was last written.
    pub(super) fn modified_unix_seconds(&self) -> u64 {
        self.modified_unix_seconds
    }

    /// The segment size that its first page tells; `None` when it tells none.
    pub(super) fn segment_size(&self) -> Option<SegmentSize> {
        let mut first = [0; LONG_HEADER_BYTES];
        std::os::unix::fs::FileExt::read_exact_at(&self.source, &mut first, 0).ok()?;
        identify_segment(&first).map(|(_, _, _, size)| size)
    }

    /// The SHA-256 of its content.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn sha256(&mut self) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        self.copy(|piece| {
            hash.update(piece);
            Ok(())
        })?;
        Ok(hash.finalize().into())
    }

    /// Hands its bytes to `sink`, exactly as many as it had when it was opened.
    ///
    /// # Errors
    /// [`CopyError::Source`] when it can't be read or changes meanwhile, [`CopyError::Sink`] when the sink refuses.
    pub(super) fn copy(&mut self, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), CopyError> {
        use std::io::Seek as _;
        self.source.rewind().map_err(CopyError::Source)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = self.size();
        while left > 0 {
            let room = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            match self.source.read(&mut piece[..room]) {
                Ok(0) => return Err(CopyError::changed()),
                Ok(count) => {
                    sink(&piece[..count]).map_err(CopyError::Sink)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CopyError::Source(error)),
            }
        }
        let now = self.source.metadata().map_err(CopyError::Source)?;
        if Identity::of(&now) == self.identity { Ok(()) } else { Err(CopyError::changed()) }
    }

    /// Its compressed bytes, rewound, and how many they are.
    ///
    /// # Errors
    /// As for [`copy`](Parcel::copy); the sink is the place for the compressed bytes.
    pub(super) fn compressed(
        &mut self,
        compression: Compression,
        level: Level,
    ) -> Result<(Box<dyn Read>, u64), CopyError> {
        if self.size() <= IN_MEMORY_BYTES_MAX {
            let mut encoder = compression.writer(Vec::new(), level).map_err(CopyError::Sink)?;
            self.copy(|piece| encoder.write_all(piece))?;
            let bytes = encoder.finish().map_err(CopyError::Sink)?;
            let length = bytes.len() as u64;
            return Ok((Box::new(io::Cursor::new(bytes)), length));
        }
        use std::io::Seek as _;
        let mut encoder =
            compression.writer(nameless_file().map_err(CopyError::Sink)?, level).map_err(CopyError::Sink)?;
        self.copy(|piece| encoder.write_all(piece))?;
        let mut file = encoder.finish().map_err(CopyError::Sink)?;
        let length = file.stream_position().map_err(CopyError::Sink)?;
        file.rewind().map_err(CopyError::Sink)?;
        Ok((Box::new(file), length))
    }
}

/// A temporary file that is gone with its handle.
fn nameless_file() -> io::Result<File> {
    use rustix::fs::Mode;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?))
}

/// Why a file could not be copied.
#[derive(Debug)]
pub(super) enum CopyError {
    /// It is the file's fault.
    Source(io::Error),
    /// It is not.
    Sink(io::Error),
}

impl CopyError {
    fn changed() -> Self {
        CopyError::Source(io::Error::other("it changed while it was read"))
    }
}

impl From<CopyError> for io::Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) | CopyError::Sink(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000007";

    #[test]
    fn only_wal_files_are_parcels() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["x", "000000010000000000000007.tmp", ".."] {
            let error = Parcel::open(&directory.path().join(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        let path = directory.path().join(NAME);
        assert_eq!(Parcel::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(Parcel::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let pipe = directory.path().join("000000010000000000000008");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(Parcel::open(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_file_that_changes_is_not_shipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        std::fs::write(&path, vec![1; 3_000_000]).unwrap();
        let mut parcel = Parcel::open(&path).unwrap();
        assert!(parcel.copy(|_| Ok(())).is_ok());
        let mut first = true;
        let changed = parcel.copy(|_| {
            if std::mem::take(&mut first) {
                File::options().append(true).open(&path)?.write_all(b"x")?;
            }
            Ok(())
        });
        assert!(matches!(changed, Err(CopyError::Source(_))));
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(parcel.copy(|_| Ok(())), Err(CopyError::Source(_))));
    }

    #[test]
    fn compression_in_memory_and_in_a_file_give_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        for size in [1 << 20, IN_MEMORY_BYTES_MAX + 1] {
            File::create(&path).unwrap().set_len(size).unwrap();
            let (bytes, length) =
                Parcel::open(&path).unwrap().compressed(Compression::Zstd, Level::Low).unwrap();
            let mut packed = Vec::new();
            bytes.take(length).read_to_end(&mut packed).unwrap();
            let mut plain = Compression::Zstd.reader(&packed[..]).unwrap();
            assert_eq!(io::copy(&mut plain, &mut io::sink()).unwrap(), size);
        }
    }
}
