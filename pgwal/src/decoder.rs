//! The decoder: bytes of WAL in, in any chunks; records out, borrowed.
//!
//! It follows the server's reader (`access/transam/xlogreader.c`) to the letter: the same checks in the same order, so that
//! the WAL ends here exactly where recovery would end. It allocates only to put together records that cross a page or
//! a chunk, in one buffer that is reused.

use crate::fault::{Fault, FaultKind, ZeroPlace};
use crate::page::{Expected, LONG_HEADER_BYTES, PAGE_BYTES, PageHeader, SHORT_HEADER_BYTES};
use crate::record::{MAX_HEADERS_BYTES, MAX_RECORD_BYTES, RECORD_HEADER_BYTES, Record, RecordHeader};
use crate::strict::Strict;
use crate::{Lsn, SegmentSize, TimelineId, WalVersion};

/// How much of a record that crosses pages is put together. The checksum always covers all of it.
#[derive(Debug, Clone, Copy)]
pub enum Keep {
    /// All of every record.
    All,
    /// Enough for [`Parts`](crate::Parts): block references and lengths, not the payload.
    Headers,
    /// All of the records that the function says yes to, and the headers of the others.
    Some(fn(&RecordHeader) -> bool),
}

impl Keep {
    fn limit(self, header: &RecordHeader) -> u32 {
        let whole = match self {
            Keep::All => true,
            Keep::Headers => false,
            Keep::Some(wanted) => wanted(header),
        };
        if whole { header.total_bytes } else { header.total_bytes.min(MAX_HEADERS_BYTES) }
    }
}

/// Turns a stream of WAL into records.
///
/// ```no_run
/// use pgwal::{Decoder, Lsn, SegmentSize};
/// let segment = std::fs::read("000000010000000000000002")?;
/// let mut decoder = Decoder::new(Lsn::from_u64(0x200_0000), SegmentSize::DEFAULT);
/// let mut input = &segment[..];
/// while let Some(record) = decoder.next(&mut input)? {
///     println!("{} {} {:?}", record.lsn, record.rmgr(), record.operation_name());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    segment_size: SegmentSize,
    system_id: Option<u64>,
    version: Option<WalVersion>,
    keep: Keep,
    strict: Option<Strict>,
    /// The position of the next input byte.
    at: u64,
    /// The last whole record, once the chain is known.
    prev: Option<Lsn>,
    /// The timeline of the last page.
    timeline: u32,
    phase: Phase,
    /// The start of a page header that a chunk cut.
    cut_header: Vec<u8>,
    /// The record being put together; the last one stays until the next is begun.
    assembly: Vec<u8>,
    /// The fault that stopped the decoder.
    failed: Option<Fault>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// At the start: skip what may be left of a record that began before.
    Seek,
    /// Skipping it: bytes left on this page.
    SkipRest(u32),
    /// A record comes next.
    Between,
    /// In the middle of one.
    Inside(Pending),
    /// After a switch: nothing until this position.
    SkipTo(u64),
    /// After a fault: nothing until the next sound page.
    Lost,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    start: u64,
    /// The record's length, once four bytes of it are known.
    total: u32,
    got: u32,
    header: Option<RecordHeader>,
    /// How many bytes to keep in the assembly.
    limit: u32,
    crc: u32,
}

/// A record that has begun but not ended, to go on with it in another decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRecord {
    /// Where it starts.
    pub lsn: Lsn,
    /// Its length in bytes; 0 if not even that is known yet.
    pub total: u32,
    /// How many of its bytes have been read.
    pub got: u32,
    /// The checksum of those beyond its fixed header.
    pub crc: u32,
    /// What is kept of them.
    pub bytes: Vec<u8>,
}

/// What a step of the decoder gave.
enum Step<'i> {
    /// The input is used up.
    NeedMore,
    /// A record that lies in one piece in the input.
    Whole(RecordHeader, Lsn, &'i [u8]),
    /// A record that lies in the assembly.
    Assembled(RecordHeader, Lsn),
}

impl Decoder {
    /// A decoder whose first input byte is at `start`: a page boundary, or exactly a record's start.
    ///
    /// From a page boundary it skips the rest of a record that began before.
    pub fn new(start: Lsn, segment_size: SegmentSize) -> Self {
        let at_page = start.as_u64().is_multiple_of(PAGE_BYTES);
        Decoder {
            segment_size,
            system_id: None,
            version: None,
            keep: Keep::All,
            strict: None,
            at: start.as_u64(),
            prev: None,
            timeline: 0,
            phase: if at_page { Phase::Seek } else { Phase::Between },
            cut_header: Vec::new(),
            assembly: Vec::new(),
            failed: None,
        }
    }

