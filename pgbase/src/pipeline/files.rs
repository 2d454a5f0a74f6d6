//! The files of a backup while they are written: pages checked, bytes hashed and counted.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use pgwal::Lsn;
use pgwal::label::MAX_LABEL_BYTES;

use super::beneath::Tree;
use super::output::{Disk, OutputFile};
use super::{Place, UnpackError};
use crate::checksum::{FileChecker, PageGeometry, RelationFile};
use crate::manifest::{ChecksumAlgorithm, FileHasher, Inventory, MANIFEST_FILE};
use crate::tar::EntryName;

/// Most corrupt pages listed one by one; the rest are only counted.
pub const MAX_CORRUPT_PAGES: usize = 100;

/// A page whose checksum is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorruptPage {
    /// The file, relative to the data directory.
    pub file: String,
    /// The block's number in its relation.
    pub block: u32,
    /// The checksum in its header.
    pub stored: u16,
    /// The checksum of its bytes.
    pub computed: u16,
}

impl fmt::Display for CorruptPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CorruptPage { file, block, stored, computed } = self;
        write!(f, "block {block} in '{file}' (checksum {stored:04X}, expected {computed:04X})")
    }
}

/// All corrupt pages of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CorruptPages {
    /// The first ones, at most [`MAX_CORRUPT_PAGES`].
    pub first: Vec<CorruptPage>,
    /// How many there are.
    pub count: u64,
}

impl fmt::Display for CorruptPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let pages = if self.count == 1 { "page has a wrong checksum" } else { "pages have wrong checksums" };
        write!(f, "{} data {pages}: ", self.count)?;
        for (index, page) in self.first.iter().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{page}")?;
        }
        if self.count > SHOWN as u64 { f.write_str(", and more") } else { Ok(()) }
    }
}

/// The file being written, and what is known of those written.
#[derive(Debug)]
pub(super) struct Files {
    algorithm: ChecksumAlgorithm,
    pages: Option<PageGeometry>,
    backup_start: Lsn,
    inventory: Inventory,
    corrupt: CorruptPages,
    label: Option<Vec<u8>>,
    total_bytes: u64,
    disk: Disk,
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    output: OutputFile,
    path: PathBuf,
    place: Place,
    name: EntryName,
    bytes: u64,
    hasher: FileHasher,
    checker: Option<FileChecker>,
    is_label: bool,
}

/// What [`Files`] found out.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) inventory: Inventory,
    pub(super) corrupt: CorruptPages,
    pub(super) label: Option<Vec<u8>>,
    pub(super) total_bytes: u64,
}

impl Files {
    pub(super) fn new(algorithm: ChecksumAlgorithm, pages: Option<PageGeometry>, disk: Disk) -> Self {
        Files {
            algorithm,
            pages,
            backup_start: Lsn::INVALID,
            inventory: Inventory::new(algorithm),
            corrupt: CorruptPages::default(),
            label: None,
            total_bytes: 0,
            disk,
            open: None,
        }
    }

    /// Pages changed at or after this position are not judged.
    pub(super) fn set_backup_start(&mut self, start: Lsn) {
        self.backup_start = start;
    }

    pub(super) fn begin(
        &mut self,
        place: Place,
        name: EntryName,
        bytes: u64,
        tree: &mut Tree,
    ) -> Result<(), UnpackError> {
        // The manifest comes apart from the archives; a file of its name would be taken for it.
        if place == Place::Data && name.as_bytes() == MANIFEST_FILE.as_bytes() {
            return Err(UnpackError::Reserved { name: name.to_string() });
        }
        let file = tree.create_file(&name)?;
        let checker = self.pages.and_then(|geometry| {
            let relation = RelationFile::parse(name.as_bytes(), place != Place::Data)?;
            Some(FileChecker::new(geometry, relation, self.backup_start))
        });
        let is_label = place == Place::Data && name.as_bytes() == b"backup_label";
        if is_label {
            self.label = Some(Vec::new());
        }
        self.open = Some(OpenFile {
            output: OutputFile::new(file, bytes, &self.disk),
            path: tree.path_of(&name),
            place,
            name,
            bytes,
            hasher: self.algorithm.hasher(),
            checker,
            is_label,
        });
        Ok(())
    }

    pub(super) fn data(&mut self, piece: Bytes) -> Result<(), UnpackError> {
        // The parser gives data only within a file.
        let Some(open) = &mut self.open else { return Err(UnpackError::Incomplete) };
        open.hasher.update(&piece);
        if let Some(checker) = &mut open.checker {
            let (place, name, corrupt) = (open.place, &open.name, &mut self.corrupt);
            checker.update(&piece, |bad| {
                corrupt.count += 1;
                if corrupt.first.len() < MAX_CORRUPT_PAGES {
                    let file = path_in_data(place, name);
                    let (block, stored, computed) = (bad.block, bad.stored, bad.computed);
                    corrupt.first.push(CorruptPage { file, block, stored, computed });
                }
            });
        }
        if let (true, Some(label)) = (open.is_label, &mut self.label) {
            // One byte more than allowed, so that the label's parser sees that it is too long.
            let room = (MAX_LABEL_BYTES + 1).saturating_sub(label.len());
            label.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        open.output
            .write(piece, &mut self.disk)
            .map_err(|source| UnpackError::io("write", &open.path, source))
    }

    pub(super) fn end(&mut self) -> Result<(), UnpackError> {
        let Some(open) = self.open.take() else { return Err(UnpackError::Incomplete) };
        open.output.finish(&mut self.disk).map_err(|source| UnpackError::io("write", &open.path, source))?;
        if let Some(checker) = open.checker.filter(|checker| checker.trailing_bytes() > 0) {
            let bytes = checker.trailing_bytes();
            tracing::warn!(file = %open.path.display(), bytes, "the last page of a relation's file is incomplete");
        }
        let prefix = match open.place {
            Place::Data => String::new(),
            Place::Tablespace(oid) => format!("pg_tblspc/{oid}/"),
        };
        self.inventory.add([prefix.as_bytes(), open.name.as_bytes()], open.bytes, open.hasher)?;
        self.total_bytes += open.bytes;
        Ok(())
    }

    pub(super) fn corrupt_pages(&self) -> &CorruptPages {
        &self.corrupt
    }

    pub(super) fn finish(self) -> Finished {
        let Files { inventory, corrupt, label, total_bytes, .. } = self;
        Finished { inventory, corrupt, label, total_bytes }
    }
}

/// A file's path relative to the data directory, as the manifest has it.
fn path_in_data(place: Place, name: &EntryName) -> String {
    match place {
        Place::Data => name.to_string(),
        Place::Tablespace(oid) => format!("pg_tblspc/{oid}/{name}"),
    }
}
