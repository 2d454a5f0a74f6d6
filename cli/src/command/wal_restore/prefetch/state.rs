//! What the prefetcher's threads know together.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use pgwal::seam::LooseEnd;
use pgwal::{SegmentName, WalFile};

use crate::command::wal_restore::plan::Plan;
use crate::command::wal_restore::spool::Answer;

/// As long as fewer files than these lie ready, all threads fetch ahead.
pub(super) const FEW: usize = 2;
/// How long the patient thread keeps still after each question: the server brings what it got to stable storage first, and waits
/// for the same disk and processors.
const STILLNESS: Duration = Duration::from_millis(2);
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

    /// How long the patient thread is to keep still yet; not at all where little lies ready.
    pub(super) fn stillness_left(&self) -> Option<Duration> {
        let asked = self.last_question.filter(|_| self.ready.len() >= FEW)?;
        STILLNESS.checked_sub(asked.elapsed())
    }

    pub(super) fn is_asked_for(&mut self, segment: SegmentName, at: SystemTime) {
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
