//! From one segment to the next: a record that begins in one and ends in another is proven only by both.

use std::io::{self, Read};

use crate::page::PAGE_BYTES;
use crate::{Decoder, Fault, FaultKind, Keep, Lsn, OpenRecord, Parts, SegmentSize, TimelineId, WalVersion};

/// How a segment ends: with a record that goes on in the next one.
#[derive(Debug, Clone)]
pub struct LooseEnd {
    segment_size: SegmentSize,
    /// Where the segment ends.
    end: Lsn,
    version: WalVersion,
    system_id: Option<u64>,
    timeline: TimelineId,
    last_record: Lsn,
    open: OpenRecord,
}

/// What the next segment holds of a record.
#[derive(Debug, Clone)]
pub enum Followed {
    /// The rest of it, and its checksum is right; or the server says there that it never finished it.
    Whole,
    /// Nothing but more of it: its end is in a later segment.
    StillOpen(Box<LooseEnd>),
    /// Something that does not fit.
    Broken(Fault),
}

impl LooseEnd {
    /// How the segment ends that was fed to `decoder`, to its last byte and without a fault; `None` when no record goes on.
    /// The decoder keeps headers only ([`Keep::Headers`]).
    pub fn of(decoder: &Decoder, segment_size: SegmentSize) -> Option<Self> {
        let open = decoder.open_record()?;
        Some(LooseEnd {
            segment_size,
            end: decoder.position(),
            version: decoder.version()?,
            system_id: decoder.system_id(),
            timeline: decoder.timeline()?,
            last_record: decoder.last_record()?,
            open,
        })
    }

    /// The record that goes on.
    pub fn record(&self) -> Lsn {
        self.open.lsn
    }

    /// The first byte of the segment that it goes on in.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Reads the next segment as far as the record goes on there, mostly a page. `source` stands at the segment's first byte.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn follow(&self, source: &mut dyn Read) -> io::Result<Followed> {
        let mut decoder = Decoder::new(self.end, self.segment_size)
            .with_keep(Keep::Headers)
            .with_version(self.version)
            .resume(self.last_record, self.timeline, Some(self.open.clone()));
        if let Some(system_id) = self.system_id {
            decoder = decoder.with_system_id(system_id);
        }
        let mut page = Vec::with_capacity(PAGE_BYTES as usize);
        let mut left = self.segment_size.bytes();
        while left > 0 {
            page.clear();
            source.take(PAGE_BYTES).read_to_end(&mut page)?;
            left = left.saturating_sub(PAGE_BYTES);
            if page.is_empty() {
                break;
            }
            let mut input = &page[..];
            match decoder.next(&mut input) {
                Ok(Some(record)) => {
                    // A later one means that this one was never finished, and the page says so.
                    let fault = Parts::check(&record).err().filter(|_| record.lsn == self.open.lsn);
                    let broken = |kind: FaultKind| Followed::Broken(kind.at(self.open.lsn));
                    return Ok(fault.map_or(Followed::Whole, broken));
                }
                Ok(None) => {}
                Err(fault) => return Ok(Followed::Broken(fault)),
            }
            if decoder.unfinished().is_none_or(|(lsn, ..)| lsn != self.open.lsn) {
                return Ok(Followed::Whole);
            }
        }
        Ok(match LooseEnd::of(&decoder, self.segment_size) {
            Some(later) => Followed::StillOpen(Box::new(later)),
            None => Followed::Whole,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;
    const START: u64 = 7 << 20;

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let bytes = SIZE.bytes() as usize;
        let joined = |start| testkit::wal::joined_segment(1, start, bytes);
        (joined(START), joined(START + SIZE.bytes()))
    }

    fn follow(first: &[u8], mut second: &[u8]) -> Followed {
        let mut decoder = Decoder::new(Lsn::from_u64(START), SIZE).with_keep(Keep::Headers);
        let mut input = first;
        while decoder.next(&mut input).unwrap().is_some() {}
        LooseEnd::of(&decoder, SIZE).unwrap().follow(&mut second).unwrap()
    }

    #[test]
    fn a_bit_of_a_record_is_missed_on_neither_side() {
        let (first, second) = pair();
        assert!(matches!(follow(&first, &second), Followed::Whole));
        // In the record's length, number, checksum and data, and in the header of the page that it goes on in.
        let begin = first.len() - 8192 + 24;
        let of_first = [0, 4, 20, 30, 8192 - 25].map(|at| (0, begin + at));
        for (side, at) in of_first.into_iter().chain([16, 40, 103].map(|at| (1, at))) {
            let mut sides = [first.clone(), second.clone()];
            sides[side][at] ^= 4;
            assert!(matches!(follow(&sides[0], &sides[1]), Followed::Broken(_)), "{side} {at}");
        }
        // What comes after the record is another's business.
        let mut changed = second.clone();
        changed[9000] ^= 1;
        assert!(matches!(follow(&first, &changed), Followed::Whole));
        changed[2..4].copy_from_slice(&2_u16.to_le_bytes());
        assert!(matches!(follow(&first, &changed), Followed::Broken(_)));
    }

    #[test]
    fn what_is_cut_off_stays_open() {
        let (first, second) = pair();
        for length in [0, 100] {
            assert!(matches!(follow(&first, &second[..length]), Followed::StillOpen(_)));
        }
    }
}
