//! Why receiving stopped, or is tried again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::flush::WriteError;
use crate::history::HistoryError;
use crate::replication::{ConnInfoError, ConnectError, ConnectFailure, ReplicationError, SqlState};
use crate::segment::ParseSegmentSizeError;
use crate::{Lsn, SegmentName, TimelineId};

/// Why receiving stopped, or is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The server can't be reached or refuses the connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The application name can't be put into the connection string.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// The connection broke, or the server refused a command or broke the protocol.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The server shuts down, having sent all its WAL, or ended the stream for another reason of its own.
    #[error("the server ended the stream at {0}")]
    EndedByServer(Lsn),
    /// What was received could not be kept.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The streaming directory can't be read.
    #[error("cannot read the streaming directory {path}: {source}", path = path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// A timeline's history can't be saved.
    #[error("cannot save {path}: {source}", path = path.display())]
    SaveHistory {
        /// The history's path.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The server is not the one whose WAL is kept here.
    #[error("the server has system identifier {found}, but what is kept here comes from {expected}")]
    SystemIdentifier {
        /// Whose WAL is kept.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// The replication slot does not exist.
    #[error("replication slot \"{slot}\" does not exist on the server")]
    SlotMissing {
        /// Its name.
        slot: String,
    },
    /// Somebody else receives through the replication slot.
    #[error("replication slot \"{slot}\" is in use by another receiver: {source}")]
    SlotActive {
        /// Its name.
        slot: String,
        /// The server's word; names the process.
        source: ReplicationError,
    },
    /// The server no longer has the WAL that comes next.
    #[error(
        "the server has removed WAL that was not received yet, from {start} of timeline {timeline} on: {source}"
    )]
    WalRemoved {
        /// The timeline asked for.
        timeline: TimelineId,
        /// The position asked for.
        start: Lsn,
        /// The server's word.
        source: ReplicationError,
    },
    /// All WAL in the streaming directory is of timelines that the server knows nothing of.
    #[error(
        "the newest WAL received, {newest}, is of a timeline that is no part of the server's history (it is on timeline {timeline})"
    )]
    Diverged {
        /// The newest segment.
        newest: SegmentName,
        /// The server's timeline.
        timeline: TimelineId,
    },
    /// More WAL is held than the server has.
    #[error("WAL is received up to {held} of timeline {timeline}, but the server has it only up to {server}")]
    AheadOfServer {
        /// The timeline.
        timeline: TimelineId,
        /// Where receiving would go on.
        held: Lsn,
        /// The end of the server's WAL.
        server: Lsn,
    },
    /// A timeline history that can't be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The server's segment size makes no sense.
    #[error("the server reports an unusable wal_segment_size: {0}")]
    SegmentSize(#[from] ParseSegmentSizeError),
    /// The end of a timeline that can't be: the next one is not higher, or it left at a position not received yet.
    #[error(
        "the server says that timeline {timeline}, received up to {received}, was left at {switch} for timeline {next}"
    )]
    ImpossibleSwitch {
        /// The timeline streamed.
        timeline: TimelineId,
        /// How far it was received.
        received: Lsn,
        /// What the server names as the next timeline.
        next: TimelineId,
        /// What the server names as the switch point.
        switch: Lsn,
    },
    /// Nothing was heard from the server, not even the answer it was asked for.
    #[error("nothing was heard from the server for {seconds} seconds", seconds = .0.as_secs())]
    Silent(Duration),
    /// A request to stop waited too long for the disk.
    #[error("the disk did not take what was received within {seconds} seconds; what it did not take was never reported to the server as flushed", seconds = .0.as_secs())]
    StuckAtStop(Duration),
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Try again, also at the first attempt.
    Wait,
    /// Try again once streaming has worked before; at the first attempt it is rather a mistake in the configuration.
    WaitIfItWorked,
    /// Waiting won't help.
    GiveUp,
}

impl ReceiveError {
    /// What the server's refusal means where one of a slot or of WAL was possible.
    pub(super) fn from_stream(
        error: ReplicationError,
        slot: Option<&str>,
        timeline: TimelineId,
        start: Lsn,
    ) -> Self {
        match (error.sqlstate(), slot) {
            (Some(SqlState::UNDEFINED_OBJECT), Some(slot)) => {
                ReceiveError::SlotMissing { slot: slot.to_owned() }
            }
            (Some(SqlState::OBJECT_IN_USE), Some(slot)) => {
                ReceiveError::SlotActive { slot: slot.to_owned(), source: error }
            }
            (Some(SqlState::UNDEFINED_FILE), _) => {
                ReceiveError::WalRemoved { timeline, start, source: error }
            }
            _ => ReceiveError::Replication(error),
        }
    }

    pub(super) fn remedy(&self) -> Remedy {
        match self {
            ReceiveError::Replication(error) => match error.sqlstate() {
                Some(state) => remedy_of(state),
                None => Remedy::WaitIfItWorked,
            },
            ReceiveError::Connect(ConnectError::ConnInfo(_)) => Remedy::GiveUp,
            ReceiveError::Connect(error) => match error.sqlstate() {
                Some(state) => remedy_of(state),
                None if is_refusal(error) => Remedy::GiveUp,
                None => Remedy::WaitIfItWorked,
            },
            ReceiveError::SlotActive { .. } | ReceiveError::AheadOfServer { .. } => Remedy::Wait,
            ReceiveError::Write(error) if error.is_disk_full() => Remedy::WaitIfItWorked,
            ReceiveError::Write(WriteError::OutOfSequence { .. } | WriteError::PastTheEnd { .. })
            | ReceiveError::ImpossibleSwitch { .. }
            | ReceiveError::EndedByServer(_)
            | ReceiveError::Silent(_) => Remedy::WaitIfItWorked,
            // An fsync that failed for any other reason is a failing disk: somebody has to look at it.
            _ => Remedy::GiveUp,
        }
    }
}

/// Whether a server was reached that we would not give a password, or it would not take ours.
fn is_refusal(error: &ConnectError) -> bool {
    match error {
        ConnectError::Hosts(attempts) => {
            attempts.iter().any(|attempt| matches!(attempt.failure, ConnectFailure::Auth { .. }))
        }
        _ => false,
    }
}

fn remedy_of(state: SqlState) -> Remedy {
    match state.as_str() {
        // The server starts up, or has no connection to spare just now.
        "57P03" | "53300" => Remedy::Wait,
        _ => match state.class() {
            // Not allowed, no such thing, not in a state to, not supported: as it will be the next time.
            "28" | "3D" | "42" | "55" | "58" | "0A" => Remedy::GiveUp,
            _ => Remedy::WaitIfItWorked,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waiting_heals_is_waited_for() {
        let check =
            |code: &str, remedy| assert_eq!(remedy_of(SqlState::new(code).unwrap()), remedy, "{code}");
        check("57P03", Remedy::Wait);
        check("53300", Remedy::Wait);
        // Shut down by an administrator, crashed, out of memory, connection failure.
        for code in ["57P01", "57P02", "53200", "08006", "XX000"] {
            check(code, Remedy::WaitIfItWorked);
        }
        // Wrong password, no pg_hba line, no such database, no REPLICATION, invalidated slot, missing file.
        for code in ["28P01", "28000", "3D000", "42501", "55000", "58P01"] {
            check(code, Remedy::GiveUp);
        }
    }
}
