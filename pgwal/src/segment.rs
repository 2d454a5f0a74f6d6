//! WAL segments: their sizes, names and positions (`access/xlog_internal.h`).
//!
//! A segment's name says its timeline and two numbers whose meaning depends on the segment size, so every question
//! about positions takes a [`SegmentSize`]: nothing here assumes 16 MiB.

use std::fmt;
use std::str::FromStr;

use crate::{Lsn, TimelineId};

/// The size of every segment of a cluster, in bytes: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// The smallest size PostgreSQL allows (`WalSegMinSize`).
    pub const MIN: SegmentSize = SegmentSize(1 << 20);
    /// The largest size PostgreSQL allows (`WalSegMaxSize`).
    pub const MAX: SegmentSize = SegmentSize(1 << 30);
    /// 16 MiB, initdb's default (`DEFAULT_XLOG_SEG_SIZE`).
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// A size in bytes, or `None` when PostgreSQL has no such segments.
    pub const fn new(bytes: u64) -> Option<Self> {
        let valid = bytes.is_power_of_two() && bytes >= Self::MIN.0 as u64 && bytes <= Self::MAX.0 as u64;
        if valid { Some(SegmentSize(bytes as u32)) } else { None }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// How many segments one value of a name's middle field covers (`XLogSegmentsPerXLogId`).
    pub const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// The start of the segment that holds `lsn`.
    pub const fn start_of(self, lsn: Lsn) -> Lsn {
        Lsn::from_u64(lsn.as_u64() & !(self.bytes() - 1))
    }

    /// The offset of `lsn` in its segment, in bytes.
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.as_u64() & (self.bytes() - 1)
    }
}

impl Default for SegmentSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for SegmentSize {
    /// `16MB`, `1GB`: as `SHOW wal_segment_size` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 1 << 30 { f.write_str("1GB") } else { write!(f, "{}MB", self.0 >> 20) }
    }
}

impl fmt::Debug for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentSize({self})")
    }
}

/// A text that is not a segment size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a WAL segment size: expected a power of two from 1MB to 1GB, like 16MB")]
pub struct ParseSegmentSizeError {
    text: String,
}

impl FromStr for SegmentSize {
    type Err = ParseSegmentSizeError;

    /// Reads what `SHOW wal_segment_size` prints (`16MB`, `1GB`), or a plain number of bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
            Some(end) => text.split_at(end),
            None => (text, ""),
        };
        let factor: Option<u64> = match unit {
            "" => Some(1),
            "kB" => Some(1 << 10),
            "MB" => Some(1 << 20),
            "GB" => Some(1 << 30),
            _ => None,
        };
        factor
            .zip(digits.parse::<u64>().ok())
            .and_then(|(factor, number)| number.checked_mul(factor))
            .and_then(SegmentSize::new)
            .ok_or_else(|| ParseSegmentSizeError { text: text.chars().take(64).collect() })
    }
}

/// The name of a WAL segment: 24 hexadecimal digits, for a timeline and two numbers.
///
/// Ordered as the names are. Names of one timeline are in WAL order; across timelines they are *not* the order of
/// recovery (see [`History`](crate::History)).
///
/// ```
/// use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId};
/// let size = SegmentSize::DEFAULT;
/// let name = SegmentName::at(TimelineId::FIRST, Lsn::from_u64(0x1_FF00_0010), size);
/// assert_eq!(name.to_string(), "0000000100000001000000FF");
/// assert_eq!(name.next(size).unwrap().to_string(), "000000010000000200000000");
/// assert_eq!(name.directory(), "0000000100000001");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    high: u32,
    low: u32,
}

impl SegmentName {
    /// The segment that holds the byte at `lsn`.
    pub const fn at(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self::from_number(timeline, lsn.as_u64() / size.bytes(), size)
    }

    /// The segment that holds the last byte *before* `end`: the one to name when `end` closes a range, as
    /// PostgreSQL does for a backup's stop position (`XLByteToPrevSeg`). For `0/0` this is the first segment.
    pub const fn ending_at(timeline: TimelineId, end: Lsn, size: SegmentSize) -> Self {
        Self::at(timeline, Lsn::from_u64(end.as_u64().saturating_sub(1)), size)
    }

    /// The segment by its number, counted from the cluster's first byte. Private: callers would overflow it.
    const fn from_number(timeline: TimelineId, number: u64, size: SegmentSize) -> Self {
        let per_log = size.segments_per_log();
        SegmentName { timeline, high: (number / per_log) as u32, low: (number % per_log) as u32 }
    }

