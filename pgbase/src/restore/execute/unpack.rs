//! Backups stored as tar archives: unpacked archive by archive, decompressed by one thread and written by another.
//!
//! Names are checked by the parser and opened beneath the destination; what a restore leaves out of a data directory is
//! left out here too. `pg_control` lands under the name that no server looks for.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use barkeep_transport::codec;
use barkeep_transport::host::{Digest, block_digest};
use bytes::Bytes;

use super::super::facts::{RestorePlan, STAGED_WAL, TreeCopy, WalPlace};
use super::super::tree::{DataRules, PG_CONTROL, directory_mode, file_mode};
use super::ground::{Ground, Root};
use super::{
    CONTROL_IN_WAITING, ExecuteOptions, MANIFEST, PRIVATE_FILE, RestoreError, RestoreEvent, RestoreObserver,
    manifest_aside, no_control,
};
use crate::copy::{CopyMethod, Directory, Kind};
use crate::pool;
use crate::tar::{Entry, EntryKind, Event, TarParser, Trailer};

/// How much is decompressed at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// How many such pieces may wait to be written.
pub(super) const PIECES_WAITING: usize = 8;

/// An archive, open.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: Mutex<Option<File>>,
    /// Its size as it is stored.
    pub(super) stored_bytes: u64,
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The files that have come out of an archive so far, in a few bytes each.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Digest>);

impl Names {
    /// Takes the next one, which must be another.
    pub(super) fn take(&mut self, archive: &Archive, name: &Path) -> Result<(), RestoreError> {
        use std::os::unix::ffi::OsStrExt;
        match self.0.insert(block_digest(name.as_os_str().as_bytes())) {
            true => Ok(()),
            false => Err(RestoreError::ArchivedTwice { path: archive.path.clone(), name: name.to_owned() }),
        }
    }
}

