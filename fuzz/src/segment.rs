//! A damaged segment whose checksums are made right again: no panic in verification and index, the same result however it is
//! cut, and the index says no more than the verification found.

use std::io::{self, BufRead, BufReader, Cursor};

use pgwal::index::{IndexOptions, Indexer, SegmentIndex};
use pgwal::page::identify_segment;
use pgwal::reader::SegmentSource;
use pgwal::record::RecordHeader;
use pgwal::verify::{SegmentReport, VerifyOptions, verify_segments};
use pgwal::{SegmentName, SegmentSize, TimelineId};

/// The CRC of a record lies in the last four bytes of its header.
const CRC: std::ops::Range<usize> = 20..24;
const PAGE_BYTES: usize = 8192;

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let [choice, cut, wal @ ..] = data else { return };
    let (mut wal, piece_len) = (wal.to_vec(), usize::from(*cut) + 1);
    let size = identify_segment(&wal).map_or(SegmentSize::MIN, |(.., size)| size);
    let start =
        identify_segment(&wal).map_or(pgwal::Lsn::from_u64(0x100_0000), |(_, header, ..)| header.address);
    if choice & 1 != 0 {
        make_checksums_right(&mut wal);
    }
    let segment = SegmentName::at(TimelineId::new(1).expect("a timeline"), start, size);
    let whole = verify(&wal, segment, size, usize::MAX, choice & 2 != 0);
    let in_pieces = verify(&wal, segment, size, piece_len, choice & 2 != 0);
    assert_eq!(format!("{whole:?}"), format!("{in_pieces:?}"));
    let index = index(&wal, segment, size, usize::MAX);
    assert_eq!(index, self::index(&wal, segment, size, piece_len));
    if let Some(index) = index {
        assert_eq!(SegmentIndex::from_bytes(&index.to_bytes()).ok(), Some(index));
    }
}

/// Goes from record to record, as far as their lengths lead.
fn make_checksums_right(wal: &mut [u8]) {
    let mut at = 40;
    while let Some(header) = wal.get(at..).and_then(RecordHeader::read) {
        let end = at + header.total_bytes as usize;
        let in_page = at / PAGE_BYTES == end.saturating_sub(1) / PAGE_BYTES;
        if header.total_bytes < 24 || end > wal.len() {
            return;
        }
        // The next page's first record isn't known, then: leave the rest as it is.
        if !in_page {
            return;
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&wal[at + 24..end]), &wal[at..at + CRC.start]);
        wal[at + CRC.start..at + CRC.end].copy_from_slice(&crc.to_le_bytes());
        at = end.next_multiple_of(8);
    }
}

struct One<'w>(SegmentName, &'w [u8], usize);

impl SegmentSource for One<'_> {
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn BufRead + '_>>> {
        let input = BufReader::with_capacity(self.2.min(self.1.len().max(1)), Cursor::new(self.1));
        Ok((segment == self.0).then(|| Box::new(input) as Box<dyn BufRead>))
    }
}

fn verify(
    wal: &[u8],
    segment: SegmentName,
    size: SegmentSize,
    piece_len: usize,
    may_end: bool,
) -> Option<SegmentReport> {
    let options = VerifyOptions { segment_size: Some(size), system_id: None, may_end };
    let mut found = None;
    let source = One(segment, wal, piece_len);
    verify_segments(&source, &[segment], &options, 1, |report| found = Some(report)).ok()?;
    if let Some(report) = &mut found
        && report.end.is_some()
    {
        // How far it read ahead of the WAL's end depends on the pieces.
        report.bytes = 0;
    }
    found
}

fn index(wal: &[u8], segment: SegmentName, size: SegmentSize, piece_len: usize) -> Option<SegmentIndex> {
    let mut indexer = Indexer::new(segment, IndexOptions { segment_size: size, blocks: true })?;
    for piece in wal.chunks(piece_len) {
        if indexer.feed(piece).is_err() {
            break;
        }
    }
    indexer.finish()
}
