//! Verification: a segment is sound from its first byte to its last.
//!
//! Checked is all that the server checks, of every page and record: headers, addresses, the chain of records, their
//! checksums, the layout of their headers. Beyond that: unused bytes are zero, timelines change only where a record says
//! so and never beyond the segment's name, an overwritten record is named by the record that follows.
//!
//! A single flipped bit in the used part of a segment is found, with these exceptions: the flag of a page header that says
//! that backup blocks may be removed (`XLP_BKP_REMOVABLE`, unused by PostgreSQL); the system identifier in a lone segment
//! if none is expected; and the timeline in the first pages of a segment where it gives an earlier one and a promotion
//! follows.

use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::decoder::{Decoder, Keep};
use crate::fault::{Fault, FaultKind};
use crate::page;
use crate::reader::{CHUNK_BYTES, SegmentSource, fill};
use crate::record::Parts;
use crate::{Lsn, SegmentName, SegmentSize, TimelineId, WalVersion};

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
#[derive(Debug, Clone)]
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
        self.faults.is_empty()
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
/// When a segment can't be read. Faults in what was read are no errors: they are in the reports.
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
    let mut worker = Worker::new();
    let mut before: Option<SegmentReport> = None;
    for start in (0..segments.len()).step_by(BATCH) {
        let batch = start..segments.len().min(start + BATCH);
        let mut done =
            if threads > 1 { verify_batch(&job, batch.clone(), threads) } else { Vec::new() }.into_iter();
        for index in batch {
            let mut report = done.next().unwrap_or_else(|| worker.verify(&job, index))?;
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
fn verify_batch(
    job: &Job<'_>,
    batch: Range<usize>,
    threads: usize,
) -> Vec<Result<SegmentReport, VerifyError>> {
    let next = AtomicUsize::new(batch.start);
    let work = || {
        let mut worker = Worker::new();
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= batch.end {
                return reports;
            }
            reports.push((index, worker.verify(job, index)));
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
    let mut start = [0; page::LONG_HEADER_BYTES];
    let count = fill(&mut *input, &mut start).map_err(|source| VerifyError::Read { segment, source })?;
    match page::identify_segment(&start[..count]) {
        Some((_, _, _, size)) => Ok(size),
        None => Err(VerifyError::NoSize { segment }),
    }
}

fn open(
    source: &dyn SegmentSource,
    segment: SegmentName,
) -> Result<Option<Box<dyn io::Read + '_>>, VerifyError> {
    source.open(segment).map_err(|source| VerifyError::Read { segment, source })
}

struct Job<'j> {
    source: &'j dyn SegmentSource,
    segments: &'j [SegmentName],
    options: &'j VerifyOptions,
    size: SegmentSize,
}

/// One thread's buffers.
struct Worker {
    buffer: Vec<u8>,
}

impl Worker {
    fn new() -> Self {
        Worker { buffer: vec![0; CHUNK_BYTES] }
    }

    fn verify(&mut self, job: &Job<'_>, index: usize) -> Result<SegmentReport, VerifyError> {
        let segment = job.segments[index];
        let start = segment.first_lsn(job.size).ok_or(VerifyError::Name { segment, size: job.size })?;
        let mut decoder = Decoder::new(start, job.size).with_keep(Keep::Headers).strict();
        if let Some(system_id) = job.options.system_id {
            decoder = decoder.with_system_id(system_id);
        }
        decoder.expect_timeline(segment.timeline());
        let mut report = SegmentReport {
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
        };
        let may_end = job.options.may_end && index + 1 == job.segments.len();
        let mut input = open(job.source, segment)?.ok_or(VerifyError::Missing { segment })?;
        loop {
            let count = fill(&mut *input, &mut self.buffer)
                .map_err(|source| VerifyError::Read { segment, source })?;
            report.begins_inside_record |= report.bytes == 0 && begins_inside_record(&self.buffer[..count]);
            report.bytes += count as u64;
            if count == 0 || !self.feed(&mut decoder, count, &mut report, may_end) {
                break;
            }
        }
        if report.end.is_none() {
            self.end_of_segment(job, index, &mut decoder, &mut report, may_end)?;
        }
        report.version = decoder.version();
        report.system_id = decoder.system_id();
        report.timeline = decoder.timeline();
        Ok(report)
    }

    /// Checks what the buffer holds; `false` when the WAL ends there.
    fn feed(
        &mut self,
        decoder: &mut Decoder,
        count: usize,
        report: &mut SegmentReport,
        may_end: bool,
    ) -> bool {
        let mut input = &self.buffer[..count];
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

    /// The segment's bytes are used up: follow its last record into the next, and check what only shows at the end.
    fn end_of_segment(
        &mut self,
        job: &Job<'_>,
        index: usize,
        decoder: &mut Decoder,
        report: &mut SegmentReport,
        may_end: bool,
    ) -> Result<(), VerifyError> {
        let expected = job.size.bytes();
        if report.bytes != expected && !(may_end && report.bytes < expected) {
            let fault = FaultKind::SegmentLength { found: report.bytes, expected };
            report.fault(fault.at(decoder.position()));
            return Ok(());
        }
        if let Some(fault) = decoder.end_segment() {
            report.fault(fault);
        }
        let mut follow = index;
        while decoder.unfinished().is_some() {
            let (at, wanted) = (job.segments[follow], job.segments.get(follow + 1).copied());
            follow += 1;
            let next = wanted.filter(|next| at.on(next.timeline()).next(job.size) == Some(*next));
            let Some(next) = next else { break };
            let mut input = open(job.source, next)?.ok_or(VerifyError::Missing { segment: next })?;
            decoder.expect_timeline(next.timeline());
            let start =
                next.first_lsn(job.size).ok_or(VerifyError::Name { segment: next, size: job.size })?;
            self.follow(decoder, &mut *input, report, (next, start))?;
        }
        report.unfinished = decoder.unfinished().map(|(lsn, ..)| lsn);
        Ok(())
    }

    /// Feeds the next segment until the unfinished record is whole, or known not to be.
    fn follow(
        &mut self,
        decoder: &mut Decoder,
        input: &mut dyn io::Read,
        report: &mut SegmentReport,
        (segment, start): (SegmentName, Lsn),
    ) -> Result<(), VerifyError> {
        loop {
            // A page at a time, so that nothing of the segment itself is checked twice.
            let page = &mut self.buffer[..page::PAGE_BYTES as usize];
            let count = fill(input, page).map_err(|source| VerifyError::Read { segment, source })?;
            let mut rest = &page[..count];
            match decoder.next(&mut rest) {
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
            if decoder.unfinished().is_none() {
                return Ok(());
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
    if let (Some(expected), Some(found)) = (before.system_id, after.system_id)
        && expected != found
    {
        after.fault(FaultKind::SystemId { found, expected }.at(start));
    }
    if after.begins_inside_record && !before.crosses && before.unfinished.is_none() {
        after.fault(FaultKind::ContinuationUnexpected.at(start));
    }
}
