//! WAL pages: the headers that open each 8 KiB of WAL (`access/xlog_internal.h`).
//!
//! ```text
//! offset  size
//!  0      2    magic: the major version
//!  2      2    flags: 1 continues a record, 2 long header, 4 removable, 8 overwrites an unfinished record
//!  4      4    timeline
//!  8      8    address of the page: its own position
//! 16      4    bytes of the continued record that are left, this page's included
//! 20      4    zero
//! long header only, on the first page of a segment:
//! 24      8    system identifier
//! 32      4    segment size
//! 36      4    page size
//! ```

use crate::fault::{FaultKind, ZeroPlace};
use crate::{Lsn, SegmentSize, WalVersion};

/// A WAL page's size in bytes (`XLOG_BLCKSZ` of every packaged server).
pub const PAGE_BYTES: u64 = 8192;
/// A page header's size in bytes.
pub const SHORT_HEADER_BYTES: usize = 24;
/// The size in bytes of the header that opens a segment.
pub const LONG_HEADER_BYTES: usize = 40;

const CONTINUES_RECORD: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const OVERWRITES_RECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// The magic number: see [`WalVersion::from_magic`].
    pub magic: u16,
    /// The flags.
    pub flags: u16,
    /// The timeline that wrote the page (0 is none).
    pub timeline: u32,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// Bytes of the continued record that are left at the page's start.
    pub remaining: u32,
    /// The last four bytes of the short header: zero.
    pub padding: u32,
    /// What only the first page of a segment says.
    pub long: Option<LongHeader>,
}

/// What only the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The segment size in bytes.
    pub segment_bytes: u32,
    /// The WAL page size in bytes.
    pub page_bytes: u32,
}

/// What a page is expected to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The position of the page's first byte.
    pub lsn: Lsn,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// The version, if it is known.
    pub version: Option<WalVersion>,
    /// The cluster's system identifier, if it is known.
    pub system_id: Option<u64>,
    /// The timeline of the page before; 0 if there was none.
    pub timeline_floor: u32,
}

impl PageHeader {
    /// Reads the header at the start of `page`; `None` when there are too few bytes.
    pub fn read(page: &[u8]) -> Option<Self> {
        let short: &[u8; SHORT_HEADER_BYTES] = page.first_chunk()?;
        let flags = u16::from_le_bytes([short[2], short[3]]);
        let long = if flags & LONG_HEADER == 0 { None } else { Some(LongHeader::read(page)?) };
        Some(PageHeader {
            magic: u16::from_le_bytes([short[0], short[1]]),
            flags,
            timeline: u32::from_le_bytes([short[4], short[5], short[6], short[7]]),
            address: Lsn::from_u64(u64::from_le_bytes([
                short[8], short[9], short[10], short[11], short[12], short[13], short[14], short[15],
            ])),
            remaining: u32::from_le_bytes([short[16], short[17], short[18], short[19]]),
            padding: u32::from_le_bytes([short[20], short[21], short[22], short[23]]),
            long,
        })
    }

    /// How many bytes the header takes.
    pub const fn bytes(&self) -> usize {
        if self.long.is_some() { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }

    /// Whether the page starts with the rest of a record that began before it.
    pub const fn continues_record(&self) -> bool {
        self.flags & CONTINUES_RECORD != 0
    }

    /// Whether the record that should continue here was given up: a new one starts instead.
    pub const fn overwrites_record(&self) -> bool {
        self.flags & OVERWRITES_RECORD != 0
    }

    /// Checks the header as the server does (`XLogReaderValidatePageHeader`), in the same order.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, expected: &Expected) -> Result<WalVersion, FaultKind> {
        let known = WalVersion::from_magic(self.magic);
        let version = known.filter(|found| expected.version.is_none_or(|wanted| wanted == *found)).ok_or(
            FaultKind::Magic { found: self.magic, expected: expected.version.map(WalVersion::magic) },
        )?;
        if self.flags & !ALL_FLAGS != 0 {
            return Err(FaultKind::PageFlags { found: self.flags });
        }
        if let Some(long) = self.long {
            long.check(expected)?;
        } else if expected.segment_size.offset_of(expected.lsn) == 0 {
            return Err(FaultKind::PageFlags { found: self.flags });
        }
        if self.address != expected.lsn {
            return Err(FaultKind::PageAddress { found: self.address });
        }
        if self.timeline < expected.timeline_floor {
            return Err(FaultKind::TimelineOrder { found: self.timeline, after: expected.timeline_floor });
        }
        Ok(version)
    }

