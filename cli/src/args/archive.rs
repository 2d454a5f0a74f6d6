//! The options of the commands around the WAL archive.

use clap::Args;
use pgwal::{SegmentName, TimelineId};

/// `put-wal`.
#[derive(Debug, Args)]
pub struct PutWalArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// Only say whether this works
    #[arg(short, long)]
    pub test: bool,
    /// The stream is compressed with zstd as a whole
    #[arg(long, hide = true)]
    pub zstd_stream: bool,
}

/// `check-wal-archive`.
#[derive(Debug, Args)]
pub struct CheckWalArchiveArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// WAL of earlier timelines than this is fine
    #[arg(long, value_name = "TIMELINE", value_parser = timeline)]
    pub timeline: Option<TimelineId>,
}

/// `check-archived-wal-range`.
#[derive(Debug, Args)]
pub struct CheckArchivedWalRangeArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The first segment
    #[arg(value_name = "BEGIN")]
    pub begin: String,
    /// The last segment
    #[arg(value_name = "END")]
    pub end: String,
}

impl CheckArchivedWalRangeArgs {
    /// A segment's name, or what is wrong with it.
    pub(crate) fn segment(name: &str) -> Result<SegmentName, String> {
        match name.parse() {
            Ok(pgwal::WalFile::Segment(segment)) => Ok(segment),
            _ => Err(format!("Invalid WAL segment name: {name}")),
        }
    }
}

fn timeline(text: &str) -> Result<TimelineId, String> {
    let number = text.parse().map_err(|_| "no positive number".to_owned())?;
    TimelineId::new(number).ok_or_else(|| "timelines count from 1 to 4294967295".to_owned())
}
