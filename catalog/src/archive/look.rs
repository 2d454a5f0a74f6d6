//! One pass over a segment's bytes.

use std::io::{self, Read};
use std::sync::Arc;

use barkeep_transport::codec::{Compression, Packer};
use pgwal::{SegmentName, SegmentSize};

use crate::inspect::{Cluster, Inspection, Inspector, SegmentIndex, Soundness};
use crate::wal::{OpenWal, WalError};

/// Size of the pieces in which segments are read, in bytes: they stay in a core's cache between being read and decoded.
const PIECE_BYTES: usize = 128 << 10;
/// The largest segment of which a copy is kept in memory while it is read, in bytes. A larger one is read again.
const HELD_BYTES_MAX: usize = 16 << 20;
/// The longest output of a segment that is compressed at once, in bytes: with the segment itself and the compressor's
/// tables, a thread stays below 32 MiB.
pub(super) const PACKED_BYTES_MAX: usize = 11 << 20;

/// A thread's buffers.
#[derive(Default)]
pub(super) struct Scratch {
    piece: Vec<u8>,
    /// The bytes of the segment that was looked at last, where `holds`.
    held: Vec<u8>,
    /// Whether they were to be kept, and are not too many.
    holds: bool,
    /// What compresses them, once it was needed.
    packer: Option<Packer>,
}

impl Scratch {
    /// The bytes of the segment that was looked at last, if they are held, and what compresses them.
    pub(super) fn held(&mut self) -> Option<(&[u8], &mut Option<Packer>)> {
        if self.holds { Some((&self.held, &mut self.packer)) } else { None }
    }

    /// Lets go of them.
    pub(super) fn forget(&mut self) {
        self.holds = false;
    }
}

/// Reads a segment to its end: judged, hashed, indexed. Where `keep`, its bytes are held in `scratch` for what comes next,
/// unless there are too many.
pub(super) fn look_at(
    segment: SegmentName,
    open: OpenWal,
    cluster: Option<Cluster>,
    judge: bool,
    before: impl FnOnce(SegmentSize) -> Option<Arc<SegmentIndex>>,
    keep: bool,
    scratch: &mut Scratch,
) -> Result<Inspection, WalError> {
    let path = open.path.clone();
    let packed = open.compression != Compression::None;
    let unreadable = |source| WalError::Read { path: path.clone(), source };
    let expected = usize::try_from(open.stored_bytes().map_err(unreadable)?).unwrap_or(usize::MAX);
    let keep = keep && !packed && expected <= HELD_BYTES_MAX;
    let mut source = open.plain()?;
    let (piece, held) = (&mut scratch.piece, &mut scratch.held);
    piece.resize(PIECE_BYTES, 0);
    scratch.holds = false;
    if keep {
        // Of the segments of one server, all but the first find it as long as it has to be.
        held.resize(expected, 0);
    }
    let mut inspector = None;
    let mut before = Some(before);
    let mut position = 0;
    loop {
        // Straight to where it is kept; what is more than was expected goes elsewhere, and is not kept.
        let buffer = match held.get_mut(position..) {
            Some(rest) if keep && !rest.is_empty() => {
                let length = rest.len().min(PIECE_BYTES);
                &mut rest[..length]
            }
            _ => &mut piece[..],
        };
        let count = match fill(&mut source, buffer) {
            Ok(count) => count,
            // What can't be decompressed is damaged; what can't be read may be fine.
            Err(error) if packed && error.raw_os_error().is_none() => {
                let note = format!("it cannot be decompressed: {error}");
                let soundness = if judge { Soundness::Damaged } else { Soundness::Unjudged };
                return Ok(Inspection {
                    soundness,
                    note,
                    index: None,
                    chained: false,
                    bytes: 0,
                    hash: [0; 16],
                });
            }
            Err(error) => return Err(unreadable(error)),
        };
        let bytes = &buffer[..count];
        let inspector = inspector.get_or_insert_with(|| {
            Inspector::begin(segment, bytes, cluster, judge, |size| {
                before.take().and_then(|before| before(size))
            })
        });
        if count == 0 {
            break;
        }
        inspector.feed(bytes);
        position += count;
    }
    scratch.holds = keep && position == expected;
    let again = || {
        let open = OpenWal::open(&path).map_err(io::Error::other)?;
        open.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.plain().map_err(io::Error::other)
    };
    match inspector {
        Some(inspector) => inspector.finish(again).map_err(unreadable),
        None => Err(unreadable(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Looks at one segment that is in a file.
pub(crate) fn look_at_one(
    segment: SegmentName,
    open: OpenWal,
    cluster: Option<Cluster>,
    judge: bool,
) -> Result<Inspection, WalError> {
    look_at(segment, open, cluster, judge, |_| None, false, &mut Scratch::default())
}

/// Reads until `buffer` is full or the source ends.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
