//! Where to start: the newest WAL already held, read against the server's own history.

use std::io;

use super::directory::StreamingDirectory;
use crate::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

/// What a starting position was derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOrigin {
    /// The newest segment in the streaming directory.
    Streaming,
    /// The end of what the archive holds, as the caller said.
    Archive,
    /// The position that the replication slot keeps WAL from.
    Slot,
    /// Nothing is held and nothing kept: the segment that the server is writing now.
    Server,
}

/// Where receiving starts: always the first byte of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPoint {
    /// The timeline to ask for.
    pub timeline: TimelineId,
    /// The position to ask for.
    pub lsn: Lsn,
    /// Why there.
    pub origin: StartOrigin,
}

/// Every segment held belongs to timelines that are no part of the server's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) newest: SegmentName,
}

/// The start that the streaming directory calls for; `None` when it holds no segment.
///
/// pg_receivewal takes the highest position of all and fails if the server can't continue there. Here each file is
/// first read against the server's history: WAL beyond the point where the server left that timeline belongs to a
/// branch it has abandoned, and receiving goes on where the branch began.
pub(super) fn from_streaming(
    directory: &StreamingDirectory,
    history: &History,
    size: SegmentSize,
) -> io::Result<Result<Option<StartPoint>, Stranger>> {
    let mut candidates: Vec<(Lsn, TimelineId, WalFile)> = Vec::new();
    let mut newest: Option<SegmentName> = None;
    for file in directory.segments()? {
        let (segment, position) = match file {
            WalFile::Segment(segment) => (segment, segment.end_lsn(size)),
            WalFile::Partial(segment) => (segment, segment.first_lsn(size)),
            WalFile::Label { .. } | WalFile::History(_) => continue,
        };
        newest = newest.max(Some(segment));
        let found = position.and_then(|position| continue_at(history, size, segment.timeline(), position));
        candidates.extend(found.map(|(timeline, lsn)| (lsn, timeline, file)));
    }
    candidates.sort_unstable_by(|a, b| b.cmp(a));
    for (lsn, timeline, file) in candidates {
        // Only the one that counts is looked at: a directory may hold a hundred thousand. A whole segment of any
        // other size is a copy that was cut short, and no ground to go on from.
        let whole = match directory.size_of(&file.to_string())? {
            None => false,
            Some(bytes) => matches!(file, WalFile::Partial(_)) || bytes == size.bytes(),
        };
        if whole {
            return Ok(Ok(Some(StartPoint { timeline, lsn, origin: StartOrigin::Streaming })));
        }
    }
    Ok(newest.map_or(Ok(None), |newest| Err(Stranger { newest })))
}

/// Where the server's history continues WAL that is held up to `position` of `timeline`, at the start of a segment;
/// `None` if that timeline is none of its own.
pub(super) fn continue_at(
    history: &History,
    size: SegmentSize,
    timeline: TimelineId,
    position: Lsn,
) -> Option<(TimelineId, Lsn)> {
    if !history.includes(timeline) {
        return None;
    }
    match history.end_of(timeline) {
        Some(end) if position > end || (position == end && size.offset_of(end) == 0) => {
            let child = history.entries().iter().map(|entry| entry.timeline).find(|&next| next > timeline);
            Some((child.unwrap_or(history.timeline()), size.start_of(end)))
        }
        _ => Some((timeline, size.start_of(position))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    /// Timeline 1 was left in the middle of segment 8, timeline 2 at the start of segment C.
    const THIRD: &[u8] = b"1\t0/880000\tx\n2\t0/C00000\ty\n";

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn history(timeline: u32) -> History {
        match timeline {
            1 => History::root(tli(1)),
            3 => History::parse(tli(3), THIRD).unwrap(),
            _ => History::parse(tli(timeline), b"1\t0/880000\tx\n").unwrap(),
        }
    }

    /// What the start is with `files` in the directory and the server on `timeline`: `TLI/LSN`.
    fn check(timeline: u32, files: &[&str], expected: &str) {
        let path = tempfile::tempdir().unwrap();
        for name in files {
            let (name, bytes) = match name.split_once(':') {
                Some((name, bytes)) => (name, bytes.parse().unwrap()),
                None => (*name, SIZE.bytes()),
            };
            std::fs::File::create(path.path().join(name)).unwrap().set_len(bytes).unwrap();
        }
        let directory = StreamingDirectory::open(path.path()).unwrap();
        let found = match from_streaming(&directory, &history(timeline), SIZE).unwrap() {
            Ok(None) => "none".to_owned(),
            Ok(Some(start)) => format!("{} {}", start.timeline, start.lsn),
            Err(stranger) => format!("stranger {}", stranger.newest),
        };
        assert_eq!(found, expected, "{files:?} on timeline {timeline}");
    }

    const TLI1_7: &str = "000000010000000000000007";
    const TLI1_8: &str = "000000010000000000000008.partial";
    const TLI1_A: &str = "00000001000000000000000A";

    #[test]
    fn an_empty_directory_says_nothing() {
        check(1, &[], "none");
        check(1, &["00000002.history", "junk"], "none");
    }

    #[test]
    fn goes_on_after_the_last_whole_segment_or_over_the_last_partial() {
        check(1, &[TLI1_7], "1 0/800000");
        check(1, &[TLI1_7, TLI1_8], "1 0/800000");
        check(1, &[TLI1_8], "1 0/800000");
        check(1, &[TLI1_A, TLI1_8], "1 0/B00000");
        // The mark of a reset is an empty partial.
        check(1, &[TLI1_7, "000000010000000000000009.partial:0"], "1 0/900000");
    }

    #[test]
    fn a_segment_cut_short_is_no_ground_to_go_on_from() {
        check(1, &[TLI1_7, "000000010000000000000009:77"], "1 0/800000");
    }

    #[test]
    fn a_promotion_is_followed_from_the_old_timeline() {
        // Not yet at the switch point: the old timeline first.
        check(2, &[TLI1_7], "1 0/800000");
        check(2, &[TLI1_7, TLI1_8], "1 0/800000");
        check(2, &[TLI1_8, "000000020000000000000008.partial"], "2 0/800000");
        check(3, &["00000002000000000000000A"], "2 0/B00000");
        // Timeline 2 ended exactly with segment B.
        check(3, &["00000002000000000000000B"], "3 0/C00000");
    }

    #[test]
    fn wal_of_an_abandoned_branch_does_not_block_the_way() {
        check(2, &[TLI1_7, TLI1_8, TLI1_A], "2 0/800000");
        check(2, &[TLI1_A, "000000020000000000000009.partial"], "2 0/900000");
        check(3, &[TLI1_A], "2 0/800000");
    }

    #[test]
    fn a_strangers_wal_is_refused() {
        check(1, &["000000020000000000000009"], "stranger 000000020000000000000009");
        check(4, &["000000030000000000000009.partial"], "stranger 000000030000000000000009");
        // But not where there is something of the server's own.
        check(1, &["000000020000000000000009", TLI1_7], "1 0/800000");
    }

    #[test]
    fn names_of_another_segment_size_are_refused() {
        check(1, &["0000000100000000000FFFFF"], "stranger 0000000100000000000FFFFF");
    }
}
