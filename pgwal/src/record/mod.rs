//! WAL records: header, block references, payload (`access/xlogrecord.h`).
//!
//! ```text
//! offset  size
//!  0      4    length of the record, this header included
//!  4      4    transaction
//!  8      8    position of the record before
//! 16      1    operation (high 4 bits: the resource manager's; low 4: general flags)
//! 17      1    resource manager
//! 18      2    zero
//! 20      4    CRC-32C of the rest of the record, then of bytes 0 to 19
//! ```
//!
//! Then come the headers of block references and of the main data, each opened by its number, then page images and data
//! of the blocks in the order of the headers, then the main data.

mod headers;

use std::fmt;
use std::ops::Range;

use headers::{Headers, Part, walk};

use crate::fault::FaultKind;
use crate::rmgr::Rmgr;
use crate::{Lsn, WalVersion};

/// A record header's size in bytes.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Records longer than this are refused, in bytes. The server's own limit is 1020 MiB.
pub const MAX_RECORD_BYTES: u32 = 1 << 30;
/// The most bytes that a record's headers can take: the record's own, 33 block references with image and relation, an
/// origin, a top-level transaction and the main data's length. Rounded up.
pub const MAX_HEADERS_BYTES: u32 = 1024;

/// The size of a page of a relation in bytes (`BLCKSZ` of every packaged server).
pub const BLOCK_BYTES: u16 = 8192;

/// A record's fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The record's length in bytes, this header included, padding excluded.
    pub total_bytes: u32,
    /// The transaction that wrote it; 0 is none.
    pub xid: u32,
    /// The record before.
    pub prev: Lsn,
    /// Operation and flags: see [`Rmgr`].
    pub info: u8,
    /// The resource manager's number.
    pub rmid: u8,
    /// The stored checksum.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads the header at the start of `bytes`; `None` when there are too few.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let h: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        Some(RecordHeader {
            total_bytes: u32::from_le_bytes([h[0], h[1], h[2], h[3]]),
            xid: u32::from_le_bytes([h[4], h[5], h[6], h[7]]),
            prev: Lsn::from_u64(u64::from_le_bytes([h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]])),
            info: h[16],
            rmid: h[17],
            crc: u32::from_le_bytes([h[20], h[21], h[22], h[23]]),
        })
    }

    /// Checks the header as the server does (`ValidXLogRecordHeader`), in the same order.
    ///
    /// `prev` is the record before, where it is known.
    ///
    /// # Errors
    /// The first thing that is wrong.
    #[inline]
    pub fn check(&self, lsn: Lsn, prev: Option<Lsn>, version: WalVersion) -> Result<(), FaultKind> {
        if self.total_bytes < RECORD_HEADER_BYTES as u32 {
            return Err(FaultKind::RecordLength { found: self.total_bytes });
        }
        if !Rmgr::is_valid_id(self.rmid, version) {
            return Err(FaultKind::ResourceManager { found: self.rmid });
        }
        let linked = prev.map_or(self.prev < lsn, |prev| self.prev == prev);
        if linked { Ok(()) } else { Err(FaultKind::PrevLink { found: self.prev, expected: prev }) }
    }

    /// The operation: the part of [`info`](Self::info) that belongs to the resource manager.
    pub const fn operation(&self) -> u8 {
        self.info & 0xF0
    }

    /// Whether this is the record that closes a segment early (`XLOG_SWITCH`).
    #[inline]
    pub const fn is_switch(&self) -> bool {
        self.rmid == 0 && self.operation() == 0x40
    }
}

/// A relation's file on disk: tablespace, database, file number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelFile {
    /// The tablespace's OID; 1663 is `pg_default`, 1664 `pg_global`.
    pub tablespace: u32,
    /// The database's OID; 0 for shared relations.
    pub database: u32,
    /// The file's number (not the relation's OID, once it has been rewritten).
    pub number: u32,
}

impl fmt::Display for RelFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.number)
    }
}

/// One of the files of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fork(
    /// The number: 0 main, 1 free space map, 2 visibility map, 3 init.
    pub u8,
);

impl Fork {
    /// The relation's data.
    pub const MAIN: Fork = Fork(0);
    /// The free space map.
    pub const FSM: Fork = Fork(1);
    /// The visibility map.
    pub const VM: Fork = Fork(2);
    /// What an unlogged relation is reset to.
    pub const INIT: Fork = Fork(3);

