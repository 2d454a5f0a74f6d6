//! Receiving WAL files from PostgreSQL hosts into `incoming/`: what `put-wal` does, and a local `archive_command`.
//!
//! A file is acknowledged only when it is whole, was verified, and is durable under its own name. The same content again
//! is a success, so that an `archive_command` whose answer was lost can be repeated; other content under the name of a file
//! that is there never is.

mod first;
mod tar;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use barkeep_transport::codec::{Compression, MAGIC_BYTES};
use barkeep_transport::durable::{self, DurableError, TempFile};
use jiff::Timestamp;
use md5::{Digest, Md5};
use pgwal::WalFile;
use pgwal::page::identify_segment;
use sha2::Sha256;

use crate::archive::{self, Flaw, Verify, known_cluster};
use crate::inspect::{Cluster, Inspector, Soundness, judge_partial};
use crate::wal::{OpenWal, WAL_BYTES_MAX, WalError};
use crate::xlogdb::{Locked, WalEntry, XlogDbError};
use crate::{IndexStore, Layout};
use first::First;
pub use tar::TarError;
use tar::{Member, TarStream};

/// Size of the pieces in which files are received, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Most files in one stream.
const FILES_MAX: usize = 4096;
/// Largest list of checksums accepted, in bytes.
const SUMS_BYTES_MAX: u64 = 1 << 20;
/// Most files of one name in `errors/` that a refused one is compared with, before it is put there too.
const REFUSED_COMPARED_MAX: usize = 64;

/// Receives files of one server.
#[derive(Debug)]
pub struct Reception<'a> {
    layout: &'a Layout,
    verify: Verify,
    now: Timestamp,
    cluster: Option<Cluster>,
    store: IndexStore,
}

/// A file that was received whole, under a temporary name.
#[derive(Debug)]
pub struct Received {
    file: WalFile,
    temporary: TempFile,
    sha256: [u8; 32],
    /// Which cluster it is of, where its first page tells that.
    system_id: Option<u64>,
    soundness: Soundness,
    note: String,
}

/// What became of a received file that is safe now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is new in `incoming/`.
    New,
    /// The same content was there already, in `incoming/` or in the archive.
    Same,
}

/// A file that is safe now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its name.
    pub file: WalFile,
    /// What became of it.
    pub accepted: Accepted,
    /// What is wrong with it, though it was accepted; empty when nothing is.
    pub note: String,
}

