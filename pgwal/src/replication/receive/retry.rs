//! How long to wait before the next attempt.

use std::time::Duration;

/// The pace of reconnecting after an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The wait before the second attempt; the first one is made at once. Doubled for each one after.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// How long a replication slot may be held by another receiver before that is an error. After a lost connection
    /// the server's old process may hold it until it notices.
    pub slot_active: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            // As long as the server takes to notice a lost connection with its default wal_sender_timeout.
            slot_active: Duration::from_secs(60),
        }
    }
}

/// The waits of one series of failed attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RetryPolicy,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Backoff { policy, next: Duration::ZERO }
    }

    /// The wait before the next attempt.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        let doubled = wait.checked_mul(2).unwrap_or(Duration::MAX);
        self.next = doubled.max(self.policy.first).min(self.policy.longest);
        wait
    }

    /// An attempt went well: the next failure begins a new series.
    pub(super) fn reset(&mut self) {
        self.next = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_success() {
        let policy = RetryPolicy { longest: Duration::from_secs(5), ..RetryPolicy::default() };
        let mut backoff = Backoff::new(policy);
        let waits: Vec<u64> = (0..6).map(|_| backoff.wait().as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.wait(), Duration::ZERO);
        assert_eq!(backoff.wait(), Duration::from_secs(1));
    }
}
