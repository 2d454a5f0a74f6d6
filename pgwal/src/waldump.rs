//! A record as `pg_waldump` of its major version prints it.

use std::fmt;

use crate::record::{BlockRef, Parts};
use crate::rmgr::Description;
use crate::{BLOCK_BYTES, Fork, Record, WalVersion};

/// Prints a record in one line, or with its blocks in a line each (`pg_waldump --bkp-details`).
#[derive(Debug, Clone, Copy)]
pub struct WaldumpLine<'r> {
    /// The record.
    pub record: &'r Record<'r>,
    /// Its parts.
    pub parts: &'r Parts,
    /// Its description.
    pub description: &'r Description,
    /// Whether blocks take a line each.
    pub block_details: bool,
}

impl fmt::Display for WaldumpLine<'_> {
    /// Ends without a line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.record.header;
        let (lsn, prev) = (self.record.lsn.as_u64(), header.prev.as_u64());
        write!(
            f,
            "rmgr: {:<11} len (rec/tot): {:6}/{:6}, tx: {:10}, lsn: {:X}/{:08X}, prev {:X}/{:08X}, desc: ",
            self.record.rmgr(),
            header.total_bytes.saturating_sub(self.parts.image_bytes()),
            header.total_bytes,
            header.xid,
            lsn >> 32,
            lsn & 0xFFFF_FFFF,
            prev >> 32,
            prev & 0xFFFF_FFFF
        )?;
        match self.record.operation_name() {
            Some(name) => write!(f, "{name} ")?,
            None => write!(f, "UNKNOWN ({:x}) ", header.operation())?,
        }
        f.write_str(self.description.text())?;
        self.parts.blocks.iter().try_for_each(|block| self.block(f, block))
    }
}

impl WaldumpLine<'_> {
    fn block(&self, f: &mut fmt::Formatter<'_>, block: &BlockRef) -> fmt::Result {
        let lead = if self.block_details { "\n\t" } else { ", " };
        write!(f, "{lead}blkref #{}: rel {}", block.id, block.relation)?;
        if self.block_details || block.fork != Fork::MAIN {
            write!(f, " fork {}", block.fork.name())?;
        }
        write!(f, " blk {}", block.block)?;
        let Some(image) = &block.image else { return Ok(()) };
        let purpose = if image.apply { "FPW" } else { "FPW for WAL verification" };
        if !self.block_details {
            return write!(f, " {purpose}");
        }
        write!(f, " ({purpose}); hole: offset: {}, length: {}", image.hole_offset, image.hole_length)?;
        let Some(method) = image.compression else { return Ok(()) };
        let page = u32::from(BLOCK_BYTES) - u32::from(image.hole_length);
        write!(f, ", compression saved: {}", page.wrapping_sub(image.stored_bytes()))?;
        if self.record.version >= WalVersion::V15 {
            write!(f, ", method: {}", method.name())?;
        }
        Ok(())
    }
}