/// Why a file was not accepted. Nothing of it is left but what the error names.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream is no tar archive of regular files.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A member is no WAL file.
    #[error("'{name}' is no WAL file's name")]
    Name {
        /// Its name.
        name: String,
    },
    /// A member comes twice.
    #[error("'{name}' comes twice in one stream")]
    Twice {
        /// Its name.
        name: String,
    },
    /// Too many members.
    #[error("more than {FILES_MAX} files in one stream")]
    TooMany,
    /// The stream holds no file at all.
    #[error("the stream holds no WAL file")]
    Empty,
    /// The bytes can't be read.
    #[error("cannot read '{file}': {source}")]
    Source {
        /// Which file.
        file: WalFile,
        /// Why not.
        source: io::Error,
    },
    /// It is longer than a WAL file can be, or not as long as was said.
    #[error("'{file}' has {bytes} bytes, which no such file has")]
    Length {
        /// Which file.
        file: WalFile,
        /// Its length in bytes, as far as it was read.
        bytes: u64,
    },
    /// There is no checksum for a file.
    #[error("Missing checksum for file '{name}'")]
    NoSum {
        /// Which.
        name: String,
    },
    /// There is no file for a checksum.
    #[error("Checksum without corresponding file '{name}'")]
    NoFile {
        /// Which.
        name: String,
    },
    /// A list of checksums that is none.
    #[error("Bad checksum line {line:?}")]
    SumLine {
        /// The line, shortened.
        line: String,
    },
    /// A file's checksum is not what the stream says.
    #[error("Bad file checksum '{found}' (should be {expected}) for file '{name}'")]
    Sum {
        /// Which.
        name: String,
        /// What its bytes give.
        found: String,
        /// What the stream says.
        expected: String,
    },
    /// There is other content under that name.
    #[error("'{file}' is there already with other content, as '{}'; the new one is kept as '{}'", existing.display(), kept.display())]
    Duplicate {
        /// Which.
        file: WalFile,
        /// What is there.
        existing: PathBuf,
        /// Where the new one is.
        kept: PathBuf,
    },
    /// It is damaged, or another cluster's.
    #[error("'{file}' is refused: {note}; it is kept as '{}'", kept.display())]
    Refused {
        /// Which.
        file: WalFile,
        /// How sound it is.
        soundness: Soundness,
        /// What is wrong with it.
        note: String,
        /// Where it is.
        kept: PathBuf,
    },
    /// What is there already can't be compared with it.
    #[error(transparent)]
    Compare(#[from] WalError),
    /// It can't be made durable.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// What is there already can't be listed.
    #[error(transparent)]
    List(#[from] XlogDbError),
    /// `errors/` is full of files of that name.
    #[error("cannot keep '{}' in '{}': too many files of that name", path.display(), errors.display())]
    NoName {
        /// The file.
        path: PathBuf,
        /// The directory.
        errors: PathBuf,
    },
}

impl<'a> Reception<'a> {
    /// Prepares to receive; makes sure that `incoming/` is there. `now` names what goes to `errors/`.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn new(layout: &'a Layout, verify: Verify, now: Timestamp) -> Result<Self, ReceiveError> {
        durable::create_dir_all(&layout.incoming)?;
        let store = IndexStore::of(layout);
        let cluster = known_cluster(layout, &store);
        Ok(Reception { layout, verify, now, cluster, store })
    }

    /// Receives what `source` holds to its end, into a temporary file that is on stable storage when this returns. A
    /// segment is verified while its bytes pass by.
    ///
    /// # Errors
    /// When the source can't be read, is too long, or can't be stored. Nothing is left then.
    pub fn receive(
        &self,
        file: WalFile,
        modified: Option<SystemTime>,
        mut source: impl Read,
    ) -> Result<Received, ReceiveError> {
        let mut temporary = TempFile::create(&self.layout.incoming.join(file.to_string()))?;
        let judge = self.verify != Verify::Off;
        let mut sum = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = 0_u64;
        let mut inspector = None;
        let mut verdict = (Soundness::Unjudged, String::new());
        let mut packed = false;
        let (mut whole, mut system_id) = (None, None);
        loop {
            let count = archive::fill(&mut source, &mut piece)
                .map_err(|source| ReceiveError::Source { file, source })?;
            let filled = &piece[..count];
            if bytes == 0 {
                packed = Compression::detect(&filled[..count.min(MAGIC_BYTES)]) != Compression::None;
                if let (WalFile::Segment(_) | WalFile::Partial(_), Some((_, _, long, size))) =
                    (file, identify_segment(filled))
                {
                    (whole, system_id) = (Some(size.bytes()), Some(long.system_id));
                }
                match file {
                    WalFile::Segment(segment) if !packed => {
                        let before = |size| {
                            let entry = self.store.entry(segment.previous(size)?).ok()??;
                            entry.index().map(std::sync::Arc::new)
                        };
                        inspector = Some(Inspector::begin(segment, filled, self.cluster, judge, before));
                    }
                    WalFile::Partial(segment) if judge && !packed => {
                        verdict = judge_partial(segment, filled, self.cluster);
                    }
                    _ => {}
                }
            }
            if count == 0 {
                break;
            }
            bytes += count as u64;
            if bytes > WAL_BYTES_MAX {
                return Err(ReceiveError::Length { file, bytes });
            }
            sum.update(filled);
            if let Some(inspector) = &mut inspector {
                inspector.feed(filled);
            }
            temporary.write_bytes(filled)?;
        }
        // Where segments are judged, one of another length is damaged; unjudged, it is still none that could be archived.
        let is_segment = matches!(file, WalFile::Segment(_));
        if bytes == 0 || (is_segment && !judge && whole.is_some_and(|whole| whole != bytes)) {
            return Err(ReceiveError::Length { file, bytes });
        }
        temporary.set_metadata(None, modified)?;
        temporary.sync()?;
        let path = temporary.temporary_path();
        if let (WalFile::Segment(segment), true) = (file, packed) {
            // What comes compressed is read once more; it is in memory still.
            let open = OpenWal::open(path)?.ok_or(ReceiveError::Length { file, bytes })?;
            let looked = archive::look_at_one(segment, open, self.cluster, judge)?;
            system_id = looked.index.map(|index| index.system_id);
            verdict = (looked.soundness, looked.note);
        }
        if let Some(inspector) = inspector {
            let looked = inspector.finish(|| File::open(path));
            let looked = looked.map_err(|source| WalError::Read { path: path.to_owned(), source })?;
            verdict = (looked.soundness, looked.note);
        }
        let (soundness, note) = verdict;
        Ok(Received { file, temporary, sha256: sum.finalize().into(), system_id, soundness, note })
    }

    /// Gives received files their names. On `Ok` all of them are durable.
    ///
    /// # Errors
    /// At the first that can't be accepted; those before it are.
    pub fn accept(&self, received: Vec<Received>) -> Result<Vec<Receipt>, ReceiveError> {
        let mut receipts = Vec::with_capacity(received.len());
        let mut first = if self.cluster.is_none() { Some(First::of(self.layout, &self.store)) } else { None };
        for mut one in received {
            if let Some(first) = &mut first {
                first.hold_against(&mut one);
            }
            receipts.push(self.accept_one(one)?);
        }
        durable::sync_dir(&self.layout.incoming)?;
        Ok(receipts)
    }

    fn accept_one(&self, received: Received) -> Result<Receipt, ReceiveError> {
        let Received { file, mut temporary, soundness, note, .. } = received;
        loop {
            match self.compare(file, &temporary, soundness)? {
                Some((_, true)) => {
                    return Ok(Receipt { file, accepted: Accepted::Same, note: String::new() });
                }
                Some((existing, false)) => {
                    let kept = self.keep(file, temporary, "duplicate")?;
                    return Err(ReceiveError::Duplicate { file, existing, kept });
                }
                None => {}
            }
            if !self.verify.admits(soundness) {
                let suffix = if soundness == Soundness::Foreign { "foreign" } else { "damaged" };
                let kept = self.keep(file, temporary, suffix)?;
                return Err(ReceiveError::Refused { file, soundness, note, kept });
            }
            // Should somebody be quicker, it is compared with what that one brought.
            match temporary.try_publish_new_unsynced()? {
                None => return Ok(Receipt { file, accepted: Accepted::New, note }),
                Some(still) => temporary = still,
            }
        }
    }

    /// Whether a file of that name is there, and whether it has the same content. An archived segment that is damaged or
    /// altered does not count, when a sound one comes: the archiver will put that in its place.
    fn compare(
        &self,
        file: WalFile,
        new: &TempFile,
        soundness: Soundness,
    ) -> Result<Option<(PathBuf, bool)>, ReceiveError> {
        let path = new.temporary_path();
        // Last the one before it once more: it may have moved from there to here in between.
        for existing in [new.path().to_owned(), self.layout.wal(&file), new.path().to_owned()] {
            if existing.symlink_metadata().is_ok() {
                match archive::same_content(path, &existing)? {
                    Some(false)
                        if existing != new.path()
                            && soundness == Soundness::Sound
                            && self.gives_way(file, path)? => {}
                    Some(same) => {
                        if same {
                            durable::sync_file(&existing)?;
                            existing.parent().map_or(Ok(()), durable::sync_dir)?;
                            if existing != new.path() {
                                self.make_sure_it_is_listed(file, &existing)?;
                            }
                        }
                        return Ok(Some((existing, same)));
                    }
                    // A link to nothing never gives its name away.
                    None if existing.is_symlink() => return Ok(Some((existing, false))),
                    None => {}
                }
            }
        }
        Ok(None)
    }

    /// Who archived it may have died before its line was written. Then nobody else will write it: the sender is about to be
    /// told that all is well.
    fn make_sure_it_is_listed(&self, file: WalFile, archived: &Path) -> Result<(), ReceiveError> {
        let list = Locked::acquire(self.layout)?;
        if list.read()?.entries.iter().any(|entry| entry.file == file) {
            return Ok(());
        }
        let entry = WalEntry::of_file(file, archived)
            .map_err(|source| WalError::Read { path: archived.to_owned(), source })?;
        Ok(list.append(&[entry])?)
    }

    /// Whether an archived segment is damaged, or no more what was archived, which the new one is.
    fn gives_way(&self, file: WalFile, new: &Path) -> Result<bool, WalError> {
        let WalFile::Segment(segment) = file else { return Ok(false) };
        match archive::flaw(file, self.layout, self.verify, self.cluster) {
            None => Ok(false),
            Some(Flaw::Damaged) => Ok(true),
            Some(Flaw::Altered(hash)) => {
                let Some(open) = OpenWal::open(new)? else { return Ok(false) };
                Ok(archive::look_at_one(segment, open, self.cluster, false)?.hash == hash)
            }
        }
    }

    /// Puts a refused file into `errors/`, unless the same is there already: a PostgreSQL server tries again every minute.
    fn keep(&self, file: WalFile, temporary: TempFile, suffix: &str) -> Result<PathBuf, ReceiveError> {
        let name = file.to_string();
        durable::create_dir_all(&self.layout.errors)?;
        let is_kind = |entry: &str| entry.starts_with(&name) && entry.ends_with(suffix);
        let names = fs::read_dir(&self.layout.errors)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok().filter(|entry| is_kind(entry)));
        for earlier in names.take(REFUSED_COMPARED_MAX) {
            let path = self.layout.errors.join(earlier);
            if same_bytes(temporary.temporary_path(), &path).unwrap_or(false) {
                return Ok(path);
            }
        }
        archive::move_to_errors(
            temporary.temporary_path(),
            name.as_ref(),
            suffix,
            &self.layout.errors,
            self.now,
        )?
        .ok_or_else(|| ReceiveError::NoName {
            path: temporary.path().to_owned(),
            errors: self.layout.errors.clone(),
        })
    }
}

