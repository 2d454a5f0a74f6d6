//! Unpacking archives here and sending what is in them, in the order in which it comes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use barkeep_transport::host::{Action, Change, Kind};
use bytes::Bytes;

use super::super::super::facts::{STAGED_WAL, WalPlace};
use super::super::super::tree::{DataRules, PG_CONTROL, directory_mode, file_mode};
use super::super::unpack::{Archive, Names, PIECES_WAITING, decompress_into};
use super::super::{CONTROL_IN_WAITING, MANIFEST, PRIVATE_FILE, configure, manifest_aside, no_control};
use super::{Far, FarRoot, RestoreError, UNPACKED, change};
use crate::copy::{self, Directory};
use crate::pool;
use crate::tar::{Entry, EntryKind, Event, TarParser, Trailer};

/// How much is sent at a time, in bytes.
const SEND_BYTES: usize = 256 << 10;
/// Most changes that are sent at a time.
const SEND_CHANGES: usize = 256;
/// Largest configuration file that is put aside, in bytes.
const CONFIG_BYTES_MAX: usize = 16 << 20;

/// What was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Files at the top of the data directory.
    pub(super) top_names: Vec<PathBuf>,
    control: bool,
}

impl Far<'_> {
    /// Unpacks all archives, several at a time.
    pub(super) fn unpack_all(&self, archives: &[Archive], jobs: usize) -> Result<Unpacked, RestoreError> {
        let plan = self.plan;
        let aside = self.staging.join(UNPACKED);
        std::fs::create_dir(&aside).map_err(|error| RestoreError::write(&aside, error))?;
        let oids: Vec<u32> = plan.trees.iter().filter_map(|tree| Some(tree.tablespace.as_ref()?.0)).collect();
        let extra: Vec<&str> = plan.extra_files.iter().map(|(name, _)| &name[..]).collect();
        let staged = (plan.wal_place == WalPlace::Staged).then_some(STAGED_WAL);
        let rules = DataRules { rewritten: &extra, staged, tablespaces: &oids };
        let all = Mutex::new(Unpacked::default());
        let work: Vec<_> = archives.iter().zip(&self.roots).enumerate().collect();
        pool::run(
            &work,
            jobs,
            || (),
            |(), (index, (archive, root)), stop| {
                let rules = (*index == 0).then_some(&rules);
                let mut job = Job {
                    far: self,
                    archive,
                    root,
                    rules,
                    unpacked: Unpacked::default(),
                    names: Names::default(),
                    pending: Vec::new(),
                    pending_bytes: 0,
                    open: None,
                };
                job.run(stop)?;
                let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                all.files += job.unpacked.files;
                all.bytes += job.unpacked.bytes;
                all.control |= job.unpacked.control;
                all.top_names.append(&mut job.unpacked.top_names);
                Ok::<_, RestoreError>(())
            },
        )?;
        let all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !all.control {
            return Err(no_control(plan));
        }
        self.send_manifest()?;
        Ok(all)
    }

    /// The manifest is beside the archives.
    fn send_manifest(&self) -> Result<(), RestoreError> {
        let (Some(directory), data) = (self.plan.backup.data.parent(), self.data()?) else { return Ok(()) };
        let opened = Directory::open(directory).and_then(|directory| directory.read(Path::new(MANIFEST)));
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| RestoreError::read(&directory.join(MANIFEST), error))?,
        };
        let name = PathBuf::from(manifest_aside(self.plan));
        self.send_file(data.root, &name, PRIVATE_FILE, &mut file, &AtomicBool::new(false))
    }
}

/// One archive.
struct Job<'a, 'f> {
    far: &'a Far<'f>,
    archive: &'a Archive,
    root: &'a FarRoot,
    /// For the data directory.
    rules: Option<&'a DataRules<'a>>,
    unpacked: Unpacked,
    names: Names,
    /// What is still to be sent.
    pending: Vec<Change>,
    pending_bytes: usize,
    open: Option<OpenFile>,
}

/// A file that is being unpacked.
struct OpenFile {
    path: PathBuf,
    at: u64,
    /// Configuration, which is worked on here.
    aside: Option<Vec<u8>>,
}

