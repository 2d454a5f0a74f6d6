//! `backup_manifest`: what a base backup has to consist of, by the server's own account.
//!
//! The format is described in PostgreSQL's documentation, "Backup Manifest Format" (`backup/backup_manifest.c`,
//! `common/parse_manifest.c`): a JSON object with a version (1; 2 from PostgreSQL 17 on), the files with sizes and
//! checksums, the WAL needed, and in its last line the SHA-256 of everything before that line.
//!
//! A manifest of a million files takes hundreds of megabytes, so [`read`] hands out one file at a time and keeps
//! nothing. [`Inventory`] is the other side: what arrived, compactly, to be compared with a manifest once.

mod algorithm;
mod guard;
mod inventory;
mod parse;
mod write;

use std::io::{self, BufReader, Read};

use pgwal::{Lsn, TimelineId};

pub use algorithm::{Checksum, ChecksumAlgorithm, FileHasher, UnknownAlgorithm};
pub use inventory::{Comparison, FileFault, Inventory, MAX_FAULTS, MAX_FILES, TooManyFiles};
pub use write::ManifestWriter;

/// The name of the manifest in a backup's data directory.
pub const MANIFEST_FILE: &str = "backup_manifest";

/// Largest manifest read, in bytes: enough for more than ten million files.
pub const MAX_MANIFEST_BYTES: u64 = 2 << 30;

/// Longest line of a manifest, in bytes. There is one line per file, with a path of at most 1024 bytes (doubled where
/// it isn't UTF-8); this bounds the memory that a hostile manifest can ask for.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Most WAL ranges kept: one per timeline that the backup touched.
pub const MAX_WAL_RANGES: usize = 1024;

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Path relative to the data directory; files of tablespaces are below `pg_tblspc/<oid>/`.
    pub path: Vec<u8>,
    /// Size in bytes.
    pub bytes: u64,
    /// The checksum, unless the manifest was made without.
    pub checksum: Option<Checksum>,
}

/// What a manifest says besides its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFacts {
    /// The format's version: 1 or 2.
    pub version: u32,
    /// The cluster's system identifier (version 2 only).
    pub system_identifier: Option<u64>,
    /// How many files are listed.
    pub files: u64,
    /// The sum of their sizes, in bytes.
    pub total_bytes: u64,
    /// The WAL needed to make the backup consistent.
    pub wal_ranges: Vec<WalRange>,
    /// The manifest's own checksum: SHA-256 of all lines but the last.
    pub checksum: [u8; 32],
}

/// A stretch of WAL on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where the stretch starts.
    pub start: Lsn,
    /// Where it ends, exclusively.
    pub end: Lsn,
}

/// A manifest that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It couldn't be read.
    #[error("the backup manifest can't be read: {0}")]
    Io(#[source] io::Error),
    /// It isn't JSON, or not of a manifest's shape.
    #[error("the backup manifest is malformed: {0}")]
    Malformed(#[source] serde_json::Error),
    /// Larger than [`MAX_MANIFEST_BYTES`].
    #[error("the backup manifest is longer than {MAX_MANIFEST_BYTES} bytes")]
    TooLong,
    /// A line longer than [`MAX_LINE_BYTES`].
    #[error("the backup manifest has a line longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    /// A version that is not known.
    #[error("the backup manifest is of version {0}; versions 1 and 2 are known")]
    Version(u64),
    /// The manifest was changed or damaged after it was made.
    #[error("the backup manifest is damaged: its checksum is {stored}, its contents give {computed}")]
    Checksum {
        /// The checksum in its last line.
        stored: String,
        /// The checksum of the lines before.
        computed: String,
    },
    /// Without its last line there is no telling whether it is whole.
    #[error("the backup manifest has no closing line with its own checksum: it is truncated")]
    Unclosed,
}

/// Reads a manifest, giving each file to `file` in the manifest's order.
///
/// The manifest's own checksum can only be verified at its end: what `file` was given is to be believed only once this
/// returned without an error.
///
/// # Errors
/// When it can't be read, is too large, malformed, of an unknown version, or its own checksum doesn't match.
pub fn read(source: impl Read, file: impl FnMut(ManifestFile)) -> Result<ManifestFacts, ManifestError> {
    // The guard is outside of the buffer: it sees blocks, the JSON parser asks for single bytes.
    let mut guard = guard::Guard::new(source);
    let parsed = parse::parse(BufReader::with_capacity(MAX_LINE_BYTES, &mut guard), file);
    if let Some(limit) = guard.exceeded() {
        return Err(limit);
    }
    let parsed = parsed.map_err(|error| {
        if error.is_io() { ManifestError::Io(error.into()) } else { ManifestError::Malformed(error) }
    })?;
    // The version decides what the rest means, so it is judged first.
    let version = match parsed.version {
        Some(version @ (1 | 2)) => version as u32,
        Some(other) => return Err(ManifestError::Version(other)),
        None => {
            return Err(ManifestError::Malformed(serde::de::Error::missing_field(
                "PostgreSQL-Backup-Manifest-Version",
            )));
        }
    };
    let stored = parsed.checksum.ok_or(ManifestError::Unclosed)?;
    let computed = guard.finish().ok_or(ManifestError::Unclosed)?;
    if algorithm::from_hex(&stored).as_deref() != Some(&computed[..]) {
        return Err(ManifestError::Checksum {
            stored: stored.chars().take(64).collect(),
            computed: algorithm::to_hex(&computed),
        });
    }
    Ok(ManifestFacts {
        version,
        system_identifier: parsed.system_identifier,
        files: parsed.files,
        total_bytes: parsed.total_bytes,
        wal_ranges: parsed.wal_ranges,
        checksum: computed,
    })
}

#[cfg(test)]
mod tests;
