//! Verification of segments that can be read once, one after the other.

use std::io::BufRead;

use super::{SegmentReport, VerifyOptions, begins_inside_record};
use crate::decoder::{Decoder, Keep};
use crate::fault::{Fault, FaultKind};
use crate::page;
use crate::reader::{SegmentSeries, SeriesError, next_bytes};
use crate::record::{Parts, Record};
use crate::{Lsn, SegmentName};

/// Verifies the segments of a series and hands each report to `each`, in order, as
/// [`verify_segments`](super::verify_segments) does with segments that can be opened at any time.
///
/// Where timelines may change they are not held against the segments' names, which a series doesn't tell.
///
/// # Errors
/// When something that is no later segment follows, or the series can't be read. The segment before has been reported.
pub fn verify_series<R: BufRead>(
    series: &mut SegmentSeries<R>,
    options: &VerifyOptions,
    mut each: impl FnMut(SegmentReport),
) -> Result<(), SeriesError> {
    let mut before: Option<Reading> = None;
    loop {
        let next = match series.next_segment() {
            Ok(Some(next)) => next,
            ended => {
                if let Some(last) = before.take() {
                    each(last.into_last(options));
                }
                return ended.map(|_| ());
            }
        };
        let size = series.segment_size();
        let start = next.first_lsn(size).unwrap_or(Lsn::INVALID);
        let (mut reading, mut unreported) = Reading::after(before.take(), next, start, series, options);
        if let Err(error) = reading.feed_all(series, start, &mut unreported) {
            unreported.into_iter().for_each(&mut each);
            each(reading.into_last(options));
            return Err(error.into());
        }
        if reading.report.bytes == size.bytes() {
            if let Some(fault) = reading.decoder.end_segment() {
                reading.fault(fault);
            }
        } else {
            reading.cut =
                Some(FaultKind::SegmentLength { found: reading.report.bytes, expected: size.bytes() });
        }
        unreported.into_iter().for_each(&mut each);
        before = Some(reading);
    }
}

/// A segment that has been read, or is being read.
struct Reading {
    decoder: Decoder,
    report: SegmentReport,
    /// What was found before the first fault, in case the WAL may end there.
    sound: Option<Sound>,
    /// The segment isn't as long as it has to be.
    cut: Option<FaultKind>,
}

/// What a report said before the first fault.
struct Sound {
    records: u64,
    last: Option<Lsn>,
    fault: Fault,
}

impl Reading {
    /// Begins with a segment: where the one before left off if that is sound and goes on here, or else anew. Then also gives
    /// the report of the one before, which is complete but for what this segment holds of its last record.
    fn after<R: BufRead>(
        before: Option<Reading>,
        segment: SegmentName,
        start: Lsn,
        series: &SegmentSeries<R>,
        options: &VerifyOptions,
    ) -> (Self, Option<SegmentReport>) {
        let size = series.segment_size();
        let fresh = || {
            let decoder = Decoder::new(start, size).with_keep(Keep::Headers).strict();
            match options.system_id {
                Some(system_id) => decoder.with_system_id(system_id),
                None => decoder,
            }
        };
        let Some(mut before) = before else { return (Self::new(fresh(), segment), None) };
        before.take_cut();
        let follows = before.report.segment.on(segment.timeline()).next(size) == Some(segment);
        if follows && before.report.is_sound() {
            (Self::new(before.decoder, segment), Some(before.report))
        } else {
            before.report.unfinished = before.decoder.unfinished().map(|(lsn, ..)| lsn);
            (Self::new(fresh(), segment), Some(before.report))
        }
    }

    fn new(decoder: Decoder, segment: SegmentName) -> Self {
        Reading { decoder, report: SegmentReport::new(segment), sound: None, cut: None }
    }

    /// Checks the segment's bytes. What belongs to a record that began before goes to the report of the segment `before`.
    fn feed_all<R: BufRead>(
        &mut self,
        series: &mut SegmentSeries<R>,
        start: Lsn,
        before: &mut Option<SegmentReport>,
    ) -> std::io::Result<()> {
        let mut head = Vec::with_capacity(page::LONG_HEADER_BYTES);
        loop {
            let bytes = next_bytes(series, usize::MAX)?;
            if head.len() < page::LONG_HEADER_BYTES {
                let wanted = bytes.len().min(page::LONG_HEADER_BYTES - head.len());
                head.extend_from_slice(&bytes[..wanted]);
                self.report.begins_inside_record = begins_inside_record(&head);
            }
            let count = bytes.len();
            self.report.bytes += count as u64;
            if count == 0 {
                break;
            }
            self.feed(bytes, start, before);
            series.consume(count);
        }
        self.report.version = self.decoder.version();
        self.report.system_id = self.decoder.system_id();
        self.report.timeline = self.decoder.timeline();
        Ok(())
    }

    fn feed(&mut self, mut input: &[u8], start: Lsn, before: &mut Option<SegmentReport>) {
        loop {
            // A record borrows the decoder, so what it says is noted first.
            let (seen, fault) = match self.decoder.next(&mut input) {
                Ok(None) => return,
                Ok(Some(record)) => (Some((record.lsn, record.header.prev)), headers_fault(&record)),
                Err(fault) => (None, Some(fault)),
            };
            let of_before = |lsn: Lsn| lsn < start;
            if let Some((lsn, prev)) = seen {
                match before {
                    Some(before) if of_before(lsn) => {
                        before.records += 1;
                        before.crosses = true;
                        before.last = Some(lsn);
                    }
                    _ => {
                        self.report.records += 1;
                        self.report.last = Some(lsn);
                        if self.report.first.is_none() && self.report.faults.is_empty() {
                            self.report.first = Some((lsn, prev));
                        }
                    }
                }
            }
            let Some(fault) = fault else { continue };
            match before {
                Some(before) if of_before(fault.lsn) => before.fault(fault),
                _ => self.fault(fault),
            }
            if seen.is_none() {
                self.decoder.resync();
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.report.faults.is_empty() {
            self.sound = Some(Sound { records: self.report.records, last: self.report.last, fault });
        }
        self.report.fault(fault);
    }

    /// A segment that is too short is at fault unless it is the last and may be.
    fn take_cut(&mut self) {
        if let Some(kind) = self.cut.take() {
            let at = self.decoder.position();
            self.report.fault(kind.at(at));
        }
    }

    /// The report of the last segment: the WAL may end in it.
    fn into_last(mut self, options: &VerifyOptions) -> SegmentReport {
        if !options.may_end {
            self.take_cut();
        } else if let Some(sound) = self.sound.take() {
            let Sound { records, last, fault } = sound;
            self.report.faults.clear();
            let end = Some(fault);
            return SegmentReport { records, last, end, more_faults: 0, ..self.report };
        }
        self.report.unfinished = self.decoder.unfinished().map(|(lsn, ..)| lsn);
        self.report
    }
}

/// What is wrong with a record's headers.
fn headers_fault(record: &Record<'_>) -> Option<Fault> {
    Parts::check(record).err().map(|kind| kind.at(record.lsn))
}
