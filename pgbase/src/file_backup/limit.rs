//! Keeping to a rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest sleep at a time, so that an interruption is seen soon.
const SLEEP_MAX: Duration = Duration::from_millis(200);

/// How much time in which too little was moved is made up for: a sleep that took too long, a slow read. More would be a burst.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// A limit in bytes a second, shared by threads.
#[derive(Debug)]
pub(super) struct Limiter {
    bytes_per_second: f64,
    /// When all that was taken so far may have been moved.
    due: Mutex<Option<Instant>>,
}

impl Limiter {
    /// A limit in KiB a second; 0 would never end and means none.
    pub(super) fn from_kib(kib_per_second: u32) -> Option<Self> {
        let bytes_per_second = f64::from(kib_per_second) * 1024.0;
        (kib_per_second > 0).then(|| Limiter { bytes_per_second, due: Mutex::new(None) })
    }

    /// Accounts for bytes that were moved, and waits until they may have been.
    pub(super) fn take(&self, bytes: u64, stop: &dyn Fn() -> bool) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let next = next_due(*due, Instant::now(), cost);
            *due.insert(next)
        };
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if stop() {
                return;
            }
            std::thread::sleep(left.min(SLEEP_MAX));
        }
    }
}

/// When what costs so much time may have been moved, after all that was due before.
fn next_due(due: Option<Instant>, now: Instant, cost: Duration) -> Instant {
    let earliest = now.checked_sub(CATCH_UP_MAX.max(cost)).unwrap_or(now);
    due.unwrap_or(now).max(earliest) + cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_together_keep_to_the_limit() {
        let limiter = Limiter::from_kib(10 << 10).unwrap();
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..16).for_each(|_| limiter.take(64 << 10, &|| false)));
            }
        });
        // 4 MiB at 10 MiB a second; a busy machine may take longer, never less.
        assert!(started.elapsed() >= Duration::from_millis(380), "{:?}", started.elapsed());
    }

    /// How long moving so many pieces takes whose reading and writing takes `work`, if every sleep takes `late` longer than
    /// it should, and how long it should take.
    fn simulated(pieces: u32, cost: Duration, work: Duration, late: Duration) -> (f64, f64) {
        let start = Instant::now();
        let (mut now, mut due) = (start, None);
        for _ in 0..pieces {
            now += work;
            let wake = next_due(due, now, cost);
            due = Some(wake);
            if wake > now {
                now = wake + late;
            }
        }
        ((now - start).as_secs_f64(), cost.as_secs_f64() * f64::from(pieces))
    }

    #[test]
    fn the_rate_is_true_to_within_five_percent_whatever_a_piece_costs() {
        let us = Duration::from_micros;
        for (pieces, cost) in [(20_000, us(200)), (4000, us(1000)), (1000, us(6000)), (40, us(125_000))] {
            for work in [us(0), cost / 4, cost * 9 / 10] {
                for late in [us(0), us(60), us(2000)] {
                    let (took, should) = simulated(pieces, cost, work, late);
                    assert!(
                        (took / should - 1.0).abs() < 0.05,
                        "{cost:?} {work:?} {late:?}: {took} of {should} s"
                    );
                }
            }
        }
    }

    /// Several workers with pieces of their own sizes, each at work for `work` times what its piece costs: how long all of
    /// it takes, and how long it should take.
    fn simulated_together(costs: &[Duration], work: f64, late: Duration) -> (f64, f64) {
        const PIECES: u32 = 2000;
        let start = Instant::now();
        let mut due = None;
        // When each is at the limit with its next piece, and how many it has moved.
        let mut workers: Vec<(Instant, u32)> =
            costs.iter().map(|cost| (start + cost.mul_f64(work), 0)).collect();
        let (mut moved, mut end) = (Duration::ZERO, start);
        while let Some(next) =
            (0..workers.len()).filter(|i| workers[*i].1 < PIECES).min_by_key(|i| workers[*i].0)
        {
            let (now, cost) = (workers[next].0, costs[next]);
            let wake = next_due(due, now, cost);
            due = Some(wake);
            let gone_on = if wake > now { wake + late } else { now };
            moved += cost;
            end = end.max(gone_on);
            workers[next] = (gone_on + cost.mul_f64(work), workers[next].1 + 1);
        }
        ((end - start).as_secs_f64(), moved.as_secs_f64())
    }

    #[test]
    fn the_rate_is_true_to_within_five_percent_however_many_share_it() {
        let us = Duration::from_micros;
        for costs in
            [&[us(900); 2][..], &[us(6000); 8], &[us(100), us(125_000)], &[us(300), us(7000), us(2000)]]
        {
            for work in [0.0, 0.25, 0.9] {
                for late in [us(0), us(60), us(2000)] {
                    let (took, should) = simulated_together(costs, work, late);
                    assert!(
                        (took / should - 1.0).abs() < 0.05,
                        "{costs:?} {work} {late:?}: {took} of {should} s"
                    );
                }
            }
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for_by_a_burst() {
        let now = Instant::now();
        let due = next_due(Some(now), now + Duration::from_secs(60), Duration::from_millis(10));
        assert_eq!(due, now + Duration::from_secs(60) - CATCH_UP_MAX + Duration::from_millis(10));
    }

    #[test]
    fn no_limit_is_none_and_an_end_ends_the_waiting() {
        assert!(Limiter::from_kib(0).is_none());
        let limiter = Limiter::from_kib(1).unwrap();
        let started = Instant::now();
        limiter.take(1 << 30, &|| true);
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
