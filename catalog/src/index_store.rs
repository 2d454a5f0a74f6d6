//! What barkeep knows of each archived segment: whether it is sound, its hash, and [what it holds](SegmentIndex).
//!
//! Kept in `.barkeep/wal-index/`, where Barman never looks: one file ("pack") for each directory of the archive, to which
//! entries are appended; of several entries for one segment the last counts. A file for each segment would be a hundred
//! thousand files to open where a few hundred will do. All of it is derived: what is missing, damaged or of another version
//! counts as not there, and [`build`](crate::archive::index_archive) makes it again from the segments.
//!
//! ```no_run
//! use barkeep_catalog::{IndexStore, Layout};
//! # let layout = Layout::new("pg15", "/srv/barman/pg15".as_ref(), "/srv/barman".as_ref());
//! let indexes = IndexStore::of(&layout).load()?;
//! for entry in indexes.iter() {
//!     let Some(index) = entry.index() else { continue };
//!     println!("{} {} commits, until {:?}", entry.facts.segment, index.commits.count, index.commits.times);
//! }
//! # Ok::<(), barkeep_catalog::index_store::IndexStoreError>(())
//! ```

mod format;
mod other;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barkeep_transport::durable::{self, DurableError};
use pgwal::{SegmentName, WalFile};

use crate::inspect::{Hash, Inspection, SegmentIndex};
use crate::lock::{LockError, ServerLock};
use crate::wal::{self, OpenWal, WalError};
use crate::{Layout, archive};
pub use format::Facts;
pub(crate) use other::ListedTimes;

/// Largest pack accepted, in bytes.
const PACK_BYTES_MAX: u64 = 1 << 30;
/// A pack is rewritten without its superseded entries when these are more than this, in bytes, and more than half of it.
const WASTE_BYTES_MAX: usize = 256 << 10;
/// How long a writer waits for another.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// How many archived segments may be of another cluster than their entries before no more are looked at.
const OTHERS_MAX: usize = 16;
/// Most threads that read packs at once.
const READERS_MAX: usize = 8;

/// The store of one server.
#[derive(Debug, Clone)]
pub struct IndexStore {
    directory: PathBuf,
    lock: PathBuf,
}

/// What the store holds, in memory.
#[derive(Debug, Clone, Default)]
pub struct Indexes {
    entries: Vec<Entry>,
}

/// One segment of the store.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is known of the segment.
    pub facts: Facts,
    pack: Arc<Vec<u8>>,
    index: Range<usize>,
}

/// A store that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexStoreError {
    /// Reading failed.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// Another process is writing.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl Entry {
    /// What the segment holds; `None` when it was not WAL, or the index is damaged or of another version.
    ///
    /// Decoded at each call, in about a microsecond.
    pub fn index(&self) -> Option<SegmentIndex> {
        SegmentIndex::from_bytes(self.index_bytes()).ok()
    }

    fn index_bytes(&self) -> &[u8] {
        self.pack.get(self.index.clone()).unwrap_or_default()
    }
}

impl Indexes {
    /// All entries, by timeline and position.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator + Clone {
        self.entries.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One segment's entry.
    pub fn get(&self, segment: SegmentName) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&segment, |entry| entry.facts.segment).ok()?;
        self.entries.get(at)
    }

    /// The entries from one segment to another, both included. Between timelines, names have no order that means anything.
    pub fn range(&self, first: SegmentName, last: SegmentName) -> &[Entry] {
        let from = self.entries.partition_point(|entry| entry.facts.segment < first);
        let to = self.entries.partition_point(|entry| entry.facts.segment <= last);
        self.entries.get(from..to).unwrap_or_default()
    }

    /// The segments of `archived` that have no usable entry, in their order.
    pub fn missing(&self, archived: &[SegmentName]) -> Vec<SegmentName> {
        archived.iter().copied().filter(|segment| self.get(*segment).is_none()).collect()
    }

    /// The segments that have an entry and are not among `archived`, which are in any order.
    pub fn absent(&self, archived: &[SegmentName]) -> Vec<SegmentName> {
        let archived: HashSet<&SegmentName> = archived.iter().collect();
        let segments = self.entries.iter().map(|entry| entry.facts.segment);
        segments.filter(|segment| !archived.contains(segment)).collect()
    }
}

