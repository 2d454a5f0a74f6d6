//! Goes through segments one after the other: their records, or their indexes.

use std::io::BufRead;
use std::ops::ControlFlow;

use pgwal::index::{IndexOptions, Indexer, SegmentIndex};
use pgwal::reader::next_bytes;
use pgwal::{Decoder, Fault, Keep, Lsn, Parts, Record, SegmentName, SegmentSize};

use super::Stop;
use super::input::{Input, Pace};
use crate::args::WalSource;
use crate::error::CommandError;

/// Where the WAL ends before its last segment does, and why.
pub(super) struct Ended {
    pub(super) segment: SegmentName,
    pub(super) lsn: Lsn,
    pub(super) why: String,
}

impl Ended {
    fn new(segment: SegmentName, fault: Fault) -> Self {
        Ended { segment, lsn: fault.lsn, why: fault.kind.to_string() }
    }
}

/// Hands every record within the source's range to `each`, with its parts.
///
/// The WAL may end in the last segment, and is told where; damage before is an error.
pub(super) fn records(
    input: &Input,
    source: &WalSource,
    pace: Pace,
    mut each: impl FnMut(&Record<'_>, &Parts) -> Result<(), Stop>,
) -> Result<Option<Ended>, Stop> {
    let mut parts = Parts::new();
    scan(input, &input.segments(), Keep::All, pace, |segment, record| {
        if source.to.is_some_and(|to| record.lsn >= to) {
            return Ok(ControlFlow::Break(()));
        }
        if source.from.is_none_or(|from| record.lsn >= from) {
            parts.read(record).map_err(|kind| damaged(segment, record.lsn, &kind))?;
            each(record, &parts)?;
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Hands every record of some segments to `each`, until it has enough.
///
/// The WAL may end in the last of them, and is told where; damage before is an error.
pub(super) fn scan(
    input: &Input,
    segments: &[SegmentName],
    keep: Keep,
    pace: Pace,
    mut each: impl FnMut(SegmentName, &Record<'_>) -> Result<ControlFlow<()>, Stop>,
) -> Result<Option<Ended>, Stop> {
    let size = input.segment_size;
    let mut decoder: Option<(SegmentName, Decoder)> = None;
    for (index, segment) in segments.iter().enumerate() {
        let start = segment.first_lsn(size).ok_or_else(|| misfit(*segment, input))?;
        let mut current = match decoder.take() {
            // The next timeline goes on in a segment of its own.
            Some((before, going)) if before.on(segment.timeline()).next(size) == Some(*segment) => going,
            _ => Decoder::new(start, size).with_keep(keep),
        };
        let mut file = open(input, *segment, pace)?;
        loop {
            let mut bytes =
                next_bytes(&mut *file, usize::MAX).map_err(|error| unreadable(*segment, &error))?;
            let count = bytes.len();
            if count == 0 {
                break;
            }
            loop {
                match current.next(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(record)) => {
                        if each(*segment, &record)?.is_break() {
                            return Ok(None);
                        }
                    }
                    Err(fault) if index + 1 == segments.len() => {
                        return Ok(Some(Ended::new(*segment, fault)));
                    }
                    Err(fault) => return Err(damaged(*segment, fault.lsn, &fault.kind)),
                }
            }
            file.consume(count);
        }
        let end = segment.end_lsn(size).ok_or_else(|| misfit(*segment, input))?;
        if current.position() != end {
            let ended = too_short(*segment, current.position(), size);
            return if index + 1 == segments.len() { Ok(Some(ended)) } else { Err(ended.into()) };
        }
        decoder = Some((*segment, current));
    }
    Ok(None)
}

fn too_short(segment: SegmentName, lsn: Lsn, size: SegmentSize) -> Ended {
    Ended { segment, lsn, why: format!("the file holds less or more than the {size} of a segment") }
}

impl From<Ended> for Stop {
    fn from(ended: Ended) -> Self {
        CommandError::new(format!("Segment {} is damaged at {}: {}", ended.segment, ended.lsn, ended.why))
            .hint("barkeep wal verify tells all that is wrong")
            .into()
    }
}

/// Hands the index of every segment to `each`, in order. The WAL may end in the last segment.
pub(super) fn indexes(
    input: &Input,
    blocks: bool,
    mut each: impl FnMut(&SegmentIndex) -> Result<(), Stop>,
) -> Result<Option<Ended>, Stop> {
    let options = IndexOptions { segment_size: input.segment_size, blocks };
    let mut before: Option<SegmentIndex> = None;
    let segments = input.segments();
    for (at, segment) in segments.iter().enumerate() {
        let going = before.take().and_then(|before| Indexer::after(&before, *segment, blocks));
        let fresh = || Indexer::new(*segment, options).ok_or_else(|| misfit(*segment, input));
        let mut indexer = going.map_or_else(fresh, Ok)?;
        let last = at + 1 == segments.len();
        let mut file = open(input, *segment, Pace::Steady)?;
        let mut ended = None;
        loop {
            let bytes = next_bytes(&mut *file, usize::MAX).map_err(|error| unreadable(*segment, &error))?;
            let count = bytes.len();
            match indexer.feed(bytes) {
                Ok(()) if count > 0 => file.consume(count),
                Ok(()) => break,
                Err(fault) if last => {
                    ended = Some(Ended::new(*segment, fault));
                    break;
                }
                Err(fault) => return Err(damaged(*segment, fault.lsn, &fault.kind)),
            }
        }
        drop(file);
        if let Some(index) = indexer.finish() {
            each(&index)?;
            if !index.complete && ended.is_none() {
                ended = Some(too_short(*segment, index.end, input.segment_size));
            }
            before = Some(index);
        }
        match ended {
            Some(ended) if last => return Ok(Some(ended)),
            Some(ended) => return Err(ended.into()),
            None => {}
        }
    }
    Ok(None)
}

fn open(input: &Input, segment: SegmentName, pace: Pace) -> Result<Box<dyn BufRead + '_>, Stop> {
    let opened = input.open_for(segment, pace).map_err(|error| unreadable(segment, &error))?;
    opened.ok_or_else(|| CommandError::new(format!("Segment {segment} is gone")).into())
}

fn unreadable(segment: SegmentName, error: &std::io::Error) -> Stop {
    CommandError::because(format!("Segment {segment} can't be read"), error).into()
}

fn misfit(segment: SegmentName, input: &Input) -> Stop {
    let size = input.segment_size;
    CommandError::new(format!("No cluster with WAL segments of {size} has a segment {segment}")).into()
}

fn damaged(segment: SegmentName, lsn: Lsn, kind: &pgwal::FaultKind) -> Stop {
    Ended { segment, lsn, why: kind.to_string() }.into()
}