impl Archive {
    pub(super) fn open(tree: &TreeCopy) -> Result<Self, RestoreError> {
        let path = &tree.from;
        let open = || -> io::Result<File> {
            let (parent, name) = (path.parent(), path.file_name());
            let (Some(parent), Some(name)) = (parent, name) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            Directory::open(parent)?.read(Path::new(name))
        };
        let file = open().map_err(|source| RestoreError::read(path, source))?;
        let stored_bytes = file.metadata().map_err(|source| RestoreError::read(path, source))?.len();
        Ok(Archive { path: path.clone(), file: Mutex::new(Some(file)), stored_bytes })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Unpacks all archives, several at a time.
pub(super) fn unpack_all(
    plan: &RestorePlan,
    archives: &[Archive],
    ground: &Ground,
    options: ExecuteOptions,
    observer: &dyn RestoreObserver,
) -> Result<Unpacked, RestoreError> {
    let oids: Vec<u32> = plan.trees.iter().filter_map(|tree| Some(tree.tablespace.as_ref()?.0)).collect();
    let extra: Vec<&str> = plan.extra_files.iter().map(|(name, _)| &name[..]).collect();
    let staged = (plan.wal_place == WalPlace::Staged).then_some(STAGED_WAL);
    let rules = DataRules { rewritten: &extra, staged, tablespaces: &oids };
    let (files, bytes, control) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let jobs: Vec<_> = archives.iter().zip(ground.roots()).enumerate().collect();
    pool::run(
        &jobs,
        options.jobs,
        || (),
        |(), (index, (archive, root)), stop| {
            let rules = (*index == 0).then_some(&rules);
            let mut job = Job {
                archive,
                root,
                rules,
                options,
                unpacked: Unpacked::default(),
                names: Names::default(),
                control: false,
            };
            job.run(observer, stop)?;
            files.fetch_add(job.unpacked.files, Ordering::Relaxed);
            bytes.fetch_add(job.unpacked.bytes, Ordering::Relaxed);
            control.fetch_or(job.control, Ordering::Relaxed);
            Ok::<_, RestoreError>(())
        },
    )?;
    if !control.into_inner() {
        return Err(no_control(plan));
    }
    copy_manifest(plan, ground, options)?;
    Ok(Unpacked { files: files.into_inner(), bytes: bytes.into_inner() })
}

/// The manifest is beside the archives.
fn copy_manifest(plan: &RestorePlan, ground: &Ground, options: ExecuteOptions) -> Result<(), RestoreError> {
    let (Some(directory), data) = (plan.backup.data.parent(), ground.data()?) else { return Ok(()) };
    let aside = manifest_aside(plan);
    let copy = || -> io::Result<()> {
        let mut from = match Directory::open(directory)?.read(Path::new(MANIFEST)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            from => from?,
        };
        let size = from.metadata()?.len();
        let mut to = data.directory.create(Path::new(&aside), PRIVATE_FILE, options.owner)?;
        CopyMethod::default().copy(&mut from, &mut to, size, &|_| Ok(()))
    };
    copy().map_err(|source| RestoreError::Copy {
        from: directory.join(MANIFEST),
        to: data.path.join(&aside),
        source,
    })
}

/// One archive.
struct Job<'a> {
    archive: &'a Archive,
    root: &'a Root,
    /// For the data directory.
    rules: Option<&'a DataRules<'a>>,
    options: ExecuteOptions,
    unpacked: Unpacked,
    names: Names,
    /// Whether pg_control was in it.
    control: bool,
}

impl Job<'_> {
    fn run(&mut self, observer: &dyn RestoreObserver, stop: &AtomicBool) -> Result<(), RestoreError> {
        let ended = AtomicBool::new(false);
        let give_up =
            || stop.load(Ordering::Relaxed) || ended.load(Ordering::Relaxed) || observer.cancelled();
        let tell = |bytes| observer.event(RestoreEvent::Copied { bytes });
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PIECES_WAITING);
            let (give_up, tell, archive) = (&give_up, &tell, self.archive);
            scope.spawn(move || decompress_into(archive, tell, sender, give_up));
            let result = self.write_all(receiver);
            ended.store(true, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) || observer.cancelled() {
                return Err(RestoreError::Cancelled);
            }
            result
        })
    }

    /// Writes what comes out of the archive.
    fn write_all(&mut self, pieces: Receiver<io::Result<Bytes>>) -> Result<(), RestoreError> {
        let path = &self.archive.path.clone();
        let wrong = |source| RestoreError::Archive { path: path.clone(), source };
        let mut parser = TarParser::new(Trailer::Required);
        let mut output: Option<(PathBuf, File)> = None;
        for piece in pieces {
            let mut piece = piece.map_err(|source| RestoreError::read(path, source))?;
            while let Some(event) = parser.next(&mut piece).map_err(wrong)? {
                match event {
                    Event::Entry(entry) => output = self.begin(&entry)?,
                    Event::Data(data) => {
                        if let Some((name, file)) = &mut output {
                            let written = file.write_all(&data);
                            written
                                .map_err(|source| RestoreError::write(&self.root.path.join(name), source))?;
                            self.unpacked.bytes += data.len() as u64;
                        }
                    }
                    Event::EndOfFile => self.unpacked.files += u64::from(output.take().is_some()),
                }
            }
        }
        parser.finish().map_err(wrong)
    }

    /// Creates what a header announces; the file to write to, unless it is left out.
    fn begin(&mut self, entry: &Entry) -> Result<Option<(PathBuf, File)>, RestoreError> {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(entry.name.as_bytes()));
        let kind = match entry.kind {
            EntryKind::File { .. } => Kind::File,
            EntryKind::Directory => Kind::Directory,
            EntryKind::TablespaceLink { .. } => Kind::Link,
        };
        if self.rules.is_some_and(|rules| rules.leave_out(path, kind)) {
            return Ok(None);
        }
        let owner = self.options.owner;
        match kind {
            Kind::Directory => {
                self.make_way(path, Some(Kind::Directory))?;
                self.root.make_directory(path, directory_mode(entry.mode), owner)?;
                Ok(None)
            }
            Kind::File => {
                let is_control = self.rules.is_some() && path == Path::new(PG_CONTROL);
                self.control |= is_control;
                let name = if is_control { Path::new(CONTROL_IN_WAITING) } else { path };
                self.names.take(self.archive, path)?;
                self.make_way(name, None)?;
                let made = self.root.directory.create(name, file_mode(entry.mode), owner);
                let file = made.map_err(|source| RestoreError::write(&self.root.path.join(name), source))?;
                Ok(Some((name.to_owned(), file)))
            }
            _ => Err(RestoreError::UnknownTablespace { path: self.archive.path.join(path) }),
        }
    }

    /// Removes what was left of the old cluster at a path that is needed, unless it is what is wanted.
    fn make_way(&self, path: &Path, wanted: Option<Kind>) -> Result<(), RestoreError> {
        if !self.root.in_use {
            return Ok(());
        }
        let found = self.root.directory.kind_at(path);
        let found = found.map_err(|source| RestoreError::write(&self.root.path.join(path), source))?;
        if found.is_none() || found == wanted { Ok(()) } else { self.root.remove_any(path) }
    }
}

/// Decompresses an archive piece by piece into `pieces`, once.
pub(super) fn decompress_into(
    archive: &Archive,
    tell: &(dyn Fn(u64) + Sync),
    pieces: SyncSender<io::Result<Bytes>>,
    give_up: &dyn Fn() -> bool,
) {
    let taken = archive.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    match taken {
        Some(file) => decompress(Counted { file, tell }, pieces, give_up),
        None => drop(pieces.send(Err(io::Error::other("the archive was read before")))),
    }
}

/// Decompresses a file piece by piece into `pieces`, until its end, a failure, or nobody wants more.
fn decompress(source: Counted<'_>, pieces: SyncSender<io::Result<Bytes>>, give_up: &dyn Fn() -> bool) {
    let begin = || {
        let (compression, source) = codec::sniff(source)?;
        compression.reader(source)
    };
    let mut reader = match begin() {
        Ok(reader) => reader,
        Err(error) => return drop(pieces.send(Err(error))),
    };
    while !give_up() {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        let sent = match read {
            Ok(0) => return,
            Ok(_) => pieces.send(Ok(piece.into())),
            Err(error) => return drop(pieces.send(Err(error))),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A file that tells how much of it was read.
struct Counted<'a> {
    file: File,
    tell: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        (self.tell)(bytes as u64);
        Ok(bytes)
    }
}
