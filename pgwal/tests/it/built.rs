//! WAL built by hand, sound or broken in one place.

use pgwal::page::PAGE_BYTES;
use pgwal::{Decoder, Fault, Lsn, SegmentSize, WalVersion};

pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;
const SYSTEM_ID: u64 = 0x0123_4567_89AB_CDEF;
const LONG_HEADER: u16 = 2;
const CONTINUES: u16 = 1;

/// A segment under construction; what isn't written yet is zero.
#[derive(Clone)]
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: WalVersion,
    pub(crate) start: u64,
    /// Where the next record goes, as an offset.
    pub(crate) at: usize,
    /// The last record.
    pub(crate) prev: u64,
}

impl Built {
    /// An empty segment with the header of its first page.
    pub(crate) fn new(version: WalVersion) -> Self {
        let bytes = vec![0; SIZE.bytes() as usize];
        let mut built = Built { bytes, version, start: 3 * SIZE.bytes(), at: 0, prev: 3 * SIZE.bytes() - 64 };
        built.page(0, version.magic(), LONG_HEADER, built.start, 0);
        built.write(24, &SYSTEM_ID.to_le_bytes());
        built.write(32, &(SIZE.bytes() as u32).to_le_bytes());
        built.write(36, &8192u32.to_le_bytes());
        built.at = 40;
        built
    }

    pub(crate) fn lsn(&self) -> Lsn {
        Lsn::from_u64(self.start + self.at as u64)
    }

    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A page's header at an offset.
    pub(crate) fn page(&mut self, at: usize, magic: u16, flags: u16, address: u64, remaining: u32) {
        self.write(at, &magic.to_le_bytes());
        self.write(at + 2, &flags.to_le_bytes());
        self.write(at + 4, &1u32.to_le_bytes());
        self.write(at + 8, &address.to_le_bytes());
        self.write(at + 16, &remaining.to_le_bytes());
    }

    /// A record's header at the current place, without advancing.
    pub(crate) fn header(&mut self, total: u32, prev: u64) {
        let mut header = total.to_le_bytes().to_vec();
        header.extend(7u32.to_le_bytes());
        header.extend(prev.to_le_bytes());
        header.extend([0; 8]);
        let room = PAGE_BYTES as usize - self.at % PAGE_BYTES as usize;
        header.truncate(room);
        self.write(self.at, &header);
    }

    /// A whole record with `payload` bytes of main data, across pages if need be.
    pub(crate) fn record(&mut self, rmid: u8, info: u8, payload: &[u8]) -> Lsn {
        let mut body = Vec::new();
        match u8::try_from(payload.len()) {
            _ if payload.is_empty() => {}
            Ok(length) => body.extend([255, length]),
            Err(_) => {
                body.push(254);
                body.extend((payload.len() as u32).to_le_bytes());
            }
        }
        body.extend_from_slice(payload);
        self.record_of(rmid, info, &body)
    }

    /// A whole record with these headers and data.
    pub(crate) fn record_of(&mut self, rmid: u8, info: u8, body: &[u8]) -> Lsn {
        let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
        record.extend(7u32.to_le_bytes());
        record.extend(self.prev.to_le_bytes());
        record.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        let lsn = self.lsn();
        self.prev = lsn.as_u64();
        self.put(&record);
        lsn
    }

    /// Puts bytes across pages, each with its header, and aligns.
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = PAGE_BYTES as usize - self.at % PAGE_BYTES as usize;
            let (here, rest) = bytes.split_at(bytes.len().min(room));
            self.write(self.at, here);
            self.at += here.len();
            bytes = rest;
            // The bytes that align the end may be the page's last.
            if self.at.next_multiple_of(8).is_multiple_of(PAGE_BYTES as usize) {
                self.at = self.at.next_multiple_of(8);
                let flags = if bytes.is_empty() { 0 } else { CONTINUES };
                let address = self.start + self.at as u64;
                self.page(self.at, self.version.magic(), flags, address, bytes.len() as u32);
                self.at += 24;
            }
        }
        self.at = self.at.next_multiple_of(8);
    }

    /// Records until the current place is `left` bytes before the end of a page.
    pub(crate) fn fill_page(&mut self, left: usize) {
        let page = PAGE_BYTES as usize;
        let room = page - self.at % page;
        // Record header and length of the main data take 26 bytes, or 29 for a long one.
        let total = if room > left + 40 { room - left } else { room + page - 24 - left };
        let payload = if total - 26 < 256 { total - 26 } else { total - 29 };
        self.record(0, 0x20, &vec![0xAB; payload]);
        assert_eq!(page - self.at % page, left);
    }

    /// Records read from it in chunks of this size, and the fault that ends them.
    pub(crate) fn read(&self, chunk_bytes: usize) -> (Vec<Lsn>, Option<Fault>) {
        self.read_with(Decoder::new(Lsn::from_u64(self.start), SIZE), chunk_bytes)
    }

    /// The same in strict reading.
    pub(crate) fn read_strictly(&self, chunk_bytes: usize) -> (Vec<Lsn>, Option<Fault>) {
        self.read_with(Decoder::new(Lsn::from_u64(self.start), SIZE).strict(), chunk_bytes)
    }

    fn read_with(&self, mut decoder: Decoder, chunk_bytes: usize) -> (Vec<Lsn>, Option<Fault>) {
        let mut records = Vec::new();
        for chunk in self.bytes.chunks(chunk_bytes) {
            let mut input = chunk;
            loop {
                match decoder.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(record)) => records.push(record.lsn),
                    Err(fault) => return (records, Some(fault)),
                }
            }
        }
        (records, None)
    }
}
