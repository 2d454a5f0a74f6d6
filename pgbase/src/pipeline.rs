//! One pass over a base backup as it arrives: parse, check pages, hash, write, one barrier, publish the manifest.
//!
//! [`Unpacker`] takes the events of a `BASE_BACKUP` in order, does all the work on files, and is sync: it belongs on a
//! thread of its own. Files land where `pg_basebackup` in plain format puts them, without any WAL:
//!
//! ```text
//! <destination>/data/...                   the data directory
//! <destination>/data/pg_tblspc/<oid>       link to <destination>/<oid>
//! <destination>/data/backup_manifest       appears last, once everything else is on disk
//! <destination>/<oid>/PG_.../...           one directory per tablespace
//! ```
//!
//! Nothing the server says decides where bytes go: every name is opened component by component beneath the
//! destination, no link is followed, nothing that exists is overwritten, and links are made from our own paths.

mod beneath;
pub(crate) mod durable;
mod error;
mod files;
mod manifest_file;
mod output;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgwal::wire::{BackupDialect, BackupEvent, Tablespace};
use pgwal::{BackupLabel, Lsn, TimelineId};

use crate::checksum::PageGeometry;
use crate::manifest::{ChecksumAlgorithm, Comparison, Inventory, ManifestFacts};
use crate::tar::{Entry, EntryKind, Event, TarParser, Trailer};

use beneath::Tree;
use files::Files;
use manifest_file::ManifestWriter;
use output::Disk;

pub use error::{Place, UnpackError};
pub use files::{CorruptPage, CorruptPages, MAX_CORRUPT_PAGES};

/// The directory of the data directory's copy, within a backup's directory.
pub const DATA_DIRECTORY: &str = "data";

/// The mode of a backup's own directory, and of missing ones above it.
pub(crate) const DESTINATION_MODE: u32 = 0o700;

/// How a backup is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackSettings {
    /// How the server frames the backup, by its version.
    pub dialect: BackupDialect,
    /// The checksums that the manifest was asked to have.
    pub manifest_checksum: ChecksumAlgorithm,
    /// How the cluster's pages lie in its files; `None` when it has no data checksums.
    pub pages: Option<PageGeometry>,
}

/// What was unpacked: every byte of it durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Where the backup begins: recovery starts reading WAL here.
    pub start: Lsn,
    /// The timeline it began on.
    pub start_timeline: TimelineId,
    /// The end of the WAL that it needs, by the server.
    pub end: Lsn,
    /// The timeline it ended on.
    pub end_timeline: TimelineId,
    /// The tablespaces, without the data directory.
    pub tablespaces: Vec<UnpackedTablespace>,
    /// The text of `backup_label`.
    pub label_text: String,
    /// The same, read.
    pub label: BackupLabel,
    /// What the manifest says besides its files.
    pub manifest: ManifestFacts,
    /// The sum of all file sizes in bytes, the manifest included.
    pub total_bytes: u64,
    /// How many files were written, the manifest included.
    pub files: u64,
}

/// A tablespace of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedTablespace {
    /// Its object id, and the name of its directory in the backup.
    pub oid: u32,
    /// Where it is on the server.
    pub location: PathBuf,
}

/// Unpacks one base backup.
#[derive(Debug)]
pub struct Unpacker {
    settings: UnpackSettings,
    destination: PathBuf,
    /// Held open from before the first write: an error of writing anything back reaches its `syncfs`.
    root: std::fs::File,
    data: Tree,
    started: Option<Started>,
    current: Current,
    files: Files,
    manifest: Option<ManifestWriter>,
    end: Option<(Lsn, TimelineId)>,
}

#[derive(Debug)]
struct Started {
    start: Lsn,
    timeline: TimelineId,
    /// Locations of the announced tablespaces, and whether their archive began.
    tablespaces: HashMap<u32, (Bytes, bool)>,
    data_began: bool,
    order: Vec<u32>,
}

/// What data belongs to.
#[derive(Debug)]
enum Current {
    Nothing,
    Archive { place: Place, tree: Option<Tree>, parser: Box<TarParser> },
    Manifest,
}

