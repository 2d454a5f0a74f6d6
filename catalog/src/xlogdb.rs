//! The list of archived files, `<server>-xlog.db`: one line each, in the order of their arrival.
//!
//! ```text
//! name \t size \t time \t compression \t encryption \n
//! ```
//!
//! Size and compression are the archived file's, the time is the source's. Barman refuses every command over one wrong
//! line; here a wrong line is a fault to tell, and the others stay usable. The files themselves are the truth: the
//! list can always be made anew from them ([`scan`]).

mod version;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use barkeep_transport::codec::{Compression, MAGIC_BYTES};
use barkeep_transport::durable::{self, DurableError};
use pgwal::{SegmentName, WalFile};

use crate::literal::float_repr;
use crate::lock::{LockError, SharedLock};
use crate::{Layout, ServerLock, Task};
pub use version::{Version, version};

/// Largest list accepted, in bytes: 16 million lines.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Longest line looked for at the end of a list that ends without a line break, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Most threads that look into files at once.
const SCANNERS_MAX: usize = 8;
/// For fewer files than this another thread is not worth it.
const SCAN_SHARE_MIN: usize = 256;
/// How long a reader waits for a writer before it reads without the lock.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How long a writer waits for another.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// One archived file.
#[derive(Debug, Clone, PartialEq)]
pub struct WalEntry {
    /// Its name.
    pub file: WalFile,
    /// Its size in the archive, in bytes.
    pub size: u64,
    /// When its source was last modified, in seconds since 1970.
    pub time: f64,
    /// How it is compressed in the archive.
    pub compression: Option<Cow<'static, str>>,
    /// How it is encrypted in the archive.
    pub encryption: Option<Cow<'static, str>>,
}

/// A line that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not 'name size time compression encryption': {text:?}")]
pub struct LineFault {
    /// The line's number, from 1.
    pub line: usize,
    /// The line, shortened.
    pub text: String,
}

/// What a list says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct XlogDb {
    /// Its lines, in order; a file archived twice is there twice. Where lines say nothing, the files that are in the
    /// archive and not listed come last.
    pub entries: Vec<WalEntry>,
    /// The lines that say nothing.
    pub faults: Vec<LineFault>,
}

/// A list that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum XlogDbError {
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("'{}' has {bytes} bytes, more than a list of WAL files can have", path.display())]
    TooLarge {
        /// The list.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Reading failed.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Appending or replacing failed; the list is as it was.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// Another process has the list.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl fmt::Display for WalEntry {
    /// The line, without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compression = self.compression.as_deref().unwrap_or("None");
        let encryption = self.encryption.as_deref().unwrap_or("None");
        write!(f, "{}\t{}\t{}\t{compression}\t{encryption}", self.file, self.size, float_repr(self.time))
    }
}

impl WalEntry {
    /// Reads a line of three, four or five columns.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let entry = WalEntry {
            file: words.next()?.parse().ok()?,
            size: words.next()?.parse().ok()?,
            time: words.next()?.parse().ok().filter(|time: &f64| time.is_finite())?,
            compression: words.next().and_then(label),
            encryption: words.next().and_then(label),
        };
        words.next().is_none().then_some(entry)
    }

    /// Describes a file of the archive by looking at it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn of_file(file: WalFile, path: &Path) -> io::Result<Self> {
        let source = File::open(path)?;
        let metadata = source.metadata()?;
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        (&source).take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
        let encrypted = crate::wal::looks_encrypted(&magic);
        let compression = match Compression::detect(&magic) {
            Compression::None => None,
            other => Some(Cow::Borrowed(other.name())),
        };
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = seconds(modified);
        let encryption = encrypted.then_some(Cow::Borrowed("gpg"));
        Ok(WalEntry { file, size: metadata.len(), time, compression, encryption })
    }
}

/// A time as Barman stores it: a float, to the tenth of a microsecond that floats of this size hold.
pub(crate) fn seconds(since_epoch: Duration) -> f64 {
    // Python's arithmetic, so that both round alike.
    since_epoch.as_secs() as f64 + 1e-9 * f64::from(since_epoch.subsec_nanos())
}

/// The words that lists consist of are few: they need no memory each.
fn label(word: &str) -> Option<Cow<'static, str>> {
    const KNOWN: [&str; 10] =
        ["gzip", "zstd", "lz4", "xz", "bzip2", "snappy", "gpg", "pigz", "pygzip", "pybzip2"];
    match KNOWN.into_iter().find(|known| *known == word) {
        Some(known) => Some(Cow::Borrowed(known)),
        None => (word != "None").then(|| Cow::Owned(word.to_owned())),
    }
}

