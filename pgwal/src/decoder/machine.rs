//! The decoder's inner workings: from phase to phase, page to page, piece to piece of a record.

use super::{Decoder, Pending, Phase, Step, round_up};
use crate::ahead;
use crate::checksum;
use crate::fault::{Fault, FaultKind, ZeroPlace};
use crate::page::{Expected, LONG_HEADER_BYTES, PAGE_BYTES, PageHeader, SHORT_HEADER_BYTES};
use crate::record::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use crate::strict::Strict;
use crate::{Lsn, WalVersion};

impl Decoder {
    pub(super) fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Step<'i>, Fault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        loop {
            if input.is_empty() {
                return Ok(Step::NeedMore);
            }
            if let Phase::Between = self.phase {
                self.skip_padding(input)?;
                if let Some(step) = self.whole_record(input)? {
                    return Ok(step);
                }
            }
            if input.is_empty() {
                return Ok(Step::NeedMore);
            }
            if self.at.is_multiple_of(PAGE_BYTES) && !matches!(self.phase, Phase::SkipTo(_)) {
                if !self.page(input)? {
                    return Ok(Step::NeedMore);
                }
                continue;
            }
            match self.phase {
                Phase::Seek => self.phase = Phase::Between,
                Phase::SkipRest(left) => self.skip_rest(input, left),
                Phase::Between => self.begin(),
                Phase::Inside(pending) => {
                    if let Some(step) = self.collect(input, pending)? {
                        return Ok(step);
                    }
                }
                Phase::SkipTo(end) => self.skip_to(input, end)?,
                Phase::Lost => {
                    self.take(input, self.page_rest());
                }
            }
        }
    }

    /// The record at hand, if it lies in one piece in the input.
    fn whole_record<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Step<'i>>, Fault> {
        let rest = self.page_rest();
        if rest == PAGE_BYTES || rest < RECORD_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let Some(header) = RecordHeader::read(input) else { return Ok(None) };
        if u64::from(header.total_bytes) > rest {
            return Ok(None);
        }
        let lsn = Lsn::from_u64(self.at);
        header
            .check(lsn, self.prev, self.version.unwrap_or(WalVersion::V18))
            .map_err(|kind| self.lose(kind, lsn))?;
        let Some((bytes, after)) = input.split_at_checked(header.total_bytes as usize) else {
            return Ok(None);
        };
        *input = after;
        self.at = self.at.wrapping_add(u64::from(header.total_bytes));
        self.complete(&header, lsn, checksum::of_record(bytes), bytes)?;
        Ok(Some(Step::Whole(header, lsn, bytes)))
    }

    /// The record's bytes are all there: check them, and note where to go on.
    fn complete(
        &mut self,
        header: &RecordHeader,
        lsn: Lsn,
        computed: u32,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        self.prev = Some(lsn);
        self.phase = Phase::Between;
        if computed != header.crc {
            return Err(FaultKind::Checksum { found: header.crc, computed }.at(lsn));
        }
        if header.is_switch() {
            let size = self.segment_size.bytes();
            self.phase = Phase::SkipTo(round_up(round_up(self.at, 8), size));
        }
        match &mut self.strict {
            Some(strict) => strict.record(header, lsn, bytes),
            None => Ok(()),
        }
    }

    /// Begins a record that doesn't lie in one piece in the input.
    fn begin(&mut self) {
        self.assembly.clear();
        self.phase =
            Phase::Inside(Pending { start: self.at, total: 0, got: 0, header: None, limit: 0, crc: 0 });
    }

    /// Takes what this page and the input hold of the record.
    fn collect<'i>(&mut self, input: &mut &'i [u8], mut pending: Pending) -> Result<Option<Step<'i>>, Fault> {
        let Some(header) = pending.header else { return self.collect_header(input, pending) };
        let wanted = u64::from(pending.total - pending.got).min(self.page_rest());
        let bytes = self.take(input, wanted);
        pending.crc = checksum::append(pending.crc, bytes);
        pending.got += bytes.len() as u32;
        let room = (pending.limit as usize).saturating_sub(self.assembly.len());
        self.assembly.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.phase = Phase::Inside(pending);
        if pending.got < pending.total { Ok(None) } else { self.assembled(&pending, &header).map(Some) }
    }

    /// The record in the assembly is all there.
    fn assembled<'i>(&mut self, pending: &Pending, header: &RecordHeader) -> Result<Step<'i>, Fault> {
        let lsn = Lsn::from_u64(pending.start);
        let computed = checksum::append(pending.crc, &self.assembly[..RECORD_HEADER_BYTES - 4]);
        let assembly = std::mem::take(&mut self.assembly);
        let completed = self.complete(header, lsn, computed, &assembly);
        self.assembly = assembly;
        completed.map(|()| Step::Assembled(*header, lsn))
    }

    /// Takes bytes of the record's fixed header: first its length, then the rest.
    fn collect_header<'i>(
        &mut self,
        input: &mut &'i [u8],
        mut pending: Pending,
    ) -> Result<Option<Step<'i>>, Fault> {
        let lsn = Lsn::from_u64(pending.start);
        let goal = if pending.got < 4 { 4 } else { RECORD_HEADER_BYTES as u32 };
        let wanted = u64::from(goal - pending.got).min(self.page_rest());
        let bytes = self.take(input, wanted);
        pending.got += bytes.len() as u32;
        self.assembly.extend_from_slice(bytes);
        self.phase = Phase::Inside(pending);
        if pending.total == 0 {
            let Some(length) = self.assembly.first_chunk::<4>() else { return Ok(None) };
            pending.total = u32::from_le_bytes(*length);
            self.phase = Phase::Inside(pending);
            if pending.total < RECORD_HEADER_BYTES as u32 {
                return Err(self.lose(FaultKind::RecordLength { found: pending.total }, lsn));
            }
        }
        let Some(header) = RecordHeader::read(&self.assembly) else { return Ok(None) };
        header
            .check(lsn, self.prev, self.version.unwrap_or(WalVersion::V18))
            .map_err(|kind| self.lose(kind, lsn))?;
        pending.header = Some(header);
        pending.limit = self.keep.limit(&header);
        self.phase = Phase::Inside(pending);
        // A switch record is a bare header: nothing is left to collect.
        if pending.total == pending.got { self.assembled(&pending, &header).map(Some) } else { Ok(None) }
    }

    /// Reads the header of the page that starts here; `false` when the input doesn't hold all of it.
    fn page(&mut self, input: &mut &[u8]) -> Result<bool, Fault> {
        ahead::of_page(input);
        let Some(header) = self.page_header(input) else { return Ok(false) };
        let lsn = Lsn::from_u64(self.at);
        let expected = Expected {
            lsn,
            segment_size: self.segment_size,
            version: self.version,
            system_id: self.system_id,
            timeline_floor: self.timeline,
        };
        let checked = header.check(&expected);
        self.at = self.at.wrapping_add(header.bytes() as u64);
        let version = match checked {
            Ok(version) => version,
            // A page read while lost is not reported: the fault that led here was.
            Err(_) if matches!(self.phase, Phase::Lost) => return Ok(true),
            Err(kind) => {
                if let FaultKind::TimelineOrder { found, .. } = kind {
                    // One of the two pages is wrong: don't blame all that follow.
                    self.timeline = found;
                }
                return Err(self.lose(kind, lsn));
            }
        };
        self.version = Some(version);
        self.system_id = self.system_id.or(header.long.map(|long| long.system_id));
        let before = std::mem::replace(&mut self.timeline, header.timeline);
        let contiguous = matches!(self.phase, Phase::Inside(_) | Phase::Between);
        let overwritten = self.enter_page(&header, lsn)?;
        if let Some(strict) = &mut self.strict {
            let at_segment_start = self.segment_size.offset_of(lsn) == 0;
            let overwritten = if contiguous { Some(overwritten) } else { None };
            let checked = strict.page(&header, lsn, at_segment_start, before, overwritten);
            if checked.is_err() && before != 0 {
                self.timeline = before;
            }
            checked?;
        }
        Ok(true)
    }

    /// Goes from one page into the next, whose header is sound. Returns the record that it overwrites, if it does.
    fn enter_page(&mut self, header: &PageHeader, lsn: Lsn) -> Result<Option<Lsn>, Fault> {
        let phase = self.phase;
        // Where reading goes on if there is nothing to continue, or not the right thing.
        self.phase = if header.continues_record() && !header.overwrites_record() {
            Phase::SkipRest(header.remaining)
        } else {
            Phase::Between
        };
        let fault = match phase {
            Phase::Inside(pending) => {
                let record = Lsn::from_u64(pending.start);
                let expected = pending.total.saturating_sub(pending.got);
                if header.overwrites_record() {
                    if !header.continues_record() {
                        return Ok(Some(record));
                    }
                    FaultKind::ContinuationUnexpected.at(lsn)
                } else if !header.continues_record() {
                    FaultKind::ContinuationMissing.at(record)
                } else if header.remaining != expected || expected == 0 {
                    FaultKind::ContinuationLength { found: header.remaining, expected }.at(record)
                } else if pending.total > MAX_RECORD_BYTES {
                    FaultKind::RecordTooLong { found: pending.total }.at(record)
                } else {
                    self.phase = phase;
                    return Ok(None);
                }
            }
            Phase::Between if header.continues_record() => FaultKind::ContinuationUnexpected.at(lsn),
            Phase::Lost => {
                self.prev = None;
                return Ok(None);
            }
            Phase::Seek | Phase::SkipRest(_) | Phase::Between | Phase::SkipTo(_) => return Ok(None),
        };
        self.prev = None;
        Err(fault)
    }

    /// The header at the front of the input, put together if a chunk cut it.
    fn page_header(&mut self, input: &mut &[u8]) -> Option<PageHeader> {
        if self.cut_header.is_empty()
            && let Some(header) = PageHeader::read(input)
        {
            *input = &input[header.bytes()..];
            return Some(header);
        }
        loop {
            let goal = if self.cut_header.len() < SHORT_HEADER_BYTES {
                SHORT_HEADER_BYTES
            } else {
                LONG_HEADER_BYTES
            };
            let (bytes, after) = input.split_at((goal - self.cut_header.len()).min(input.len()));
            self.cut_header.extend_from_slice(bytes);
            *input = after;
            if let Some(header) = PageHeader::read(&self.cut_header) {
                self.cut_header.clear();
                return Some(header);
            }
            if input.is_empty() {
                return None;
            }
        }
    }

    /// Skips the zero bytes that align a record's end.
    fn skip_padding(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let padding = self.at.wrapping_neg() & 7;
        if padding == 0 {
            return Ok(());
        }
        let lsn = Lsn::from_u64(self.at);
        let bytes = self.take(input, padding);
        match self.strict {
            Some(_) => Strict::zeros(bytes, ZeroPlace::RecordPadding, lsn),
            None => Ok(()),
        }
    }

    fn skip_rest(&mut self, input: &mut &[u8], left: u32) {
        // It is the end that is aligned: a piece of the input may have ended anywhere before.
        let padding = self.at.wrapping_add(left.into()).wrapping_neg() & 7;
        let on_page = (u64::from(left) + padding).min(self.page_rest());
        let taken = self.take(input, on_page).len() as u64;
        self.phase = if taken == on_page && u64::from(left) <= on_page {
            Phase::Between
        } else {
            Phase::SkipRest(left.saturating_sub(taken as u32))
        };
    }

    fn skip_to(&mut self, input: &mut &[u8], end: u64) -> Result<(), Fault> {
        let lsn = Lsn::from_u64(self.at);
        let bytes = self.take(input, end.wrapping_sub(self.at));
        if self.at == end {
            self.phase = Phase::Between;
        }
        match self.strict {
            Some(_) => Strict::zeros(bytes, ZeroPlace::AfterSwitch, lsn),
            None => Ok(()),
        }
    }

    /// Takes up to `wanted` bytes off the input.
    #[inline]
    fn take<'i>(&mut self, input: &mut &'i [u8], wanted: u64) -> &'i [u8] {
        let (bytes, after) = input.split_at(input.len().min(wanted as usize));
        *input = after;
        self.at = self.at.wrapping_add(bytes.len() as u64);
        bytes
    }

    /// Bytes from here to the end of the page: never 0.
    #[inline]
    fn page_rest(&self) -> u64 {
        PAGE_BYTES - self.at % PAGE_BYTES
    }

    /// Notes that the chain is lost, and makes the fault.
    #[cold]
    fn lose(&mut self, kind: FaultKind, lsn: Lsn) -> Fault {
        self.phase = Phase::Lost;
        kind.at(lsn)
    }
}
