use pgwal::History;
use proptest::prelude::*;

use super::*;
use crate::inspect::Soundness;
use crate::wal_map::tests::{SIZE, known, lsn, start, tli};

fn second_timeline() -> History {
    // Left inside segment 5.
    History::parse(tli(2), format!("1\t{}\tx\n", lsn(5, 64)).as_bytes()).unwrap()
}

/// Intervals as timeline, first position's segment and offset, end, and how many backups lead there.
#[track_caller]
fn check(map: &WalMap, backups: &[Start], expected: &[(u32, Lsn, Lsn, usize)]) -> Windows {
    let found = windows(map, backups);
    let intervals: Vec<_> = found
        .timelines
        .iter()
        .flat_map(|timeline| {
            timeline.intervals.iter().map(|interval| {
                (timeline.timeline.as_u32(), interval.from, interval.to, interval.backups.len())
            })
        })
        .collect();
    assert_eq!(intervals, expected, "{found:#?}");
    found
}

#[test]
fn a_backup_and_its_wal_are_one_interval() {
    let map = WalMap::new(SIZE, (2..6).map(|number| known(1, number)).collect(), Vec::new());
    let backups = [start(1, (2, 40), (3, 100)), start(1, (4, 40), (4, 900))];
    let found = check(&map, &backups, &[(1, lsn(3, 100), lsn(6, 0), 2)]);
    let interval = &found.timelines[0].intervals[0];
    assert_eq!((interval.segments, interval.commits), (3, 3));
    assert_eq!(interval.from_time, backups[0].end_time);
    assert_eq!(interval.ends, Break::End);
    assert_eq!(found.newest().unwrap().1.backups.last(), Some(&backups[1].id));
}

#[test]
fn a_gap_ends_an_interval_and_the_next_backup_begins_another() {
    let map = WalMap::new(SIZE, [2, 3, 5, 6, 7].map(|number| known(1, number)).to_vec(), Vec::new());
    let backups = [start(1, (2, 40), (3, 100)), start(1, (6, 40), (6, 900))];
    let found = check(&map, &backups, &[(1, lsn(3, 100), lsn(4, 0), 1), (1, lsn(6, 900), lsn(8, 0), 1)]);
    assert_eq!(found.gaps.len(), 1);
    assert_eq!(found.gaps[0].segments, 1);
    let missing = found.gaps[0].first;
    assert_eq!(found.timelines[0].intervals[0].ends, Break::Missing { first: missing, later: 3 });
    // Without the second backup, nobody gets behind the gap.
    let found = check(&map, &backups[..1], &[(1, lsn(3, 100), lsn(4, 0), 1)]);
    assert_eq!(found.timelines[0].unreachable.len(), 1);
}

#[test]
fn damage_ends_an_interval_where_it_is() {
    let mut segments: Vec<Known> = (2..6).map(|number| known(1, number)).collect();
    segments[2].soundness = Soundness::Damaged;
    segments[2].note = "wrong checksum".to_owned();
    let index = segments[2].index.as_mut().unwrap();
    (index.complete, index.end) = (false, lsn(4, 512));
    let map = WalMap::new(SIZE, segments, Vec::new());
    let found = check(&map, &[start(1, (2, 40), (3, 100))], &[(1, lsn(3, 100), lsn(4, 512), 1)]);
    assert_eq!(found.damaged.len(), 1);
}

#[test]
fn a_new_timeline_is_reached_through_the_one_it_left() {
    let mut segments: Vec<Known> = (2..5).map(|number| known(1, number)).collect();
    segments.extend((5..8).map(|number| known(2, number)));
    let map = WalMap::new(SIZE, segments.clone(), vec![second_timeline()]);
    let backups = [start(1, (2, 40), (3, 100))];
    check(&map, &backups, &[(1, lsn(3, 100), lsn(5, 0), 1), (2, lsn(5, 64), lsn(8, 0), 1)]);
    // Without its history nothing is known of its origin, and the server would not find it either.
    let map = WalMap::new(SIZE, segments, Vec::new());
    let found = check(&map, &backups, &[(1, lsn(3, 100), lsn(5, 0), 1)]);
    assert_eq!(found.missing_histories, [tli(2)]);
}

#[test]
fn a_backup_without_its_wal_is_stranded() {
    let map = WalMap::new(SIZE, vec![known(1, 2)], Vec::new());
    let found = check(&map, &[start(1, (2, 40), (3, 100))], &[]);
    assert_eq!(found.stranded.len(), 1);
    assert_eq!(found.stranded[0].reach, lsn(3, 0));
}

proptest! {
    #[test]
    fn what_is_reached_is_one_chain(
        present in prop::collection::btree_set((1u32..3, 2u64..12), 0..20),
        backups in prop::collection::vec((1u32..3, 2u64..10, 0u64..3), 0..4),
    ) {
        let segments = present.iter().map(|(timeline, number)| known(*timeline, *number)).collect();
        let map = WalMap::new(SIZE, segments, vec![second_timeline()]);
        let backups: Vec<Start> = backups
            .iter()
            .map(|(timeline, begin, length)| start(*timeline, (*begin, 40), (begin + length, 100)))
            .collect();
        for timeline in windows(&map, &backups).timelines {
            for interval in timeline.intervals {
                prop_assert!(interval.from < interval.to);
                prop_assert!(!interval.backups.is_empty());
                let numbers = interval.first.number(SIZE).unwrap()..=interval.last.number(SIZE).unwrap();
                prop_assert_eq!(numbers.clone().count() as u64, interval.segments);
                for number in numbers {
                    prop_assert!(present.contains(&(timeline.timeline.as_u32(), number)));
                }
            }
        }
    }
}
