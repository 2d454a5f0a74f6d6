//! Reads the map of a server's WAL from its home.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use pgwal::index::{IndexOptions, Indexer};
use pgwal::{History, SegmentName, SegmentSize, TimelineId, WalFile};

use super::{Known, WalMap};
use crate::archive::index_archive;
use crate::index_store::{Entry, Facts};
use crate::inspect::{SegmentIndex, Soundness};
use crate::store::CatalogError;
use crate::wal::OpenWal;
use crate::{IndexStore, Layout, identity, wal, xlogdb};

/// Size of the pieces in which a segment is read, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Most segments outside the archive that are read at once.
const WAITING_MAX: usize = 64;

/// What is read for a map.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Most archived segments without an index that are read to make one; with more, none is.
    pub index_at_most: usize,
    /// Whether what was received and is not complete counts.
    pub partial: bool,
}

/// A map, and what it does not tell.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The map.
    pub map: WalMap,
    /// How many archived segments have no index: what they hold is not known.
    pub unindexed: usize,
    /// Why no indexes could be made, if that failed.
    pub index_fault: Option<String>,
}

/// Reads what is archived, and what is about to be.
///
/// # Errors
/// When the archive, its indexes or a history can't be read.
pub fn load(layout: &Layout, size: SegmentSize, options: LoadOptions) -> Result<Loaded, CatalogError> {
    let archived = xlogdb::archived_segments(layout)?;
    let store = IndexStore::of(layout);
    let recorded = identity::read(layout)?.and_then(|identity| identity.system_id.parse().ok());
    let read = || -> Result<Vec<Known>, CatalogError> {
        let indexed = store
            .load_as(|entry| indexed(entry, recorded))
            .map_err(|error| CatalogError::Index(Box::new(error)))?;
        Ok(all_known(&archived, indexed))
    };
    let mut known = read()?;
    let mut missing = without_index(&known);
    let mut index_fault = None;
    if !missing.is_empty() && missing.len() <= options.index_at_most {
        match index_archive(layout, &missing, None, |_| {}) {
            Ok(()) => {
                known = read()?;
                missing = without_index(&known);
            }
            Err(error) => index_fault = Some(error.to_string()),
        }
    }
    known.extend(waiting(layout, size, &archived, options.partial)?);
    let map = WalMap::new(size, known, histories(layout)?);
    Ok(Loaded { map, unindexed: missing.len(), index_fault })
}

