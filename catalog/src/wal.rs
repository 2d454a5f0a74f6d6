//! Finding and opening WAL files wherever they are: in the archive, or on their way into it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use barkeep_transport::codec::{self, Bounded, Compression};
use pgwal::history::{HistoryError, MAX_HISTORY_BYTES};
use pgwal::page::{LONG_HEADER_BYTES, PageHeader, identify_segment};
use pgwal::{History, SegmentName, SegmentSize, TimelineId, WalFile};
use rustix::fs::OFlags;

use crate::Layout;
use crate::store::{CatalogError, names_in};

/// Largest WAL file, in bytes: what a compressed one may at most decompress to.
pub const WAL_BYTES_MAX: u64 = SegmentSize::MAX.bytes();

/// What a file encrypted by gpg to a public key begins with: the tag of an OpenPGP session key packet, in its old form
/// with any length, or its new form. No WAL file begins so.
const PGP_SESSION_KEY_TAGS: [u8; 5] = [0x84, 0x85, 0x86, 0x87, 0xc1];

/// What is wrong with a WAL file without content: PostgreSQL archives none.
pub(crate) const EMPTY: &str = "it is empty";

/// A WAL file that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The system refuses.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is encrypted.
    #[error("'{}' is encrypted by gpg, which barkeep cannot decrypt", path.display())]
    Encrypted {
        /// Which.
        path: PathBuf,
    },
    /// It is a history file that makes no sense.
    #[error("'{}' is damaged: {source}", path.display())]
    History {
        /// Which.
        path: PathBuf,
        /// What is wrong in it.
        source: HistoryError,
    },
}

/// Whether a file that begins with these bytes is encrypted by gpg.
pub(crate) fn looks_encrypted(first_bytes: &[u8]) -> bool {
    first_bytes.first().is_some_and(|tag| PGP_SESSION_KEY_TAGS.contains(tag))
}

/// A WAL file, open.
#[derive(Debug)]
pub struct OpenWal {
    /// Where it was found.
    pub path: PathBuf,
    /// How it is compressed there.
    pub compression: Compression,
    source: BufReader<File>,
}

impl OpenWal {
    /// Opens a file; `None` when it does not exist.
    ///
    /// # Errors
    /// When it can't be read or is encrypted.
    pub fn open(path: &Path) -> Result<Option<Self>, WalError> {
        let failed = |source| WalError::Read { path: path.to_owned(), source };
        // Without this, opening a named pipe would wait for ever.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = match File::options().read(true).custom_flags(nonblocking).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let (compression, source) = codec::sniff(file).map_err(failed)?;
        if looks_encrypted(source.buffer()) {
            return Err(WalError::Encrypted { path: path.to_owned() });
        }
        Ok(Some(OpenWal { path: path.to_owned(), compression, source }))
    }

    /// How many bytes are stored.
    ///
    /// # Errors
    /// When the system doesn't say.
    pub fn stored_bytes(&self) -> io::Result<u64> {
        Ok(self.source.get_ref().metadata()?.len())
    }

    /// The file, to tell the system how it is used; its position is of no use.
    #[must_use]
    pub fn file(&self) -> &File {
        self.source.get_ref()
    }

    /// The first bytes as they are stored: at least a page header's worth, where there are so many.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        self.source.buffer()
    }

    /// Which cluster a segment is of, by its first page; `None` when that tells nothing.
    pub(crate) fn system_id(self) -> Option<u64> {
        let mut first_bytes = [0; LONG_HEADER_BYTES];
        self.plain().ok()?.read_exact(&mut first_bytes).ok()?;
        identify_segment(&first_bytes).map(|(_, _, long, _)| long.system_id)
    }

    /// The bytes as they are stored.
    pub fn stored(self) -> impl Read + Send {
        self.source
    }

    /// The bytes as PostgreSQL wrote them.
    ///
    /// # Errors
    /// When the decompressor can't be set up.
    pub fn plain(self) -> Result<impl Read + Send, WalError> {
        let path = self.path;
        let reader =
            self.compression.reader(self.source).map_err(|source| WalError::Read { path, source })?;
        Ok(Bounded::new(reader, WAL_BYTES_MAX))
    }
}

