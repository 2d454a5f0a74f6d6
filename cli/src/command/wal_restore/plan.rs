//! What recovery will ask for next.

use std::collections::BTreeSet;

use pgwal::{History, SegmentName, SegmentSize, TimelineId};

/// Which segments follow the last one that was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// The last one.
    pub(super) cursor: Option<SegmentName>,
    /// The cluster's segment size, once it is known.
    pub(super) size: Option<SegmentSize>,
    /// The timeline that recovery follows: of the last history file that it got.
    pub(super) history: Option<History>,
}

impl Plan {
    /// The next `depth` segments, each under the names by which PostgreSQL asks for it, in its order: it looks for a
    /// segment on the newest timeline first that had begun by then (`XLogFileReadAnyTLI`).
    pub(super) fn next(&self, depth: usize) -> Vec<Vec<SegmentName>> {
        let (Some(mut segment), Some(size)) = (self.cursor, self.size) else { return Vec::new() };
        let mut positions = Vec::new();
        while positions.len() < depth {
            let Some(next) = segment.next(size) else { break };
            let names = self.names(next, size);
            if names.is_empty() {
                break;
            }
            positions.push(names);
            segment = next;
        }
        positions
    }

    /// Whether recovery may still ask for this one.
    pub(super) fn has(&self, segment: SegmentName, depth: usize) -> bool {
        self.next(depth).iter().flatten().any(|name| *name == segment)
    }

    fn names(&self, segment: SegmentName, size: SegmentSize) -> Vec<SegmentName> {
        let current = segment.timeline();
        match self.history.as_ref().filter(|history| history.includes(current)) {
            None => vec![segment],
            Some(history) => {
                let mut timelines: BTreeSet<TimelineId> =
                    history.entries().iter().map(|entry| entry.timeline).collect();
                timelines.insert(history.timeline());
                let on = |timeline: TimelineId| segment.on(timeline);
                timelines
                    .into_iter()
                    .rev()
                    .filter(|timeline| *timeline >= current)
                    .map(on)
                    .filter(|name| history.uses(*name, size))
                    .collect()
            }
        }
    }
}

/// How many segments of a size go into a number of bytes, at least one, and not more than a directory should hold.
pub(super) fn depth(bytes: u64, size: SegmentSize) -> usize {
    /// The most segments that are kept ready.
    const SEGMENTS_MAX: u64 = 256;
    usize::try_from((bytes / size.bytes()).clamp(1, SEGMENTS_MAX)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn plan(cursor: &str, history: Option<(u32, &str)>) -> Vec<String> {
        let history = history.map(|(timeline, text)| {
            History::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap()
        });
        let plan = Plan { cursor: Some(cursor.parse().unwrap()), size: Some(SIZE), history };
        let join = |names: &Vec<SegmentName>| {
            names.iter().map(|name| name.to_string()[6..].to_owned()).collect::<Vec<_>>().join(" ")
        };
        plan.next(3).iter().map(join).collect()
    }

    #[test]
    fn without_a_history_the_timeline_stays() {
        let next = plan("0000000100000000000000FE", None);
        assert_eq!(next, ["0100000000000000FF", "010000000100000000", "010000000100000001"]);
    }

    #[test]
    fn at_a_switch_the_new_timeline_is_asked_for_first() {
        let two = Some((2, "1\t0/5800000\tx\n"));
        let next = plan("000000010000000000000003", two);
        assert_eq!(
            next,
            ["010000000000000004", "020000000000000005 010000000000000005", "020000000000000006"]
        );
        // Past it, nothing of the old one is left.
        assert_eq!(plan("000000020000000000000005", two)[0], "020000000000000006");
        // A timeline that the history does not know is followed by itself.
        assert_eq!(plan("000000090000000000000003", two)[0], "090000000000000004");
    }

    #[test]
    fn ancestors_come_in_their_turn() {
        let three = Some((3, "1\t0/4800000\tx\n2\t0/5800000\ty\n"));
        let next = plan("000000010000000000000003", three);
        assert_eq!(
            next,
            [
                "020000000000000004 010000000000000004",
                "030000000000000005 020000000000000005",
                "030000000000000006"
            ]
        );
    }

    #[test]
    fn depth_is_bounded_both_ways() {
        assert_eq!(depth(128 << 20, SIZE), 8);
        assert_eq!(depth(1, SIZE), 1);
        assert_eq!(depth(u64::MAX, SegmentSize::MIN), 256);
    }
}
