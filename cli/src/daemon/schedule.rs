//! When something is to happen again and again: `backup_schedule = "30 23 * * *"`.

use std::fmt;
use std::str::FromStr;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::Zoned;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The longest schedule that is read, in bytes.
const SCHEDULE_BYTES_MAX: usize = 256;

/// Points in time, as crontab(5) describes them in five fields, of the machine's time zone unless a sixth names another.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    crontab: Crontab,
    /// The same five fields in a zone without changes of clocks.
    civil: Crontab,
    zone: TimeZone,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no schedule: {reason}")]
pub(crate) struct ScheduleError {
    text: String,
    reason: String,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason: &dyn fmt::Display| ScheduleError {
            text: text.chars().take(64).collect(),
            // The parser draws the place below the text.
            reason: reason.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        };
        if text.len() > SCHEDULE_BYTES_MAX {
            return Err(fail(&"it is too long"));
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::System;
        let crontab = cronexpr::parse_crontab_with(text, options).map_err(|error| fail(&error))?;
        let fields: Vec<&str> = text.split_whitespace().collect();
        let civil = fields.iter().take(5).copied().chain(["UTC"]).collect::<Vec<_>>().join(" ");
        let civil = cronexpr::parse_crontab(&civil).map_err(|error| fail(&error))?;
        let zone = match fields.get(5) {
            Some(name) => TimeZone::get(name).map_err(|error| fail(&error))?,
            None => TimeZone::system(),
        };
        Ok(Schedule { crontab, civil, zone })
    }
}

impl Schedule {
    /// The first point after `now`; `None` when there is none in the next years, as for February 30th.
    ///
    /// What falls into an hour that clocks skip is due as much later: a night has its backup also then.
    pub(crate) fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        let next = self.crontab.find_next(MakeTimestamp(now.timestamp())).ok();
        let skipped = self.next_skipped(now);
        match (next, skipped) {
            (Some(next), Some(skipped)) => Some(next.min(skipped)),
            (next, skipped) => next.or(skipped),
        }
    }

    /// The next point that no clock shows.
    fn next_skipped(&self, now: &Zoned) -> Option<Zoned> {
        let civil_now = now.with_time_zone(self.zone.clone()).datetime().to_zoned(TimeZone::UTC).ok()?;
        let next = self.civil.find_next(MakeTimestamp(civil_now.timestamp())).ok()?;
        let moment = self.zone.to_ambiguous_zoned(next.datetime());
        let skipped = matches!(moment.offset(), AmbiguousOffset::Gap { .. });
        let moment = moment.compatible().ok()?;
        (skipped && moment > *now).then_some(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, now: &str, next: Option<&str>) {
        let now: Zoned = now.parse().unwrap();
        let found = schedule.parse::<Schedule>().unwrap().next_after(&now);
        assert_eq!(found, next.map(|next| next.parse().unwrap()), "{schedule} after {now}");
    }

    #[test]
    fn schedules_are_crontabs() {
        let now = "2026-11-25T23:29:59+01:00[Europe/Rome]";
        check("30 23 * * * Europe/Rome", now, Some("2026-11-25T23:30:00+01:00[Europe/Rome]"));
        check("*/20 * * * * Europe/Rome", now, Some("2026-11-25T23:40:00+01:00[Europe/Rome]"));
        check("0 2 * * SUN Europe/Rome", now, Some("2026-11-29T02:00:00+01:00[Europe/Rome]"));
        check("0 0 30 2 * UTC", now, None);
        // It is after this moment, not at it.
        check("29 23 * * * UTC", "2026-11-25T23:29:00Z[UTC]", Some("2026-11-26T23:29:00Z[UTC]"));
        assert!("30 23 * * *".parse::<Schedule>().is_ok(), "in the machine's zone");
    }

    #[test]
    fn a_night_that_the_clocks_change_in_has_its_backup() {
        check(
            "30 2 * * * Europe/Rome",
            "2026-03-29T00:00:00+01:00[Europe/Rome]",
            Some("2026-03-29T03:30:00+02:00[Europe/Rome]"),
        );
        // And one when the clocks show that time twice.
        let first = "2026-10-25T02:30:00+02:00[Europe/Rome]";
        check("30 2 * * * Europe/Rome", "2026-10-25T00:00:00+02:00[Europe/Rome]", Some(first));
    }

    #[test]
    fn what_is_no_schedule_is_named_in_one_line() {
        for text in ["", "tomorrow", "60 1 * * *", "* * * *", "* * * * * Nowhere/City", "@daily"] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("is no schedule") && error.lines().count() == 1, "{error}");
        }
        assert!("* ".repeat(500).parse::<Schedule>().is_err());
    }
}