/// Which cluster an archived segment says that it is of; `None` when it is not there, or says nothing.
pub(crate) fn system_id_of(layout: &Layout, segment: SegmentName) -> Option<u64> {
    OpenWal::open(&layout.wal(&WalFile::Segment(segment))).ok()??.system_id()
}

/// The timelines whose histories the archive holds, in order.
///
/// # Errors
/// When the archive's directory can't be read.
pub fn archived_histories(layout: &Layout) -> Result<Vec<TimelineId>, CatalogError> {
    let names = names_in(&layout.wals)?;
    let mut timelines: Vec<TimelineId> = names
        .iter()
        .filter_map(|name| match name.parse() {
            Ok(WalFile::History(timeline)) => Some(timeline),
            _ => None,
        })
        .collect();
    timelines.sort_unstable();
    Ok(timelines)
}

/// Where a WAL file may be, the likeliest place first. With `partial`, a segment that is still being received (or whose
/// timeline ended inside it) will do too.
///
/// The archive comes once more at the end: a file may move there while the other places are looked at.
pub fn possible_paths(layout: &Layout, file: WalFile, partial: bool) -> Vec<PathBuf> {
    let name = file.to_string();
    let archived = layout.wal(&file);
    let mut paths = vec![archived.clone(), layout.incoming.join(&name), layout.streaming.join(&name)];
    if let (true, WalFile::Segment(segment)) = (partial, file) {
        let partial = WalFile::Partial(segment);
        let partial_name = partial.to_string();
        paths.push(layout.streaming.join(&partial_name));
        // It may have been completed just now.
        paths.push(layout.streaming.join(&name));
        paths.push(layout.wal(&partial));
        paths.push(layout.incoming.join(&partial_name));
    }
    paths.push(archived);
    paths
}

/// Opens a WAL file wherever it is; `None` when it is nowhere. A segment on its way into the archive that is not whole
/// yet does not count.
///
/// # Errors
/// When it is there and can't be read.
pub fn find(layout: &Layout, file: WalFile, partial: bool) -> Result<Option<OpenWal>, WalError> {
    let archived = layout.wal(&file);
    for path in possible_paths(layout, file, partial) {
        let Some(open) = OpenWal::open(&path)? else { continue };
        let is_whole = path == archived
            || !matches!(file, WalFile::Segment(_))
            || path.extension().is_some()
            || open.compression != Compression::None
            || fault_of_segment(&open).map_err(|source| WalError::Read { path, source })?.is_none();
        if is_whole {
            return Ok(Some(open));
        }
    }
    Ok(None)
}

/// Whether a WAL file is anywhere.
pub fn exists(layout: &Layout, file: WalFile) -> bool {
    possible_paths(layout, file, false).iter().any(|path| path.exists())
}

/// The up to `count` existing segments that follow one another from `file` on, itself included; only itself for other
/// kinds of files.
///
/// # Errors
/// When the segment size has to be learned from a file that can't be read.
pub fn following(layout: &Layout, file: WalFile, count: usize) -> Result<Vec<WalFile>, WalError> {
    if count == 0 || !exists(layout, file) {
        return Ok(Vec::new());
    }
    let WalFile::Segment(mut segment) = file else { return Ok(vec![file]) };
    let mut found = vec![file];
    let size = segment_size(layout, segment)?.unwrap_or_default();
    while found.len() < count {
        let Some(next) = segment.next(size) else { break };
        if !exists(layout, WalFile::Segment(next)) {
            break;
        }
        found.push(WalFile::Segment(next));
        segment = next;
    }
    Ok(found)
}

