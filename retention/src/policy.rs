//! The policies, and how they are written.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// How many backups, or how much past, to keep.
///
/// ```
/// use barkeep_retention::Policy;
/// let policy: Policy = "recovery window of 4 weeks".parse()?;
/// assert_eq!(policy.to_string(), "RECOVERY WINDOW OF 4 WEEKS");
/// # Ok::<(), barkeep_retention::ParsePolicyError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The newest so many backups.
    Redundancy(u32),
    /// What recovery to any moment of this stretch of the past needs.
    RecoveryWindow(Window),
}

/// A stretch of time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// How many units.
    pub count: u32,
    /// The unit.
    pub unit: WindowUnit,
}

/// A unit of [`Window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowUnit {
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
    /// 31 days, whichever month it is.
    Months,
}

impl Window {
    /// Its length.
    pub fn duration(self) -> SignedDuration {
        let days = match self.unit {
            WindowUnit::Days => 1,
            WindowUnit::Weeks => 7,
            WindowUnit::Months => 31,
        };
        SignedDuration::from_secs(i64::from(self.count) * days * 86_400)
    }

    /// The moment it begins; the beginning of time for a window longer than that.
    pub fn begin(self, now: Timestamp) -> Timestamp {
        now.checked_sub(self.duration()).unwrap_or(Timestamp::MIN)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Redundancy(count) => write!(f, "REDUNDANCY {count}"),
            Policy::RecoveryWindow(window) => write!(f, "RECOVERY WINDOW OF {window}"),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            WindowUnit::Days => "DAYS",
            WindowUnit::Weeks => "WEEKS",
            WindowUnit::Months => "MONTHS",
        };
        write!(f, "{} {unit}", self.count)
    }
}

/// A text that is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a retention policy: expected REDUNDANCY n, or RECOVERY WINDOW OF n DAYS, WEEKS or MONTHS"
)]
pub struct ParsePolicyError {
    text: String,
}

impl FromStr for Policy {
    type Err = ParsePolicyError;

    /// Reads a policy in any case, with any white space between words.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let words: Vec<&str> = lower.split_whitespace().take(6).collect();
        let policy = match words.as_slice() {
            ["redundancy", count] => number(count).map(Policy::Redundancy),
            ["recovery", "window", "of", count, unit] => {
                let window = number(count).zip(parse_unit(unit));
                window.map(|(count, unit)| Policy::RecoveryWindow(Window { count, unit }))
            }
            _ => None,
        };
        policy.ok_or_else(|| ParsePolicyError { text: text.chars().take(64).collect() })
    }
}

/// Digits alone (`parse` would also take a sign).
fn number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn parse_unit(word: &str) -> Option<WindowUnit> {
    match word {
        "day" | "days" => Some(WindowUnit::Days),
        "week" | "weeks" => Some(WindowUnit::Weeks),
        "month" | "months" => Some(WindowUnit::Months),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn accepts(text: &str, printed: &str) {
        assert_eq!(
            text.parse::<Policy>().map(|policy| policy.to_string()).as_deref(),
            Ok(printed),
            "{text:?}"
        );
    }

    #[test]
    fn accepts_barmans_grammar() {
        accepts("REDUNDANCY 2 ", "REDUNDANCY 2");
        accepts("redundancy\t0", "REDUNDANCY 0");
        accepts("RECOVERY WINDOW OF 1 DAY", "RECOVERY WINDOW OF 1 DAYS");
        accepts(" Recovery  window of 7 Days", "RECOVERY WINDOW OF 7 DAYS");
        accepts("recovery window of 2 week", "RECOVERY WINDOW OF 2 WEEKS");
        accepts("RECOVERY WINDOW OF 12 MONTHS", "RECOVERY WINDOW OF 12 MONTHS");
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "REDUNDANCY",
            "REDUNDANCY -1",
            "REDUNDANCY +1",
            "REDUNDANCY 2 3",
            "REDUNDANCY two",
            "REDUNDANCY 99999999999",
            "window of 3 days",
            "RECOVERY WINDOW OF 3",
            "RECOVERY WINDOW OF 3 YEAR",
            "RECOVERY WINDOW OF 3 YEARS",
            "RECOVERY WINDOW OF 3 HOURS",
            "RECOVERY WINDOW OF 3 DAYSS",
            "RECOVERY WINDOW OF 3 DAYS LONG",
        ] {
            assert!(text.parse::<Policy>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_window_longer_than_time_reaches_to_its_beginning() {
        let window = Window { count: u32::MAX, unit: WindowUnit::Months };
        assert_eq!(window.begin(Timestamp::UNIX_EPOCH), Timestamp::MIN);
    }

    proptest! {
        #[test]
        fn the_printed_form_reads_back(count: u32, kind in 0..4) {
            let window = |unit| Policy::RecoveryWindow(Window { count, unit });
            let policy = match kind {
                0 => Policy::Redundancy(count),
                1 => window(WindowUnit::Days),
                2 => window(WindowUnit::Weeks),
                _ => window(WindowUnit::Months),
            };
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Policy>();
        }
    }
}
