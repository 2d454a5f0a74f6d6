//! Times as people type them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use pgwal::PgTimestamp;

use crate::error::CommandError;

/// A moment, and whether the person left its time zone to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) zoned: Zoned,
    pub(crate) zone_assumed: bool,
}

impl Moment {
    /// Reads a time: `2026-11-22 10:16:05`, with `T`, without seconds, or only a date; with a fraction; with an offset
    /// (`+01:00`, `+0100`, `+01`, `Z`) or a zone's name (`UTC`, `Europe/Rome`). Without either it is in `local`.
    pub(crate) fn read(text: &str, local: &TimeZone) -> Result<Self, CommandError> {
        let text = text.trim();
        let shown: String = text.chars().take(64).collect();
        let failure = || {
            CommandError::new(format!("\"{shown}\" is not a target time")).hint(
                "write it like \"2026-11-22 10:16:05+01:00\", or like \"2026-11-22 10:16:05 Europe/Rome\"",
            )
        };
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            let zone = offset_of(text).unwrap_or(TimeZone::UTC);
            return Ok(Moment { zoned: timestamp.to_zoned(zone), zone_assumed: false });
        }
        let (datetime, zone) = match split_zone(text) {
            Some((datetime, name)) => (datetime, Some(TimeZone::get(name).map_err(|_| failure())?)),
            None => (text, None),
        };
        // An offset that jiff would ignore here has been dealt with above, or is wrong.
        if has_offset(datetime) {
            return Err(failure());
        }
        let datetime: DateTime = datetime.parse().map_err(|_| failure())?;
        let zone_assumed = zone.is_none();
        let zone = zone.unwrap_or_else(|| local.clone());
        let ambiguous = zone.to_ambiguous_zoned(datetime);
        let zoned = ambiguous.unambiguous().map_err(|_| {
            CommandError::new(format!(
                "\"{shown}\" is no moment, or two, in its time zone: the clocks were changed around it"
            ))
            .hint("add the offset you mean, like +01:00")
        })?;
        Ok(Moment { zoned, zone_assumed })
    }

    /// As PostgreSQL counts it.
    pub(crate) fn postgres(&self) -> Result<PgTimestamp, CommandError> {
        postgres_time(&self.zoned)
    }

    /// As people read it, with its offset.
    pub(crate) fn text(&self) -> String {
        let fraction = if self.zoned.subsec_nanosecond() == 0 { "" } else { "%.6f" };
        self.zoned.strftime(&format!("%Y-%m-%d %H:%M:%S{fraction}%:z")).to_string()
    }
}

/// A time as PostgreSQL counts it.
pub(crate) fn postgres_time(time: &Zoned) -> Result<PgTimestamp, CommandError> {
    PgTimestamp::from_unix_micros(time.timestamp().as_microsecond())
        .ok_or_else(|| CommandError::new(format!("{time} is out of PostgreSQL's range of times")))
}

/// The fixed zone of a text that ends in an offset.
fn offset_of(text: &str) -> Option<TimeZone> {
    let offset = text.rfind(['+', '-']).filter(|at| *at > DATE_LENGTH)?;
    let digits: String = text[offset + 1..].chars().filter(char::is_ascii_digit).collect();
    let part =
        |range: std::ops::Range<usize>| digits.get(range).map_or(Some(0), |part| part.parse::<i32>().ok());
    let seconds = part(0..2)? * 3600 + part(2..4)? * 60;
    let signed = if text[offset..].starts_with('-') { -seconds } else { seconds };
    Some(TimeZone::fixed(jiff::tz::Offset::from_seconds(signed).ok()?))
}

/// `2026-11-22`: the dashes in it are no offset.
const DATE_LENGTH: usize = 10;

fn has_offset(text: &str) -> bool {
    text.get(DATE_LENGTH..).is_some_and(|rest| rest.contains(['+', '-', 'z', 'Z', '[']))
}

