//! Page images with any stored bytes, hole and compression: no panic, and nothing is written beyond the page.

use pgwal::record::{Image, ImageCompression, RecordHeader};
use pgwal::{Lsn, Record, WalVersion};

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let [choice, a, b, c, d, bytes @ ..] = data else { return };
    let compression = match choice % 5 {
        0 => None,
        1 => Some(ImageCompression::Pglz),
        2 => Some(ImageCompression::Lz4),
        3 => Some(ImageCompression::Zstd),
        _ => Some(ImageCompression::Unknown),
    };
    let image = Image {
        stored: 0..bytes.len() as u32,
        hole_offset: u16::from_le_bytes([*a, *b]),
        hole_length: u16::from_le_bytes([*c, *d]),
        apply: true,
        compression,
    };
    let header = RecordHeader {
        total_bytes: bytes.len() as u32,
        xid: 0,
        prev: Lsn::INVALID,
        info: 0,
        rmid: 0,
        crc: 0,
    };
    let record = Record { lsn: Lsn::INVALID, end: Lsn::INVALID, version: WalVersion::V18, header, bytes };
    let _ = image.restore(&record, &mut [0; 8192]);
}
