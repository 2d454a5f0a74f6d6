//! One pass over a segment's bytes.

use std::io;
use std::sync::Arc;

use barkeep_transport::codec::Compression;
use pgwal::{SegmentName, SegmentSize};

use super::fill;
use crate::inspect::{Cluster, Inspection, Inspector, SegmentIndex, Soundness};
use crate::wal::{OpenWal, WalError};

/// Size of the pieces in which segments are read, in bytes: they stay in a core's cache between being read and decoded.
const PIECE_BYTES: usize = 128 << 10;
/// The largest segment of which a copy is kept in memory while it is read, in bytes. A larger one is read again.
pub(super) const HELD_BYTES_MAX: usize = 16 << 20;

/// A thread's buffers.
#[derive(Default)]
pub(super) struct Scratch {
    piece: Vec<u8>,
    /// The bytes of the segment that was looked at last, if they were to be kept and are not too many.
    pub(super) held: Option<Vec<u8>>,
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
    let mut source = open.plain()?;
    let piece = &mut scratch.piece;
    piece.resize(PIECE_BYTES, 0);
    let mut held = if keep { Some(scratch.held.take().unwrap_or_default()) } else { None };
    if let Some(kept) = &mut held {
        kept.clear();
    }
    let mut inspector = None;
    let mut before = Some(before);
    loop {
        let count = match fill(&mut source, piece) {
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
                    hash: [0; 32],
                });
            }
            Err(error) => return Err(unreadable(error)),
        };
        let bytes = &piece[..count];
        let inspector = inspector.get_or_insert_with(|| {
            Inspector::begin(segment, bytes, cluster, judge, |size| {
                before.take().and_then(|before| before(size))
            })
        });
        if count == 0 {
            break;
        }
        inspector.feed(bytes);
        match &mut held {
            Some(kept) if kept.len() + count <= HELD_BYTES_MAX => kept.extend_from_slice(bytes),
            _ => held = None,
        }
    }
    scratch.held = held;
    let again = || {
        let open = OpenWal::open(&path).map_err(io::Error::other)?;
        open.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.plain().map_err(io::Error::other)
    };
    match inspector {
        Some(inspector) => inspector.finish(again).map_err(unreadable),
        None => Err(unreadable(io::ErrorKind::UnexpectedEof.into())),
    }
}
