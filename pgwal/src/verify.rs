//! Verification: a segment is sound from its first byte to its last.
//!
//! Checked is all that the server checks, of every page and record: headers, addresses, the chain of records, their
//! checksums, the layout of their headers. Beyond that: unused bytes are zero, timelines change only where a record says
//! so and never beyond the segment's name, an overwritten record is named by the record that follows.
//!
//! A single flipped bit in the used part of a segment is found, with these exceptions: the flag of a page header that says
//! that backup blocks may be removed (`XLP_BKP_REMOVABLE`, unused by PostgreSQL); the system identifier in a lone segment
//! if none is expected; the timeline in the first pages of a segment where it gives an earlier one and a promotion
//! follows; and in a lone segment that uses a single page the version, where it turns 13 into 17, 15 into 18, or back.

mod series;

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::decoder::{Decoder, Keep};
use crate::fault::{Fault, FaultKind};
use crate::page;
use crate::reader::{SegmentSource, next_bytes};
use crate::record::Parts;
use crate::{Lsn, SegmentName, SegmentSize, TimelineId, WalVersion};

pub use series::verify_series;

/// The most faults that are kept of one segment; more are counted.
pub const MAX_FAULTS: usize = 64;

/// What a segment is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// The cluster's segment size; taken from the first segment if it isn't given.
    pub segment_size: Option<SegmentSize>,
    /// The cluster's system identifier, if it is known.
    pub system_id: Option<u64>,
    /// Whether the WAL may end inside the last segment, as in a `.partial` file or a running server's directory.
    pub may_end: bool,
}

/// What was found in a segment.
#[derive(Debug)]
pub struct SegmentReport {
    /// The segment.
    pub segment: SegmentName,
    /// The version, if a page told it.
    pub version: Option<WalVersion>,
    /// The system identifier, given or read.
    pub system_id: Option<u64>,
    /// The timeline of its last page.
    pub timeline: Option<TimelineId>,
    /// Bytes read.
    pub bytes: u64,
    /// Records that begin in it and are whole, with what the next segment holds of the last.
    pub records: u64,
    /// The first record that begins in it, and the one before by that record's word; not known behind a fault.
    pub first: Option<(Lsn, Lsn)>,
    /// The last record that begins in it.
    pub last: Option<Lsn>,
    /// Whether it begins with the rest of a record, checked together with the segment before.
    pub begins_inside_record: bool,
    /// Where the WAL ends and why, where it may.
    pub end: Option<Fault>,
    /// Whether the last record ends in the next segment.
    pub crosses: bool,
    /// The last record if its rest is missing: the segment that holds it wasn't given.
    pub unfinished: Option<Lsn>,
    /// What is wrong, in order, at most [`MAX_FAULTS`] of it.
    pub faults: Vec<Fault>,
    /// How many faults there are beyond those.
    pub more_faults: u64,
    /// Why it couldn't be read to its end, if it couldn't.
    pub failed: Option<VerifyError>,
}

/// A segment that can't be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It can't be read.
    #[error("segment {segment} can't be read")]
    Read {
        /// The segment.
        segment: SegmentName,
        /// Why.
        source: io::Error,
    },
    /// It isn't there.
    #[error("segment {segment} is missing")]
    Missing {
        /// The segment.
        segment: SegmentName,
    },
    /// Its first page doesn't tell the segment size, and none was given.
    #[error("segment {segment} doesn't start with a WAL page header, so its segment size is unknown")]
    NoSize {
        /// The segment.
        segment: SegmentName,
    },
    /// Its name can't belong to a cluster with segments of this size.
    #[error("no cluster with WAL segments of {size} has a segment {segment}")]
    Name {
        /// The segment.
        segment: SegmentName,
        /// The segment size.
        size: SegmentSize,
    },
}

impl SegmentReport {
    /// Whether nothing is wrong with it.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.failed.is_none()
    }

    const fn new(segment: SegmentName) -> Self {
        SegmentReport {
            segment,
            version: None,
            system_id: None,
            timeline: None,
            bytes: 0,
            records: 0,
            first: None,
            last: None,
            begins_inside_record: false,
            end: None,
            crosses: false,
            unfinished: None,
            faults: Vec::new(),
            more_faults: 0,
            failed: None,
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        } else {
            self.more_faults += 1;
        }
    }
}

