//! The WAL that a command looks into: files, directories, an archive, standard input.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use barkeep_transport::codec::Compression;
use pgwal::page::{self, LONG_HEADER_BYTES};
use pgwal::reader::{CHUNK_BYTES, SegmentSeries, SegmentSource, SeriesError, is_live, map_file, read_file};
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
    /// The first of the segments left out at the end because the server has only made them in advance.
    pub(super) unused: Option<SegmentName>,
    source: WalSource,
}

enum Place {
    File(PathBuf),
    /// A pipe, like standard input.
    Pipe(Pipe),
}

/// Segments one after the other. They can be read once.
pub(super) struct Pipe {
    name: String,
    series: Mutex<Series>,
}

pub(super) type Series = SegmentSeries<Box<dyn BufRead + Send>>;

impl Input {
    /// Finds the segments. `archive` has the directories of a server, if one is meant; the later ones win. Where the WAL may
    /// end, segments that the server has made in advance are left out.
    pub(super) fn open(source: &WalSource, archive: &[PathBuf], may_end: bool) -> Result<Self, CommandError> {
        let mut found = Found::default();
        for path in archive.iter().map(PathBuf::as_path).chain(source.paths.iter().map(PathBuf::as_path)) {
            if path == Path::new("-") {
                found.pipe(io::stdin(), "Standard input")?;
            } else {
                let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
                if metadata.is_dir() { found.directory(path, true)? } else { found.file(path)? }
            }
        }
        found.finish(source, may_end)
    }

    /// The segments, in order; of a pipe the first.
    pub(super) fn segments(&self) -> Vec<SegmentName> {
        self.files.keys().copied().collect()
    }

    /// The pipe, if there is nothing else: it may hold any number of segments.
    pub(super) fn only_pipe(&self) -> Option<&Pipe> {
        match self.files.values().next() {
            Some(Place::Pipe(pipe)) if self.files.len() == 1 => Some(pipe),
            _ => None,
        }
    }

    /// Whether a segment is the file at `path`.
    pub(super) fn is_at(&self, segment: SegmentName, path: &Path) -> bool {
        let Some(Place::File(file)) = self.files.get(&segment) else { return false };
        file == path
            || file.canonicalize().is_ok_and(|file| path.canonicalize().is_ok_and(|path| path == file))
    }

    /// Whether a segment has anything of the range that is asked for.
    pub(super) fn is_wanted(&self, segment: SegmentName) -> bool {
        is_wanted(&self.source, segment, self.segment_size)
    }

    /// Opens a segment, for a reader that waits for nothing in between or for one that may.
    pub(super) fn open_for(
        &self,
        segment: SegmentName,
        pace: Pace,
    ) -> io::Result<Option<Box<dyn BufRead + '_>>> {
        match self.files.get(&segment) {
            None => Ok(None),
            Some(Place::File(path)) => open_file(path, pace).map(|file| Some(file as Box<dyn BufRead>)),
            Some(Place::Pipe(pipe)) => self.open_pipe(pipe).map(Some),
        }
    }

    /// The next segment of a pipe; nothing at its end, so for whoever comes again to see how a record ends.
    pub(super) fn open_pipe<'p>(&self, pipe: &'p Pipe) -> io::Result<Box<dyn BufRead + 'p>> {
        let mut series = pipe.series();
        series.next_segment().map_err(io::Error::other)?;
        Ok(Box::new(OfPipe(series)))
    }
}

impl Pipe {
    /// The segments in it.
    pub(super) fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with it.
    pub(super) fn error(&self, error: &SeriesError) -> CommandError {
        match error {
            SeriesError::NoSegment => not_wal(&self.name),
            SeriesError::Read(source) => {
                CommandError::because(format!("{} can't be read", self.name), source)
            }
            SeriesError::Stray { .. } | SeriesError::Order { .. } => {
                CommandError::new(format!("{} is not a series of WAL segments: {error}", self.name))
            }
        }
    }
}

/// The segment at hand of a pipe.
struct OfPipe<'p>(MutexGuard<'p, Series>);

impl Read for OfPipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for OfPipe<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

fn is_wanted(source: &WalSource, segment: SegmentName, size: SegmentSize) -> bool {
    let starts = segment.first_lsn(size);
    let ends = segment.end_lsn(size);
    source.from.is_none_or(|from| ends.is_none_or(|end| end > from))
        && source.to.is_none_or(|to| starts.is_none_or(|start| start < to))
}

/// How a segment is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// In one go: plain files may be mapped.
    Steady,
    /// Record by record as somebody reads the output, so it may take any time.
    OfOutput,
}

impl SegmentSource for Input {
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn BufRead + '_>>> {
        self.open_for(segment, Pace::Steady)
    }
}

/// Opens a WAL file, whatever its compression.
fn open_file(path: &Path, pace: Pace) -> io::Result<Box<dyn BufRead + Send>> {
    // Opening a pipe would wait for someone to write to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    file.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    file.rewind()?;
    match Compression::detect(&magic) {
        Compression::None if pace == Pace::Steady && !path.parent().is_some_and(is_live) => {
            Ok(map_file(file))
        }
        Compression::None => Ok(read_file(file)),
        compression => Ok(buffered(compression.reader(file)?)),
    }
}