/// A zone's name after the time.
fn split_zone(text: &str) -> Option<(&str, &str)> {
    let (datetime, zone) = text.rsplit_once(' ')?;
    zone.starts_with(|c: char| c.is_ascii_alphabetic()).then_some((datetime.trim_end(), zone))
}

/// Reads a moment for what is yet to come or long past: a time as [`Moment::read`] takes it, or a span of time from `now` on
/// with its sign (`+7 days`, `-36h`).
///
/// # Errors
/// When it is neither.
pub(crate) fn read_moment(text: &str, now: Timestamp, local: &TimeZone) -> Result<Timestamp, CommandError> {
    let text = text.trim();
    let (sign, span) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(span), _) => (1, span),
        (None, Some(span)) => (-1, span),
        (None, None) => return Moment::read(text, local).map(|moment| moment.zoned.timestamp()),
    };
    let span: Option<Span> = span.trim().parse().ok();
    let moment = span
        .and_then(|span| span.checked_mul(sign).ok())
        .and_then(|span| now.to_zoned(local.clone()).checked_add(span).ok());
    moment.map(|moment| moment.timestamp()).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        CommandError::new(format!("\"{shown}\" is no length of time"))
            .hint("write it like \"+7 days\" or \"-36 hours\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str, assumed: bool) {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let moment = Moment::read(text, &zone).unwrap();
        assert_eq!((moment.text().as_str(), moment.zone_assumed), (expected, assumed), "{text}");
    }

    #[test]
    fn times_with_an_offset_are_taken_as_they_are() {
        check("2017-03-06 15:36:23+05:30", "2017-03-06 15:36:23+05:30", false);
        check("2026-11-22T10:16:05.25Z", "2026-11-22 10:16:05.250000+00:00", false);
        check("2026-11-22 10:16:05.000000+00", "2026-11-22 10:16:05+00:00", false);
        check("2026-11-22 10:16-08", "2026-11-22 10:16:00-08:00", false);
        check("2026-11-22 10:16:05 UTC", "2026-11-22 10:16:05+00:00", false);
    }

    #[test]
    fn times_without_one_are_local() {
        check("2026-11-22 10:16:05", "2026-11-22 10:16:05+02:00", true);
        check(" 2026-11-22T10:16 ", "2026-11-22 10:16:00+02:00", true);
        check("2026-11-22", "2026-11-22 00:00:00+02:00", true);
    }

    #[test]
    fn rubbish_is_one_clear_line() {
        for text in [
            "",
            "yesterday",
            "2026-13-01",
            "10:16",
            "2026-11-22 10:16:05 Mars/Base",
            "2026-11-22 10:16:05+99",
        ] {
            let error = Moment::read(text, &TimeZone::UTC).unwrap_err().to_string();
            assert!(error.contains("is not a target time") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn an_hour_that_the_clocks_repeat_has_to_be_said_exactly() {
        let Ok(rome) = TimeZone::get("Europe/Rome") else { return };
        let error = Moment::read("2026-10-25 02:30:00", &rome).unwrap_err().to_string();
        assert!(error.contains("add the offset"), "{error}");
        assert!(Moment::read("2026-10-25 02:30:00+01:00", &rome).is_ok());
    }

    #[test]
    fn spans_count_from_now() {
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let read = |text: &str| read_moment(text, now, &TimeZone::UTC).ok().map(|moment| moment.to_string());
        assert_eq!(read("+7 days").as_deref(), Some("2026-11-29T12:00:00Z"));
        assert_eq!(read(" -36h").as_deref(), Some("2026-11-21T00:00:00Z"));
        assert_eq!(read("+ 1 month").as_deref(), Some("2026-12-22T12:00:00Z"));
        assert_eq!(read("2027-01-01").as_deref(), Some("2027-01-01T00:00:00Z"));
        for wrong in ["", "7 days", "+", "+7", "-1 day ago ago", "soon"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
