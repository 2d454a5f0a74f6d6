//! What a backup's record says about it, and which changes of that are legal.

use std::fmt;
use std::str::FromStr;

/// A backup's status, as `backup.info` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// The record exists; nothing else does.
    Empty,
    /// The copy is under way.
    Started,
    /// The copy is complete; some of the WAL that makes it consistent is not archived yet.
    WaitingForWals,
    /// Being copied from another backup host.
    Syncing,
    /// Complete, with its WAL.
    Done,
    /// Not usable.
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 6] = [
        Status::Empty,
        Status::Started,
        Status::WaitingForWals,
        Status::Syncing,
        Status::Done,
        Status::Failed,
    ];

    /// The text in `backup.info`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Empty => "EMPTY",
            Status::Started => "STARTED",
            Status::WaitingForWals => "WAITING_FOR_WALS",
            Status::Syncing => "SYNCING",
            Status::Done => "DONE",
            Status::Failed => "FAILED",
        }
    }

    /// Whether the backup can be restored: its files are complete.
    pub const fn is_usable(self) -> bool {
        matches!(self, Status::WaitingForWals | Status::Done)
    }

    /// Whether somebody must be at work on it: a backup in this state whose worker is gone has failed.
    pub const fn is_unfinished(self) -> bool {
        matches!(self, Status::Empty | Status::Started | Status::Syncing)
    }

    /// Whether a record may change from this status to `next`. Staying as it is always may.
    ///
    /// A complete backup can go back to waiting or be found broken, when the WAL it needs is looked for again.
    pub const fn may_become(self, next: Status) -> bool {
        use Status::{Done, Empty, Failed, Started, Syncing, WaitingForWals};
        match self {
            Empty => !matches!(next, WaitingForWals | Done),
            Started => !matches!(next, Empty | Syncing),
            WaitingForWals | Done => matches!(next, WaitingForWals | Done | Failed),
            Syncing => !matches!(next, Empty | Started),
            Failed => matches!(next, Failed | Syncing),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no backup status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a backup status")]
pub struct ParseStatusError {
    text: String,
}

impl FromStr for Status {
    type Err = ParseStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| ParseStatusError { text: text.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_lives_forwards() {
        use Status::*;
        for (from, to, legal) in [
            (Empty, Started, true),
            (Started, WaitingForWals, true),
            (WaitingForWals, Done, true),
            (Empty, Failed, true),
            (Started, Failed, true),
            (Done, WaitingForWals, true),
            (Done, Failed, true),
            (Empty, Done, false),
            (Started, Empty, false),
            (Done, Started, false),
            (Failed, Done, false),
            (Failed, WaitingForWals, false),
            (Failed, Syncing, true),
            (Syncing, Done, true),
        ] {
            assert_eq!(from.may_become(to), legal, "{from} -> {to}");
        }
        for status in Status::ALL {
            assert!(status.may_become(status));
            assert_eq!(status.as_str().parse(), Ok(status));
            assert!(!(status.is_usable() && status.is_unfinished()));
        }
        assert!("done".parse::<Status>().is_err());
    }
}
