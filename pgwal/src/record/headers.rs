//! Reads the headers behind a record's own: block references, page images, lengths.

use super::{BLOCK_BYTES, BlockRef, Fork, Image, ImageCompression, RECORD_HEADER_BYTES, Record, RelFile};
use crate::WalVersion;
use crate::fault::FaultKind;

const MAX_BLOCK_ID: u8 = 32;
const ID_DATA_SHORT: u8 = 255;
const ID_DATA_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;

/// Something that a record's headers tell.
pub(super) enum Part {
    /// A block reference, whose lengths are counted from 0.
    Block(BlockRef),
    Origin(u16),
    ToplevelXid(u32),
}

/// Goes through a record's headers; returns where they end and how long the main data is.
#[inline]
pub(super) fn walk(mut headers: Headers<'_>, mut each: impl FnMut(Part)) -> Result<(u32, u32), FaultKind> {
    let mut payload: u32 = 0;
    let mut main: u32 = 0;
    let (mut last_id, mut relation) = (None, None);
    while headers.remaining() > payload {
        let id = headers.u8()?;
        match id {
            0..=MAX_BLOCK_ID => {
                if last_id.is_some_and(|last| last >= id) {
                    return Err(FaultKind::BlockOrder { found: id });
                }
                let block = headers.block(id, relation)?;
                (last_id, relation) = (Some(id), Some(block.relation));
                // Both are 16 bits wide, and there are at most 33 blocks: no overflow.
                payload += block.image.as_ref().map_or(0, Image::stored_bytes) + block.data.end;
                each(Part::Block(block));
            }
            ID_DATA_SHORT | ID_DATA_LONG => {
                main = if id == ID_DATA_SHORT { u32::from(headers.u8()?) } else { headers.u32()? };
                payload = payload.checked_add(main).ok_or(FaultKind::Layout)?;
                // The main data comes last.
                break;
            }
            ID_ORIGIN => each(Part::Origin(headers.u16()?)),
            ID_TOPLEVEL_XID => each(Part::ToplevelXid(headers.u32()?)),
            _ => return Err(FaultKind::BlockId { found: id }),
        }
    }
    if headers.remaining() == payload { Ok((headers.at as u32, main)) } else { Err(FaultKind::Layout) }
}

/// The first block reference, which is the first of a record's headers; its lengths are counted from 0.
#[inline]
pub(super) fn first_block(record: &Record<'_>) -> Option<BlockRef> {
    let mut headers = Headers::new(record);
    let id = headers.u8().ok().filter(|id| *id <= MAX_BLOCK_ID)?;
    headers.block(id, None).ok()
}

/// Reads headers from the front of a record.
pub(super) struct Headers<'a> {
    bytes: &'a [u8],
    /// Where to read on; never beyond `total`.
    at: usize,
    /// The record's length.
    total: u32,
    version: WalVersion,
}

impl<'a> Headers<'a> {
    pub(super) fn new(record: &Record<'a>) -> Self {
        let total = record.header.total_bytes;
        Headers { bytes: record.bytes, at: RECORD_HEADER_BYTES, total, version: record.version }
    }

    fn remaining(&self) -> u32 {
        self.total.saturating_sub(self.at as u32)
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FaultKind> {
        let taken =
            self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(FaultKind::Layout)?;
        self.at += N;
        Ok(*taken)
    }

    #[inline(always)]
    fn u8(&mut self) -> Result<u8, FaultKind> {
        self.take::<1>().map(|bytes| bytes[0])
    }

    #[inline(always)]
    fn u16(&mut self) -> Result<u16, FaultKind> {
        self.take::<2>().map(u16::from_le_bytes)
    }

    #[inline(always)]
    fn u32(&mut self) -> Result<u32, FaultKind> {
        self.take::<4>().map(u32::from_le_bytes)
    }

    /// A block reference after its number; lengths are counted from 0 until [`Parts::place`].
    #[inline(always)]
    fn block(&mut self, id: u8, previous: Option<RelFile>) -> Result<BlockRef, FaultKind> {
        let flags = self.u8()?;
        let length = self.u16()?;
        if (flags & HAS_DATA != 0) != (length != 0) {
            return Err(FaultKind::BlockData { length });
        }
        let image = if flags & HAS_IMAGE != 0 { Some(self.image()?) } else { None };
        let relation = if flags & SAME_RELATION == 0 {
            RelFile { tablespace: self.u32()?, database: self.u32()?, number: self.u32()? }
        } else {
            previous.ok_or(FaultKind::BlockRelation)?
        };
        Ok(BlockRef {
            id,
            relation,
            fork: Fork(flags & FORK_MASK),
            block: self.u32()?,
            will_init: flags & WILL_INIT != 0,
            image,
            data: 0..u32::from(length),
        })
    }

    #[inline(always)]
    fn image(&mut self) -> Result<Image, FaultKind> {
        let length = self.u16()?;
        let hole_offset = self.u16()?;
        let info = self.u8()?;
        let (apply, compression) = image_flags(info, self.version);
        let has_hole = info & IMAGE_HAS_HOLE != 0;
        let hole_length = match (compression, has_hole) {
            (Some(_), true) => self.u16()?,
            (Some(_), false) => 0,
            (None, _) => BLOCK_BYTES.wrapping_sub(length),
        };
        let fault = FaultKind::Image { length, hole_offset, hole_length, info };
        let hole_fits = if has_hole {
            hole_offset != 0 && hole_length != 0 && length != BLOCK_BYTES
        } else {
            hole_offset == 0 && hole_length == 0
        };
        let whole_fits = compression.is_none() || length != BLOCK_BYTES;
        let in_page = length <= BLOCK_BYTES
            && u32::from(hole_offset) + u32::from(hole_length) <= u32::from(BLOCK_BYTES);
        if !(hole_fits && whole_fits && in_page) {
            return Err(fault);
        }
        Ok(Image { stored: 0..u32::from(length), hole_offset, hole_length, apply, compression })
    }
}

/// Whether to apply the image, and how it is compressed: PostgreSQL 15 renumbered the flags.
const fn image_flags(info: u8, version: WalVersion) -> (bool, Option<ImageCompression>) {
    match version {
        WalVersion::V13 | WalVersion::V14 => {
            (info & 0x04 != 0, if info & 0x02 != 0 { Some(ImageCompression::Pglz) } else { None })
        }
        _ => {
            let compression = match info & 0x1C {
                0 => None,
                bits if bits & 0x04 != 0 => Some(ImageCompression::Pglz),
                bits if bits & 0x08 != 0 => Some(ImageCompression::Lz4),
                _ => Some(ImageCompression::Zstd),
            };
            (info & 0x02 != 0, compression)
        }
    }
}
