//! A line of time.

use jiff::Timestamp;
use pgwal::PgTimestamp;

/// Steps between marks, in seconds.
const STEPS: [i64; 18] = [
    10,
    60,
    300,
    900,
    1800,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    86_400,
    2 * 86_400,
    7 * 86_400,
    14 * 86_400,
    30 * 86_400,
    90 * 86_400,
    180 * 86_400,
    365 * 86_400,
    3650 * 86_400,
];
/// The shortest time that is drawn, in seconds.
const SPAN_MIN: f64 = 60.0;
/// The room that a mark's text takes, in pixels.
const MARK_WIDTH: f64 = 90.0;

/// From one moment, at `left`, to another, at `right`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    begin: f64,
    end: f64,
    pub(super) left: f64,
    pub(super) right: f64,
}

impl Axis {
    /// An axis on which all these moments are; in seconds since 1970.
    pub(super) fn of(moments: impl Iterator<Item = f64>, left: f64, right: f64) -> Option<Self> {
        let (begin, end) = moments.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
        if begin > end {
            return None;
        }
        let span = (end - begin).max(SPAN_MIN);
        Some(Axis { begin: begin - span * 0.01, end: begin + span * 1.01, left, right })
    }

    /// Where a moment is, in pixels.
    pub(super) fn x(&self, seconds: f64) -> f64 {
        let share = (seconds - self.begin) / (self.end - self.begin);
        self.left + share.clamp(0.0, 1.0) * (self.right - self.left)
    }

    /// Moments to mark, and their texts.
    pub(super) fn marks(&self) -> Vec<(f64, String)> {
        let room = ((self.right - self.left) / MARK_WIDTH).max(1.0);
        let span = self.end - self.begin;
        let step =
            STEPS.into_iter().find(|step| span / *step as f64 <= room).unwrap_or(STEPS[STEPS.len() - 1]);
        let format = match step {
            ..60 => "%H:%M:%S",
            60..86_400 if span > 86_400.0 => "%m-%d %H:%M",
            60..86_400 => "%H:%M",
            _ if span > 300.0 * 86_400.0 => "%Y-%m-%d",
            _ => "%m-%d",
        };
        let mut at = (self.begin as i64).div_euclid(step).saturating_add(1).saturating_mul(step);
        let mut marks = Vec::new();
        while (at as f64) < self.end {
            let text = Timestamp::from_second(at).map(|time| time.strftime(format).to_string());
            marks.push((self.x(at as f64), text.unwrap_or_default()));
            at = at.saturating_add(step);
        }
        marks
    }

    /// The first moment as a date.
    pub(super) fn first_day(&self) -> String {
        let begin = Timestamp::from_second(self.begin as i64);
        begin.map(|begin| begin.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: PgTimestamp) -> f64 {
    time.as_unix_micros().map_or(0.0, |micros| micros as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_few_and_in_order() {
        for span in [0.0, 1.0, 3600.0, 86_400.0, 1e7, 1e9] {
            let axis = Axis::of([1.7e9, 1.7e9 + span].into_iter(), 0.0, 360.0).unwrap();
            let marks = axis.marks();
            assert!(marks.len() <= 5, "{span}: {marks:?}");
            assert!(marks.is_sorted_by(|a, b| a.0 < b.0), "{marks:?}");
        }
        assert!(Axis::of(std::iter::empty(), 0.0, 1.0).is_none());
    }
}