/// Verifies `segments` (in order) of `source` by `threads` threads, and hands each report to `each`, in order.
///
/// A record that crosses into the next segment of the list is checked whole, and so is the chain from one to the next.
/// Memory does not grow with the number of segments, but for their reports.
///
/// # Errors
/// When the segment size isn't given and the first segment doesn't tell it. What is wrong with a segment, be it that it can't
/// be read, is no error: it is in its report.
pub fn verify_segments(
    source: &dyn SegmentSource,
    segments: &[SegmentName],
    options: &VerifyOptions,
    threads: usize,
    mut each: impl FnMut(SegmentReport),
) -> Result<(), VerifyError> {
    let Some(first) = segments.first() else { return Ok(()) };
    let size = match options.segment_size {
        Some(size) => size,
        None => segment_size(source, *first)?,
    };
    let job = Job { source, segments, options, size };
    let mut before: Option<SegmentReport> = None;
    for start in (0..segments.len()).step_by(BATCH) {
        let batch = start..segments.len().min(start + BATCH);
        let mut done =
            if threads > 1 { verify_batch(&job, batch.clone(), threads) } else { Vec::new() }.into_iter();
        for index in batch {
            let mut report = done.next().unwrap_or_else(|| job.verify(index));
            if let Some(before) = before.take() {
                link(&before, &mut report, size);
                each(before);
            }
            before = Some(report);
        }
    }
    before.into_iter().for_each(each);
    Ok(())
}

/// How many segments threads verify before their reports are handed on: so memory doesn't grow with their number.
const BATCH: usize = 512;

/// Reports of the segments with these indexes, in order.
fn verify_batch(job: &Job<'_>, batch: Range<usize>, threads: usize) -> Vec<SegmentReport> {
    let next = AtomicUsize::new(batch.start);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= batch.end {
                return reports;
            }
            reports.push((index, job.verify(index)));
        }
    };
    let mut reports: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(batch.len())).map(|_| scope.spawn(work)).collect();
        // A worker that panicked leaves gaps; panics are bugs, and go on in this thread.
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// The segment size that the first page of `segment` tells.
///
/// # Errors
/// When it can't be read or doesn't tell.
pub fn segment_size(source: &dyn SegmentSource, segment: SegmentName) -> Result<SegmentSize, VerifyError> {
    let mut input = open(source, segment)?.ok_or(VerifyError::Missing { segment })?;
    let mut start = Vec::with_capacity(page::LONG_HEADER_BYTES);
    let read = (&mut *input).take(page::LONG_HEADER_BYTES as u64).read_to_end(&mut start);
    read.map_err(|source| VerifyError::Read { segment, source })?;
    match page::identify_segment(&start) {
        Some((_, _, _, size)) => Ok(size),
        None => Err(VerifyError::NoSize { segment }),
    }
}

fn open(
    source: &dyn SegmentSource,
    segment: SegmentName,
) -> Result<Option<Box<dyn BufRead + '_>>, VerifyError> {
    source.open(segment).map_err(|source| VerifyError::Read { segment, source })
}

struct Job<'j> {
    source: &'j dyn SegmentSource,
    segments: &'j [SegmentName],
    options: &'j VerifyOptions,
    size: SegmentSize,
}