impl IndexStore {
    /// The store of a server. Touches nothing.
    pub fn of(layout: &Layout) -> Self {
        let private = layout.private();
        IndexStore { directory: private.join("wal-index"), lock: private.join("wal-index.lock") }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// When the directory or a pack can't be read. A damaged pack is no error: its entries are missing.
    pub fn load(&self) -> Result<Indexes, IndexStoreError> {
        Ok(Indexes { entries: self.load_as(|entry| entry)? })
    }

    /// Reads all of it, and makes of each entry what the caller wants of it, by as many threads as there are processors; by
    /// timeline and position.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_as<T: Send>(&self, each: impl Fn(Entry) -> T + Sync) -> Result<Vec<T>, IndexStoreError> {
        let packs = self.packs()?;
        let next = Mutex::new(packs.iter().enumerate());
        let read = || -> Result<Vec<(usize, Vec<T>)>, IndexStoreError> {
            let mut made = Vec::new();
            loop {
                let pack = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((place, path)) = pack else { return Ok(made) };
                made.push((place, read_pack(path)?.into_entries().map(&each).collect()));
            }
        };
        let mut made = by_readers(packs.len(), read)?;
        // Packs are in the order of what they hold.
        made.sort_unstable_by_key(|(place, _)| *place);
        let mut all = Vec::with_capacity(made.iter().map(|(_, entries)| entries.len()).sum());
        made.into_iter().for_each(|(_, entries)| all.extend(entries));
        Ok(all)
    }

    /// The facts of the segments that are not [fine](crate::inspect::Soundness::is_fine), in order: for the question that is asked most
    /// often, and answered several times as fast as by [`load`](Self::load).
    ///
    /// # Errors
    /// When the directory or a pack can't be read.
    pub fn doubtful(&self) -> Result<Vec<Facts>, IndexStoreError> {
        let packs = self.packs()?;
        let next = Mutex::new(packs.iter());
        let read = || -> Result<Vec<Facts>, IndexStoreError> {
            let mut doubtful = Vec::new();
            let mut bytes = Vec::new();
            loop {
                let pack = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(path) = pack else { return Ok(doubtful) };
                let before = doubtful.len();
                read_bytes(path, &mut bytes)?;
                for (facts, ..) in entries_in(&bytes, path) {
                    // The last one counts.
                    if let Some(superseded) =
                        doubtful[before..].iter().position(|other: &Facts| other.segment == facts.segment)
                    {
                        doubtful.remove(before + superseded);
                    }
                    if !facts.soundness.is_fine() {
                        doubtful.push(facts);
                    }
                }
            }
        };
        let mut doubtful = by_readers(packs.len(), read)?;
        doubtful.sort_unstable_by_key(|facts| facts.segment);
        Ok(doubtful)
    }

    /// Reads one segment's entry, and only what has to be read for that.
    ///
    /// # Errors
    /// When the pack can't be read.
    pub fn entry(&self, segment: SegmentName) -> Result<Option<Entry>, IndexStoreError> {
        let found =
            read_pack(&self.pack(segment))?.into_entries().find(|entry| entry.facts.segment == segment);
        Ok(found)
    }