impl Unpacker {
    /// Prepares `destination`, which is made if it is missing and must not hold a backup already.
    ///
    /// # Errors
    /// When the directories can't be made.
    pub fn new(destination: &Path, settings: UnpackSettings) -> Result<Self, UnpackError> {
        // Links to tablespaces hold the path, so it has to mean the same from everywhere.
        let destination = std::path::absolute(destination)
            .map_err(|source| UnpackError::io("find the path of", destination, source))?;
        DirBuilder::new()
            .recursive(true)
            .mode(DESTINATION_MODE)
            .create(&destination)
            .map_err(|source| UnpackError::io("create the directory", &destination, source))?;
        let root = beneath::open_root(&destination)?;
        let data = Tree::create(&root, &destination, DATA_DIRECTORY)?;
        let files = Files::new(settings.manifest_checksum, settings.pages, Disk::of(&root));
        Ok(Unpacker {
            settings,
            destination,
            root,
            data,
            started: None,
            current: Current::Nothing,
            files,
            manifest: None,
            end: None,
        })
    }

    /// Takes the next event of the backup.
    ///
    /// # Errors
    /// When the server sends what it must not, or a file can't be written. The unpacker is of no use afterwards.
    pub fn event(&mut self, event: BackupEvent) -> Result<(), UnpackError> {
        match event {
            BackupEvent::Data(data) => self.data(data),
            BackupEvent::Start { start, timeline, tablespaces } => self.start(start, timeline, &tablespaces),
            BackupEvent::Archive { tablespace } => self.archive(tablespace),
            BackupEvent::Manifest => {
                self.close_archive()?;
                self.manifest = Some(ManifestWriter::create(&self.root, &self.destination)?);
                self.current = Current::Manifest;
                Ok(())
            }
            BackupEvent::End { end, timeline } => {
                self.close_archive()?;
                self.end = Some((end, timeline));
                Ok(())
            }
            // Progress, notices and what later versions add mean nothing for the files.
            _ => Ok(()),
        }
    }

    /// The corrupt pages found so far.
    pub fn corrupt_pages(&self) -> &CorruptPages {
        self.files.corrupt_pages()
    }

    /// Judges the backup as a whole, makes it durable and publishes its manifest.
    ///
    /// # Errors
    /// When something is missing, differs from the manifest, has a wrong page checksum, or can't be made durable.
    pub fn finish(mut self) -> Result<Unpacked, UnpackError> {
        let (end, end_timeline) = self.end.ok_or(UnpackError::Incomplete)?;
        let started = self.started.take().ok_or(UnpackError::Incomplete)?;
        if let Some(missing) = started.missing_archive() {
            return Err(UnpackError::MissingArchive { place: missing });
        }
        let manifest = self.manifest.take().ok_or(UnpackError::NoManifest)?;
        let finished = self.files.finish();
        let (label_text, label) = read_label(finished.label, started.start)?;
        let files = finished.inventory.len() as u64 + 1;
        let comparison = compare(finished.inventory, &manifest)?;
        if finished.corrupt.count > 0 {
            return Err(UnpackError::CorruptPages(finished.corrupt));
        }
        durable::barrier(&self.root, &self.destination)?;
        let manifest_bytes = manifest.publish(&self.root, &self.data)?;
        Ok(Unpacked {
            start: started.start,
            start_timeline: started.timeline,
            end,
            end_timeline,
            tablespaces: started.in_order(),
            label_text,
            label,
            manifest: comparison.facts,
            total_bytes: finished.total_bytes + manifest_bytes,
            files,
        })
    }

    fn start(
        &mut self,
        start: Lsn,
        timeline: TimelineId,
        announced: &[Tablespace],
    ) -> Result<(), UnpackError> {
        let mut tablespaces = HashMap::new();
        let mut order = Vec::new();
        for tablespace in announced {
            let (Some(oid), Some(location)) = (tablespace.oid, &tablespace.location) else { continue };
            if !location.starts_with(b"/") {
                let location = String::from_utf8_lossy(location).into_owned();
                return Err(UnpackError::InPlaceTablespace { oid, location });
            }
            if tablespaces.insert(oid, (location.clone(), false)).is_some() {
                return Err(UnpackError::RepeatedArchive { place: Place::Tablespace(oid) });
            }
            order.push(oid);
        }
        self.files.set_backup_start(start);
        self.started = Some(Started { start, timeline, tablespaces, data_began: false, order });
        Ok(())
    }