/// Reads a list. What follows the last line break is still being written and left out.
///
/// ```
/// use barkeep_catalog::xlogdb;
/// let list = xlogdb::parse(b"000000010000000000000006\t16523\t1795342542.3666706\tgzip\tNone\nrubbish\n0000");
/// assert_eq!(list.entries[0].file.to_string(), "000000010000000000000006");
/// assert_eq!(list.faults[0].line, 2);
/// ```
pub fn parse(file: &[u8]) -> XlogDb {
    let mut list = XlogDb::default();
    walk_lines(file, |line| match line {
        Ok((_, entry)) => list.entries.push(entry),
        Err(fault) => list.faults.push(fault),
    });
    list
}

/// Tells of each line: where it begins, in bytes, and what it says.
fn walk_lines(file: &[u8], mut tell: impl FnMut(Result<(u64, WalEntry), LineFault>)) {
    let complete = file.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut position = 0;
    for (index, line) in file[..complete].split(|byte| *byte == b'\n').enumerate() {
        let begins = position;
        position += line.len() as u64 + 1;
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            continue;
        }
        tell(
            WalEntry::parse(&text)
                .map(|entry| (begins, entry))
                .ok_or_else(|| LineFault { line: index + 1, text: text.chars().take(80).collect() }),
        );
    }
}

/// Reads a server's list with the place where each line begins, in bytes. Lines that say nothing are passed over; a list
/// that does not exist is what it would be if it were made from the archive.
///
/// # Errors
/// As for [`read`].
pub fn read_positions(layout: &Layout) -> Result<Vec<(u64, WalEntry)>, XlogDbError> {
    let _lock = SharedLock::acquire_within(layout, Task::XlogDb, READ_PATIENCE).ok().flatten();
    let content = match content(layout)? {
        Some(content) => content,
        None => scan(layout)?.iter().map(|entry| format!("{entry}\n")).collect::<String>().into_bytes(),
    };
    let mut list = Vec::new();
    walk_lines(&content, |line| list.extend(line.ok()));
    Ok(list)
}

/// The list as it is; `None` if there is none.
fn content(layout: &Layout) -> Result<Option<Vec<u8>>, XlogDbError> {
    let path = layout.xlogdb();
    let failed = |source| XlogDbError::Read { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(XlogDbError::TooLarge { path, bytes });
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

/// Reads a server's list; when there is none, makes one from the archive (in memory only).
///
/// Waits for a writer a few seconds, and then reads what there is: appending and replacing are safe against readers
/// here, and a stuck writer must not keep anybody from restoring.
///
/// # Errors
/// When the list, or the archive in its place, can't be read.
pub fn read(layout: &Layout) -> Result<XlogDb, XlogDbError> {
    let _lock = SharedLock::acquire_within(layout, Task::XlogDb, READ_PATIENCE).ok().flatten();
    read_unlocked(layout)
}

fn read_unlocked(layout: &Layout) -> Result<XlogDb, XlogDbError> {
    let Some(content) = content(layout)? else {
        return Ok(XlogDb { entries: scan(layout)?, faults: Vec::new() });
    };
    let mut list = parse(&content);
    if !list.faults.is_empty() {
        // What the wrong lines meant is in the archive.
        let unlisted = unlisted(layout, &list.entries)?;
        list.entries.extend(unlisted);
    }
    Ok(list)
}

/// The files of the archive that a list does not name.
fn unlisted(layout: &Layout, entries: &[WalEntry]) -> Result<Vec<WalEntry>, XlogDbError> {
    let known: HashSet<WalFile> = entries.iter().map(|entry| entry.file).collect();
    let mut files = archived_files(layout)?;
    files.retain(|(file, _)| !known.contains(file));
    look_into(&files)
}

/// Lists the archive by walking it: segments, partial ones, labels and history files, in name order. Other files are
/// passed over. An archive that does not exist is empty.
///
/// # Errors
/// When a directory or file can't be read.
pub fn scan(layout: &Layout) -> Result<Vec<WalEntry>, XlogDbError> {
    look_into(&archived_files(layout)?)
}

fn look_into(files: &[(WalFile, PathBuf)]) -> Result<Vec<WalEntry>, XlogDbError> {
    let share = files.len().div_ceil(scanners()).max(SCAN_SHARE_MIN);
    let look = |files: &[(WalFile, PathBuf)]| {
        let mut entries = Vec::with_capacity(files.len());
        for (file, path) in files {
            match WalEntry::of_file(*file, path) {
                Ok(entry) => entries.push(entry),
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(XlogDbError::Read { path: path.clone(), source }),
            }
        }
        Ok(entries)
    };
    let mut entries = Vec::with_capacity(files.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = files.chunks(share).map(|files| scope.spawn(move || look(files))).collect();
        for worker in workers {
            entries.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<(), XlogDbError>(())
    })?;
    Ok(entries)
}

fn scanners() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(SCANNERS_MAX)
}

/// What [`rebuild`] found.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// The files that are listed now, in name order.
    pub files: Vec<WalFile>,
    /// What lies in the archive and does not belong there.
    pub foreign: Vec<PathBuf>,
}

