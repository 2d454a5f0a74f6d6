//! Timelines: the numbered histories that a cluster gains by each promotion (`access/xlogdefs.h`, `TimeLineID`).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A timeline's number; never zero.
///
/// ```
/// use pgwal::TimelineId;
/// let timeline: TimelineId = "3".parse()?;
/// assert_eq!(timeline.as_u32(), 3);
/// # Ok::<(), pgwal::timeline::ParseTimelineError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline of a cluster that was never promoted.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// A timeline by its number, or `None` for zero.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(TimelineId(number)),
            None => None,
        }
    }

    /// The timeline's number.
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimelineId({})", self.0)
    }
}

/// A text that is not a timeline number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a timeline: expected a decimal number from 1 to 4294967295")]
pub struct ParseTimelineError {
    text: String,
}

impl FromStr for TimelineId {
    type Err = ParseTimelineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| text.parse().ok().map(TimelineId))
            .flatten()
            .ok_or_else(|| ParseTimelineError { text: text.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_signs_and_overflow_are_refused() {
        for text in ["0", "", "+1", "-1", "4294967296", "1 ", "0x1"] {
            assert!(text.parse::<TimelineId>().is_err(), "{text:?}");
        }
        assert_eq!("4294967295".parse(), Ok(TimelineId(NonZeroU32::MAX)));
    }
}