    /// The system identifier of the newest indexed segment that is archived still, and says so itself: what is known of others may be
    /// of a cluster that was here before.
    ///
    /// # Errors
    /// When a pack can't be read.
    pub fn system_id(&self, layout: &Layout) -> Result<Option<u64>, IndexStoreError> {
        let mut tries = 0;
        for pack in self.packs()?.iter().rev() {
            for entry in read_pack(pack)?.into_entries().rev() {
                let Some(index) = entry.index() else { continue };
                match wal::system_id_of(layout, entry.facts.segment) {
                    Some(found) if found == index.system_id => return Ok(Some(found)),
                    Some(_) => tries += 1,
                    None => {}
                }
                if tries >= OTHERS_MAX {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Whether an archived segment has other bytes than when it was archived; `None` when it is not known what it had, or it is
    /// not there, or it is another one.
    ///
    /// # Errors
    /// When the store or the segment can't be read, or the segment not be decompressed.
    pub fn is_altered(&self, layout: &Layout, segment: SegmentName) -> Result<Option<bool>, WalError> {
        let known = self.entry(segment).map_err(|error| WalError::Read {
            path: self.directory.clone(),
            source: io::Error::other(error),
        })?;
        let Some(known) = known.filter(|entry| entry.facts.hash != Hash::default()) else { return Ok(None) };
        let path = layout.wal(&WalFile::Segment(segment));
        let Some(open) = OpenWal::open(&path)? else { return Ok(None) };
        let found = archive::look_at_one(segment, open, None, false)?;
        if found.hash == known.facts.hash {
            return Ok(Some(false));
        }
        let is_another = known.is_of_another(found.index.as_deref(), &ListedTimes::of(layout));
        Ok(if is_another { None } else { Some(true) })
    }

    /// Adds entries, or replaces them.
    ///
    /// # Errors
    /// When storage fails. Packs written until then stay; what is missing can be made again.
    pub fn add(&self, entries: &[(Facts, Option<Arc<SegmentIndex>>)]) -> Result<(), IndexStoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        durable::create_dir_all(&self.directory)?;
        let _lock = ServerLock::acquire_path_within(&self.lock, WRITE_PATIENCE)?;
        let mut by_pack: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for (facts, index) in entries {
            let index = index.as_ref().map(|index| index.to_bytes()).unwrap_or_default();
            format::write(by_pack.entry(self.pack(facts.segment)).or_default(), facts, &index);
        }
        for (path, added) in by_pack {
            let pack = read_pack(&path)?;
            let waste = pack.waste();
            if pack.is_whole() && (waste <= WASTE_BYTES_MAX || waste <= pack.bytes.len() / 2) {
                durable::append(&path, &added)?;
            } else {
                let mut bytes = pack.rewritten();
                bytes.extend(added);
                durable::write(&path, &bytes)?;
            }
        }
        Ok(())
    }

    /// Forgets segments that are not in the archive any more, whose names others may get. How many there were.
    ///
    /// # Errors
    /// When storage fails.
    pub fn forget_absent(
        &self,
        layout: &Layout,
        segments: impl IntoIterator<Item = SegmentName>,
    ) -> Result<usize, IndexStoreError> {
        let mut by_pack: BTreeMap<PathBuf, BTreeSet<SegmentName>> = BTreeMap::new();
        for segment in segments {
            by_pack.entry(self.pack(segment)).or_default().insert(segment);
        }
        if by_pack.is_empty() {
            return Ok(0);
        }
        // A segment gets its entry after its name.
        let _lock = ServerLock::acquire_path_within(&self.lock, WRITE_PATIENCE)?;
        let (mut forgotten, mut removed) = (0, false);
        for (path, mut absent) in by_pack {
            absent.retain(|segment| !layout.wal(&WalFile::Segment(*segment)).exists());
            let mut pack = read_pack(&path)?;
            let before = pack.entries.len();
            pack.entries.retain(|(facts, _)| !absent.contains(&facts.segment));
            forgotten += before - pack.entries.len();
            if pack.entries.is_empty() {
                removed |= durable::remove_unsynced(&path)?;
            } else if pack.entries.len() < before {
                durable::write(&path, &pack.rewritten())?;
            }
        }
        if removed {
            durable::sync_dir(&self.directory)?;
        }
        Ok(forgotten)
    }

    /// Where the entries of a segment are.
    fn pack(&self, segment: SegmentName) -> PathBuf {
        self.directory.join(segment.directory())
    }

    /// The packs there are, in order.
    fn packs(&self) -> Result<Vec<PathBuf>, IndexStoreError> {
        let failed = |source| IndexStoreError::Read { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut packs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let is_pack = entry.file_name().to_str().is_some_and(|name| {
                name.len() == 16 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
            });
            if is_pack {
                packs.push(entry.path());
            }
        }
        packs.sort_unstable();
        Ok(packs)
    }
}

impl Facts {
    /// The facts of a segment that was looked at, whose file in the archive has this length, and was last changed at this time.
    pub fn of(
        segment: SegmentName,
        inspection: &Inspection,
        stored_bytes: u64,
        modified: Option<u64>,
    ) -> Self {
        Facts {
            segment,
            soundness: inspection.soundness,
            note: inspection.note.clone(),
            chained: inspection.chained,
            bytes: inspection.bytes,
            hash: inspection.hash,
            stored_bytes,
            modified,
        }
    }
}

/// A pack, read as far as it is sound.
#[derive(Default)]
struct Pack {
    bytes: Arc<Vec<u8>>,
    /// By segment, each once: its facts, and where its index is.
    entries: Vec<(Facts, Range<usize>)>,
    /// Where the sound part ends.
    sound: usize,
    /// Bytes of entries that count.
    used: usize,
}

impl Pack {
    fn into_entries(self) -> impl DoubleEndedIterator<Item = Entry> {
        let bytes = self.bytes;
        self.entries.into_iter().map(move |(facts, index)| Entry { facts, pack: Arc::clone(&bytes), index })
    }

    /// Whether new entries can be appended.
    fn is_whole(&self) -> bool {
        self.sound > 0 && self.sound == self.bytes.len()
    }

    fn waste(&self) -> usize {
        self.sound.saturating_sub(self.used)
    }

    /// The pack with the entries that count and no others.
    fn rewritten(&self) -> Vec<u8> {
        let mut bytes = format::PACK_HEADER.to_vec();
        for (facts, index) in &self.entries {
            format::write(&mut bytes, facts, self.bytes.get(index.clone()).unwrap_or_default());
        }
        bytes
    }
}

/// Runs `read` in as many threads as are worth it for so many packs, and puts together what they bring.
fn by_readers<T: Send>(
    packs: usize,
    read: impl Fn() -> Result<Vec<T>, IndexStoreError> + Sync,
) -> Result<Vec<T>, IndexStoreError> {
    let threads = processors().min(READERS_MAX).min(packs);
    if threads <= 1 {
        return read();
    }
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&read)).collect();
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

fn read_pack(path: &Path) -> Result<Pack, IndexStoreError> {
    let mut bytes = Vec::new();
    read_bytes(path, &mut bytes)?;
    if !bytes.starts_with(&format::PACK_HEADER) {
        return Ok(Pack::default());
    }
    let mut entries: Vec<_> = entries_in(&bytes, path).collect();
    let sound = entries.last().map_or(format::PACK_HEADER.len(), |(.., whole)| whole.end);
    // Of several for one segment the last counts.
    entries.reverse();
    entries.sort_by_key(|(facts, ..)| facts.segment);
    entries.dedup_by_key(|(facts, ..)| facts.segment);
    let used = format::PACK_HEADER.len() + entries.iter().map(|(.., whole)| whole.len()).sum::<usize>();
    let entries = entries.into_iter().map(|(facts, index, _)| (facts, index)).collect();
    Ok(Pack { bytes: Arc::new(bytes), entries, sound, used })
}

/// Reads a pack's bytes into `bytes`: none where there is no pack.
fn read_bytes(path: &Path, bytes: &mut Vec<u8>) -> Result<(), IndexStoreError> {
    let failed = |source| IndexStoreError::Read { path: path.to_owned(), source };
    bytes.clear();
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // What is longer can't be one of ours; a new one takes its place.
    if file.metadata().map_err(failed)?.len() <= PACK_BYTES_MAX {
        file.read_to_end(bytes).map_err(failed)?;
    }
    Ok(())
}

/// The entries of a pack that is sound at its front and belongs there, in the order in which they were written: the facts, where
/// the index is, where the whole entry is.
fn entries_in<'b>(
    bytes: &'b [u8],
    path: &Path,
) -> impl Iterator<Item = (Facts, Range<usize>, Range<usize>)> + use<'b> {
    let directory = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let of_directory = |low: &str| format!("{directory}{low}").parse::<SegmentName>().ok();
    let here = of_directory("00000000").zip(of_directory("FFFFFFFF"));
    let mut rest = bytes.strip_prefix(&format::PACK_HEADER).unwrap_or_default();
    std::iter::from_fn(move || {
        let start = bytes.len() - rest.len();
        let (facts, index, after) = format::read(rest)?;
        rest = after;
        let end = bytes.len() - after.len();
        Some((facts, end - index.len()..end, start..end))
    })
    .filter(move |(facts, ..)| here.is_some_and(|(first, last)| (first..=last).contains(&facts.segment)))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests;