impl Received {
    /// Its name.
    pub fn file(&self) -> WalFile {
        self.file
    }

    /// The SHA-256 of its bytes as they came.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

/// Receives a tar stream as `barman-wal-archive` sends it: WAL files, and `SHA256SUMS` or `MD5SUMS` with a line for each.
/// On `Ok` every file of it is durable under its own name. The stream is read to its end.
///
/// # Errors
/// When anything in it is wrong: then nothing of it is accepted, unless it is one file of several that can't take its name
/// (those before it have theirs, and are the same when they come again).
pub fn receive_tar(reception: &Reception<'_>, stream: impl Read) -> Result<Vec<Receipt>, ReceiveError> {
    let mut tar = TarStream::new(stream);
    let mut received: Vec<Received> = Vec::new();
    let mut sums = BTreeMap::new();
    let mut algorithm = Algorithm::Sha256;
    while let Some(member) = tar.next()? {
        let Member { name, bytes, modified } = member;
        if let Some(named) = Algorithm::of_list(&name) {
            algorithm = named;
            read_sums(&name, bytes, &mut tar, &mut sums)?;
            continue;
        }
        let Ok(file) = name.parse::<WalFile>() else { return Err(ReceiveError::Name { name }) };
        if file.to_string() != name {
            return Err(ReceiveError::Name { name });
        }
        if received.iter().any(|earlier| earlier.file == file) {
            return Err(ReceiveError::Twice { name });
        }
        if received.len() == FILES_MAX {
            return Err(ReceiveError::TooMany);
        }
        if bytes > WAL_BYTES_MAX {
            return Err(ReceiveError::Length { file, bytes });
        }
        received.push(reception.receive(file, modified, &mut tar)?);
    }
    if let Some(name) = sums.keys().find(|name| !received.iter().any(|one| one.file.to_string() == **name)) {
        return Err(ReceiveError::NoFile { name: name.clone() });
    }
    if received.is_empty() {
        return Err(ReceiveError::Empty);
    }
    for one in &received {
        let name = one.file.to_string();
        let Some(expected) = sums.get(&name) else { return Err(ReceiveError::NoSum { name }) };
        let found = algorithm.sum(one)?;
        if found != expected.to_ascii_lowercase() {
            return Err(ReceiveError::Sum { name, found, expected: expected.clone() });
        }
    }
    reception.accept(received)
}

/// What a list of checksums holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Md5,
}