/// The segment size that a segment's own header tells; `None` when it is nowhere or has no such header.
///
/// # Errors
/// When it is there and can't be read.
pub fn segment_size(layout: &Layout, segment: SegmentName) -> Result<Option<SegmentSize>, WalError> {
    let Some(open) = find(layout, WalFile::Segment(segment), false)? else { return Ok(None) };
    let path = open.path.clone();
    let mut header = Vec::with_capacity(LONG_HEADER_BYTES);
    open.plain()?
        .take(LONG_HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(|source| WalError::Read { path, source })?;
    let long = PageHeader::read(&header).and_then(|header| header.long);
    Ok(long.and_then(|long| SegmentSize::new(u64::from(long.segment_bytes))))
}

/// The segment size of a server, as its newest archived segment tells; `None` when no segment does.
///
/// # Errors
/// When the archive can't be read.
pub fn archive_segment_size(layout: &Layout) -> Result<Option<SegmentSize>, WalError> {
    let mut directories: Vec<PathBuf> = match std::fs::read_dir(&layout.wals) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(WalError::Read { path: layout.wals.clone(), source }),
    };
    directories.sort_unstable();
    for directory in directories.iter().rev() {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        let segments = entries.filter_map(|entry| match entry.ok()?.file_name().to_str()?.parse() {
            Ok(WalFile::Segment(segment)) => Some(segment),
            _ => None,
        });
        if let Some(newest) = segments.max()
            && let Some(size) = segment_size(layout, newest)?
        {
            return Ok(Some(size));
        }
    }
    Ok(None)
}

/// The history of a timeline, from its file; `None` when there is no file. Timeline 1 needs none.
///
/// # Errors
/// When it is there and can't be read or makes no sense.
pub fn history(layout: &Layout, timeline: TimelineId) -> Result<Option<History>, WalError> {
    let Some(open) = find(layout, WalFile::History(timeline), false)? else {
        return Ok((timeline == TimelineId::FIRST).then(|| History::root(timeline)));
    };
    let path = open.path.clone();
    let mut text = Vec::new();
    open.plain()?
        .take(MAX_HISTORY_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|source| WalError::Read { path: path.clone(), source })?;
    History::parse(timeline, &text).map(Some).map_err(|source| WalError::History { path, source })
}

