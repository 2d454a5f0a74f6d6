//! Placing WAL files: decompressed, at their exact size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use barkeep_transport::codec::{Compression, MAGIC_BYTES};
use pgwal::SegmentSize;
use pgwal::history::MAX_HISTORY_BYTES;

use super::wal::{WalCopy, WalKind};
use crate::copy::{CopyMethod, Directory, Owner, copy_buffered};

/// Owner only, as the server makes its own.
const WAL_FILE_MODE: u32 = 0o600;

/// Copies one WAL file into `to` under its plain name and answers its size there.
pub(super) fn place(
    wal: &WalCopy,
    to: &Directory,
    size: SegmentSize,
    owner: Option<Owner>,
    method: &CopyMethod,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut from = File::open(&wal.from)?;
    let metadata = from.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not an ordinary file"));
    }
    let limit = match wal.kind {
        WalKind::Segment | WalKind::Partial => size.bytes(),
        WalKind::History => MAX_HISTORY_BYTES as u64,
    };
    let compression = Compression::detect(&first_bytes(&mut from)?);
    let mut file = to.create(Path::new(&wal.name), WAL_FILE_MODE, owner)?;
    let written = if compression == Compression::None {
        if metadata.len() > limit {
            return Err(wrong_size(metadata.len(), limit));
        }
        method.copy(&mut from, &mut file, metadata.len(), progress)?;
        metadata.len()
    } else {
        // One byte more than allowed tells a file that is too large without reading all of it.
        let mut bounded = compression.reader(from)?.take(limit + 1);
        copy_buffered(&mut bounded, &mut file, progress)?
    };
    match wal.kind {
        WalKind::Segment if written != limit => Err(wrong_size(written, limit)),
        WalKind::Partial | WalKind::History if written > limit => Err(wrong_size(written, limit)),
        WalKind::Partial if written < limit => {
            // The server takes no segment but a whole one; zeros are how it knows the end of what was written.
            file.set_len(limit)?;
            Ok(limit)
        }
        _ => Ok(written),
    }
}

/// Marks a WAL file as archived, so that the new server doesn't archive it once more.
pub(super) fn mark_archived(status: &Directory, name: &str, owner: Option<Owner>) -> io::Result<()> {
    status.create(Path::new(&format!("{name}.done")), WAL_FILE_MODE, owner)?.flush()
}

fn first_bytes(file: &mut File) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    Read::by_ref(file).take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(magic)
}

fn wrong_size(found: u64, limit: u64) -> io::Error {
    let found = if found > limit { format!("more than {limit} bytes") } else { format!("{found} bytes") };
    io::Error::new(io::ErrorKind::InvalidData, format!("it has {found} where a segment has {limit}"))
}
