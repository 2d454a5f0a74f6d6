//! Recovery targets: the moment to bring a cluster back to (PostgreSQL's "Recovery Target" settings).

use std::fmt;
use std::str::FromStr;

use crate::{Lsn, PgTimestamp, TimelineId};

/// Longest restore point name, in bytes (`MAXFNAMELEN` less its terminator).
pub const MAX_RESTORE_POINT_NAME_BYTES: usize = 63;

/// The kinds of moment that recovery can stop at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    /// The last commit not later than a time (`recovery_target_time`).
    Time(PgTimestamp),
    /// The end of a transaction (`recovery_target_xid`).
    Xid(u32),
    /// A position (`recovery_target_lsn`).
    Lsn(Lsn),
    /// A restore point made by `pg_create_restore_point` (`recovery_target_name`).
    Name(String),
    /// As soon as the cluster is consistent: the end of the base backup (`recovery_target = 'immediate'`).
    Immediate,
}

/// What the server does once it is there (`recovery_target_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetAction {
    /// Wait, readable, for a decision. PostgreSQL's default when a target is set.
    #[default]
    Pause,
    /// Open for writing on a new timeline.
    Promote,
    /// Stop the server.
    Shutdown,
}

impl TargetAction {
    /// The setting's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which timeline to recover along (`recovery_target_timeline`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetTimeline {
    /// The newest found in the archive: PostgreSQL's default.
    #[default]
    Latest,
    /// The one the base backup was taken on.
    Current,
    /// A timeline by number.
    Id(TimelineId),
}

impl fmt::Display for TargetTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetTimeline::Latest => f.write_str("latest"),
            TargetTimeline::Current => f.write_str("current"),
            TargetTimeline::Id(id) => fmt::Display::fmt(id, f),
        }
    }
}

/// A text that is not a target timeline or action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTargetError {
    /// Not a timeline.
    #[error(
        "{0:?} is not a target timeline: expected latest, current, or a number (decimal, or hexadecimal after 0x)"
    )]
    Timeline(String),
    /// Not an action.
    #[error("{0:?} is not a target action: expected pause, promote or shutdown")]
    Action(String),
}

impl FromStr for TargetTimeline {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(TargetTimeline::Latest),
            "current" => Ok(TargetTimeline::Current),
            _ => match text.strip_prefix("0x") {
                Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    u32::from_str_radix(hex, 16).ok().and_then(TimelineId::new)
                }
                Some(_) => None,
                None => text.parse().ok(),
            }
            .map(TargetTimeline::Id)
            .ok_or_else(|| ParseTargetError::Timeline(text.chars().take(64).collect())),
        }
    }
}

impl FromStr for TargetAction {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pause" => Ok(TargetAction::Pause),
            "promote" => Ok(TargetAction::Promote),
            "shutdown" => Ok(TargetAction::Shutdown),
            _ => Err(ParseTargetError::Action(text.chars().take(64).collect())),
        }
    }
}

/// Where recovery ends: one kind of moment (or none: the end of the archived WAL), before or after it, along a
/// timeline.
///
/// ```
/// use pgwal::{RecoveryTarget, TargetKind};
/// let target = RecoveryTarget { kind: Some(TargetKind::Xid(742)), inclusive: false, ..RecoveryTarget::default() };
/// assert_eq!(target.to_string(), "just before transaction 742");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryTarget {
    /// The moment; `None` recovers to the end of the WAL.
    pub kind: Option<TargetKind>,
    /// Whether what happened at exactly that moment is kept (`recovery_target_inclusive`). Has a meaning for times,
    /// transactions and positions only.
    pub inclusive: bool,
    /// The timeline; `None` leaves the setting alone.
    pub timeline: Option<TargetTimeline>,
    /// What to do there; `None` leaves the setting alone.
    pub action: Option<TargetAction>,
}

impl Default for RecoveryTarget {
    fn default() -> Self {
        RecoveryTarget { kind: None, inclusive: true, timeline: None, action: None }
    }
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.inclusive { "" } else { "just before " };
        match &self.kind {
            None => f.write_str("the end of the WAL")?,
            Some(TargetKind::Time(time)) => write!(f, "{side}{time}")?,
            Some(TargetKind::Xid(xid)) => write!(f, "{side}transaction {xid}")?,
            Some(TargetKind::Lsn(lsn)) => write!(f, "{side}{lsn}")?,
            Some(TargetKind::Name(name)) => write!(f, "restore point {name:?}")?,
            Some(TargetKind::Immediate) => f.write_str("the end of the base backup")?,
        }
        if let Some(timeline) = self.timeline {
            write!(f, " on timeline {timeline}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_by_word_and_number() {
        assert_eq!("latest".parse(), Ok(TargetTimeline::Latest));
        assert_eq!("0x0000000A".parse(), Ok(TargetTimeline::Id(TimelineId::new(10).unwrap())));
        assert_eq!("7".parse(), Ok(TargetTimeline::Id(TimelineId::new(7).unwrap())));
        for text in ["", "0", "0x", "newest", "-1", "0x+1"] {
            assert!(text.parse::<TargetTimeline>().is_err(), "{text:?}");
        }
    }
}