/// Makes a server's list anew from the files. Nobody archives meanwhile; readers see the old list until the new one is
/// complete, and a crash leaves the old one.
///
/// # Errors
/// When the archive can't be read or the list can't be written; the list is then as it was.
pub fn rebuild(layout: &Layout) -> Result<Rebuilt, XlogDbError> {
    // Looking into the files takes the time, so that is done before anybody is kept waiting; what changes until the lock
    // is had is looked at again.
    let before: HashMap<WalFile, WalEntry> =
        scan(layout)?.into_iter().map(|entry| (entry.file, entry)).collect();
    durable::create_dir_all(&layout.xlogdb_directory)?;
    let list = Locked::acquire(layout)?;
    let mut rebuilt = Rebuilt::default();
    let mut entries = Vec::with_capacity(before.len());
    let mut foreign = Vec::new();
    for (file, path) in walk(layout, &mut |path| foreign.push(path))? {
        let entry = match before.get(&file) {
            Some(entry) => entry.clone(),
            None => match WalEntry::of_file(file, &path) {
                Ok(entry) => entry,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(XlogDbError::Read { path, source }),
            },
        };
        rebuilt.files.push(file);
        entries.push(entry);
    }
    list.replace(&entries)?;
    // Of those who were killed at this. That they can't be removed does no harm.
    let _ = durable::remove_abandoned_files(&layout.xlogdb_directory);
    rebuilt.foreign = foreign;
    Ok(rebuilt)
}

/// The files of the archive with their paths, in name order, without looking into them.
///
/// # Errors
/// When a directory can't be read.
pub fn archived_files(layout: &Layout) -> Result<Vec<(WalFile, PathBuf)>, XlogDbError> {
    walk(layout, &mut |_| {})
}

/// The segments of the archive, in order, without looking into them.
///
/// # Errors
/// When a directory can't be read.
pub fn archived_segments(layout: &Layout) -> Result<Vec<SegmentName>, XlogDbError> {
    let mut segments: Vec<SegmentName> = Vec::new();
    for (_, files) in archived_directories(layout)? {
        segments.extend(files.into_iter().filter_map(|file| match file {
            WalFile::Segment(segment) => Some(segment),
            _ => None,
        }));
    }
    Ok(segments)
}

/// The files of the archive by directory, the histories first, without looking into them: [`archived_files`] without a path and
/// a name in memory for each of a hundred thousand files.
///
/// # Errors
/// When a directory can't be read.
pub fn archived_directories(layout: &Layout) -> Result<Vec<(PathBuf, Vec<WalFile>)>, XlogDbError> {
    let mut histories = Vec::new();
    let mut directories: Vec<(String, PathBuf)> = Vec::new();
    for (name, path, is_directory) in entries_of(&layout.wals)? {
        match name.parse::<WalFile>() {
            Ok(file @ WalFile::History(_)) if !is_directory => histories.push(file),
            _ if is_directory && is_log_directory(&name) => directories.push((name, path)),
            _ => {}
        }
    }
    histories.sort_unstable_by_key(|file| file.timeline());
    directories.sort_unstable();
    let share = directories.len().div_ceil(scanners()).max(1);
    let list = |directories: &[(String, PathBuf)]| {
        let listed = directories.iter().map(|(name, path)| Ok((path.clone(), files_of(name, path)?)));
        listed.collect::<Result<Vec<_>, XlogDbError>>()
    };
    let mut all = vec![(layout.wals.clone(), histories)];
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            directories.chunks(share).map(|directories| scope.spawn(move || list(directories))).collect();
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<(), XlogDbError>(())
    })?;
    Ok(all)
}

/// The files that belong in one directory of the archive, by segment.
fn files_of(name: &str, path: &Path) -> Result<Vec<WalFile>, XlogDbError> {
    let failed = |source| XlogDbError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files: Vec<WalFile> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let entry_name = entry.file_name();
        let text = entry_name.to_str().filter(|text| text.starts_with(name));
        let Some(Ok(file)) = text.map(str::parse::<WalFile>) else { continue };
        if file.segment().is_some() && !entry.file_type().map_err(failed)?.is_dir() {
            files.push(file);
        }
    }
    files.sort_unstable_by_key(|file| (file.segment(), *file));
    Ok(files)
}