    /// Refuses WAL of another cluster.
    pub fn with_system_id(mut self, system_id: u64) -> Self {
        self.system_id = Some(system_id);
        self
    }

    /// Sets the version, which is otherwise taken from the first page. Needed to start at a record within a page.
    pub fn with_version(mut self, version: WalVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets how much of records that cross pages is put together; by default all.
    pub fn with_keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Also checks what the server doesn't: see [`verify`](crate::verify).
    pub fn strict(mut self) -> Self {
        self.strict = Some(Strict::default());
        self
    }

    /// In strict reading, the timeline in the name of the segment that follows: none of its pages may be later.
    pub fn expect_timeline(&mut self, timeline: TimelineId) {
        if let Some(strict) = &mut self.strict {
            strict.expect_timeline(timeline);
        }
    }

    /// The position of the next input byte.
    pub fn position(&self) -> Lsn {
        Lsn::from_u64(self.at.wrapping_add(self.cut_header.len() as u64))
    }

    /// The version, once a page has said so.
    pub fn version(&self) -> Option<WalVersion> {
        self.version
    }

    /// The cluster's system identifier, given or read from the first segment.
    pub fn system_id(&self) -> Option<u64> {
        self.system_id
    }

    /// The timeline of the page that was read last; `None` before the first.
    pub fn timeline(&self) -> Option<TimelineId> {
        TimelineId::new(self.timeline)
    }

    /// The start of the last record.
    pub fn last_record(&self) -> Option<Lsn> {
        self.prev
    }

    /// The record that has begun but not ended: its start, its length in bytes (0 if not even that is known yet), and how
    /// many of its bytes are there.
    pub fn unfinished(&self) -> Option<(Lsn, u32, u32)> {
        match self.phase {
            Phase::Inside(pending) => Some((Lsn::from_u64(pending.start), pending.total, pending.got)),
            _ => None,
        }
    }

    /// The record that has begun but not ended, with what is kept of it.
    pub fn open_record(&self) -> Option<OpenRecord> {
        let Phase::Inside(pending) = self.phase else { return None };
        Some(OpenRecord {
            lsn: Lsn::from_u64(pending.start),
            total: pending.total,
            got: pending.got,
            crc: pending.crc,
            bytes: self.assembly.clone(),
        })
    }

    /// Goes on where another decoder stopped, at the boundary where this one starts: its last whole record, the timeline of
    /// its last page, the record it was in the middle of. The same [`Keep`] has to be set.
    ///
    /// What doesn't fit together shows as a fault of the record.
    pub fn resume(mut self, last_record: Lsn, timeline: TimelineId, open: Option<OpenRecord>) -> Self {
        self.prev = Some(last_record);
        self.timeline = timeline.as_u32();
        self.phase = Phase::Between;
        if let Some(open) = open {
            let header = RecordHeader::read(&open.bytes);
            let limit = header.map_or(0, |header| self.keep.limit(&header));
            let OpenRecord { lsn, total, got, crc, bytes } = open;
            self.phase = Phase::Inside(Pending { start: lsn.as_u64(), total, got, header, limit, crc });
            self.assembly = bytes;
        }
        self
    }

    /// Whether it is still skipping the rest of a record that began before the start.
    pub fn is_seeking(&self) -> bool {
        matches!(self.phase, Phase::Seek | Phase::SkipRest(_))
    }

    /// The next record, taking bytes off the front of `input`; `None` when the input is used up.
    ///
    /// Input given once is never asked for again, so chunks can be of any size, also while the WAL grows.
    ///
    /// # Errors
    /// When the WAL ends or is damaged here. The decoder then repeats the fault until [`resync`](Self::resync).
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "it lends, which Iterator can't")]
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Record<'s>>, Fault> {
        match self.usual_record(input) {
            Some(record) => Ok(Some(record)),
            None => self.next_of_any_kind(input),
        }
    }

    /// The usual case, in which nothing can go wrong: a sound record in one piece, in the middle of a page, in sequence.
    /// Of anything else nothing is taken.
    #[inline]
    fn usual_record<'i>(&mut self, input: &mut &'i [u8]) -> Option<Record<'i>> {
        if !matches!(self.phase, Phase::Between) || self.failed.is_some() {
            return None;
        }
        let (prev, version) = (self.prev?, self.version?);
        let at = round_up(self.at, 8);
        let (padding, rest) = input.split_at_checked(at.wrapping_sub(self.at) as usize)?;
        let header = RecordHeader::read(rest)?;
        let (bytes, after) = rest.split_at_checked(header.total_bytes as usize)?;
        let (lsn, offset) = (Lsn::from_u64(at), at % PAGE_BYTES);
        if offset == 0 || offset + u64::from(header.total_bytes) > PAGE_BYTES || header.is_switch() {
            return None;
        }
        header.check(lsn, Some(prev), version).ok()?;
        if let Some(strict) = &self.strict
            && !(padding.iter().all(|byte| *byte == 0) && strict.passes(&header))
        {
            return None;
        }
        let crc = crc32c::crc32c(&bytes[RECORD_HEADER_BYTES..]);
        if crc32c::crc32c_append(crc, &bytes[..RECORD_HEADER_BYTES - 4]) != header.crc {
            return None;
        }
        *input = after;
        self.at = at.wrapping_add(u64::from(header.total_bytes));
        self.prev = Some(lsn);
        Some(Record { lsn, end: Lsn::from_u64(round_up(self.at, 8)), version, header, bytes })
    }

    #[inline(never)]
    fn next_of_any_kind<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Record<'s>>, Fault> {
        let step = match self.advance(input) {
            Ok(step) => step,
            Err(fault) => {
                self.failed = Some(fault);
                return Err(fault);
            }
        };
        let (header, lsn, bytes) = match step {
            Step::NeedMore => return Ok(None),
            Step::Whole(header, lsn, bytes) => (header, lsn, bytes),
            Step::Assembled(header, lsn) => (header, lsn, &self.assembly[..]),
        };
        let end = match self.phase {
            Phase::SkipTo(end) => end,
            _ => round_up(self.at, 8),
        };
        // A record can't be found before a page has told the version.
        let version = self.version.unwrap_or(WalVersion::V18);
        Ok(Some(Record { lsn, end: Lsn::from_u64(end), version, header, bytes }))
    }

    /// In strict reading, checks at a segment's end what only shows there.
    pub fn end_segment(&mut self) -> Option<Fault> {
        self.strict.as_mut().and_then(Strict::end)
    }

    /// Goes on after a fault: at the next record where the damage leaves the chain intact, or else at the next sound page.
    pub fn resync(&mut self) {
        self.failed = None;
    }

    /// Gives up a record whose end is missing, as the end of the input: the next call starts over with the next page.
    ///
    /// Returns the fault to report, if there was such a record.
    pub fn finish(&mut self) -> Option<Fault> {
        let (lsn, expected, found) = self.unfinished()?;
        self.phase = Phase::Lost;
        Some(FaultKind::Truncated { found, expected }.at(lsn))
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Step<'i>, Fault> {
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
        let crc = crc32c::crc32c(&bytes[RECORD_HEADER_BYTES..]);
        self.complete(&header, lsn, crc32c::crc32c_append(crc, &bytes[..RECORD_HEADER_BYTES - 4]), bytes)?;
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
        pending.crc = crc32c::crc32c_append(pending.crc, bytes);
        pending.got += bytes.len() as u32;
        let room = (pending.limit as usize).saturating_sub(self.assembly.len());
        self.assembly.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.phase = Phase::Inside(pending);
        if pending.got < pending.total { Ok(None) } else { self.assembled(&pending, &header).map(Some) }
    }

    /// The record in the assembly is all there.
    fn assembled<'i>(&mut self, pending: &Pending, header: &RecordHeader) -> Result<Step<'i>, Fault> {
        let lsn = Lsn::from_u64(pending.start);
        let computed = crc32c::crc32c_append(pending.crc, &self.assembly[..RECORD_HEADER_BYTES - 4]);
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
        let on_page = round_up(u64::from(left), 8).min(self.page_rest());
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

/// `value` rounded up to a multiple of a power of two; wraps at the end of the address space.
#[inline]
const fn round_up(value: u64, to: u64) -> u64 {
    value.wrapping_add(to - 1) & !(to - 1)
}
