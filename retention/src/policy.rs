//! The policies, and how they are written.
//!
//! ```text
//! policy    := term [AND term]...
//! term      := [VERIFIED] rule [VERIFIED] | VERIFIED
//! rule      := REDUNDANCY n
//!            | RECOVERY WINDOW OF n unit
//!            | KEEP n period [n period]... [IN zone]
//! unit      := HOUR[S] | DAY[S] | WEEK[S] | MONTH[S] | YEAR[S]
//! period    := HOURLY | DAILY | WEEKLY | MONTHLY | YEARLY
//! wal       := MAIN | WINDOW OF n unit
//! ```
//!
//! Words are in any case, with any white space between them; nothing may follow. `REDUNDANCY` and `RECOVERY WINDOW` with
//! days, weeks and months are Barman's.

mod parse;
mod suggest;

use std::fmt;

use jiff::{SignedDuration, Timestamp};

pub use parse::ParsePolicyError;

/// Which backups to keep: what any of its clauses needs.
///
/// ```
/// use barkeep_retention::Policy;
/// let policy: Policy = "recovery window of 4 weeks and keep 12 monthly in Europe/Berlin".parse()?;
/// assert_eq!(policy.to_string(), "RECOVERY WINDOW OF 4 WEEKS AND KEEP 12 MONTHLY IN Europe/Berlin");
///
/// let error = "RECOVERY_WINDOW_OF_7_DAYS".parse::<Policy>().unwrap_err();
/// assert_eq!(error.suggestion(), Some("RECOVERY WINDOW OF 7 DAYS"));
/// # Ok::<(), barkeep_retention::ParsePolicyError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    clauses: Vec<Clause>,
}

/// One demand of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// What it demands.
    pub rule: Rule,
    /// Whether only backups count that passed a verification or a restore drill. The others stay as long as too few of
    /// those that count are newer.
    pub verified: bool,
}

/// What a clause demands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The newest so many backups.
    Redundancy(u32),
    /// What recovery to any moment of this stretch of the past needs.
    RecoveryWindow(Window),
    /// The newest backup of each of so many hours, days, weeks, months and years.
    Keep(Calendar),
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
    /// 60 minutes.
    Hours,
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
    /// 31 days, whichever month it is.
    Months,
    /// 366 days, whichever year it is.
    Years,
}

/// How many hours, days, weeks, months and years to keep the newest backup of (grandfather, father, son). Only those in
/// which a backup ended count; a backup may stand for several.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Calendar {
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks, from Monday on.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// In which time zone a day begins, by its name in the IANA database; UTC if not stated. Looking it up is the
    /// caller's business ([`Rules::zone`](crate::Rules::zone)).
    pub zone: Option<String>,
}

/// A part of the calendar in which one backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// Which WAL to keep besides what makes each backup consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WalPolicy {
    /// All WAL from the beginning of the oldest backup on: recovery to any moment since.
    #[default]
    Main,
    /// What recovery to any moment of this stretch of the past needs. Backups from before it keep only the WAL that
    /// makes them consistent.
    Window(Window),
}

impl Policy {
    /// A policy of these clauses; `None` without any, with a clause that can demand nothing, or with two different
    /// time zones.
    pub fn new(clauses: Vec<Clause>) -> Option<Self> {
        let mut zones = clauses.iter().filter_map(Clause::zone);
        let first = zones.next();
        let demanding = clauses.iter().all(|clause| match &clause.rule {
            Rule::Keep(calendar) => calendar.counts().any(|(_, count)| count > 0),
            Rule::Redundancy(_) | Rule::RecoveryWindow(_) => true,
        });
        let sound = !clauses.is_empty() && demanding && zones.all(|zone| Some(zone) == first);
        sound.then_some(Policy { clauses })
    }

    /// A policy of one rule.
    pub fn of(rule: Rule) -> Self {
        Policy { clauses: vec![Clause { rule, verified: false }] }
    }

    /// Its clauses; at least one.
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// The time zone that it states.
    pub fn zone(&self) -> Option<&str> {
        self.clauses.iter().find_map(Clause::zone)
    }

    /// The longest recovery window that it promises.
    pub fn window(&self) -> Option<Window> {
        let windows = self.clauses.iter().filter_map(|clause| match clause.rule {
            Rule::RecoveryWindow(window) => Some(window),
            Rule::Redundancy(_) | Rule::Keep(_) => None,
        });
        windows.max_by_key(|window| window.duration())
    }
}

impl Clause {
    fn zone(&self) -> Option<&str> {
        match &self.rule {
            Rule::Keep(calendar) => calendar.zone.as_deref(),
            Rule::Redundancy(_) | Rule::RecoveryWindow(_) => None,
        }
    }
}

