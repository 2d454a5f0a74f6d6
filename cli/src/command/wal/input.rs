//! The WAL that a command looks into: files, directories, an archive, standard input.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use barkeep_transport::codec::Compression;
use pgwal::page::{self, LONG_HEADER_BYTES};
use pgwal::reader::SegmentSource;
use pgwal::{SegmentName, SegmentSize, WalFile};

use crate::args::WalSource;
use crate::error::CommandError;

/// Enough of a file to tell its compression, in bytes.
const MAGIC_BYTES: usize = 10;

/// Segments by name, wherever they are.
pub(super) struct Input {
    files: BTreeMap<SegmentName, Place>,
    pub(super) segment_size: SegmentSize,
    /// Whether the last segment is a partial one.
    pub(super) ends_partial: bool,
}

enum Place {
    File(PathBuf),
    /// Standard input, whose first bytes have been read. It can be opened once.
    Stdin(Mutex<Option<Vec<u8>>>),
}

impl Input {
    /// Finds the segments. `archive` is the server's archive, if one is meant.
    pub(super) fn open(source: &WalSource, archive: Option<&Path>) -> Result<Self, CommandError> {
        let mut found = Found::default();
        for path in archive.into_iter().chain(source.paths.iter().map(PathBuf::as_path)) {
            if path == Path::new("-") {
                found.stdin()?;
            } else {
                let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
                if metadata.is_dir() { found.directory(path, true)? } else { found.file(path)? }
            }
        }
        found.finish(source)
    }

    /// The segments, in order.
    pub(super) fn segments(&self) -> Vec<SegmentName> {
        self.files.keys().copied().collect()
    }
}

impl SegmentSource for Input {
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn Read + '_>>> {
        match self.files.get(&segment) {
            None => Ok(None),
            Some(Place::File(path)) => open_file(path).map(|file| Some(file as Box<dyn Read>)),
            Some(Place::Stdin(start)) => {
                let start = start.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                Ok(start.map(|start| Box::new(io::Cursor::new(start).chain(io::stdin())) as Box<dyn Read>))
            }
        }
    }
}

/// Opens a WAL file, whatever its compression.
fn open_file(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    file.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    file.rewind()?;
    match Compression::detect(&magic) {
        // Without a buffer in between: whole chunks are asked for.
        Compression::None => Ok(Box::new(file)),
        compression => compression.reader(file),
    }
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    files: BTreeMap<SegmentName, Place>,
    partial: Option<(SegmentName, PathBuf)>,
    segment_size: Option<SegmentSize>,
}

impl Found {
    /// Takes the segments of a directory, and of those in it that are named as in a WAL archive.
    fn directory(&mut self, path: &Path, descend: bool) -> Result<(), CommandError> {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in entries.map_err(|error| unreadable(path, &error))? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match name.parse() {
                Ok(WalFile::Segment(segment)) => {
                    self.files.insert(segment, Place::File(entry.path()));
                }
                Ok(WalFile::Partial(segment)) => self.partial(segment, entry.path()),
                Ok(_) => {}
                Err(_) => {
                    let like_archive = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
                    if descend && like_archive {
                        self.directory(&entry.path(), false)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A partial segment counts only where it is the last.
    fn partial(&mut self, segment: SegmentName, path: PathBuf) {
        if self.partial.as_ref().is_none_or(|(known, _)| *known < segment) {
            self.partial = Some((segment, path));
        }
    }

    /// Takes a file by its name, or else by what its first page says.
    fn file(&mut self, path: &Path) -> Result<(), CommandError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.parse() {
            Ok(WalFile::Segment(segment)) => {
                self.files.insert(segment, Place::File(path.to_owned()));
            }
            Ok(WalFile::Partial(segment)) => self.partial(segment, path.to_owned()),
            _ => {
                let start = read_start(path).map_err(|error| unreadable(path, &error))?;
                let segment = self.identify(&start).ok_or_else(|| {
                    CommandError::new(format!("{} is not a WAL segment", path.display()))
                        .hint("its name is none, and it doesn't start with a WAL page header of PostgreSQL 13 to 18")
                })?;
                self.files.insert(segment, Place::File(path.to_owned()));
            }
        }
        Ok(())
    }

    fn stdin(&mut self) -> Result<(), CommandError> {
        let mut start = Vec::new();
        let read = io::stdin().lock().take(LONG_HEADER_BYTES as u64).read_to_end(&mut start);
        read.map_err(|error| CommandError::because("Standard input can't be read", &error))?;
        let segment = self.identify(&start).ok_or_else(|| {
            CommandError::new("Standard input is not a WAL segment")
                .hint("decompress it first; it has to start with a WAL page header of PostgreSQL 13 to 18")
        })?;
        self.files.insert(segment, Place::Stdin(Mutex::new(Some(start))));
        Ok(())
    }

    fn identify(&mut self, start: &[u8]) -> Option<SegmentName> {
        let (_, header, _, size) = page::identify_segment(start)?;
        self.segment_size = Some(size);
        Some(SegmentName::at(pgwal::TimelineId::new(header.timeline)?, header.address, size))
    }

    fn finish(mut self, source: &WalSource) -> Result<Input, CommandError> {
        let mut ends_partial = false;
        if let Some((segment, path)) = self.partial.take()
            && self.files.last_key_value().is_none_or(|(last, _)| *last < segment)
        {
            self.files.insert(segment, Place::File(path));
            ends_partial = true;
        }
        let Some(segment_size) =
            self.segment_size.map_or_else(|| self.read_segment_size(), |size| Ok(Some(size)))?
        else {
            return Err(CommandError::new("There is no WAL to look into")
                .hint("give WAL files, a directory that holds some, or a server with --server"));
        };
        let wanted = |segment: &SegmentName| {
            let starts = segment.first_lsn(segment_size);
            let ends = segment.end_lsn(segment_size);
            source.from.is_none_or(|from| ends.is_none_or(|end| end > from))
                && source.to.is_none_or(|to| starts.is_none_or(|start| start < to))
        };
        self.files.retain(|segment, _| wanted(segment));
        Ok(Input { files: self.files, segment_size, ends_partial })
    }

    /// The segment size that the first file with a sound first page tells.
    fn read_segment_size(&self) -> Result<Option<SegmentSize>, CommandError> {
        let mut last = None;
        for place in self.files.values() {
            let Place::File(path) = place else { continue };
            let start = read_start(path).map_err(|error| unreadable(path, &error))?;
            if let Some((.., size)) = page::identify_segment(&start) {
                return Ok(Some(size));
            }
            last = Some(path);
        }
        last.map_or(Ok(None), |path| {
            let what =
                format!("{} does not start with a WAL page header of PostgreSQL 13 to 18", path.display());
            Err(CommandError::new(what).hint("it is damaged, or no WAL"))
        })
    }
}

fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_file(path)?.take(LONG_HEADER_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::because(format!("{} can't be read", path.display()), error)
}
