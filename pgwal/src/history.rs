//! Timeline history files: the ancestry of a timeline (`access/transam/timeline.c`).
//!
//! Each line holds a parent timeline, the position where the next one left it, and a reason, separated by white space;
//! `#` starts a comment.

use crate::{Lsn, SegmentName, SegmentSize, TimelineId};

/// Largest history file accepted, in bytes. A line is some 60 bytes, so this is room for ten thousand promotions.
pub const MAX_HISTORY_BYTES: usize = 1 << 20;

/// One ancestor in a timeline's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// Where its successor left it: the ancestor's WAL counts below this position only.
    pub end: Lsn,
    /// Why, in PostgreSQL's words (`no recovery target specified`).
    pub reason: String,
}

/// The ancestry of one timeline, oldest first.
///
/// ```
/// use pgwal::{History, Lsn, TimelineId};
/// let text = b"1\t0/3000148\tno recovery target specified\n";
/// let history = History::parse(TimelineId::new(2).unwrap(), text)?;
/// assert_eq!(history.timeline_at(Lsn::from_u64(0x3000100)), TimelineId::FIRST);
/// assert_eq!(history.timeline_at(Lsn::from_u64(0x3000148)).as_u32(), 2);
/// # Ok::<(), pgwal::history::HistoryError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    timeline: TimelineId,
    entries: Vec<HistoryEntry>,
}

/// A history file that PostgreSQL would refuse too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Larger than [`MAX_HISTORY_BYTES`].
    #[error("the history of timeline {timeline} is {bytes} bytes long, more than {MAX_HISTORY_BYTES}")]
    TooLarge {
        /// Whose history.
        timeline: TimelineId,
        /// Its size in bytes.
        bytes: usize,
    },
    /// A line that is not `timeline LSN reason`.
    #[error("line {line} of the history of timeline {timeline} is not 'timeline LSN reason': {text:?}")]
    Syntax {
        /// Whose history.
        timeline: TimelineId,
        /// The line's number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// Timelines that don't increase, or reach the file's own.
    #[error("line {line} of the history of timeline {timeline} names timeline {found} out of order")]
    Order {
        /// Whose history.
        timeline: TimelineId,
        /// The line's number, from 1.
        line: usize,
        /// The timeline found there.
        found: TimelineId,
    },
}

impl History {
    /// The history of a timeline without ancestors; PostgreSQL keeps no file for timeline 1.
    pub const fn root(timeline: TimelineId) -> Self {
        History { timeline, entries: Vec::new() }
    }

    /// Reads the history file of `timeline`.
    ///
    /// # Errors
    /// When the file is too large, a line can't be read, or its timelines are out of order.
    pub fn parse(timeline: TimelineId, file: &[u8]) -> Result<Self, HistoryError> {
        if file.len() > MAX_HISTORY_BYTES {
            return Err(HistoryError::TooLarge { timeline, bytes: file.len() });
        }
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
            let text = String::from_utf8_lossy(line);
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let line = index + 1;
            let entry = parse_line(text).ok_or_else(|| HistoryError::Syntax {
                timeline,
                line,
                text: text.chars().take(80).collect(),
            })?;
            let in_order = entries.last().is_none_or(|last| last.timeline < entry.timeline);
            if !in_order || entry.timeline >= timeline {
                return Err(HistoryError::Order { timeline, line, found: entry.timeline });
            }
            entries.push(entry);
        }
        Ok(History { timeline, entries })
    }

    /// The timeline whose history this is.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Its ancestors, oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// Where this timeline left its parent; `None` without ancestors.
    pub fn begin(&self) -> Option<Lsn> {
        self.entries.last().map(|parent| parent.end)
    }

    /// The timeline that the byte at `lsn` belongs to, seen from this one (`tliOfPointInHistory`).
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.entries.iter().find(|entry| lsn < entry.end).map_or(self.timeline, |entry| entry.timeline)
    }

    /// Whether `timeline` is this one or an ancestor.
    pub fn includes(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.entries.iter().any(|entry| entry.timeline == timeline)
    }

    /// Where `timeline` stops counting in this history: the switch point for an ancestor, `None` for the timeline
    /// itself (it has no end yet) and for strangers (see [`includes`](Self::includes)).
    pub fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.timeline == timeline).map(|entry| entry.end)
    }

    /// Whether recovery along this history may read `segment`: its timeline is part of the history, and the segment
    /// does not lie wholly after the point where that timeline was left, nor wholly before the timeline began.
    pub fn uses(&self, segment: SegmentName, size: SegmentSize) -> bool {
        let Some(first) = segment.first_lsn(size) else { return false };
        if !self.includes(segment.timeline()) {
            return false;
        }
        let begin =
            self.entries.iter().rev().find(|entry| entry.timeline < segment.timeline()).map(|e| e.end);
        let not_before = begin.is_none_or(|begin| segment.end_lsn(size).is_none_or(|end| end > begin));
        let not_after = self.end_of(segment.timeline()).is_none_or(|end| first < end);
        not_before && not_after
    }
}

fn parse_line(text: &str) -> Option<HistoryEntry> {
    let mut words = text.splitn(2, char::is_whitespace);
    let timeline = words.next()?.parse().ok()?;
    let rest = words.next()?.trim_start();
    let (lsn, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some(HistoryEntry { timeline, end: lsn.parse().ok()?, reason: reason.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    const TWICE_PROMOTED: &[u8] =
        b"1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2024-01-01 00:00:00+00\n";

    #[test]
    fn segments_count_on_the_timeline_that_wrote_them() {
        let history = History::parse(tli(3), TWICE_PROMOTED).unwrap();
        let uses = |name: &str| history.uses(name.parse().unwrap(), SegmentSize::DEFAULT);
        assert!(uses("000000010000000000000002"));
        // Timeline 1 was left inside segment 3: both copies of it are asked for.
        assert!(uses("000000010000000000000003"));
        assert!(uses("000000020000000000000003"));
        assert!(!uses("000000010000000000000004"));
        assert!(!uses("000000020000000000000002"));
        // Timeline 2 was left exactly at the start of segment 5.
        assert!(uses("000000020000000000000004"));
        assert!(!uses("000000020000000000000005"));
        assert!(uses("000000030000000000000005"));
        assert!(!uses("000000040000000000000006"));
        assert_eq!(history.begin(), Some(Lsn::from_u64(0x500_0000)));
    }

    #[test]
    fn faults_name_their_line() {
        let fault = |text: &[u8]| History::parse(tli(3), text).unwrap_err().to_string();
        assert!(fault(b"# fine\n1 0/1 ok\nrubbish").contains("line 3"));
        assert!(fault(b"2 0/1 x\n1 0/2 y").contains("out of order"));
        assert!(fault(b"3 0/1 own").contains("out of order"));
        assert!(fault(&vec![b'#'; MAX_HISTORY_BYTES + 1]).contains("bytes long"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text: Vec<u8>) {
            let _ = History::parse(tli(3), &text);
        }
    }
}
