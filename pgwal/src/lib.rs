#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "fast"), forbid(unsafe_code))]
#![deny(missing_docs)]

pub mod activity;
#[cfg(feature = "fast")]
mod ahead;
// Without it no unsafe code is let in: WAL is read all the same, a little later.
#[cfg(not(feature = "fast"))]
mod ahead {
    pub(crate) const fn of_record(_input: &[u8], _record_bytes: usize) {}
    pub(crate) const fn of_page(_input: &[u8]) {}
}
pub mod behind;
mod checksum;
pub mod decoder;
pub mod fault;
pub mod history;
pub mod image;
pub mod index;
pub mod label;
pub mod lsn;
pub mod names;
pub mod page;
pub mod reader;
pub mod record;
#[cfg(feature = "replication")]
pub mod replication;
pub mod rmgr;
pub mod seam;
pub mod segment;
#[cfg(feature = "sql")]
pub mod sql;
mod strict;
pub mod target;
pub mod timeline;
pub mod timestamp;
pub mod verify;
pub mod version;
pub mod waldump;
#[cfg(feature = "wire")]
pub mod wire;

pub use decoder::{Decoder, Keep, OpenRecord};
pub use fault::{Fault, FaultKind};
pub use history::History;
pub use label::BackupLabel;
pub use lsn::Lsn;
pub use record::{BLOCK_BYTES, BlockRef, Fork, Parts, Record, RelFile};
pub use rmgr::Rmgr;
pub use segment::{SegmentName, SegmentSize, WalFile};
pub use target::{RecoveryTarget, TargetAction, TargetKind, TargetTimeline};
pub use timeline::TimelineId;
pub use timestamp::PgTimestamp;
pub use version::WalVersion;
