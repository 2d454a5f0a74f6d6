//! How long the server will be busy with a segment: it needs neither another one nor the disk meanwhile.

use std::time::Duration;

/// Later times count for so much: one in four.
const WEIGHT: u32 = 4;

/// How long things took of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Replaying a record.
    per_record: Option<Duration>,
    copying: Duration,
    syncing: Duration,
}

impl Pace {
    /// The server took so long for a segment with so many records.
    pub(super) fn replayed(&mut self, records: u32, took: Duration) {
        let Some(one) = took.checked_div(records) else { return };
        self.per_record = Some(self.per_record.map_or(one, |usual| mean(usual, one)));
    }

    /// How long it will take for one with so many, if that can be told. Records differ: of a segment with few of them, most are
    /// large, and it takes longer than this.
    pub(super) fn replay_of(&self, records: u32) -> Option<Duration> {
        Some(self.per_record?.saturating_mul(records))
    }

    /// A segment was copied in so long.
    pub(super) fn copied(&mut self, took: Duration) {
        self.copying = mean(self.copying, took);
    }

    /// And brought to stable storage in so long.
    pub(super) fn synced(&mut self, took: Duration) {
        self.syncing = mean(self.syncing, took);
    }

    /// How long copying one takes, with something to spare.
    pub(super) fn copying(&self) -> Duration {
        self.copying * 5 / 4
    }

    /// How long bringing one to stable storage takes, with something to spare.
    pub(super) fn syncing(&self) -> Duration {
        self.syncing * 5 / 4
    }
}

/// The first time counts for all.
fn mean(usual: Duration, latest: Duration) -> Duration {
    if usual.is_zero() { latest } else { (usual * (WEIGHT - 1) + latest) / WEIGHT }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_segment_with_few_records_is_replayed_soon() {
        let mut pace = Pace::default();
        assert_eq!(pace.replay_of(1000), None, "nothing is known yet");
        pace.replayed(10_000, 20 * MS);
        assert_eq!(pace.replay_of(1000), Some(2 * MS));
        // It follows what it sees, slowly: one segment may be unlike the others.
        pace.replayed(10_000, 40 * MS);
        assert_eq!(pace.replay_of(10_000), Some(25 * MS));
        pace.replayed(0, 40 * MS);
        assert_eq!(pace.replay_of(u32::MAX), pace.replay_of(1000).map(|thousand| thousand / 1000 * u32::MAX));
    }

    #[test]
    fn what_takes_long_needs_more_to_spare() {
        let mut pace = Pace::default();
        assert!(pace.copying().is_zero() && pace.syncing().is_zero());
        pace.copied(8 * MS);
        pace.synced(4 * MS);
        pace.synced(8 * MS);
        assert_eq!((pace.copying(), pace.syncing()), (10 * MS, 25 * MS / 4));
    }
}
