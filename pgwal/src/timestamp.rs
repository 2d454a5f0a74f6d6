//! PostgreSQL's `timestamptz` as the WAL stores it (`datatype/timestamp.h`).

use std::fmt;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00:00 UTC.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A moment in microseconds since 2000-01-01 00:00:00 UTC, as in commit records.
///
/// Displays as PostgreSQL reads it back, always in UTC:
///
/// ```
/// use pgwal::PgTimestamp;
/// let t = PgTimestamp::from_unix_micros(1_700_000_000_123_456).unwrap();
/// assert_eq!(t.to_string(), "2023-11-14 22:13:20.123456+00");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(i64);

impl PgTimestamp {
    /// A moment from microseconds since 2000-01-01 UTC.
    pub const fn from_micros(micros: i64) -> Self {
        PgTimestamp(micros)
    }

    /// Microseconds since 2000-01-01 UTC.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// A moment from microseconds since 1970-01-01 UTC; `None` when out of range.
    pub const fn from_unix_micros(micros: i64) -> Option<Self> {
        match micros.checked_sub(POSTGRES_EPOCH_UNIX_MICROS) {
            Some(micros) => Some(PgTimestamp(micros)),
            None => None,
        }
    }

    /// Microseconds since 1970-01-01 UTC; `None` when out of range.
    pub const fn as_unix_micros(self) -> Option<i64> {
        self.0.checked_add(POSTGRES_EPOCH_UNIX_MICROS)
    }
}

impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, micros) = (self.0.div_euclid(MICROS_PER_DAY), self.0.rem_euclid(MICROS_PER_DAY));
        let (year, month, day) = civil_from_days(days);
        let seconds = micros / 1_000_000;
        // PostgreSQL has no year zero: 1 BC follows 1 AD.
        let (shown_year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
        write!(
            f,
            "{shown_year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}+00{era}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            micros % 1_000_000
        )
    }
}

impl fmt::Debug for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PgTimestamp({self})")
    }
}

/// Year, month and day of a number of days since 2000-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March, so that the leap day ends the year and months have a fixed pattern.
fn civil_from_days(days_since_2000: i64) -> (i64, i64, i64) {
    const DAYS_PER_400_YEARS: i64 = 146_097;
    // 2000-01-01 is 60 days before 2000-03-01, which starts a 400-year cycle.
    let days = days_since_2000 - 60;
    let cycle = days.div_euclid(DAYS_PER_400_YEARS);
    let day_of_cycle = days.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 2000 + 400 * cycle + year_of_cycle + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(micros: i64, text: &str) {
        assert_eq!(PgTimestamp::from_micros(micros).to_string(), text);
    }

    #[test]
    fn prints_as_postgresql_does_in_utc() {
        check(0, "2000-01-01 00:00:00.000000+00");
        check(-1, "1999-12-31 23:59:59.999999+00");
        check(59 * MICROS_PER_DAY, "2000-02-29 00:00:00.000000+00");
        check(60 * MICROS_PER_DAY, "2000-03-01 00:00:00.000000+00");
        check(36_583 * MICROS_PER_DAY, "2100-02-28 00:00:00.000000+00");
        check(36_584 * MICROS_PER_DAY, "2100-03-01 00:00:00.000000+00");
        check(-730_485 * MICROS_PER_DAY, "0001-01-01 00:00:00.000000+00 BC");
    }

    #[test]
    fn extremes_do_not_panic() {
        let _ = PgTimestamp::from_micros(i64::MIN).to_string();
        let _ = PgTimestamp::from_micros(i64::MAX).to_string();
        assert_eq!(PgTimestamp::from_unix_micros(i64::MIN), None);
        assert_eq!(PgTimestamp::from_micros(i64::MAX).as_unix_micros(), None);
    }
}
