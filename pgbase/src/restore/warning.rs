//! What a person should know about a restore that goes ahead.

use std::fmt;

use pgwal::{Lsn, PgTimestamp, SegmentName, TimelineId};

/// A doubt about a plan, short of refusing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanWarning {
    /// WAL is missing in the middle; recovery will end before it.
    Gap {
        /// The first missing segment.
        missing: SegmentName,
        /// How many later segments are of no use.
        later: usize,
    },
    /// WAL that the backup needs is not there yet, for a server that will fetch it.
    MissingWal {
        /// The first missing segment.
        missing: SegmentName,
        /// The last one needed.
        last: SegmentName,
    },
    /// The target position lies after the archived WAL.
    LsnBeyondArchive {
        /// The target.
        target: Lsn,
        /// Where the archive ends.
        reach: Lsn,
    },
    /// The target time lies after the newest archived WAL.
    TimeBeyondArchive {
        /// The target.
        target: PgTimestamp,
        /// When the newest segment was archived.
        until: PgTimestamp,
    },
    /// The newest timeline does not descend from the backup.
    PassedOver {
        /// The one that the server would have tried.
        timeline: TimelineId,
        /// The one that is followed.
        followed: TimelineId,
    },
    /// "Exclusive" says nothing about this target.
    ExclusiveWithoutEffect,
    /// No WAL is staged for a restore without a target.
    StagingWithoutEffect,
}

impl fmt::Display for PlanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanWarning::Gap { missing, later } => write!(
                f,
                "WAL segment {missing} is not in the archive: recovery will end before it, and {later} later \
                 segments were left out"
            ),
            PlanWarning::MissingWal { missing, last } => write!(
                f,
                "WAL segment {missing} is not in the archive yet: the restored server will not start before \
                 everything up to {last} is"
            ),
            PlanWarning::LsnBeyondArchive { target, reach } => write!(
                f,
                "the target LSN {target} is after the archived WAL, which ends at {reach}: the server will refuse \
                 to start unless more WAL arrives"
            ),
            PlanWarning::TimeBeyondArchive { target, until } => write!(
                f,
                "the target time {target} is later than the newest archived WAL ({until}): the server will refuse \
                 to start unless a later transaction was archived"
            ),
            PlanWarning::PassedOver { timeline, followed } => write!(
                f,
                "timeline {timeline} does not descend from this backup: recovery follows timeline {followed} instead"
            ),
            PlanWarning::ExclusiveWithoutEffect => {
                f.write_str("an exclusive target only makes a difference for a time, a transaction or an LSN")
            }
            PlanWarning::StagingWithoutEffect => {
                f.write_str("the WAL staging directory is not used: this restore has no target to recover to")
            }
        }
    }
}
