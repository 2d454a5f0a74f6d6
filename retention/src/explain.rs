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
            Reason::Leaving => f.write_str("its deletion has begun"),
            Reason::Lost => f.write_str("its files are gone"),
            Reason::Kept { keep, until } => {
                f.write_str(match keep {
                    Keep::Full => "it is kept, with all later WAL",
                    Keep::Standalone => "it is kept, with the WAL it needs itself",
                })?;
                until.map_or(Ok(()), |until| write!(f, ", until {until}"))
            }
            Reason::AmongNewest { place, wanted } => {
                write!(f, "number {place} of the {wanted} newest full backups to be kept")
            }
            Reason::BeyondNewest { wanted } => write!(f, "{wanted} newer full backups are kept"),
            Reason::InWindow { begin } => write!(f, "it ended after the window began, at {begin}"),
            Reason::PerhapsInWindow { begin } => write!(
                f,
                "its end time contradicts an older backup's, so it may have ended after the window began, at {begin}"
            ),
            Reason::Anchor { begin } => write!(
                f,
                "the newest backup before {begin}: recovery to the beginning of the window starts from it"
            ),
            Reason::BeforeWindow { begin } => {
                write!(f, "recovery to the beginning of the window, {begin}, starts from a newer backup")
            }
            Reason::OfPeriod { period, place, wanted } => {
                write!(f, "the newest of its {period}, number {place} of the {wanted} for which one is kept")
            }
            Reason::OfNoPeriod => {
                f.write_str("no hour, day, week, month or year for which one is kept has it as its newest")
            }
            Reason::DoesNotCount => f.write_str(
                "it is not verified or its end time is doubtful, and too few of those that count are newer",
            ),
            Reason::LastRestorable => {
                f.write_str("the policy does not need it, but it is the newest that can be restored")
            }
            Reason::MinimumRedundancy { minimum } => {
                write!(f, "the policy does not need it, but minimum_redundancy asks for {minimum} backups")
            }
            Reason::FollowsRoot { root } => write!(f, "it is an increment of {root} and shares its fate"),
            Reason::Several(reasons) => {
                for (index, reason) in reasons.iter().enumerate() {
                    f.write_str(if index > 0 { "; " } else { "" })?;
                    reason.fmt(f)?;
                }
                Ok(())
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_told_as_barman_writes_it() {
        assert_eq!([Keep::Full, Keep::Standalone].map(|keep| keep.to_string()), ["full", "standalone"]);
    }
}
