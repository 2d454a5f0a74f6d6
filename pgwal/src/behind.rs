//! What lies behind a fault: whether WAL was written there, which tells damage from the end of WAL.
//!
//! A server that crashed leaves zeros behind its last record, or the pages of the segment that was recycled, or pages with the
//! middle of the record that it did not finish.

use crate::page::{PAGE_BYTES, PageHeader, SHORT_HEADER_BYTES};
use crate::{Fault, Lsn, WalVersion};

/// Takes in the bytes of a segment behind a fault, and looks for a page that is in its place.
#[derive(Debug, Clone)]
pub struct Behind {
    /// The segment's first byte.
    start: u64,
    version: Option<WalVersion>,
    /// Where the next byte belongs.
    at: u64,
    /// From here on pages count.
    from: u64,
    head: Vec<u8>,
    goes_on: bool,
}

impl Behind {
    /// Behind a fault in the segment that starts at `start`; `next` is where the next byte belongs. Without a version any will do.
    pub fn new(start: Lsn, fault: &Fault, version: Option<WalVersion>, next: Lsn) -> Self {
        let from = (fault.lsn.as_u64().max(start.as_u64()) / PAGE_BYTES + 1) * PAGE_BYTES;
        Behind {
            start: start.as_u64(),
            version,
            at: next.as_u64(),
            from,
            head: Vec::with_capacity(SHORT_HEADER_BYTES),
            goes_on: false,
        }
    }

    /// Takes in the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.goes_on {
            let offset = self.at % PAGE_BYTES;
            let inside = (PAGE_BYTES - offset).min(bytes.len() as u64);
            let (page, rest) = bytes.split_at(inside as usize);
            let wanted = SHORT_HEADER_BYTES.saturating_sub(offset as usize).min(page.len());
            if offset == 0 {
                self.head.clear();
            }
            // A header whose beginning was not seen is none.
            if self.head.len() as u64 == offset.min(SHORT_HEADER_BYTES as u64) {
                self.head.extend_from_slice(page.get(..wanted).unwrap_or_default());
            }
            if wanted > 0 && self.head.len() == SHORT_HEADER_BYTES {
                self.look(self.at - offset);
            }
            self.at = self.at.saturating_add(inside);
            bytes = rest;
        }
    }

    /// Whether a page was in its place that holds more than the middle of a record.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    fn look(&mut self, page: u64) {
        let mut head = [0; SHORT_HEADER_BYTES + 16];
        head[..SHORT_HEADER_BYTES].copy_from_slice(&self.head);
        let Some(header) = PageHeader::read(&head) else { return };
        let version = WalVersion::from_magic(header.magic);
        let known = version.is_some() && (self.version.is_none() || self.version == version);
        if page < self.from || page < self.start || !known || header.address.as_u64() != page {
            return;
        }
        let room = PAGE_BYTES - header.bytes() as u64;
        self.goes_on = !header.continues_record() || u64::from(header.remaining) < room;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultKind;

    const START: u64 = 7 << 20;

    /// Behind a fault in the sixth page.
    fn goes_on(piece: usize, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut wal = testkit::wal::segment(1, START, testkit::wal::SEGMENT_BYTES, 0);
        change(&mut wal);
        let fault = FaultKind::Layout.at(Lsn::from_u64(START + 5 * 8192 + 100));
        let (start, next) = (Lsn::from_u64(START), Lsn::from_u64(START + 3 * 8192));
        let mut behind = Behind::new(start, &fault, Some(WalVersion::V15), next);
        wal[3 * 8192..].chunks(piece).for_each(|piece| behind.feed(piece));
        behind.goes_on()
    }

    #[test]
    fn pages_in_their_place_are_told_from_zeros_and_from_those_of_a_recycled_segment() {
        let old = testkit::wal::segment(1, START - (1 << 20), testkit::wal::SEGMENT_BYTES, 0);
        for piece in [1, 10, 8192, 10_000, 1 << 20] {
            assert!(goes_on(piece, |_| ()));
            assert!(goes_on(piece, |wal| wal[6 * 8192..120 * 8192].fill(0)));
            assert!(!goes_on(piece, |wal| wal[6 * 8192..].fill(0)));
            assert!(!goes_on(piece, |wal| wal[6 * 8192..].copy_from_slice(&old[6 * 8192..])));
            // The middle of a record that has no end.
            assert!(!goes_on(piece, |wal| {
                wal[6 * 8192 + 2..][..2].copy_from_slice(&1_u16.to_le_bytes());
                wal[6 * 8192 + 16..][..4].copy_from_slice(&100_000_u32.to_le_bytes());
                wal[7 * 8192..].fill(0);
            }));
        }
    }
}