/// The histories that are archived, or about to be. One that makes no sense counts as missing, as for the server.
///
/// # Errors
/// When a directory or file can't be read.
fn histories(layout: &Layout) -> Result<Vec<History>, CatalogError> {
    let mut timelines: Vec<TimelineId> = wal::archived_histories(layout)?;
    for directory in [&layout.streaming, &layout.incoming] {
        timelines.extend(names(directory)?.into_iter().filter_map(|file| match file {
            WalFile::History(timeline) => Some(timeline),
            _ => None,
        }));
    }
    timelines.sort_unstable();
    timelines.dedup();
    let mut histories = Vec::with_capacity(timelines.len());
    for timeline in timelines {
        match wal::history(layout, timeline) {
            Ok(history) => histories.extend(history),
            Err(wal::WalError::History { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(histories)
}

/// What the store knows of a segment: nothing, where that is of a cluster that was here before.
fn indexed(entry: Entry, recorded: Option<u64>) -> Known {
    let index = entry.index().map(Box::new);
    let of = index.as_ref().map(|index| index.system_id);
    if of.zip(recorded).is_some_and(|(of, recorded)| of != recorded) {
        return unread(entry.facts.segment);
    }
    let Facts { segment, soundness, note, .. } = entry.facts;
    Known { name: segment, index, soundness, note, partial: false }
}

/// What is known of archived segments; both are in the order of names.
fn all_known(archived: &[SegmentName], indexed: Vec<Known>) -> Vec<Known> {
    let mut indexed = indexed.into_iter().peekable();
    let known = archived.iter().map(|name| {
        while indexed.next_if(|known| known.name < *name).is_some() {}
        indexed.next_if(|known| known.name == *name).unwrap_or_else(|| unread(*name))
    });
    known.collect()
}

/// Segments of which an index could be made. Of what is no WAL there is none.
fn without_index(known: &[Known]) -> Vec<SegmentName> {
    let can_have = |known: &&Known| {
        known.index.is_none() && known.soundness.replays() && known.soundness != Soundness::Unknown
    };
    known.iter().filter(can_have).map(|known| known.name).collect()
}

const fn unread(name: SegmentName) -> Known {
    Known { name, index: None, soundness: Soundness::Unjudged, note: String::new(), partial: false }
}

/// Segments that wait for the archiver; with `partial`, also the one that is being received.
fn waiting(
    layout: &Layout,
    size: SegmentSize,
    archived: &[SegmentName],
    partial: bool,
) -> Result<Vec<Known>, CatalogError> {
    let mut found = Vec::new();
    for directory in [&layout.streaming, &layout.incoming] {
        for file in names(directory)? {
            let name = match file {
                WalFile::Segment(name) => name,
                WalFile::Partial(name) if partial => name,
                _ => continue,
            };
            if archived.binary_search(&name).is_err() && name.number(size).is_some() {
                found.push((name, matches!(file, WalFile::Partial(_))));
            }
        }
    }
    if partial {
        let of_archive = archived_partials(layout, archived)?;
        found.extend(of_archive.into_iter().map(|name| (name, true)));
    }
    found.sort_unstable();
    found.dedup_by_key(|(name, _)| *name);
    found.truncate(WAITING_MAX);
    let mut known: Vec<Known> = Vec::with_capacity(found.len());
    for (name, partial) in found {
        let before = known.last().and_then(|known| known.index.as_deref());
        let index = index_one(layout, size, name, partial, before)?;
        if index.is_none() {
            continue;
        }
        known.push(Known { index: index.map(Box::new), partial, ..unread(name) });
    }
    Ok(known)
}

/// Partial segments in the archive: the ends of timelines.
fn archived_partials(layout: &Layout, archived: &[SegmentName]) -> Result<Vec<SegmentName>, CatalogError> {
    let timelines: HashSet<TimelineId> = archived.iter().map(|name| name.timeline()).collect();
    let mut partials = Vec::new();
    for timeline in timelines {
        let last = archived.iter().rev().find(|name| name.timeline() == timeline);
        // The last archive directory of a timeline, and the one after it.
        let Some(last) = last else { continue };
        for file in names(&layout.wal_directory(&WalFile::Segment(*last)))? {
            if let WalFile::Partial(name) = file {
                partials.push(name);
            }
        }
    }
    Ok(partials)
}

/// Indexes one segment wherever it is.
fn index_one(
    layout: &Layout,
    segment_size: SegmentSize,
    name: SegmentName,
    partial: bool,
    before: Option<&SegmentIndex>,
) -> Result<Option<SegmentIndex>, CatalogError> {
    let Some(open) = wal::find(layout, WalFile::Segment(name), partial)? else { return Ok(None) };
    let path = open.path.clone();
    let stored = before.is_none().then(|| name.previous(segment_size)).flatten();
    let stored = stored.and_then(|before| IndexStore::of(layout).entry(before).ok().flatten()?.index());
    let before = before.or(stored.as_ref());
    let indexer = before.and_then(|before| Indexer::after(before, name, false));
    let options = IndexOptions { segment_size, blocks: false };
    let Some(indexer) = indexer.or_else(|| Indexer::new(name, options)) else { return Ok(None) };
    index_bytes(open, indexer).map_err(|source| wal::WalError::Read { path, source }.into())
}

fn index_bytes(open: OpenWal, mut indexer: Indexer) -> io::Result<Option<SegmentIndex>> {
    let mut source = open.plain().map_err(io::Error::other)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // What is received ends somewhere; what is before counts.
        if indexer.feed(piece.get(..count).unwrap_or_default()).is_err() {
            break;
        }
    }
    Ok(indexer.finish())
}

/// The WAL files in a directory that may not exist.
fn names(directory: &Path) -> Result<Vec<WalFile>, CatalogError> {
    let failed = |source| CatalogError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        files.extend(name.to_str().and_then(|name| name.parse::<WalFile>().ok()));
    }
    Ok(files)
}