    /// PostgreSQL's name: `main`, `fsm`, `vm`, `init`, or `?`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "main",
            1 => "fsm",
            2 => "vm",
            3 => "init",
            _ => "?",
        }
    }

    /// The fork with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        (0..4).map(Fork).find(|fork| fork.name() == name)
    }
}

/// How a page image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageCompression {
    /// PostgreSQL's own LZ.
    Pglz,
    /// LZ4 block format (PostgreSQL 15 and later).
    Lz4,
    /// Zstandard (PostgreSQL 15 and later).
    Zstd,
    /// A flag of a method unknown here.
    Unknown,
}

impl ImageCompression {
    /// `pglz`, `lz4`, `zstd` or `unknown`.
    pub const fn name(self) -> &'static str {
        match self {
            ImageCompression::Pglz => "pglz",
            ImageCompression::Lz4 => "lz4",
            ImageCompression::Zstd => "zstd",
            ImageCompression::Unknown => "unknown",
        }
    }
}

/// A page image stored with a block reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where the stored bytes lie in the record.
    pub stored: Range<u32>,
    /// Where the hole (left out because it is zero) starts in the page, in bytes.
    pub hole_offset: u16,
    /// The hole's size in bytes.
    pub hole_length: u16,
    /// Whether replay restores the page from it; otherwise it is there for `wal_consistency_checking`.
    pub apply: bool,
    /// How the stored bytes are compressed, if they are.
    pub compression: Option<ImageCompression>,
}

impl Image {
    /// How many bytes are stored.
    pub fn stored_bytes(&self) -> u32 {
        self.stored.end - self.stored.start
    }
}

/// A block that a record concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRef {
    /// Its number in the record.
    pub id: u8,
    /// The relation's file.
    pub relation: RelFile,
    /// Which of the relation's files.
    pub fork: Fork,
    /// The block's number in the relation.
    pub block: u32,
    /// Whether replay starts from an empty page.
    pub will_init: bool,
    /// The page's image, if there is one.
    pub image: Option<Image>,
    /// Where the block's data lies in the record; empty if there is none.
    pub data: Range<u32>,
}

/// A record, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where it starts.
    pub lsn: Lsn,
    /// Where the next one starts, page headers aside: after a switch record, the next segment.
    pub end: Lsn,
    /// The format.
    pub version: WalVersion,
    /// The fixed header.
    pub header: RecordHeader,
    /// Its bytes from the header on; fewer than the header says if the decoder was told to [keep](crate::Keep) fewer.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The resource manager.
    pub fn rmgr(&self) -> Rmgr {
        Rmgr::from_id(self.header.rmid)
    }

    /// The name of its operation, like `INSERT+INIT`; `None` for one unknown to this version.
    pub fn operation_name(&self) -> Option<&'static str> {
        self.rmgr().operation_name(self.header.info, self.version)
    }

    /// Whether all its bytes are there.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.header.total_bytes as usize
    }

    /// Its first block, lengths counted from 0; `None` if it has none. Cheaper than [`Parts`].
    #[inline]
    pub(crate) fn first_block(&self) -> Option<BlockRef> {
        headers::first_block(self)
    }

    /// Part of its bytes; empty where they aren't there.
    pub fn slice(&self, range: &Range<u32>) -> &'a [u8] {
        self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

/// A record's block references and where its payload lies. Made to be reused from record to record.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The blocks, by ascending number.
    pub blocks: Vec<BlockRef>,
    /// Where the main data lies in the record.
    pub main: Range<u32>,
    /// The replication origin, if there is one.
    pub origin: Option<u16>,
    /// The top-level transaction, if the record is the first of its subtransaction (logical WAL).
    pub toplevel_xid: Option<u32>,
}

impl Parts {
    /// An empty one.
    pub fn new() -> Self {
        Parts::default()
    }

    /// The block reference with this number.
    pub fn block(&self, id: u8) -> Option<&BlockRef> {
        self.blocks.iter().find(|block| block.id == id)
    }

    /// Bytes of page images in the record.
    pub fn image_bytes(&self) -> u32 {
        self.blocks.iter().filter_map(|block| block.image.as_ref()).map(Image::stored_bytes).sum()
    }

