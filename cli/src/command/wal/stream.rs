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

/// The segments of an input, one after the other.
struct Walk<'i> {
    input: &'i Input,
    listed: std::iter::Peekable<std::vec::IntoIter<SegmentName>>,
}

impl<'i> Walk<'i> {
    fn new(input: &'i Input, segments: &[SegmentName]) -> Self {
        let listed = if input.only_pipe().is_some() { Vec::new() } else { segments.to_vec() };
        Walk { input, listed: listed.into_iter().peekable() }
    }

    /// The next segment, to be opened. Nothing of the one before may be read any more.
    fn next(&mut self) -> Result<Option<SegmentName>, Stop> {
        match self.input.only_pipe() {
            Some(pipe) => Ok(pipe.series().peek().map_err(|error| pipe.error(&error))?),
            None => Ok(self.listed.next()),
        }
    }

    /// Whether the segment that was opened is the last.
    fn is_last(&mut self) -> Result<bool, Stop> {
        match self.input.only_pipe() {
            Some(_) => Ok(self.next()?.is_none()),
            None => Ok(self.listed.peek().is_none()),
        }
    }

    fn open(&self, segment: SegmentName, pace: Pace) -> Result<Box<dyn BufRead + 'i>, Stop> {
        let opened = match self.input.only_pipe() {
            Some(pipe) => self.input.open_pipe(pipe).map(Some),
            None => self.input.open_for(segment, pace),
        };
        let opened = opened.map_err(|error| unreadable(segment, &error))?;
        opened.ok_or_else(|| CommandError::new(format!("Segment {segment} is gone")).into())
    }

    /// What is told at the end: segments that were left out, if there are any.
    fn finish(self) -> Option<Ended> {
        let segment = self.input.unused?;
        let lsn = segment.first_lsn(self.input.segment_size)?;
        Some(Ended { segment, lsn, why: "the server has made this segment in advance".to_owned() })
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
    let mut walk = Walk::new(input, segments);
    while let Some(segment) = walk.next()? {
        let start = segment.first_lsn(size).ok_or_else(|| misfit(segment, input))?;
        let mut current = match decoder.take() {
            // The next timeline goes on in a segment of its own.
            Some((before, going)) if before.on(segment.timeline()).next(size) == Some(segment) => going,
            _ => Decoder::new(start, size).with_keep(keep),
        };
        let mut file = walk.open(segment, pace)?;
        let fault = loop {
            let mut bytes =
                next_bytes(&mut *file, usize::MAX).map_err(|error| unreadable(segment, &error))?;
            let count = bytes.len();
            if count == 0 {
                break None;
            }
            let fault = loop {
                match current.next(&mut bytes) {
                    Ok(None) => break None,
                    Ok(Some(record)) => {
                        if each(segment, &record)?.is_break() {
                            return Ok(None);
                        }
                    }
                    Err(fault) => break Some(fault),
                }
            };
            if fault.is_some() {
                break fault;
            }
            file.consume(count);
        };
        drop(file);
        let end = segment.end_lsn(size).ok_or_else(|| misfit(segment, input))?;
        let ended = match fault {
            Some(fault) => Ended::new(segment, fault),
            None if current.position() != end => too_short(segment, current.position(), size),
            None => {
                decoder = Some((segment, current));
                continue;
            }
        };
        return if walk.is_last()? { Ok(Some(ended)) } else { Err(ended.into()) };
    }
    Ok(walk.finish())
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
    let mut walk = Walk::new(input, &input.segments());
    while let Some(segment) = walk.next()? {
        let going = before.take().and_then(|before| Indexer::after(&before, segment, blocks));
        let fresh = || Indexer::new(segment, options).ok_or_else(|| misfit(segment, input));
        let mut indexer = going.map_or_else(fresh, Ok)?;
        let mut file = walk.open(segment, Pace::Steady)?;
        let mut ended = loop {
            let bytes = next_bytes(&mut *file, usize::MAX).map_err(|error| unreadable(segment, &error))?;
            let count = bytes.len();
            match indexer.feed(bytes) {
                Ok(()) if count > 0 => file.consume(count),
                Ok(()) => break None,
                Err(fault) => break Some(Ended::new(segment, fault)),
            }
        };
        drop(file);
        if ended.is_some() && !walk.is_last()? {
            return ended.map_or(Ok(None), |ended| Err(ended.into()));
        }
        if let Some(index) = indexer.finish() {
            if input.is_wanted(segment) {
                each(&index)?;
            }
            if !index.complete && ended.is_none() {
                ended = Some(too_short(segment, index.end, input.segment_size));
            }
            before = Some(index);
        }
        match ended {
            Some(ended) if walk.is_last()? => return Ok(Some(ended)),
            Some(ended) => return Err(ended.into()),
            None => {}
        }
    }
    Ok(walk.finish())
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
