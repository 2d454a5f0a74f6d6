//! Files of a backup that are compressed one by one, in blocks, so that every file and every part of one can be read by
//! itself (`docs/formats.md`, "Compressed files").
//!
//! A file is stored either as it is or, under a name with a suffix, as a row of compressed blocks with an index behind
//! them. The format's own tools decompress it as well: each block is a frame (or member) of its own, and the index lies
//! in one that they skip. The suffix tells: a file whose own name ends like one is always stored with another.

mod index;
mod read;
mod write;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use barkeep_transport::codec::Compression;

use crate::copy::Directory;

pub(crate) use index::{SMALLEST_BLOCK_BYTES, block_bytes};
pub(crate) use read::PackedFile;
pub use write::Packing;
pub(crate) use write::{BlockPacker, file_end, whole_file};

/// The compressions that files may have, with the ends of their names.
const SUFFIXES: [(Compression, &str); 3] =
    [(Compression::Gzip, ".gz"), (Compression::Lz4, ".lz4"), (Compression::Zstd, ".zst")];

/// The end of a compressed file's name; empty for a compression that files can't have.
pub(crate) fn suffix(compression: Compression) -> &'static str {
    SUFFIXES.into_iter().find(|(known, _)| *known == compression).map_or("", |(_, suffix)| suffix)
}

/// A compressed file's own name, and its compression; `None` for the name of a file that is stored as it is.
pub(crate) fn original_name(stored: &OsStr) -> Option<(&OsStr, Compression)> {
    SUFFIXES.into_iter().find_map(|(compression, suffix)| {
        let own = stored.as_bytes().strip_suffix(suffix.as_bytes()).filter(|own| !own.is_empty())?;
        Some((OsStr::from_bytes(own), compression))
    })
}

/// The same of a path.
pub(crate) fn original_path(stored: &Path) -> Option<(PathBuf, Compression)> {
    let (name, compression) = original_name(stored.file_name()?)?;
    Some((stored.with_file_name(name), compression))
}

/// The name of a file's compressed form.
pub(crate) fn stored_name(own: &OsStr, compression: Compression) -> OsString {
    OsString::from_vec([own.as_bytes(), suffix(compression).as_bytes()].concat())
}

/// A file of a backup, open in whichever form it is stored.
#[derive(Debug)]
pub(crate) enum StoredFile {
    /// As it is.
    Plain(File),
    /// Compressed.
    Packed(Box<PackedFile>),
}

impl StoredFile {
    /// Opens the file of this path, in a backup whose files may be compressed.
    pub(crate) fn open(directory: &Directory, path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
        if original_name(name).is_none() {
            match directory.read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map(StoredFile::Plain),
            }
        }
        for (compression, _) in SUFFIXES {
            match directory.read(&path.with_file_name(stored_name(name, compression))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return Ok(StoredFile::Packed(Box::new(PackedFile::new(opened?, compression)?))),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Its size, decompressed.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match self {
            StoredFile::Plain(file) => Ok(file.metadata()?.len()),
            StoredFile::Packed(file) => Ok(file.size()),
        }
    }

    /// How it is compressed.
    pub(crate) fn compression(&self) -> Option<Compression> {
        match self {
            StoredFile::Plain(_) => None,
            StoredFile::Packed(file) => Some(file.compression()),
        }
    }

    /// The file as it is stored.
    pub(crate) fn file(&self) -> &File {
        match self {
            StoredFile::Plain(file) => file,
            StoredFile::Packed(file) => file.file(),
        }
    }

    /// The same, to read it from where it was read last.
    pub(crate) fn file_mut(&mut self) -> &mut File {
        match self {
            StoredFile::Plain(file) => file,
            StoredFile::Packed(file) => file.file_mut(),
        }
    }

    /// Reads exactly so much of the file's own bytes, and leaves it where it is read next.
    pub(crate) fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            StoredFile::Plain(file) => file.read_exact_at(buffer, offset),
            StoredFile::Packed(file) => file.read_exact_at(buffer, offset),
        }
    }
}

impl Read for StoredFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            StoredFile::Plain(file) => file.read(buffer),
            StoredFile::Packed(file) => file.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests;
