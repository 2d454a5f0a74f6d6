//! A segment's index with right checksum and wrong contents: no panic, bounded memory, and what is read is written alike.

use pgwal::index::SegmentIndex;

const HEADER_BYTES: usize = 12;

/// Runs it on these bytes.
pub fn run(body: &[u8]) {
    let mut file = b"BKWI\x01\x00\x00\x00".to_vec();
    file.extend((body.len() as u32).to_le_bytes());
    assert_eq!(file.len(), HEADER_BYTES);
    file.extend(body);
    file.extend(crc32c::crc32c(&file).to_le_bytes());
    if let Ok(index) = SegmentIndex::from_bytes(&file) {
        assert_eq!(SegmentIndex::from_bytes(&index.to_bytes()).ok(), Some(index));
    }
}
