#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod history;
pub mod label;
pub mod lsn;
pub mod segment;
pub mod target;
pub mod timeline;
pub mod timestamp;
#[cfg(feature = "wire")]
pub mod wire;

pub use history::History;
pub use label::BackupLabel;
pub use lsn::Lsn;
pub use segment::{SegmentName, SegmentSize, WalFile};
pub use target::{RecoveryTarget, TargetAction, TargetKind, TargetTimeline};
pub use timeline::TimelineId;
pub use timestamp::PgTimestamp;
