//! The decoder: bytes of WAL in, in any chunks; records out, borrowed.
//!
//! It follows the server's reader (`access/transam/xlogreader.c`) to the letter: the same checks in the same order, so that
//! the WAL ends here exactly where recovery would end. It allocates only to put together records that cross a page or
//! a chunk, in one buffer that is reused.

mod machine;

use crate::ahead;
use crate::checksum;
use crate::fault::{Fault, FaultKind};
use crate::page::PAGE_BYTES;
use crate::record::{MAX_HEADERS_BYTES, Record, RecordHeader};
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
    #[inline(always)]
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
        ahead::of_record(rest, bytes.len());
        header.check(lsn, Some(prev), version).ok()?;
        if let Some(strict) = &self.strict
            && !(padding.iter().all(|byte| *byte == 0) && strict.passes(&header))
        {
            return None;
        }
        if checksum::of_record(bytes) != header.crc {
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
}

/// `value` rounded up to a multiple of a power of two; wraps at the end of the address space.
#[inline]
const fn round_up(value: u64, to: u64) -> u64 {
    value.wrapping_add(to - 1) & !(to - 1)
}