    /// Checks what the server doesn't, because it can't hurt recovery: bytes that it always writes as zero, and a long
    /// header anywhere but at a segment's start. So a flipped bit is found here too.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_strictly(&self, at_segment_start: bool) -> Result<(), FaultKind> {
        let idle_remaining = if self.continues_record() { 0 } else { self.remaining };
        let stray = self.padding | idle_remaining;
        if stray != 0 {
            let value = stray.to_le_bytes().into_iter().find(|&byte| byte != 0).unwrap_or_default();
            return Err(FaultKind::NotZero { value, place: ZeroPlace::PageHeader });
        }
        if self.long.is_some() != at_segment_start {
            return Err(FaultKind::PageFlags { found: self.flags });
        }
        Ok(())
    }
}

impl LongHeader {
    fn read(page: &[u8]) -> Option<Self> {
        let header: &[u8; LONG_HEADER_BYTES] = page.first_chunk()?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Some(LongHeader {
            system_id: u64::from(word(28)) << 32 | u64::from(word(24)),
            segment_bytes: word(32),
            page_bytes: word(36),
        })
    }

    fn check(&self, expected: &Expected) -> Result<(), FaultKind> {
        if let Some(system_id) = expected.system_id.filter(|wanted| *wanted != self.system_id) {
            return Err(FaultKind::SystemId { found: self.system_id, expected: system_id });
        }
        if u64::from(self.segment_bytes) != expected.segment_size.bytes() {
            // A segment size is at most 1 GiB.
            let wanted = expected.segment_size.bytes() as u32;
            return Err(FaultKind::SegmentSize { found: self.segment_bytes, expected: wanted });
        }
        if u64::from(self.page_bytes) != PAGE_BYTES {
            return Err(FaultKind::BlockSize { found: self.page_bytes });
        }
        Ok(())
    }
}

/// What the first page of a segment says about the whole: enough to start reading a file of unknown origin.
///
/// `None` when the bytes don't start with a long page header of a known version and a possible segment size.
pub fn identify_segment(start: &[u8]) -> Option<(WalVersion, PageHeader, LongHeader, SegmentSize)> {
    let header = PageHeader::read(start)?;
    let long = header.long?;
    let version = WalVersion::from_magic(header.magic)?;
    Some((version, header, long, SegmentSize::new(u64::from(long.segment_bytes))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPECTED: Expected = Expected {
        lsn: Lsn::from_u64(0x200_0000),
        segment_size: SegmentSize::DEFAULT,
        version: None,
        system_id: Some(7),
        timeline_floor: 1,
    };

    fn long_page() -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(0xD110u16.to_le_bytes());
        page.extend(2u16.to_le_bytes());
        page.extend(1u32.to_le_bytes());
        page.extend(0x200_0000u64.to_le_bytes());
        page.extend([0; 8]);
        page.extend(7u64.to_le_bytes());
        page.extend((16u32 << 20).to_le_bytes());
        page.extend(8192u32.to_le_bytes());
        page
    }

    fn check(change: impl Fn(&mut Vec<u8>), expected: Result<WalVersion, FaultKind>) {
        let mut page = long_page();
        change(&mut page);
        assert_eq!(PageHeader::read(&page).unwrap().check(&EXPECTED), expected);
    }

    #[test]
    fn refuses_what_the_server_refuses() {
        check(|_| (), Ok(WalVersion::V15));
        check(|page| page[0] = 0, Err(FaultKind::Magic { found: 0xD100, expected: None }));
        check(|page| page[3] = 0x10, Err(FaultKind::PageFlags { found: 0x1002 }));
        check(|page| page[2] = 0, Err(FaultKind::PageFlags { found: 0 }));
        check(|page| page[24] = 8, Err(FaultKind::SystemId { found: 8, expected: 7 }));
        check(|page| page[35] = 2, Err(FaultKind::SegmentSize { found: 0x200_0000, expected: 16 << 20 }));
        check(|page| page[37] = 0x40, Err(FaultKind::BlockSize { found: 16384 }));
        check(|page| page[8] = 1, Err(FaultKind::PageAddress { found: Lsn::from_u64(0x200_0001) }));
        check(|page| page[4] = 0, Err(FaultKind::TimelineOrder { found: 0, after: 1 }));
    }

    #[test]
    fn strict_reading_finds_stray_bytes() {
        let mut page = long_page();
        assert_eq!(PageHeader::read(&page).unwrap().check_strictly(true), Ok(()));
        assert!(PageHeader::read(&page).unwrap().check_strictly(false).is_err());
        page[21] = 3;
        let fault = FaultKind::NotZero { value: 3, place: ZeroPlace::PageHeader };
        assert_eq!(PageHeader::read(&page).unwrap().check_strictly(true), Err(fault));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            let _ = PageHeader::read(&bytes).map(|header| header.check(&EXPECTED));
            let _ = identify_segment(&bytes);
        }
    }
}
