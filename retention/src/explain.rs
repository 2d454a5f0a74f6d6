//! Reasons in words.

use std::fmt;

use crate::evaluate::{Judgement, Keep, Reason, Verdict};
use crate::wal::Fate;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keep::Full => "full",
            Keep::Standalone => "standalone",
        })
    }
}

impl<Id: fmt::Display> fmt::Display for Reason<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotDone => f.write_str("it is not finished, or it failed"),
            Reason::NoRoot => f.write_str("its chain of parents leads to no full backup"),
            Reason::Kept(Keep::Full) => f.write_str("it is kept, with all later WAL"),
            Reason::Kept(Keep::Standalone) => f.write_str("it is kept, with the WAL it needs itself"),
            Reason::AmongNewest { place, wanted } => {
                write!(f, "number {place} of the {wanted} newest full backups to be kept")
            }
            Reason::BeyondNewest { wanted } => write!(f, "{wanted} newer full backups are kept"),
            Reason::InWindow { begin } => write!(f, "it ended after the window began, at {begin}"),
            Reason::Anchor { begin } => write!(
                f,
                "the newest backup before {begin}: recovery to the beginning of the window starts from it"
            ),
            Reason::BeforeWindow { begin } => {
                write!(f, "recovery to the beginning of the window, {begin}, starts from a newer backup")
            }
            Reason::MinimumRedundancy { minimum } => {
                write!(f, "the policy does not need it, but minimum_redundancy asks for {minimum} backups")
            }
            Reason::FollowsRoot { root } => write!(f, "it is an increment of {root} and shares its fate"),
            Reason::RootStandsAlone { root } => {
                write!(
                    f,
                    "its full backup {root} is kept by itself, and the policy has no use for increments of it"
                )
            }
        }
    }
}

impl<Id: fmt::Display> fmt::Display for Judgement<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.id, self.verdict, self.reason)
    }
}

impl<Id: fmt::Display> fmt::Display for Fate<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Needed { by } => write!(f, "recovery from backup {by} may ask for it"),
            Fate::UnknownAncestry { by } => {
                write!(f, "its timeline's history is not known, so recovery from backup {by} may ask for it")
            }
            Fate::History => f.write_str("timeline histories are always kept"),
            Fate::Unreadable => f.write_str("its name does not fit the cluster's segment size"),
            Fate::NothingRemains => f.write_str("no backup remains to measure it by"),
            Fate::Removable => f.write_str("recovery from no remaining backup can ask for it"),
        }
    }
}