impl Window {
    /// Its length.
    pub fn duration(self) -> SignedDuration {
        let hours = match self.unit {
            WindowUnit::Hours => 1,
            WindowUnit::Days => 24,
            WindowUnit::Weeks => 7 * 24,
            WindowUnit::Months => 31 * 24,
            WindowUnit::Years => 366 * 24,
        };
        SignedDuration::from_secs(i64::from(self.count) * hours * 3600)
    }

    /// The moment it begins; the beginning of time for a window longer than that.
    pub fn begin(self, now: Timestamp) -> Timestamp {
        now.checked_sub(self.duration()).unwrap_or(Timestamp::MIN)
    }

    /// When a moment leaves the window; `None` when time ends before.
    pub fn end_for(self, moment: Timestamp) -> Option<Timestamp> {
        moment.checked_add(self.duration()).ok()
    }
}

impl Calendar {
    /// How many of each period, from the shortest to the longest.
    pub fn counts(&self) -> impl Iterator<Item = (Period, u32)> + use<> {
        [
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
        .into_iter()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, clause) in self.clauses.iter().enumerate() {
            f.write_str(if index > 0 { " AND " } else { "" })?;
            clause.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Redundancy(count) => write!(f, "REDUNDANCY {count}")?,
            Rule::RecoveryWindow(window) => write!(f, "RECOVERY WINDOW OF {window}")?,
            Rule::Keep(calendar) => write!(f, "KEEP {calendar}")?,
        }
        f.write_str(if self.verified { " VERIFIED" } else { "" })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            WindowUnit::Hours => "HOURS",
            WindowUnit::Days => "DAYS",
            WindowUnit::Weeks => "WEEKS",
            WindowUnit::Months => "MONTHS",
            WindowUnit::Years => "YEARS",
        };
        write!(f, "{} {unit}", self.count)
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (period, count) in self.counts().filter(|(_, count)| *count > 0) {
            let space = if std::mem::take(&mut first) { "" } else { " " };
            write!(f, "{space}{count} {}", period.adverb())?;
        }
        match &self.zone {
            Some(zone) => write!(f, " IN {zone}"),
            None => Ok(()),
        }
    }
}

impl Period {
    /// Its word in a policy.
    pub const fn adverb(self) -> &'static str {
        match self {
            Period::Hour => "HOURLY",
            Period::Day => "DAILY",
            Period::Week => "WEEKLY",
            Period::Month => "MONTHLY",
            Period::Year => "YEARLY",
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
            Period::Year => "year",
        })
    }
}

impl fmt::Display for WalPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalPolicy::Main => f.write_str("MAIN"),
            WalPolicy::Window(window) => write!(f, "WINDOW OF {window}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_longer_than_time_reaches_to_its_beginning() {
        let window = Window { count: u32::MAX, unit: WindowUnit::Years };
        assert_eq!(window.begin(Timestamp::UNIX_EPOCH), Timestamp::MIN);
        assert_eq!(window.end_for(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn units_have_their_lengths() {
        let hours = |unit| Window { count: 1, unit }.duration().as_hours();
        let all =
            [WindowUnit::Hours, WindowUnit::Days, WindowUnit::Weeks, WindowUnit::Months, WindowUnit::Years];
        assert_eq!(all.map(hours), [1, 24, 168, 744, 8784]);
        let week = Window { count: 1, unit: WindowUnit::Weeks };
        let moment: Timestamp = "2026-01-08T00:00:00Z".parse().unwrap();
        assert_eq!(week.begin(moment).to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(week.end_for(week.begin(moment)), Some(moment));
    }

    #[test]
    fn a_policy_that_demands_nothing_or_contradicts_itself_is_none() {
        let keep = |daily, zone: Option<&str>| Clause {
            rule: Rule::Keep(Calendar { daily, zone: zone.map(str::to_owned), ..Calendar::default() }),
            verified: false,
        };
        assert_eq!(Policy::new(Vec::new()), None);
        assert_eq!(Policy::new(vec![keep(0, None)]), None);
        assert_eq!(Policy::new(vec![keep(1, Some("UTC")), keep(1, Some("Asia/Tokyo"))]), None);
        let policy = Policy::new(vec![keep(1, None), keep(1, Some("UTC"))]).unwrap();
        assert_eq!(policy.zone(), Some("UTC"));
        assert_eq!(policy.window(), None);
        let policy: Policy = "recovery window of 3 days and recovery window of 1 week".parse().unwrap();
        assert_eq!(policy.window().map(|window| window.to_string()).as_deref(), Some("1 WEEKS"));
    }
}
