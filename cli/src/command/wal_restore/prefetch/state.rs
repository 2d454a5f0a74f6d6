//! What the prefetcher's threads know together.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use pgwal::seam::LooseEnd;
use pgwal::{SegmentName, WalFile};

use super::pace::Pace;
use crate::command::wal_restore::plan::Plan;
use crate::command::wal_restore::spool::Answer;

/// As long as fewer files than these lie ready, all threads fetch ahead.
pub(super) const FEW: usize = 2;
/// How long the patient thread keeps still after each question: the server brings what it got to stable storage first, and waits
/// for the same disk and processors.
const STILLNESS: Duration = Duration::from_millis(2);
/// How long it waits for a better moment.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(500);
/// How many segments that were asked for are remembered.
const ASKED_MAX: usize = 8;

/// What a fetching thread does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    Fetch(WalFile),
    /// Let the memory of a segment go that recovery has passed.
    LetGo(SegmentName),
    /// Nothing for so long.
    KeepStill(Duration),
    /// Nothing, until something changes.
    None,
}

/// A file being fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) since: Instant,
    /// By the thread that lets everything else go first.
    pub(super) patient: bool,
    /// It is here, and waits for the disk.
    pub(super) held: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) plan: Plan,
    /// What lies ready, with its size in bytes.
    pub(super) ready: BTreeMap<String, u64>,
    pub(super) in_flight: BTreeMap<String, Flight>,
    /// The longest that a thread that was not patient took to bring a file here.
    pub(super) usual: Duration,
    /// Asked for, not begun.
    pub(super) demanded: VecDeque<WalFile>,
    /// How segments that were fetched end, those that recovery has yet to come to and the one before.
    pub(super) ends: BTreeMap<SegmentName, Option<LooseEnd>>,
    /// How many records there are in them.
    pub(super) records: BTreeMap<SegmentName, u32>,
    pub(super) pace: Pace,
    /// What can't be had, until something else is asked for.
    pub(super) refused: BTreeMap<String, Answer>,
    pub(super) last_question: Option<Instant>,
    /// Segments that recovery has passed, whose memory is to be let go.
    pub(super) passed: VecDeque<SegmentName>,
    /// When segments were asked for, by the clock of files; the latest [`ASKED_MAX`].
    pub(super) asked: VecDeque<(SegmentName, SystemTime)>,
    pub(super) questions: usize,
    /// Somebody of another recovery asked, or all is over.
    pub(super) ended: bool,
}

impl State {
    /// From when on a file's being fetched is timed again, when it is held no longer.
    pub(super) fn set_held(&mut self, name: &str, held: bool) {
        if let Some(flight) = self.in_flight.get_mut(name)
            && flight.held != held
        {
            *flight = Flight { since: Instant::now(), held, ..*flight };
        }
    }

    /// How long the patient thread is to keep still yet before it does what takes as long as `needed`: after a question, and when
    /// the next one is near. Not at all where little lies ready, nor for ever.
    pub(super) fn stillness_left(&self, needed: Duration) -> Option<Duration> {
        let since = self.last_question.filter(|_| self.ready.len() >= FEW)?.elapsed();
        let is_too_late = self.replay_left(since).is_some_and(|left| left < needed);
        let until = if is_too_late && since >= STILLNESS { WAIT_MAX } else { STILLNESS };
        until.checked_sub(since)
    }

    /// How long the server will be busy yet with what it asked for so long ago, if that can be told.
    fn replay_left(&self, since: Duration) -> Option<Duration> {
        let records = self.records.get(&self.plan.cursor?)?;
        Some(self.pace.replay_of(*records)?.saturating_sub(since))
    }

    /// Whether what takes as long as `needed` will be over before the server asks again.
    pub(super) fn is_time_for(&self, needed: Duration) -> bool {
        let left = self.last_question.and_then(|asked| self.replay_left(asked.elapsed()));
        left.is_some_and(|left| left >= needed)
    }

    /// The server asks for a segment, `since` it asked for the last one.
    fn learn_pace(&mut self, segment: SegmentName, since: Duration) {
        let (Some(before), Some(size)) = (self.plan.cursor, self.plan.size) else { return };
        if let Some(records) = self.records.get(&before)
            && segment.previous(size) == Some(before)
        {
            self.pace.replayed(*records, since);
        }
    }

    pub(super) fn is_asked_for(&mut self, segment: SegmentName, at: SystemTime) {
        if let Some(since) = self.last_question.map(|asked| asked.elapsed()) {
            self.learn_pace(segment, since);
        }
        self.plan.cursor = Some(segment);
        self.asked.push_back((segment, at));
        if self.asked.len() > ASKED_MAX {
            self.asked.pop_front();
        }
        // The one directly before may still be needed: for a record that ends in this one, and for standbys that are fed from here.
        let size = self.plan.size;
        let before = |segment: SegmentName| size.and_then(|size| segment.previous(size));
        self.passed.extend(before(segment).and_then(before));
        if self.passed.len() > ASKED_MAX {
            self.passed.pop_front();
        }
    }
}