    /// The timeline in the name.
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The same position on another timeline.
    pub const fn on(self, timeline: TimelineId) -> Self {
        SegmentName { timeline, ..self }
    }

    /// The segment's number, counted from the cluster's first byte; `None` when the name can't belong to a cluster
    /// with segments of this size (its last field is too large).
    pub const fn number(self, size: SegmentSize) -> Option<u64> {
        let per_log = size.segments_per_log();
        if self.low as u64 >= per_log { None } else { Some(self.high as u64 * per_log + self.low as u64) }
    }

    /// The position of the segment's first byte; `None` as for [`number`](Self::number).
    pub const fn first_lsn(self, size: SegmentSize) -> Option<Lsn> {
        match self.number(size) {
            Some(number) => Some(Lsn::from_u64(number * size.bytes())),
            None => None,
        }
    }

    /// The position just after the segment; `None` as for [`number`](Self::number), and for the very last segment.
    pub const fn end_lsn(self, size: SegmentSize) -> Option<Lsn> {
        match self.first_lsn(size) {
            Some(first) => first.checked_add(size.bytes()),
            None => None,
        }
    }

    /// The segment after this one on the same timeline; `None` at the end of the numbers or as for
    /// [`number`](Self::number).
    pub const fn next(self, size: SegmentSize) -> Option<Self> {
        match self.end_lsn(size) {
            Some(end) => Some(Self::at(self.timeline, end, size)),
            None => None,
        }
    }

    /// The segment before this one on the same timeline; `None` at the first or as for [`number`](Self::number).
    pub const fn previous(self, size: SegmentSize) -> Option<Self> {
        match self.number(size) {
            None | Some(0) => None,
            Some(number) => Some(Self::from_number(self.timeline, number - 1, size)),
        }
    }

    /// The archive directory that Barman keeps this segment in: the name's first 16 digits.
    pub fn directory(self) -> String {
        format!("{:08X}{:08X}", self.timeline.as_u32(), self.high)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.as_u32(), self.high, self.low)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentName({self})")
    }
}

impl FromStr for SegmentName {
    type Err = ParseWalFileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_segment(text).ok_or_else(|| ParseWalFileError::new(text))
    }
}

/// Any file that PostgreSQL hands to `archive_command` or asks `restore_command` for.
///
/// ```
/// use pgwal::WalFile;
/// for name in [
///     "000000010000000000000003",
///     "000000010000000000000003.partial",
///     "000000010000000000000003.00000028.backup",
///     "00000002.history",
/// ] {
///     assert_eq!(name.parse::<WalFile>()?.to_string(), name);
/// }
/// # Ok::<(), pgwal::segment::ParseWalFileError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFile {
    /// A complete segment.
    Segment(SegmentName),
    /// The last segment of a timeline that ended inside it, or one still being received.
    Partial(SegmentName),
    /// A backup history file: where a base backup started.
    Label {
        /// The segment that the backup starts in.
        segment: SegmentName,
        /// The offset of its start in that segment, in bytes.
        offset: u32,
    },
    /// A timeline's history.
    History(TimelineId),
}

impl WalFile {
    /// The timeline that the file belongs to.
    pub const fn timeline(self) -> TimelineId {
        match self {
            WalFile::Segment(segment) | WalFile::Partial(segment) | WalFile::Label { segment, .. } => {
                segment.timeline()
            }
            WalFile::History(timeline) => timeline,
        }
    }

    /// The segment that the file is, or belongs to; `None` for a history file.
    pub const fn segment(self) -> Option<SegmentName> {
        match self {
            WalFile::Segment(segment) | WalFile::Partial(segment) | WalFile::Label { segment, .. } => {
                Some(segment)
            }
            WalFile::History(_) => None,
        }
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFile::Segment(segment) => write!(f, "{segment}"),
            WalFile::Partial(segment) => write!(f, "{segment}.partial"),
            WalFile::Label { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
            WalFile::History(timeline) => write!(f, "{:08X}.history", timeline.as_u32()),
        }
    }
}

/// A text that is not the name of a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a WAL file name: expected 24 upper-case hexadecimal digits, alone or with .partial or \
     .XXXXXXXX.backup, or 8 digits and .history"
)]
pub struct ParseWalFileError {
    name: String,
}

impl ParseWalFileError {
    fn new(name: &str) -> Self {
        ParseWalFileError { name: name.chars().take(64).collect() }
    }
}

impl FromStr for WalFile {
    type Err = ParseWalFileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_wal_file(text).ok_or_else(|| ParseWalFileError::new(text))
    }
}

