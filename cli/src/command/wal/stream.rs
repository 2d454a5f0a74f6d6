//! Goes through the records of segments, one after the other.

use std::io::Read;

use pgwal::reader::{CHUNK_BYTES, SegmentSource};
use pgwal::{Decoder, Keep, Lsn, Parts, Record, SegmentName};

use super::Stop;
use super::input::Input;
use crate::args::WalSource;
use crate::error::CommandError;

/// Hands every record within the source's range to `each`.
///
/// The WAL may end in the last segment; damage before is an error.
pub(super) fn records(
    input: &Input,
    source: &WalSource,
    mut each: impl FnMut(&Record<'_>, &Parts) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let size = input.segment_size;
    let (mut parts, mut buffer) = (Parts::new(), vec![0; CHUNK_BYTES]);
    let mut decoder: Option<(SegmentName, Decoder)> = None;
    let segments = input.segments();
    for (index, segment) in segments.iter().enumerate() {
        let start = segment.first_lsn(size).ok_or_else(|| misfit(*segment, input))?;
        let mut current = match decoder.take() {
            // The next timeline goes on in a segment of its own.
            Some((before, going)) if before.on(segment.timeline()).next(size) == Some(*segment) => going,
            _ => Decoder::new(start, size).with_keep(Keep::All),
        };
        let mut file = open(input, *segment)?;
        loop {
            let count = file.read(&mut buffer).map_err(|error| unreadable(*segment, &error))?;
            if count == 0 {
                break;
            }
            let mut bytes = &buffer[..count];
            loop {
                match current.next(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(record)) => {
                        if source.to.is_some_and(|to| record.lsn >= to) {
                            return Ok(());
                        }
                        if source.from.is_none_or(|from| record.lsn >= from) {
                            let read = parts.read(&record);
                            read.map_err(|kind| damaged(*segment, record.lsn, &kind))?;
                            each(&record, &parts)?;
                        }
                    }
                    // The end of the WAL.
                    Err(_) if index + 1 == segments.len() => return Ok(()),
                    Err(fault) => return Err(damaged(*segment, fault.lsn, &fault.kind)),
                }
            }
        }
        decoder = Some((*segment, current));
    }
    Ok(())
}

pub(super) fn open(input: &Input, segment: SegmentName) -> Result<Box<dyn Read + '_>, Stop> {
    let opened = input.open(segment).map_err(|error| unreadable(segment, &error))?;
    opened.ok_or_else(|| CommandError::new(format!("Segment {segment} is gone")).into())
}

pub(super) fn unreadable(segment: SegmentName, error: &std::io::Error) -> Stop {
    CommandError::because(format!("Segment {segment} can't be read"), error).into()
}

pub(super) fn misfit(segment: SegmentName, input: &Input) -> Stop {
    let size = input.segment_size;
    CommandError::new(format!("No cluster with WAL segments of {size} has a segment {segment}")).into()
}

fn damaged(segment: SegmentName, lsn: Lsn, kind: &pgwal::FaultKind) -> Stop {
    CommandError::new(format!("Segment {segment} is damaged at {lsn}: {kind}"))
        .hint("barkeep wal verify tells all that is wrong")
        .into()
}
