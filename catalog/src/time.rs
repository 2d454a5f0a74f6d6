//! Moments as Barman writes them: Python's text of a `datetime`, and the older forms it still reads.

use jiff::civil::DateTime;
use jiff::fmt::{strtime, temporal::Pieces};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Reads `2026-11-22 10:15:39.343309+00:00`, any other ISO 8601 form, or C's `Mon Mar  6 15:36:23 2017`. A moment
/// without an offset is local to this host.
pub(crate) fn parse(text: &str) -> Option<Zoned> {
    if let Ok(pieces) = Pieces::parse(text) {
        let moment = DateTime::from_parts(pieces.date(), pieces.time()?);
        let zone = match pieces.to_numeric_offset() {
            Some(offset) => TimeZone::fixed(offset),
            None => TimeZone::system(),
        };
        return moment.to_zoned(zone).ok();
    }
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let moment = strtime::parse("%a %b %d %H:%M:%S %Y", words).ok()?.to_datetime().ok()?;
    moment.to_zoned(TimeZone::system()).ok()
}

/// Prints as Python's `str(datetime)`: microseconds unless they are 0, and the offset.
pub(crate) fn render(moment: &Zoned) -> String {
    let micros = moment.subsec_nanosecond() / 1_000;
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    let offset = moment.offset().seconds();
    let (sign, seconds) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
    let odd = if seconds % 60 == 0 { String::new() } else { format!(":{:02}", seconds % 60) };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{fraction}{sign}{:02}:{:02}{odd}",
        moment.year(),
        moment.month(),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second(),
        seconds / 3600,
        seconds / 60 % 60,
    )
}

/// A moment on the UTC clock as `20261122T101555Z`, for the names of rejected files.
pub(crate) fn utc_stamp(moment: Timestamp) -> String {
    let utc = moment.to_zoned(TimeZone::UTC);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        utc.year(),
        utc.month(),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_barman_writes_keeps_its_bytes() {
        for text in [
            "2026-11-22 10:15:39.343309+00:00",
            "2026-11-22 10:15:39+05:30",
            "2026-11-22 10:15:39.000001-03:00",
        ] {
            assert_eq!(render(&parse(text).unwrap()), text);
        }
        assert_eq!(render(&parse("2026-11-22T10:15:39.5Z").unwrap()), "2026-11-22 10:15:39.500000+00:00");
    }

    #[test]
    fn older_forms_are_local_time() {
        let local = |text: &str| {
            let moment: DateTime = text.parse().unwrap();
            moment.to_zoned(TimeZone::system()).unwrap()
        };
        assert_eq!(parse("2017-03-06 15:36:23.5").unwrap(), local("2017-03-06 15:36:23.5"));
        assert_eq!(parse("Mon Mar  6 15:36:23 2017").unwrap(), local("2017-03-06 15:36:23"));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn rejected_files_are_stamped_in_utc() {
        let moment: Timestamp = "2026-11-22T10:15:39.9+02:00".parse().unwrap();
        assert_eq!(utc_stamp(moment), "20261122T081539Z");
    }
}
