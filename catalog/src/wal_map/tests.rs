use super::*;
use pgwal::WalVersion;
use pgwal::index::{Listed, Outcomes};

pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;

pub(crate) fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// A position by the number of its segment and the offset in it.
pub(crate) fn lsn(number: u64, offset: u64) -> Lsn {
    Lsn::from_u64(number * SIZE.bytes() + offset)
}

/// A backup by where it begins and ends; it ended a minute for each segment after the epoch.
pub(crate) fn start(timeline: u32, begin: (u64, u64), end: (u64, u64)) -> Start {
    Start {
        id: format!("202601{timeline:02}T00{:02}00", end.0).parse().unwrap(),
        timeline: tli(timeline),
        begin: lsn(begin.0, begin.1),
        end: lsn(end.0, end.1),
        begin_time: Some(minute(begin.0)),
        end_time: Some(minute(end.0)),
    }
}

pub(crate) fn minute(number: u64) -> PgTimestamp {
    PgTimestamp::from_micros(i64::try_from(number).unwrap() * 60_000_000)
}

/// A sound segment with one commit: transaction 1000 + its number, in its minute.
pub(crate) fn known(timeline: u32, number: u64) -> Known {
    let name = SegmentName::at(tli(timeline), lsn(number, 0), SIZE);
    let xid = 1000 + u32::try_from(number).unwrap();
    let commits = Outcomes {
        count: 1,
        times: Some((minute(number), minute(number))),
        xids: Some((xid, xid)),
        last_end: Some(lsn(number, 1024)),
    };
    let index = SegmentIndex {
        segment: name,
        segment_size: SIZE,
        version: WalVersion::V17,
        system_id: 7,
        start: lsn(number, 0),
        end: lsn(number + 1, 0),
        complete: true,
        head_missing: false,
        records: 5,
        first_record: Some(lsn(number, 40)),
        last_record: Some(lsn(number, 2048)),
        commits,
        aborts: Outcomes::default(),
        xids: commits.xids,
        restore_points: Listed::default(),
        checkpoints: Listed::default(),
        timelines: Listed::default(),
        destructive: Listed::default(),
        blocks: None,
        tail: None,
    };
    Known {
        name,
        index: Some(Box::new(index)),
        soundness: Soundness::Sound,
        note: String::new(),
        partial: false,
    }
}

fn history(text: &str) -> History {
    History::parse(tli(2), text.as_bytes()).unwrap()
}

#[track_caller]
fn check(map: &WalMap, start: &Start, history: &History, names: &[(u32, u64)], end: &Break) {
    let walk = map.walk(start, history);
    let found: Vec<_> = walk
        .places()
        .map(|place| {
            let name = map.at(place).unwrap().name;
            (name.timeline().as_u32(), name.number(SIZE).unwrap())
        })
        .collect();
    assert_eq!(found, names);
    assert_eq!(&walk.end, end);
}

#[test]
fn the_newest_timelines_copy_of_a_segment_is_read() {
    let segments = [(1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6)];
    let map = WalMap::new(SIZE, segments.map(|(t, n)| known(t, n)).to_vec(), Vec::new());
    let path = history(&format!("1\t{}\tx\n", lsn(5, 64)));
    let backup = start(1, (3, 40), (3, 100));
    check(&map, &backup, &path, &[(1, 3), (1, 4), (2, 5), (2, 6)], &Break::End);
    check(&map, &backup, &History::root(tli(1)), &[(1, 3), (1, 4), (1, 5), (1, 6)], &Break::End);
    // Left at a boundary: the segment before it is still the old timeline's.
    let path = history(&format!("1\t{}\tx\n", lsn(5, 0)));
    check(&map, &backup, &path, &[(1, 3), (1, 4), (2, 5), (2, 6)], &Break::End);
}

#[test]
fn an_older_copy_will_do_at_the_end_and_nowhere_else() {
    let path = history(&format!("1\t{}\tx\n", lsn(5, 64)));
    let backup = start(1, (3, 40), (3, 100));
    let map = WalMap::new(SIZE, [(1, 3), (1, 4), (1, 5)].map(|(t, n)| known(t, n)).to_vec(), Vec::new());
    check(&map, &backup, &path, &[(1, 3), (1, 4), (1, 5)], &Break::End);
    let segments = [(1, 3), (1, 4), (1, 5), (2, 6)];
    let map = WalMap::new(SIZE, segments.map(|(t, n)| known(t, n)).to_vec(), Vec::new());
    let missing = SegmentName::at(tli(2), lsn(5, 0), SIZE);
    check(&map, &backup, &path, &[(1, 3), (1, 4)], &Break::Missing { first: missing, later: 1 });
}

#[test]
fn a_segment_that_does_not_follow_is_not_read() {
    let mut segments = [3, 4, 5].map(|number| known(1, number)).to_vec();
    segments[1].soundness = Soundness::Unlinked;
    segments[1].note = "it does not follow".to_owned();
    let map = WalMap::new(SIZE, segments.clone(), Vec::new());
    let ends = Break::Damaged { segment: segments[1].name, note: segments[1].note.clone() };
    check(&map, &start(1, (3, 40), (3, 100)), &History::root(tli(1)), &[(1, 3)], &ends);
}

#[test]
fn of_two_copies_the_complete_one_counts() {
    let mut partial = known(1, 3);
    partial.partial = true;
    partial.index.as_mut().unwrap().end = lsn(3, 512);
    let map = WalMap::new(SIZE, vec![partial.clone(), known(1, 3)], Vec::new());
    assert_eq!(map.runs()[0].end, lsn(4, 0));
    let map = WalMap::new(SIZE, vec![known(1, 2), partial], Vec::new());
    assert_eq!((map.runs().len(), map.runs()[0].end), (1, lsn(3, 512)));
}