    /// Reads the headers of `record`, with every check of the server's (`DecodeXLogRecord`).
    ///
    /// # Errors
    /// The first thing that is wrong; the contents are then unspecified.
    pub fn read(&mut self, record: &Record<'_>) -> Result<(), FaultKind> {
        self.blocks.clear();
        self.main = 0..0;
        self.origin = None;
        self.toplevel_xid = None;
        let (headers_end, main) = walk(Headers::new(record), |part| match part {
            Part::Block(block) => self.blocks.push(block),
            Part::Origin(origin) => self.origin = Some(origin),
            Part::ToplevelXid(xid) => self.toplevel_xid = Some(xid),
        })?;
        self.place(headers_end, main);
        Ok(())
    }

    /// Makes the checks of [`read`](Self::read) and keeps nothing.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn check(record: &Record<'_>) -> Result<(), FaultKind> {
        walk(Headers::new(record), |_| ()).map(|_| ())
    }

    /// Turns lengths, counted from 0 so far, into places in the record. All of it is known to fit.
    fn place(&mut self, headers_end: u32, main: u32) {
        let mut at = headers_end;
        for block in &mut self.blocks {
            if let Some(image) = &mut block.image {
                image.stored = at..at + image.stored.end;
                at = image.stored.end;
            }
            block.data = at..at + block.data.end;
            at = block.data.end;
        }
        self.main = at..at + main;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: &[u8]) -> (RecordHeader, Vec<u8>) {
        let total = (RECORD_HEADER_BYTES + body.len()) as u32;
        let mut bytes = total.to_le_bytes().to_vec();
        bytes.resize(RECORD_HEADER_BYTES, 0);
        bytes.extend(body);
        (RecordHeader::read(&bytes).unwrap(), bytes)
    }

    fn read(body: &[u8]) -> Result<Parts, FaultKind> {
        let (header, bytes) = record(body);
        let record =
            Record { lsn: Lsn::INVALID, end: Lsn::INVALID, version: WalVersion::V15, header, bytes: &bytes };
        let mut parts = Parts::new();
        parts.read(&record).map(|()| parts)
    }

    /// Block 0, main fork of 1/2/3, block 4, with two bytes of data; main data of one byte.
    const ONE_BLOCK: &[u8] =
        &[0, 0x20, 2, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 255, 1, 0xAA, 0xBB, 0xCC];

    #[test]
    fn finds_blocks_data_and_main_data() {
        let parts = read(ONE_BLOCK).unwrap();
        let block = parts.block(0).unwrap();
        assert_eq!(block.relation.to_string(), "1/2/3");
        assert_eq!((block.block, block.fork.name()), (4, "main"));
        assert_eq!((block.data.clone(), parts.main.clone()), (46..48, 48..49));
        assert_eq!(parts.block(1), None);
    }

    #[test]
    fn refuses_headers_that_contradict_each_other() {
        let check = |change: &dyn Fn(&mut Vec<u8>), fault: FaultKind| {
            let mut body = ONE_BLOCK.to_vec();
            change(&mut body);
            assert_eq!(read(&body).unwrap_err(), fault);
        };
        check(&|body| body[0] = 33, FaultKind::BlockId { found: 33 });
        check(&|body| body[1] = 0, FaultKind::BlockData { length: 2 });
        check(&|body| body[2] = 0, FaultKind::BlockData { length: 0 });
        check(&|body| body[1] = 0xA0, FaultKind::BlockRelation);
        check(&|body| body.push(0), FaultKind::Layout);
        check(&|body| body.truncate(24), FaultKind::Layout);
        check(
            &|body| body.splice(20..20, ONE_BLOCK[..20].to_vec()).for_each(drop),
            FaultKind::BlockOrder { found: 0 },
        );
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused_within_its_bounds(body: Vec<u8>) {
            let (header, bytes) = record(&body);
            for version in WalVersion::ALL {
                let record = Record { lsn: Lsn::INVALID, end: Lsn::INVALID, version, header, bytes: &bytes };
                let mut parts = Parts::new();
                if parts.read(&record).is_ok() {
                    prop_assert!(parts.main.end <= header.total_bytes);
                    prop_assert!(parts.blocks.iter().all(|block| block.data.end <= header.total_bytes));
                }
            }
        }
    }
}