    fn archive(&mut self, tablespace: Option<u32>) -> Result<(), UnpackError> {
        self.close_archive()?;
        let started = self.started.as_mut().ok_or(UnpackError::Incomplete)?;
        let place = Place::from(tablespace);
        let began = match place {
            Place::Data => &mut started.data_began,
            Place::Tablespace(oid) => {
                let entry = started.tablespaces.get_mut(&oid);
                &mut entry.ok_or(UnpackError::UnknownTablespace { oid })?.1
            }
        };
        if std::mem::replace(began, true) {
            return Err(UnpackError::RepeatedArchive { place });
        }
        let tree = match place {
            Place::Data => None,
            Place::Tablespace(oid) => Some(Tree::create(&self.root, &self.destination, &oid.to_string())?),
        };
        let trailer = match self.settings.dialect {
            BackupDialect::PerArchive => Trailer::Optional,
            BackupDialect::SingleStream => Trailer::Required,
        };
        self.current = Current::Archive { place, tree, parser: Box::new(TarParser::new(trailer)) };
        Ok(())
    }

    fn data(&mut self, mut data: Bytes) -> Result<(), UnpackError> {
        match &mut self.current {
            Current::Nothing => Err(UnpackError::Incomplete),
            Current::Manifest => match &mut self.manifest {
                Some(manifest) => manifest.write(&data),
                None => Err(UnpackError::NoManifest),
            },
            Current::Archive { place, tree, parser } => {
                let place = *place;
                let tree = tree.as_mut().unwrap_or(&mut self.data);
                loop {
                    let event = parser.next(&mut data);
                    match event.map_err(|source| UnpackError::Tar { place, source })? {
                        None => return Ok(()),
                        Some(Event::Data(piece)) => self.files.data(piece)?,
                        Some(Event::EndOfFile) => self.files.end()?,
                        Some(Event::Entry(entry)) => {
                            let started = self.started.as_ref().ok_or(UnpackError::Incomplete)?;
                            begin_entry(entry, place, tree, &mut self.files, started, &self.destination)?;
                        }
                    }
                }
            }
        }
    }

    fn close_archive(&mut self) -> Result<(), UnpackError> {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Archive { place, parser, .. } => {
                parser.finish().map_err(|source| UnpackError::Tar { place, source })
            }
            Current::Nothing | Current::Manifest => Ok(()),
        }
    }
}

impl Started {
    fn missing_archive(&self) -> Option<Place> {
        let missing =
            self.tablespaces.iter().find(|(_, (_, began))| !began).map(|(oid, _)| Place::Tablespace(*oid));
        missing.or((!self.data_began).then_some(Place::Data))
    }

    fn in_order(&self) -> Vec<UnpackedTablespace> {
        use std::os::unix::ffi::OsStrExt;
        let location = |oid| {
            let (location, _) = self.tablespaces.get(oid)?;
            let location = PathBuf::from(std::ffi::OsStr::from_bytes(location));
            Some(UnpackedTablespace { oid: *oid, location })
        };
        self.order.iter().filter_map(location).collect()
    }
}

/// Creates what a header announces.
fn begin_entry(
    entry: Entry,
    place: Place,
    tree: &mut Tree,
    files: &mut Files,
    started: &Started,
    destination: &Path,
) -> Result<(), UnpackError> {
    match entry.kind {
        EntryKind::Directory => tree.create_directory(&entry.name),
        EntryKind::File { bytes } => files.begin(place, entry.name, bytes, tree),
        // The archive of a tablespace has no links, and a link must agree with what was announced.
        EntryKind::TablespaceLink { oid, .. } if place != Place::Data => {
            Err(UnpackError::MisplacedLink { place, oid })
        }
        EntryKind::TablespaceLink { oid, target } => {
            let (location, _) =
                started.tablespaces.get(&oid).ok_or(UnpackError::UnknownTablespace { oid })?;
            if location[..] != target {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return Err(UnpackError::LinkTarget { oid, target: text(&target), location: text(location) });
            }
            tree.create_link(&entry.name, &destination.join(oid.to_string()))
        }
    }
}

fn read_label(label: Option<Vec<u8>>, start: Lsn) -> Result<(String, BackupLabel), UnpackError> {
    let text = label.ok_or(UnpackError::NoLabel)?;
    let label = BackupLabel::parse(&text).map_err(UnpackError::Label)?;
    if label.start != start {
        return Err(UnpackError::LabelStart { label: label.start, announced: start });
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), label))
}

fn compare(inventory: Inventory, manifest: &ManifestWriter) -> Result<Comparison, UnpackError> {
    let comparison = inventory.compare(manifest.reader()?).map_err(UnpackError::Manifest)?;
    if comparison.fault_count > 0 {
        let Comparison { faults, fault_count, .. } = comparison;
        return Err(UnpackError::ManifestMismatch { faults, fault_count });
    }
    Ok(comparison)
}

#[cfg(test)]
mod tests;
