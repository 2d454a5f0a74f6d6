//! What strict reading checks beyond the server, so that a flipped bit is found wherever it matters.

use crate::fault::{Fault, FaultKind, ZeroPlace};
use crate::page::PageHeader;
use crate::record::RecordHeader;
use crate::{Lsn, TimelineId};

const OVERWRITE_CONTRECORD: u8 = 0xD0;
const END_OF_RECOVERY: u8 = 0x90;
const CHECKPOINT_SHUTDOWN: u8 = 0x00;

/// State of the strict checks.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Strict {
    /// The timeline of the segment's name: the latest that a page of it may have.
    timeline: Option<TimelineId>,
    /// The timeline that the last end of recovery announced.
    announced: Option<u32>,
    /// A page whose timeline no record has announced yet: a promotion at a page's very end writes the page first.
    unannounced: Option<(Lsn, u32)>,
    /// The page just entered overwrites this record (`0/0` if it can't be known); the next record has to say so.
    overwrites: Option<Lsn>,
}

impl Strict {
    pub(crate) fn expect_timeline(&mut self, timeline: TimelineId) {
        self.timeline = Some(timeline);
    }

    /// Checks a page's header beyond the server's checks.
    ///
    /// `overwritten` is the unfinished record before, `None` where reading has only begun and it can't be known.
    pub(crate) fn page(
        &mut self,
        header: &PageHeader,
        lsn: Lsn,
        at_segment_start: bool,
        timeline_before: u32,
        overwritten: Option<Option<Lsn>>,
    ) -> Result<(), Fault> {
        header.check_strictly(at_segment_start).map_err(|kind| kind.at(lsn))?;
        let wrong = |timeline: &TimelineId| header.timeline == 0 || header.timeline > timeline.as_u32();
        if let Some(expected) = self.timeline.filter(wrong) {
            return Err(FaultKind::Timeline { found: header.timeline, expected }.at(lsn));
        }
        if timeline_before != 0
            && header.timeline != timeline_before
            && self.announced != Some(header.timeline)
        {
            self.unannounced = Some((lsn, timeline_before));
        }
        match (header.overwrites_record(), overwritten) {
            (true, Some(None)) => Err(FaultKind::Overwrite { overwritten: Lsn::INVALID }.at(lsn)),
            (true, known) => {
                self.overwrites = Some(known.flatten().unwrap_or(Lsn::INVALID));
                Ok(())
            }
            (false, _) => Ok(()),
        }
    }

    /// Whether there is nothing to check about a record.
    #[inline]
    pub(crate) fn passes(&self, header: &RecordHeader) -> bool {
        header.rmid != 0 && self.overwrites.is_none()
    }

    /// Checks a record against what pages announced, and the other way round.
    pub(crate) fn record(&mut self, header: &RecordHeader, lsn: Lsn, bytes: &[u8]) -> Result<(), Fault> {
        if self.passes(header) { Ok(()) } else { self.xlog_record(header, lsn, bytes) }
    }

    fn xlog_record(&mut self, header: &RecordHeader, lsn: Lsn, bytes: &[u8]) -> Result<(), Fault> {
        let operation = if header.rmid == 0 { header.operation() } else { 0xF0 };
        if let Some(overwritten) = self.overwrites.take() {
            let said = (operation == OVERWRITE_CONTRECORD).then(|| main_u64(bytes, 0)).flatten();
            let right = said.is_some_and(|said| !overwritten.is_valid() || said == overwritten.as_u64());
            if !right {
                return Err(FaultKind::Overwrite { overwritten }.at(lsn));
            }
        }
        if operation == END_OF_RECOVERY || operation == CHECKPOINT_SHUTDOWN {
            // Both have their timeline 8 bytes into their data.
            self.announced = main_u64(bytes, 8).map(|both| both as u32);
            if self.announced.is_some() {
                self.unannounced = None;
            }
        }
        Ok(())
    }

    /// At the end of a segment: a timeline that began without a record of it.
    pub(crate) fn end(&mut self) -> Option<Fault> {
        let (lsn, before) = self.unannounced.take()?;
        let expected = TimelineId::new(before)?;
        let found = self.announced.unwrap_or_default();
        Some(FaultKind::Timeline { found, expected }.at(lsn))
    }

    /// Checks that bytes are zero.
    pub(crate) fn zeros(bytes: &[u8], place: ZeroPlace, lsn: Lsn) -> Result<(), Fault> {
        // Eight at a time: after a switch there may be a GiB of them.
        let clean = bytes.as_chunks::<8>();
        let all_zero =
            clean.0.iter().all(|chunk| u64::from_le_bytes(*chunk) == 0) && clean.1.iter().all(|b| *b == 0);
        if all_zero {
            return Ok(());
        }
        let index = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
        let value = bytes.get(index).copied().unwrap_or_default();
        let at = lsn.checked_add(index as u64).unwrap_or(lsn);
        Err(FaultKind::NotZero { value, place }.at(at))
    }
}

/// A number in the main data of a record without blocks and with less than 256 bytes of data.
fn main_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    let main = bytes.get(24..).filter(|rest| rest.first() == Some(&255))?.get(2..)?;
    main.get(offset..)?.first_chunk::<8>().map(|number| u64::from_le_bytes(*number))
}