/// What is wrong with an uncompressed segment by its length, when its header says what that should be: it is still
/// being copied, or was cut off.
pub(crate) fn fault_of_segment(open: &OpenWal) -> io::Result<Option<String>> {
    let length = open.source.get_ref().metadata()?.len();
    if length == 0 {
        return Ok(Some(EMPTY.to_owned()));
    }
    let long = PageHeader::read(open.source.buffer())
        .filter(|header| pgwal::WalVersion::from_magic(header.magic).is_some());
    let whole = long.and_then(|header| header.long).map(|long| u64::from(long.segment_bytes));
    Ok(whole
        .filter(|whole| SegmentSize::new(*whole).is_some() && *whole != length)
        .map(|whole| format!("it has {length} bytes of {whole}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NAME: &str = "000000010000000000000007";

    fn home() -> (tempfile::TempDir, Layout) {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new("pg", home.path(), home.path());
        for directory in layout.directories() {
            fs::create_dir_all(directory).unwrap();
        }
        fs::create_dir_all(layout.wals.join("0000000100000000")).unwrap();
        (home, layout)
    }

    fn read(layout: &Layout, name: &str, partial: bool) -> Option<String> {
        let open = find(layout, name.parse().unwrap(), partial).unwrap()?;
        let mut text = String::new();
        open.plain().unwrap().read_to_string(&mut text).unwrap();
        Some(text)
    }

    /// The first bytes of a segment of PostgreSQL 15 with 1 MiB segments.
    fn header() -> Vec<u8> {
        let mut page = vec![0x10, 0xd1, 2, 0, 1, 0, 0, 0, 0, 0, 0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        page.extend_from_slice(&7_u64.to_le_bytes());
        page.extend_from_slice(&(1_u32 << 20).to_le_bytes());
        page.extend_from_slice(&8192_u32.to_le_bytes());
        page
    }

    #[test]
    fn the_archive_comes_before_what_is_on_its_way() {
        let (_home, layout) = home();
        assert_eq!(read(&layout, NAME, true), None);
        fs::write(layout.incoming.join(format!("{NAME}.partial")), "incoming partial").unwrap();
        assert_eq!(read(&layout, NAME, true).unwrap(), "incoming partial");
        fs::write(layout.wals.join(format!("0000000100000000/{NAME}.partial")), "archived partial").unwrap();
        assert_eq!(read(&layout, NAME, true).unwrap(), "archived partial");
        fs::write(layout.streaming.join(format!("{NAME}.partial")), "streaming partial").unwrap();
        assert_eq!(read(&layout, NAME, true).unwrap(), "streaming partial");
        assert_eq!(read(&layout, NAME, false), None);
        fs::write(layout.streaming.join(NAME), "streaming").unwrap();
        assert_eq!(read(&layout, NAME, true).unwrap(), "streaming");
        fs::write(layout.incoming.join(NAME), "incoming").unwrap();
        assert_eq!(read(&layout, NAME, false).unwrap(), "incoming");
        fs::write(layout.wals.join(format!("0000000100000000/{NAME}")), "archived").unwrap();
        assert_eq!(read(&layout, NAME, false).unwrap(), "archived");
    }

    #[test]
    fn a_segment_still_being_copied_is_not_there_yet() {
        let (_home, layout) = home();
        fs::write(layout.incoming.join(NAME), header()).unwrap();
        assert_eq!(read(&layout, NAME, false), None);
        let mut whole = header();
        whole.resize(1 << 20, 0);
        fs::write(layout.incoming.join(NAME), whole).unwrap();
        assert!(find(&layout, NAME.parse().unwrap(), false).unwrap().is_some());
    }

    #[test]
    fn the_segments_that_follow_are_counted_by_the_clusters_own_size() {
        let (_home, layout) = home();
        let put = |name: &str| {
            let file: WalFile = name.parse().unwrap();
            fs::create_dir_all(layout.wal_directory(&file)).unwrap();
            fs::write(layout.wal(&file), header()).unwrap();
        };
        for name in ["000000010000000000000FFE", "000000010000000000000FFF", "000000010000000100000000"] {
            put(name);
        }
        put("000000010000000100000002");
        let names = |count| {
            let found = following(&layout, "000000010000000000000FFE".parse().unwrap(), count).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(9).len(), 3);
        assert_eq!(names(2), ["000000010000000000000FFE", "000000010000000000000FFF"]);
        assert_eq!(names(0), [""; 0]);
        assert!(following(&layout, "000000010000000000000FFD".parse().unwrap(), 3).unwrap().is_empty());
    }

    #[test]
    fn encrypted_files_are_told_apart() {
        let (_home, layout) = home();
        fs::write(layout.incoming.join(NAME), b"\x85\x01\x8c rest").unwrap();
        let error = find(&layout, NAME.parse().unwrap(), false).unwrap_err().to_string();
        assert!(error.contains("encrypted by gpg"), "{error}");
    }

    #[test]
    fn a_compressed_history_is_read() {
        let (_home, layout) = home();
        let two = TimelineId::new(2).unwrap();
        assert_eq!(history(&layout, two).unwrap(), None);
        assert_eq!(history(&layout, TimelineId::FIRST).unwrap(), Some(History::root(TimelineId::FIRST)));
        let mut writer = Compression::Gzip.writer(Vec::new(), codec::Level::Low).unwrap();
        io::Write::write_all(&mut writer, b"1\t0/3000148\tno recovery target specified\n").unwrap();
        fs::write(layout.wals.join("00000002.history"), writer.finish().unwrap()).unwrap();
        assert!(history(&layout, two).unwrap().unwrap().includes(TimelineId::FIRST));
        fs::write(layout.wals.join("00000002.history"), "2 x").unwrap();
        assert!(matches!(history(&layout, two), Err(WalError::History { .. })));
    }
}