impl Job<'_, '_> {
    fn run(&mut self, stop: &AtomicBool) -> Result<(), RestoreError> {
        let far = self.far;
        let ended = AtomicBool::new(false);
        let give_up =
            || stop.load(Ordering::Relaxed) || ended.load(Ordering::Relaxed) || far.observer.cancelled();
        let tell = |bytes| far.observer.event(super::RestoreEvent::Copied { bytes });
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PIECES_WAITING);
            let (give_up, tell, archive) = (&give_up, &tell, self.archive);
            scope.spawn(move || decompress_into(archive, tell, sender, give_up));
            let result = self.send_all(receiver).and_then(|()| self.flush());
            ended.store(true, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) || far.observer.cancelled() {
                return Err(RestoreError::Cancelled);
            }
            result
        })
    }

    fn send_all(&mut self, pieces: Receiver<io::Result<Bytes>>) -> Result<(), RestoreError> {
        let path = self.archive.path().to_owned();
        let wrong = |source| RestoreError::Archive { path: path.clone(), source };
        let mut parser = TarParser::new(Trailer::Required);
        for piece in pieces {
            let mut piece = piece.map_err(|source| RestoreError::read(&path, source))?;
            while let Some(event) = parser.next(&mut piece).map_err(wrong)? {
                match event {
                    Event::Entry(entry) => self.begin(&entry)?,
                    Event::Data(data) => self.data(&data)?,
                    Event::EndOfFile => self.end()?,
                }
            }
        }
        parser.finish().map_err(wrong)
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(entry.name.as_bytes()));
        let kind = match entry.kind {
            EntryKind::File { .. } => copy::Kind::File,
            EntryKind::Directory => copy::Kind::Directory,
            EntryKind::TablespaceLink { .. } => copy::Kind::Link,
        };
        if self.rules.is_some_and(|rules| rules.leave_out(path, kind)) {
            return Ok(());
        }
        match kind {
            copy::Kind::Directory => {
                let mode = directory_mode(entry.mode);
                // It may be there: from before, or as one that every cluster has.
                let made = change(self.root.root, path, Action::CreateDirectory { mode });
                self.flush()?;
                self.far.make_or_find(vec![made])
            }
            copy::Kind::File => {
                let is_control = self.rules.is_some() && path == Path::new(PG_CONTROL);
                self.unpacked.control |= is_control;
                self.names.take(self.archive, path)?;
                let name = if is_control { Path::new(CONTROL_IN_WAITING) } else { path };
                if self.root.there.get(name).is_some_and(|there| there.kind != Kind::Directory) {
                    self.push(change(self.root.root, name, Action::RemoveFile), 0)?;
                }
                let mode = file_mode(entry.mode);
                self.push(change(self.root.root, name, Action::CreateFile { mode }), 0)?;
                let at_top = self.rules.is_some() && path.components().count() == 1;
                if at_top {
                    self.unpacked.top_names.push(path.to_owned());
                }
                let text = path.to_str().unwrap_or_default();
                let is_configuration = configure::REWRITTEN.iter().any(|(name, _)| *name == text)
                    || self.far.plan.settings_file == text;
                let aside = (at_top && is_configuration).then(Vec::new);
                self.open = Some(OpenFile { path: name.to_owned(), at: 0, aside });
                Ok(())
            }
            _ => Err(RestoreError::UnknownTablespace { path: self.archive.path().join(path) }),
        }
    }

    fn data(&mut self, data: &Bytes) -> Result<(), RestoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let (path, offset) = (open.path.clone(), open.at);
        open.at += data.len() as u64;
        if let Some(aside) = &mut open.aside
            && aside.len() + data.len() <= CONFIG_BYTES_MAX
        {
            aside.extend_from_slice(data);
        }
        self.unpacked.bytes += data.len() as u64;
        if data.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let written = change(self.root.root, path, Action::Write { offset, data: data.to_vec() });
        self.push(written, data.len())
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        let Some(OpenFile { path, at, aside }) = self.open.take() else { return Ok(()) };
        self.unpacked.files += 1;
        if let Some(content) = aside {
            let kept = self.far.staging.join(UNPACKED).join(&path);
            let written = std::fs::File::create_new(&kept).and_then(|mut file| file.write_all(&content));
            written.map_err(|error| RestoreError::write(&kept, error))?;
        }
        self.push(change(self.root.root, path, Action::Truncate { size: at }), 0)
    }

    fn push(&mut self, change: Change, bytes: usize) -> Result<(), RestoreError> {
        self.pending.push(change);
        self.pending_bytes += bytes;
        match self.pending_bytes >= SEND_BYTES || self.pending.len() >= SEND_CHANGES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() { Ok(()) } else { self.far.make(pending) }
    }
}