impl Job<'_> {
    fn verify(&self, index: usize) -> SegmentReport {
        let mut report = SegmentReport::new(self.segments[index]);
        report.failed = self.verify_into(&mut report, index).err();
        report
    }

    fn verify_into(&self, report: &mut SegmentReport, index: usize) -> Result<(), VerifyError> {
        let segment = report.segment;
        let start = segment.first_lsn(self.size).ok_or(VerifyError::Name { segment, size: self.size })?;
        let mut decoder = Decoder::new(start, self.size).with_keep(Keep::Headers).strict();
        if let Some(system_id) = self.options.system_id {
            decoder = decoder.with_system_id(system_id);
        }
        decoder.expect_timeline(segment.timeline());
        let may_end = self.options.may_end && index + 1 == self.segments.len();
        let read = self.feed_all(&mut decoder, report, may_end);
        report.version = decoder.version();
        report.system_id = decoder.system_id();
        report.timeline = decoder.timeline();
        read.map_err(|source| VerifyError::Read { segment, source })?;
        if report.end.is_none() {
            self.end_of_segment(index, &mut decoder, report, may_end);
        }
        Ok(())
    }

    /// Checks the segment's bytes, up to where the WAL ends.
    fn feed_all(&self, decoder: &mut Decoder, report: &mut SegmentReport, may_end: bool) -> io::Result<()> {
        let Some(mut input) = self.source.open(report.segment)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut head = Vec::with_capacity(page::LONG_HEADER_BYTES);
        loop {
            let bytes = next_bytes(&mut *input, usize::MAX)?;
            if head.len() < page::LONG_HEADER_BYTES {
                let wanted = bytes.len().min(page::LONG_HEADER_BYTES - head.len());
                head.extend_from_slice(&bytes[..wanted]);
                report.begins_inside_record = begins_inside_record(&head);
            }
            let count = bytes.len();
            report.bytes += count as u64;
            if count == 0 || !feed(decoder, bytes, report, may_end) {
                return Ok(());
            }
            input.consume(count);
        }
    }

    /// The segment's bytes are used up: follow its last record into the next, and check what only shows at the end.
    fn end_of_segment(&self, index: usize, decoder: &mut Decoder, report: &mut SegmentReport, may_end: bool) {
        let expected = self.size.bytes();
        if report.bytes != expected && !(may_end && report.bytes < expected) {
            let fault = FaultKind::SegmentLength { found: report.bytes, expected };
            report.fault(fault.at(decoder.position()));
            return;
        }
        if let Some(fault) = decoder.end_segment() {
            report.fault(fault);
        }
        let mut follow = index;
        while decoder.unfinished().is_some() {
            let (at, wanted) = (self.segments[follow], self.segments.get(follow + 1).copied());
            follow += 1;
            let next = wanted.filter(|next| at.on(next.timeline()).next(self.size) == Some(*next));
            let Some(next) = next else { break };
            let Some(start) = next.first_lsn(self.size) else { break };
            decoder.expect_timeline(next.timeline());
            // If it can't be read to its end, its own report says so.
            let read = self.follow(decoder, report, (next, start));
            if read.is_err() || next.end_lsn(self.size) != Some(decoder.position()) {
                break;
            }
        }
        report.unfinished = decoder.unfinished().map(|(lsn, ..)| lsn);
    }

    /// Feeds the next segment until the unfinished record is whole, or known not to be.
    fn follow(
        &self,
        decoder: &mut Decoder,
        report: &mut SegmentReport,
        (segment, start): (SegmentName, Lsn),
    ) -> io::Result<()> {
        let mut input = self.source.open(segment)?.ok_or(io::ErrorKind::NotFound)?;
        loop {
            // A page at a time, so that nothing of the segment itself is checked twice.
            let mut page = next_bytes(&mut *input, page::PAGE_BYTES as usize)?;
            let count = page.len();
            match decoder.next(&mut page) {
                Ok(None) if count > 0 => {}
                Ok(None) => return Ok(()),
                Ok(Some(record)) => {
                    // Otherwise it overwrites the unfinished one, and belongs to the next segment.
                    if record.lsn < start {
                        report.records += 1;
                        report.crosses = true;
                        report.last = Some(record.lsn);
                        if let Err(kind) = Parts::check(&record) {
                            report.fault(kind.at(record.lsn));
                        }
                    }
                    return Ok(());
                }
                Err(fault) => {
                    report.fault(fault);
                    return Ok(());
                }
            }
            input.consume(count);
            if decoder.unfinished().is_none() {
                return Ok(());
            }
        }
    }
}

/// Checks a piece of a segment; `false` when the WAL ends there.
fn feed(decoder: &mut Decoder, mut input: &[u8], report: &mut SegmentReport, may_end: bool) -> bool {
    loop {
        match decoder.next(&mut input) {
            Ok(None) => return true,
            Ok(Some(record)) => {
                report.records += 1;
                report.last = Some(record.lsn);
                if report.first.is_none() && report.faults.is_empty() {
                    report.first = Some((record.lsn, record.header.prev));
                }
                if let Err(kind) = Parts::check(&record) {
                    report.fault(kind.at(record.lsn));
                }
            }
            Err(fault) if may_end => {
                report.end = Some(fault);
                return false;
            }
            Err(fault) => {
                report.fault(fault);
                decoder.resync();
            }
        }
    }
}

fn begins_inside_record(start: &[u8]) -> bool {
    page::PageHeader::read(start).is_some_and(|header| header.continues_record())
}

/// Checks that `after` goes on where `before` ends, if it does follow it.
fn link(before: &SegmentReport, after: &mut SegmentReport, size: SegmentSize) {
    let follows = before.segment.on(after.segment.timeline()).next(size) == Some(after.segment);
    if !follows || !before.is_sound() {
        return;
    }
    if let (Some((lsn, found)), Some(last)) = (after.first, before.last)
        && found != last
    {
        after.fault(FaultKind::PrevLink { found, expected: Some(last) }.at(lsn));
    }
    let Some(start) = after.segment.first_lsn(size) else { return };
    if let (Some(expected), Some(found)) = (before.version, after.version)
        && expected != found
    {
        let (found, expected) = (found.magic(), Some(expected.magic()));
        after.fault(FaultKind::Magic { found, expected }.at(start));
    }
    if let (Some(expected), Some(found)) = (before.system_id, after.system_id)
        && expected != found
    {
        after.fault(FaultKind::SystemId { found, expected }.at(start));
    }
    if after.begins_inside_record && !before.crosses && before.unfinished.is_none() {
        after.fault(FaultKind::ContinuationUnexpected.at(start));
    }
}