impl Algorithm {
    fn of_list(name: &str) -> Option<Self> {
        match name {
            "SHA256SUMS" => Some(Algorithm::Sha256),
            "MD5SUMS" => Some(Algorithm::Md5),
            _ => None,
        }
    }

    fn sum(self, received: &Received) -> Result<String, ReceiveError> {
        Ok(match self {
            Algorithm::Sha256 => hex(&received.sha256),
            Algorithm::Md5 => {
                let path = received.temporary.temporary_path();
                let mut sum = Md5::new();
                let read = File::open(path).and_then(|mut file| io::copy(&mut file, &mut Sink(&mut sum)));
                read.map_err(|source| WalError::Read { path: path.to_owned(), source })?;
                hex(&sum.finalize())
            }
        })
    }
}

struct Sink<'s>(&'s mut Md5);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads lines of `<checksum> *<name>` or `<checksum>  <name>`.
fn read_sums(
    name: &str,
    bytes: u64,
    source: &mut impl Read,
    sums: &mut BTreeMap<String, String>,
) -> Result<(), ReceiveError> {
    let wrong = |line: &str| ReceiveError::SumLine { line: line.chars().take(120).collect() };
    if bytes > SUMS_BYTES_MAX {
        return Err(wrong(name));
    }
    let mut list = String::new();
    source.read_to_string(&mut list).map_err(|error| ReceiveError::Tar(TarError::Read(error)))?;
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let (sum, name) =
            line.split_once(" *").or_else(|| line.split_once("  ")).ok_or_else(|| wrong(line))?;
        let name = name.strip_prefix("./").unwrap_or(name).trim_end();
        sums.insert(name.to_owned(), sum.to_owned());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let (count, other_count) =
            (archive::fill(&mut one, &mut left)?, archive::fill(&mut other, &mut right)?);
        if left[..count] != right[..other_count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
