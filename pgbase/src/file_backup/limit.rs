//! Keeping to a rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest sleep at a time, so that an interruption is seen soon.
const SLEEP_MAX: Duration = Duration::from_millis(200);

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
            // Time in which nothing was moved is not saved up.
            let from = due
                .unwrap_or_else(Instant::now)
                .max(Instant::now().checked_sub(cost).unwrap_or_else(Instant::now));
            *due.insert(from + cost)
        };
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if stop() {
                return;
            }
            std::thread::sleep(left.min(SLEEP_MAX));
        }
    }
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

    #[test]
    fn no_limit_is_none_and_an_end_ends_the_waiting() {
        assert!(Limiter::from_kib(0).is_none());
        let limiter = Limiter::from_kib(1).unwrap();
        let started = Instant::now();
        limiter.take(1 << 30, &|| true);
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
