//! Placing WAL files: decompressed, at their exact size, every record of a segment checked on the way.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use barkeep_transport::codec::{Compression, MAGIC_BYTES};
use pgwal::behind::Behind;
use pgwal::decoder::Keep;
use pgwal::history::MAX_HISTORY_BYTES;
use pgwal::seam::{Followed, LooseEnd};
use pgwal::{Decoder, Fault, FaultKind, Lsn, Parts, SegmentName, SegmentSize, WalFile};

use super::wal::{WalCopy, WalKind};
use crate::copy::{CopyMethod, Directory, Owner, copy_buffered};

/// Owner only, as the server makes its own.
const WAL_FILE_MODE: u32 = 0o600;
/// Size of the pieces in which a segment is read again to be checked, in bytes.
const PIECE_BYTES: usize = 128 << 10;

/// How a segment that was placed ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// Nothing goes on behind it, or nothing can be said.
    Unknown,
    /// Its WAL goes on to its last byte, and there between two records.
    Full,
    /// Its last record goes on in the next segment.
    Loose(Box<LooseEnd>),
}

/// Copies one WAL file into `to` under its plain name. Where segments follow, its WAL may not end before its last byte.
pub(super) fn place(
    wal: &WalCopy,
    to: &Directory,
    size: SegmentSize,
    owner: Option<Owner>,
    method: &CopyMethod,
    goes_on: bool,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<Ending> {
    let mut from = File::open(wal.source.path())?;
    let metadata = from.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not an ordinary file"));
    }
    let limit = match wal.kind {
        WalKind::Segment | WalKind::Partial => size.bytes(),
        WalKind::History => MAX_HISTORY_BYTES as u64,
    };
    let compression = Compression::detect(&first_bytes(&mut from)?);
    let mut file = to.create(Path::new(&wal.name()), WAL_FILE_MODE, owner)?;
    let mut check = match wal.source.file {
        WalFile::Segment(segment) => Check::of(segment, size),
        _ => None,
    };
    let written = if compression == Compression::None {
        if metadata.len() > limit {
            return Err(wrong_size(metadata.len(), limit));
        }
        method.copy(&mut from, &mut file, metadata.len(), progress)?;
        // The copy may have been made without reading; what is read now is in memory, unless it was.
        if let Some(check) = &mut check {
            from.seek(SeekFrom::Start(0))?;
            check.read(&mut from)?;
        }
        metadata.len()
    } else {
        // One byte more than allowed tells a file that is too large without reading all of it.
        let bounded = compression.reader(from)?.take(limit + 1);
        copy_buffered(&mut Checked { source: bounded, check: check.as_mut() }, &mut file, progress)?
    };
    let ending = match check {
        Some(check) if written == limit => check.finish(goes_on).map_err(|fault| damaged(&fault))?,
        _ => Ending::Unknown,
    };
    match wal.kind {
        WalKind::Segment if written != limit => return Err(wrong_size(written, limit)),
        WalKind::Partial | WalKind::History if written > limit => return Err(wrong_size(written, limit)),
        // The server takes no segment but a whole one; zeros are how it knows the end of what was written.
        WalKind::Partial if written < limit => file.set_len(limit)?,
        _ => {}
    }
    Ok(ending)
}

/// Reads what another segment holds of a record that goes on there.
pub(super) fn follow(end: &LooseEnd, next: &WalCopy) -> io::Result<Followed> {
    let mut from = File::open(next.source.path())?;
    let compression = Compression::detect(&first_bytes(&mut from)?);
    end.follow(&mut compression.reader(from)?)
}

/// Damage that recovery would take for the end of WAL.
pub(super) fn damaged(fault: &Fault) -> io::Error {
    let text = format!("it is damaged: {fault}; recovery would stop there");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads the records of a segment as its bytes pass by.
struct Check {
    decoder: Decoder,
    start: Lsn,
    size: SegmentSize,
    passed: u64,
    fault: Option<(Fault, Behind)>,
}

impl Check {
    /// `None` when there is nothing to go by: a name of another segment size is found out elsewhere.
    fn of(segment: SegmentName, size: SegmentSize) -> Option<Self> {
        let start = segment.first_lsn(size)?;
        let decoder = Decoder::new(start, size).with_keep(Keep::Headers);
        Some(Check { decoder, start, size, passed: 0, fault: None })
    }

    fn pass(&mut self, bytes: &[u8]) {
        if self.fault.is_none()
            && let Some(fault) = self.first_fault(bytes)
        {
            let next = Lsn::from_u64(self.start.as_u64().saturating_add(self.passed));
            self.fault = Some((fault, Behind::new(self.start, &fault, self.decoder.version(), next)));
        }
        if let Some((_, behind)) = &mut self.fault {
            behind.feed(bytes);
        }
        self.passed += bytes.len() as u64;
    }

    fn first_fault(&mut self, mut bytes: &[u8]) -> Option<Fault> {
        loop {
            match self.decoder.next(&mut bytes) {
                Ok(None) => return None,
                Ok(Some(record)) => {
                    if let Err(kind) = Parts::check(&record) {
                        return Some(Fault { lsn: record.lsn, kind });
                    }
                }
                Err(fault) => return Some(fault),
            }
        }
    }

    fn read(&mut self, source: &mut impl Read) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match source.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => self.pass(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How it ends, or what is wrong. Where nothing goes on behind it, WAL may end inside it: with zeros, or with what a recycled
    /// file held before.
    fn finish(self, goes_on: bool) -> Result<Ending, Fault> {
        let ends = |fault: &Fault| {
            matches!(
                fault.kind,
                FaultKind::RecordLength { found: 0 }
                    | FaultKind::Magic { found: 0, .. }
                    | FaultKind::PageAddress { .. }
            )
        };
        match self.fault {
            Some((fault, behind)) if !goes_on && ends(&fault) && !behind.goes_on() => Ok(Ending::Unknown),
            Some((fault, _)) => Err(fault),
            None => Ok(match LooseEnd::of(&self.decoder, self.size) {
                Some(end) => Ending::Loose(Box::new(end)),
                None => Ending::Full,
            }),
        }
    }
}

/// A source whose bytes are checked while they are read.
struct Checked<'c, R> {
    source: R,
    check: Option<&'c mut Check>,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let (Some(check), Some(bytes)) = (&mut self.check, buffer.get(..count)) {
            check.pass(bytes);
        }
        Ok(count)
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
