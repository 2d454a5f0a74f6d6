//! Checking a segment while its bytes pass by.

use pgwal::decoder::Keep;
use pgwal::page::{LONG_HEADER_BYTES, identify_segment};
use pgwal::seam::LooseEnd;
use pgwal::{Decoder, Fault, Parts, SegmentName, SegmentSize};

/// What is wrong with a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Sound,
    /// PostgreSQL can read it up to somewhere at most: it is for PostgreSQL to say what that means.
    Faulty(String),
    /// PostgreSQL can't use it at all: another cluster's, another segment's, or not all of it.
    Useless(String),
}

/// Takes in a segment's bytes and judges them.
#[derive(Debug)]
pub(super) struct Check {
    segment: SegmentName,
    system_id: Option<u64>,
    head: Vec<u8>,
    bytes: u64,
    records: u32,
    expected_bytes: Option<u64>,
    decoder: Option<Decoder>,
    verdict: Verdict,
}

impl Check {
    pub(super) fn new(segment: SegmentName, system_id: Option<u64>) -> Self {
        let head = Vec::with_capacity(LONG_HEADER_BYTES);
        let verdict = Verdict::Sound;
        Check { segment, system_id, head, bytes: 0, records: 0, expected_bytes: None, decoder: None, verdict }
    }

    /// Takes in the next bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.head.len() < LONG_HEADER_BYTES {
            let count = (LONG_HEADER_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.head.len() < LONG_HEADER_BYTES {
                return;
            }
            self.begin();
            let head = std::mem::take(&mut self.head);
            self.feed(&head);
            self.head = head;
        }
        self.feed(bytes);
    }

    /// How it ends, when all bytes were taken in and nothing is wrong: with a record that goes on in the next segment.
    pub(super) fn loose_end(&self) -> Option<LooseEnd> {
        let decoder = self.decoder.as_ref().filter(|_| self.verdict == Verdict::Sound)?;
        let size = SegmentSize::new(self.bytes).filter(|_| self.expected_bytes == Some(self.bytes))?;
        LooseEnd::of(decoder, size)
    }

    /// How many records begin in what was taken in.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    /// The verdict, when all bytes were taken in.
    pub(super) fn finish(mut self) -> Verdict {
        if self.head.len() < LONG_HEADER_BYTES {
            return Verdict::Useless(format!("it has only {} bytes", self.bytes));
        }
        if let Some(expected) = self.expected_bytes.filter(|expected| *expected != self.bytes) {
            return Verdict::Useless(format!("it has {} bytes of {expected}", self.bytes));
        }
        if let Some(decoder) = &mut self.decoder
            && self.verdict == Verdict::Sound
            && let Some(fault) = decoder.end_segment()
        {
            return Verdict::Faulty(fault.to_string());
        }
        self.verdict
    }

    fn begin(&mut self) {
        let Some((_, header, long, size)) = identify_segment(&self.head) else {
            // A version to come, perhaps.
            self.verdict = Verdict::Faulty("it does not begin as WAL of PostgreSQL 13 to 18 does".to_owned());
            return;
        };
        self.expected_bytes = Some(size.bytes());
        if let Some(expected) = self.system_id.filter(|expected| *expected != long.system_id) {
            let found = long.system_id;
            self.verdict = Verdict::Useless(format!(
                "it is the WAL of another cluster, with system identifier {found} rather than {expected}"
            ));
            return;
        }
        match self.segment.first_lsn(size) {
            Some(start) if start == header.address => {
                let mut decoder = Decoder::new(start, size).with_keep(Keep::Headers).strict();
                decoder.expect_timeline(self.segment.timeline());
                self.decoder = Some(decoder);
            }
            _ => {
                self.verdict = Verdict::Useless(format!("it holds WAL from {} on", header.address));
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let (Some(decoder), Verdict::Sound) = (&mut self.decoder, &self.verdict) else { return };
        let mut input = bytes;
        loop {
            let fault = match decoder.next(&mut input) {
                Ok(None) => return,
                Ok(Some(record)) => match Parts::check(&record) {
                    Ok(()) => {
                        self.records = self.records.saturating_add(1);
                        continue;
                    }
                    Err(kind) => Fault { lsn: record.lsn, kind },
                },
                Err(fault) => fault,
            };
            self.verdict = Verdict::Faulty(fault.to_string());
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first page header of segment 7 of a cluster with 1 MiB segments, then zeros: WAL that ends at once.
    fn segment() -> Vec<u8> {
        let mut bytes = vec![0x10, 0xd1, 2, 0, 1, 0, 0, 0, 0, 0, 0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes.extend_from_slice(&(1_u32 << 20).to_le_bytes());
        bytes.extend_from_slice(&8192_u32.to_le_bytes());
        bytes.resize(1 << 20, 0);
        bytes
    }

    fn verdict(name: &str, system_id: Option<u64>, bytes: &[u8]) -> Verdict {
        let mut check = Check::new(name.parse().unwrap(), system_id);
        bytes.chunks(1000).for_each(|piece| check.pass(piece));
        check.finish()
    }

    #[test]
    fn what_postgresql_cannot_use_is_told_apart_from_what_it_may_judge() {
        let name = "000000010000000000000007";
        let whole = segment();
        assert!(matches!(verdict(name, None, &whole), Verdict::Faulty(_)));
        assert!(matches!(verdict(name, Some(7), &whole), Verdict::Faulty(_)));
        let useless = |verdict: Verdict, why: &str| {
            assert!(matches!(&verdict, Verdict::Useless(text) if text.contains(why)), "{verdict:?}");
        };
        useless(verdict(name, Some(8), &whole), "another cluster");
        useless(verdict("000000010000000000000008", None, &whole), "0/700000");
        useless(verdict(name, None, &whole[..whole.len() - 1]), "1048575 bytes of 1048576");
        useless(verdict(name, None, &whole[..20]), "only 20 bytes");
        useless(verdict(name, None, b""), "only 0 bytes");
        assert!(matches!(verdict(name, None, &[1; 5000]), Verdict::Faulty(_)));
    }
}