/// The files of the archive; `foreign` hears of what does not belong there.
fn walk(layout: &Layout, foreign: &mut dyn FnMut(PathBuf)) -> Result<Vec<(WalFile, PathBuf)>, XlogDbError> {
    let mut files = Vec::new();
    let is_ours = |path: &Path| {
        path == layout.xlogdb()
            || path == layout.old_xlogdb()
            || path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            || path.file_name() == Some("sync-wals.info".as_ref())
    };
    for (name, path, is_directory) in entries_of(&layout.wals)? {
        match name.parse::<WalFile>() {
            Ok(file @ WalFile::History(_)) if !is_directory => files.push((file, path)),
            _ if is_directory && is_log_directory(&name) => {
                for (inner, path, is_directory) in entries_of(&path)? {
                    match inner.parse::<WalFile>() {
                        Ok(file)
                            if !is_directory && file.segment().is_some_and(|s| s.directory() == name) =>
                        {
                            files.push((file, path));
                        }
                        _ if is_ours(&path) => {}
                        _ => foreign(path),
                    }
                }
            }
            _ if is_ours(&path) => {}
            _ => foreign(path),
        }
    }
    files.sort_by_cached_key(|(file, _)| file.to_string());
    Ok(files)
}

/// Whether a name is that of an archive directory: 16 upper-case hexadecimal digits.
pub(crate) fn is_log_directory(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
}

/// Name, path and whether it is a directory, of what a directory holds; nothing when it does not exist. Names that
/// are not text belong to nobody here.
fn entries_of(directory: &Path) -> Result<Vec<(String, PathBuf, bool)>, XlogDbError> {
    let failed = |source| XlogDbError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        found.push((name, entry.path(), is_directory));
    }
    Ok(found)
}

/// A server's list, locked for changes.
#[derive(Debug)]
pub struct Locked<'a> {
    layout: &'a Layout,
    _lock: ServerLock,
}

impl<'a> Locked<'a> {
    /// Locks the list, waiting up to a minute for others.
    ///
    /// # Errors
    /// When the lock can't be had.
    pub fn acquire(layout: &'a Layout) -> Result<Self, XlogDbError> {
        let lock = ServerLock::acquire_within(layout, Task::XlogDb, WRITE_PATIENCE)?;
        Ok(Locked { layout, _lock: lock })
    }

    /// Reads the list.
    ///
    /// # Errors
    /// As for [`read`].
    pub fn read(&self) -> Result<XlogDb, XlogDbError> {
        read_unlocked(self.layout)
    }

    /// Appends lines; on `Ok` they are on stable storage. A list that does not exist is first made from the archive.
    ///
    /// # Errors
    /// When it fails; the list is then as it was.
    pub fn append(&self, entries: &[WalEntry]) -> Result<(), XlogDbError> {
        let path = self.layout.xlogdb();
        if !path.exists() {
            let mut all = scan(self.layout)?;
            let listed: HashSet<WalFile> = all.iter().map(|entry| entry.file).collect();
            all.extend(entries.iter().filter(|entry| !listed.contains(&entry.file)).cloned());
            return self.replace(&all);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut lines = self.mend_torn_end(&path)?;
        for entry in entries {
            lines.push_str(&entry.to_string());
            lines.push('\n');
        }
        durable::append(&path, lines.as_bytes())?;
        Ok(())
    }

    /// Replaces the whole list at once.
    ///
    /// # Errors
    /// When it fails; the list is then as it was.
    pub fn replace(&self, entries: &[WalEntry]) -> Result<(), XlogDbError> {
        use std::fmt::Write as _;
        let mut text = String::new();
        for entry in entries {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{entry}");
        }
        durable::write(&self.layout.xlogdb(), text.as_bytes())?;
        // Barman, too, drops the list of its older versions as soon as it has made a new one.
        durable::remove(&self.layout.old_xlogdb())?;
        Ok(())
    }

    /// Cuts off a last line without an end, which a crash left behind. When it names a file of the archive, that file's
    /// line is given back, to be written again.
    fn mend_torn_end(&self, path: &Path) -> Result<String, XlogDbError> {
        let failed = |source| XlogDbError::Read { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let start = length.saturating_sub(LINE_BYTES_MAX as u64);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        file.take(LINE_BYTES_MAX as u64).read_to_end(&mut tail).map_err(failed)?;
        let whole = match tail.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if start == 0 => 0,
            // A line longer than any line: leave it to be told as a fault, and end it.
            None => return Ok("\n".to_owned()),
        };
        if whole == tail.len() {
            return Ok(String::new());
        }
        let torn = String::from_utf8_lossy(&tail[whole..]).into_owned();
        let keep = start + whole as u64;
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(keep)).map_err(failed)?;
        let name = torn.split_whitespace().next().and_then(|name| name.parse::<WalFile>().ok());
        let entry = name.and_then(|file| WalEntry::of_file(file, &self.layout.wal(&file)).ok());
        Ok(entry.map(|entry| format!("{entry}\n")).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