fn parse_wal_file(text: &str) -> Option<WalFile> {
    if let Some(digits) = text.strip_suffix(".history") {
        return Some(WalFile::History(TimelineId::new(hex8(digits)?)?));
    }
    if let Some(name) = text.strip_suffix(".partial") {
        return Some(WalFile::Partial(parse_segment(name)?));
    }
    if let Some(name) = text.strip_suffix(".backup") {
        let (segment, offset) = name.split_once('.')?;
        return Some(WalFile::Label { segment: parse_segment(segment)?, offset: hex8(offset)? });
    }
    parse_segment(text).map(WalFile::Segment)
}

fn parse_segment(text: &str) -> Option<SegmentName> {
    if text.len() != 24 || !text.is_ascii() {
        return None;
    }
    let timeline = TimelineId::new(hex8(&text[..8])?)?;
    Some(SegmentName { timeline, high: hex8(&text[8..16])?, low: hex8(&text[16..])? })
}

/// Exactly eight upper-case hexadecimal digits, the only case PostgreSQL writes or recognises (`IsXLogFileName`).
fn hex8(digits: &str) -> Option<u32> {
    let digits: &[u8; 8] = digits.as_bytes().try_into().ok()?;
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        Some(value << 4 | u32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_that_ends_on_a_boundary_ends_in_the_segment_before() {
        let size = SegmentSize::DEFAULT;
        let boundary = Lsn::from_u64(3 * size.bytes());
        let tli = TimelineId::FIRST;
        assert_eq!(SegmentName::at(tli, boundary, size), segment("000000010000000000000003"));
        assert_eq!(SegmentName::ending_at(tli, boundary, size), segment("000000010000000000000002"));
    }

    #[test]
    fn neighbours_cross_the_log_boundary_for_each_size() {
        for (size, last) in [
            ("1MB", "000000010000000000000FFF"),
            ("16MB", "0000000100000000000000FF"),
            ("1GB", "000000010000000000000003"),
        ] {
            let size: SegmentSize = size.parse().unwrap();
            let last = segment(last);
            let next = segment("000000010000000100000000");
            assert_eq!(last.next(size), Some(next));
            assert_eq!(next.previous(size), Some(last));
        }
    }

    #[test]
    fn a_name_from_a_cluster_with_smaller_segments_has_no_position() {
        let name = segment("000000010000000000000100");
        assert_eq!(name.first_lsn(SegmentSize::DEFAULT), None);
        assert_eq!(name.first_lsn(SegmentSize::MIN), Some(Lsn::from_u64(0x100 << 20)));
    }

    #[test]
    fn the_last_segment_has_no_successor() {
        let last = segment("00000001FFFFFFFF000000FF");
        assert_eq!(last.next(SegmentSize::DEFAULT), None);
        assert_eq!(segment("000000010000000000000000").previous(SegmentSize::DEFAULT), None);
    }

    #[test]
    fn names_of_other_files_are_refused() {
        for name in [
            "",
            "00000001",
            "000000000000000000000001",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "000000010000000000000001.gz",
            "000000010000000000000001.28.backup",
            "000000010000000000000001.partial.partial",
            "1.history",
            "00000000.history",
            "\u{e9}00000010000000000000001",
            "../00000001000000000000001",
        ] {
            assert!(name.parse::<WalFile>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two_in_range() {
        for text in ["16MB", "1GB", "1MB", "64MB", "16777216", "1024kB"] {
            assert!(text.parse::<SegmentSize>().is_ok(), "{text}");
        }
        for text in ["0", "", "MB", "3MB", "2GB", "512kB", "16 MB", "-16MB", "99999999999999999999GB"] {
            assert!(text.parse::<SegmentSize>().is_err(), "{text}");
        }
        assert_eq!(SegmentSize::MAX.to_string(), "1GB");
        assert_eq!(SegmentSize::DEFAULT.to_string(), "16MB");
    }

    proptest! {
        #[test]
        fn every_position_is_in_the_segment_it_names(lsn: u64, shift in 20u32..=30, tli in 1u32..) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let tli = TimelineId::new(tli).unwrap();
            let lsn = Lsn::from_u64(lsn);
            let name = SegmentName::at(tli, lsn, size);
            prop_assert_eq!(name.to_string().parse::<SegmentName>().unwrap(), name);
            let first = name.first_lsn(size).unwrap();
            prop_assert_eq!(first, size.start_of(lsn));
            prop_assert_eq!(lsn.bytes_since(first), Some(size.offset_of(lsn)));
            if let Some(next) = name.next(size) {
                prop_assert_eq!(next.previous(size), Some(name));
            }
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<WalFile>();
            let _ = text.parse::<SegmentSize>();
        }
    }
}