fn buffered<'a>(input: impl Read + Send + 'a) -> Box<dyn BufRead + Send + 'a> {
    Box::new(BufReader::with_capacity(CHUNK_BYTES, input))
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
            _ if !path.is_file() => {
                let pipe = File::open(path).map_err(|error| unreadable(path, &error))?;
                self.pipe(pipe, &path.display().to_string())?;
            }
            Ok(WalFile::Segment(segment)) => {
                self.files.insert(segment, Place::File(path.to_owned()));
            }
            Ok(WalFile::Partial(segment)) => self.partial(segment, path.to_owned()),
            _ => {
                let start = read_start(path).map_err(|error| unreadable(path, &error))?;
                let segment = self.identify(&start).ok_or_else(|| not_wal(&path.display().to_string()))?;
                self.files.insert(segment, Place::File(path.to_owned()));
            }
        }
        Ok(())
    }

    /// Takes what comes out of a pipe, compressed or not.
    fn pipe(&mut self, mut pipe: impl Read + Send + 'static, name: &str) -> Result<(), CommandError> {
        let unreadable = |error| CommandError::because(format!("{name} can't be read"), &error);
        let mut magic = Vec::new();
        pipe.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic).map_err(unreadable)?;
        let compression = Compression::detect(&magic);
        let input = compression.reader(io::Cursor::new(magic).chain(pipe)).map_err(unreadable)?;
        let mut series = SegmentSeries::new(buffered(input)).map_err(|error| match error {
            SeriesError::Read(error) => unreadable(error),
            _ => not_wal(name),
        })?;
        let first = series.peek().ok().flatten().ok_or_else(|| not_wal(name))?;
        self.segment_size = Some(series.segment_size());
        let pipe = Pipe { name: name.to_owned(), series: Mutex::new(series) };
        self.files.insert(first, Place::Pipe(pipe));
        Ok(())
    }

    fn identify(&mut self, start: &[u8]) -> Option<SegmentName> {
        let (_, header, _, size) = page::identify_segment(start)?;
        self.segment_size = Some(size);
        Some(SegmentName::at(pgwal::TimelineId::new(header.timeline)?, header.address, size))
    }

    fn finish(mut self, source: &WalSource, may_end: bool) -> Result<Input, CommandError> {
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
            return Err(match &source.server {
                Some(server) => CommandError::new(format!("Server '{server}' has no WAL to look into"))
                    .hint(format!("see: barkeep check {server}")),
                None => CommandError::new("There is no WAL to look into")
                    .hint("give WAL files, a directory that holds some, or a server with --server"),
            });
        };
        let unused = if may_end { self.leave_out_unused(segment_size) } else { None };
        let only_pipe = matches!(self.files.values().next(), Some(Place::Pipe(_)) if self.files.len() == 1);
        // What comes later in a pipe shows only when that is reached.
        let at_hand = self.files.keys().next().copied().zip(self.files.keys().next_back().copied());
        self.files.retain(|segment, _| only_pipe || is_wanted(source, *segment, segment_size));
        if let Some((first, last)) = at_hand.filter(|_| self.files.is_empty()) {
            return Err(CommandError::new("The WAL at hand has nothing of the range that is asked for")
                .hint(format!("it goes from {first} to {last}")));
        }
        let source = source.clone();
        Ok(Input { files: self.files, segment_size, ends_partial, unused, source })
    }

    /// Leaves out the segments at the end that the server has made in advance, as zeros or by giving an old one a new name;
    /// which is the first. One is left.
    fn leave_out_unused(&mut self, size: SegmentSize) -> Option<SegmentName> {
        let mut unused = None;
        while self.files.len() > 1
            && let Some((segment, Place::File(path))) = self.files.last_key_value()
            && let Ok(start) = read_start(path)
            && is_unused(&start, *segment, size)
        {
            unused = self.files.pop_last().map(|(segment, _)| segment);
        }
        unused
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

/// Whether a segment starts with nothing yet, or with what an earlier one held.
fn is_unused(start: &[u8], segment: SegmentName, size: SegmentSize) -> bool {
    let zeros = start.len() == LONG_HEADER_BYTES && start.iter().all(|byte| *byte == 0);
    let older = || {
        let (_, header, ..) = page::identify_segment(start)?;
        Some(header.address < segment.first_lsn(size)?)
    };
    zeros || older().unwrap_or(false)
}

fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_file(path, Pace::OfOutput)?.take(LONG_HEADER_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn not_wal(name: &str) -> CommandError {
    CommandError::new(format!("{name} is not a WAL segment")).hint(
        "it doesn't start with a WAL page header of PostgreSQL 13 to 18, nor does its name tell what it is",
    )
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::because(format!("{} can't be read", path.display()), error)
}
