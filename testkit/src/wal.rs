//! Sound WAL made by hand, for tests that need many segments and no server: each page holds one record that fills it, and
//! each record names the one before, also across segments.

/// The smallest segment size that a cluster can have, in bytes.
pub const SEGMENT_BYTES: usize = 1 << 20;
/// The system identifier of the cluster that wrote it.
pub const SYSTEM_ID: u64 = 7_710_937_153_959_999_515;

const PAGE_BYTES: usize = 8192;
const LONG_HEADER_BYTES: usize = 40;
const SHORT_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 24;
/// What PostgreSQL 15 begins pages with.
const MAGIC: u16 = 0xD110;
/// The log's own resource manager, and its record that does nothing (`XLOG_NOOP`).
const NOOP: [u8; 2] = [0x20, 0];
/// What precedes the data of a record with more than 255 bytes of it.
const LONG_DATA: u8 = 254;

/// The segment that begins at `start` (a multiple of `segment_bytes`), of PostgreSQL 15, on `timeline`.
///
/// What it holds is told by `start` and `seed`, and compresses somewhat.
pub fn segment(timeline: u32, start: u64, segment_bytes: usize, seed: u64) -> Vec<u8> {
    segment_of(SYSTEM_ID, timeline, start, segment_bytes, seed)
}

/// Like [`segment`], of a cluster with this system identifier.
pub fn segment_of(system_id: u64, timeline: u32, start: u64, segment_bytes: usize, seed: u64) -> Vec<u8> {
    let mut wal = Vec::with_capacity(segment_bytes);
    let mut state = start ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for page in 0..segment_bytes / PAGE_BYTES {
        let address = start + (page * PAGE_BYTES) as u64;
        let is_first = page == 0;
        wal.extend(MAGIC.to_le_bytes());
        wal.extend(if is_first { 2_u16 } else { 0 }.to_le_bytes());
        wal.extend(timeline.to_le_bytes());
        wal.extend(address.to_le_bytes());
        wal.extend([0; 8]);
        if is_first {
            wal.extend(system_id.to_le_bytes());
            wal.extend((segment_bytes as u32).to_le_bytes());
            wal.extend((PAGE_BYTES as u32).to_le_bytes());
        }
        let before = record_before(address, segment_bytes);
        let room = PAGE_BYTES - if is_first { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        record(&mut wal, before, room, &mut state);
    }
    wal
}

/// Bytes of the last record of a [`joined_segment`] that are in the next one.
const JOIN_BYTES: usize = 64;
/// Flags of a page that begins a segment and continues a record.
const LONG_AND_CONTINUES: u16 = 3;

/// Like [`segment`], but its last record ends in the next segment, and it begins with the end of the last one's.
pub fn joined_segment(timeline: u32, start: u64, segment_bytes: usize) -> Vec<u8> {
    let mut wal = segment(timeline, start, segment_bytes, 0);
    let last_page = (segment_bytes - PAGE_BYTES) as u64;
    let crossing = |start: u64| {
        let begin = start + last_page + SHORT_HEADER_BYTES as u64;
        let mut bytes = Vec::new();
        let before = begin - PAGE_BYTES as u64;
        record(&mut bytes, before, PAGE_BYTES - SHORT_HEADER_BYTES + JOIN_BYTES, &mut (begin | 1));
        (begin, bytes)
    };
    let (before, rest) = crossing(start - segment_bytes as u64);
    wal[2..4].copy_from_slice(&LONG_AND_CONTINUES.to_le_bytes());
    wal[16..20].copy_from_slice(&(JOIN_BYTES as u32).to_le_bytes());
    let body = LONG_HEADER_BYTES + JOIN_BYTES;
    wal[LONG_HEADER_BYTES..body].copy_from_slice(&rest[rest.len() - JOIN_BYTES..]);
    let mut put = |at: usize, before: u64, bytes: usize| {
        let mut whole = Vec::new();
        record(&mut whole, before, bytes, &mut ((start + at as u64) | 1));
        wal[at..at + bytes].copy_from_slice(&whole);
    };
    put(body, before, PAGE_BYTES - body);
    put(PAGE_BYTES + SHORT_HEADER_BYTES, start + body as u64, PAGE_BYTES - SHORT_HEADER_BYTES);
    let (_, open) = crossing(start);
    let at = segment_bytes - PAGE_BYTES + SHORT_HEADER_BYTES;
    wal[at..].copy_from_slice(&open[..PAGE_BYTES - SHORT_HEADER_BYTES]);
    wal
}

/// Where the record on the page before `address` begins.
fn record_before(address: u64, segment_bytes: usize) -> u64 {
    let Some(page) = address.checked_sub(PAGE_BYTES as u64) else { return 0 };
    let is_first = page.is_multiple_of(segment_bytes as u64);
    page + if is_first { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES } as u64
}

fn record(wal: &mut Vec<u8>, before: u64, bytes: usize, state: &mut u64) {
    let data = bytes - RECORD_HEADER_BYTES - 5;
    let mut body = vec![LONG_DATA];
    body.extend((data as u32).to_le_bytes());
    while body.len() < bytes - RECORD_HEADER_BYTES {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (*state >> 40).to_le_bytes();
        let room = bytes - RECORD_HEADER_BYTES - body.len();
        body.extend(&word[..room.min(8)]);
    }
    let mut header = (bytes as u32).to_le_bytes().to_vec();
    header.extend(0_u32.to_le_bytes());
    header.extend(before.to_le_bytes());
    header.extend(NOOP);
    header.extend([0; 2]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header);
    wal.extend(header);
    wal.extend(crc.to_le_bytes());
    wal.extend(body);
}
