//! What can be wrong with WAL, where it is, and what was expected there.

use std::fmt;

use crate::{Lsn, TimelineId};

/// Something at a position of the WAL that PostgreSQL (or, in strict reading, [`verify`](crate::verify)) refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where: the start of the page or the record concerned.
    pub lsn: Lsn,
    /// What.
    pub kind: FaultKind,
}

/// What is wrong. The wording follows the server's own messages, so that either can be searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// The page's magic number belongs to no known version, or to another than the pages before.
    #[error("invalid magic number {found:04X}{}", expected_magic(*.expected))]
    Magic {
        /// What the page says.
        found: u16,
        /// The version of the pages before, where there were any.
        expected: Option<u16>,
    },
    /// The page's flags hold an unknown bit, or the long header that opens a segment is missing or misplaced.
    #[error("invalid info bits {found:04X}")]
    PageFlags {
        /// What the page says.
        found: u16,
    },
    /// The WAL was written by another cluster.
    #[error("the WAL is from a different database system: system identifier {found}, expected {expected}")]
    SystemId {
        /// What the page says.
        found: u64,
        /// What was expected.
        expected: u64,
    },
    /// The segment size in the page differs from the one read with.
    #[error("incorrect segment size {found} in page header, expected {expected}")]
    SegmentSize {
        /// In bytes, as the page says.
        found: u32,
        /// In bytes.
        expected: u32,
    },
    /// The WAL page size is not 8192 bytes.
    #[error("incorrect XLOG_BLCKSZ {found} in page header, expected 8192")]
    BlockSize {
        /// In bytes, as the page says.
        found: u32,
    },
    /// The page belongs elsewhere: typical of a recycled segment.
    #[error("unexpected pageaddr {found}")]
    PageAddress {
        /// Where the page says it belongs.
        found: Lsn,
    },
    /// The page's timeline is older than that of the page before.
    #[error("out-of-sequence timeline ID {found} (after {after})")]
    TimelineOrder {
        /// What the page says.
        found: u32,
        /// The page before.
        after: u32,
    },
    /// Strict reading: the page's timeline doesn't fit the segment's name or the last end of recovery.
    #[error("unexpected timeline ID {found}, expected {expected}")]
    Timeline {
        /// What the page says.
        found: u32,
        /// What was expected.
        expected: TimelineId,
    },
    /// Strict reading: bytes that the server leaves zero are not.
    #[error("byte {value:02X} where zero was expected ({place})")]
    NotZero {
        /// The first such byte.
        value: u8,
        /// What is stored there.
        place: ZeroPlace,
    },
    /// The record's length can't be: zero marks the end of the WAL.
    #[error("invalid record length: expected at least 24, got {found}")]
    RecordLength {
        /// In bytes, as the record says.
        found: u32,
    },
    /// The record is longer than PostgreSQL writes any.
    #[error("invalid record length {found}: longer than any record")]
    RecordTooLong {
        /// In bytes, as the record says.
        found: u32,
    },
    /// The resource manager is neither built in nor in the custom range.
    #[error("invalid resource manager ID {found}")]
    ResourceManager {
        /// What the record says.
        found: u8,
    },
    /// The record doesn't point back to the one before it.
    #[error("record with incorrect prev-link {found}{}", expected_lsn(*.expected))]
    PrevLink {
        /// What the record says.
        found: Lsn,
        /// The record before, where it is known.
        expected: Option<Lsn>,
    },
    /// The record's checksum is wrong.
    #[error("incorrect resource manager data checksum {found:08X} in record, computed {computed:08X}")]
    Checksum {
        /// What the record says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A record has to continue on this page, which doesn't say so.
    #[error("there is no contrecord flag")]
    ContinuationMissing,
    /// A record was expected to start where the page says that one continues.
    #[error("contrecord is requested")]
    ContinuationUnexpected,
    /// The page continues a record of another length.
    #[error("invalid contrecord length {found} (expected {expected})")]
    ContinuationLength {
        /// Bytes left, as the page says.
        found: u32,
        /// Bytes left, as the record says.
        expected: u32,
    },
    /// Strict reading: a page claims to overwrite an unfinished record, but no matching overwrite record follows.
    #[error("missing or misplaced overwrite of the contrecord at {overwritten}")]
    Overwrite {
        /// The record left unfinished, `0/0` if there is none.
        overwritten: Lsn,
    },
    /// The record's headers and payload don't add up to its length.
    #[error("record with invalid length")]
    Layout,
    /// A block reference's number is not above the one before.
    #[error("out-of-order block_id {found}")]
    BlockOrder {
        /// What the record says.
        found: u8,
    },
    /// A number that is no block reference.
    #[error("invalid block_id {found}")]
    BlockId {
        /// What the record says.
        found: u8,
    },
    /// A block reference without a relation before it to share.
    #[error("BKPBLOCK_SAME_REL set but no previous rel")]
    BlockRelation,
    /// A block reference whose data length contradicts its flags.
    #[error("BKPBLOCK_HAS_DATA contradicts the data length {length}")]
    BlockData {
        /// In bytes, as the record says.
        length: u16,
    },
    /// A page image whose lengths contradict its flags.
    #[error(
        "block image of {length} bytes with hole offset {hole_offset}, hole length {hole_length} contradicts its flags {info:02X}"
    )]
    Image {
        /// Stored bytes.
        length: u16,
        /// Where the hole starts, in bytes.
        hole_offset: u16,
        /// The hole's size, in bytes.
        hole_length: u16,
        /// The flags.
        info: u8,
    },
    /// The segment's file has another length than its header says.
    #[error("the segment is {found} bytes long, expected {expected}")]
    SegmentLength {
        /// In bytes.
        found: u64,
        /// In bytes.
        expected: u64,
    },
    /// The WAL ends inside a record.
    #[error("the WAL ends inside a record of {expected} bytes, {found} of which are there")]
    Truncated {
        /// Bytes there.
        found: u32,
        /// The record's length in bytes.
        expected: u32,
    },
}

/// Places that are zero in sound WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPlace {
    /// The bytes that align a record's end to 8.
    RecordPadding,
    /// The end of a page's header.
    PageHeader,
    /// What follows a switch record in its segment.
    AfterSwitch,
}

impl fmt::Display for ZeroPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ZeroPlace::RecordPadding => "padding after a record",
            ZeroPlace::PageHeader => "page header",
            ZeroPlace::AfterSwitch => "unused rest of a segment after a switch",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.lsn)
    }
}

impl std::error::Error for Fault {}

impl FaultKind {
    /// This fault at a position.
    pub(crate) const fn at(self, lsn: Lsn) -> Fault {
        Fault { lsn, kind: self }
    }
}

fn expected_magic(expected: Option<u16>) -> String {
    expected.map_or_else(String::new, |magic| format!(", expected {magic:04X}"))
}

fn expected_lsn(expected: Option<Lsn>) -> String {
    expected.map_or_else(String::new, |lsn| format!(", expected {lsn}"))
}
