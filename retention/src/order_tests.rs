//! Orders that names and clocks would get wrong.

use super::*;
use crate::evaluate::Place;

const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

/// `id cluster timeline end-position age-in-hours`, `-` where nothing is known.
fn backup(text: &'static str) -> Backup<&'static str> {
    let words: Vec<&str> = text.split(' ').collect();
    let [id, cluster, timeline, end, age] = words[..] else { panic!("{text}") };
    let end_time = age.parse().ok().map(|hours: i64| NOW - jiff::SignedDuration::from_hours(hours));
    let place = timeline.parse().ok().map(|number| {
        let end: Lsn = end.parse().unwrap();
        Place { timeline: TimelineId::new(number).unwrap(), begin: end, end }
    });
    Backup {
        end_time,
        place,
        system_id: (cluster != "-").then(|| cluster.to_owned()),
        ..Backup::done(id, NOW)
    }
}

#[track_caller]
fn check(backups: &[&'static str], histories: &[(u32, &str)], expected: &str) {
    let histories: Vec<History> = histories
        .iter()
        .map(|(number, text)| History::parse(TimelineId::new(*number).unwrap(), text.as_bytes()).unwrap())
        .collect();
    let backups: Vec<_> = backups.iter().map(|text| backup(text)).collect();
    for shift in 0..backups.len().max(1) {
        let mut shifted: Vec<&Backup<&str>> = backups.iter().collect();
        shifted.rotate_left(shift);
        let sorted: Vec<&str> = sort(shifted, &histories).iter().map(|backup| backup.id).collect();
        assert_eq!(sorted.join(" "), expected, "given {shift} first");
    }
}

#[test]
fn positions_count_and_neither_names_nor_clocks() {
    // The host moved to UTC: names go back. The clock was set back: end times do.
    check(&["c a 1 0/1000 30", "b a 1 0/2000 20", "a a 1 0/3000 25"], &[], "c b a");
    check(&[], &[], "");
}

#[test]
fn equal_positions_go_by_time_then_by_name() {
    check(&["a a 1 0/1000 1", "b a 1 0/1000 2", "c a 1 0/1000 2"], &[], "b c a");
    check(&["a - - - 1", "b - - - -", "c - - - 3"], &[], "c a b");
}

#[test]
fn a_timeline_comes_after_what_it_grew_from() {
    // Its clock says otherwise; its positions are lower than those of the branch that was abandoned.
    let histories = [(2, "1 0/2000 x")];
    check(
        &["trunk a 1 0/1000 10", "left a 1 0/9000 3", "new a 2 0/2800 20", "newer a 2 0/3000 1"],
        &histories,
        "trunk new left newer",
    );
    // Without the history, time decides.
    check(&["trunk a 1 0/1000 10", "new a 2 0/2800 20"], &[], "new trunk");
    check(&["trunk a 1 0/1000 10", "new a 2 0/2800 20"], &histories, "trunk new");
    // The end of a backup may be the very point where the timeline was left.
    check(&["trunk a 1 0/2000 10", "new a 2 0/2800 20"], &histories, "trunk new");
    check(&["left a 1 0/2001 10", "new a 2 0/2800 20"], &histories, "new left");
}

#[test]
fn grandchildren_wait_for_all_their_ancestors() {
    let histories = [(2, "1 0/2000 x"), (3, "1 0/2000 x\n2 0/3000 x")];
    check(&["a a 3 0/4000 90", "b a 2 0/2800 80", "c a 1 0/1000 70"], &histories, "c b a");
    check(&["a a 3 0/4000 90", "c a 1 0/1000 70"], &histories, "c a");
}

#[test]
fn clusters_stay_apart_and_the_one_in_use_is_newer() {
    // After pg_upgrade timelines begin anew; positions mean nothing across.
    check(
        &["a old 7 5/1000 50", "b old 7 6/1000 40", "c new 1 0/1000 3", "d new 1 0/2000 2"],
        &[],
        "a b c d",
    );
    // Old records without a system identifier belong to the only cluster there is.
    check(&["a - 1 0/1000 50", "b x 1 0/2000 60", "c x 1 0/3000 1"], &[], "a b c");
    check(&["a - 1 0/1000 50", "b x 1 0/2000 60", "c y 1 0/1000 1"], &[], "b a c");
}

#[test]
fn a_clock_that_was_set_back_is_not_believed() {
    let ended_of = |ages: &[Option<i64>]| -> Vec<Ended> {
        let hours = |age: i64| NOW - jiff::SignedDuration::from_hours(age);
        let backups: Vec<Backup<usize>> = ages
            .iter()
            .enumerate()
            .map(|(id, age)| Backup { end_time: age.map(hours), ..Backup::done(id, NOW) })
            .collect();
        ended(&backups.iter().collect::<Vec<_>>())
    };
    let at = |age: i64| Ended::At(NOW - jiff::SignedDuration::from_hours(age));
    let by = |age: i64| Ended::Unknown(Some(NOW - jiff::SignedDuration::from_hours(age)));
    assert_eq!(ended_of(&[Some(40), Some(20), Some(20), Some(1)]), [at(40), at(20), at(20), at(1)]);
    assert_eq!(ended_of(&[Some(40), Some(20), Some(60), Some(1)]), [at(40), at(20), by(1), at(1)]);
    assert_eq!(ended_of(&[Some(40), None, Some(2), Some(3)]), [at(40), by(2), at(2), Ended::Unknown(None)]);
    let moment = NOW - jiff::SignedDuration::from_hours(10);
    assert!(at(11).is_before(moment) && by(11).is_before(moment));
    assert!(
        !at(10).is_before(moment) && !by(10).is_before(moment) && !Ended::Unknown(None).is_before(moment)
    );
    assert_eq!(
        (at(3).latest(), Ended::Unknown(None).latest()),
        (Some(NOW - jiff::SignedDuration::from_hours(3)), None)
    );
}

#[test]
fn a_window_begins_with_the_newest_backup_of_each_timeline_in_use_that_leads_there() {
    let histories = [History::parse(TimelineId::new(2).unwrap(), b"1\t0/2000\tx\n").unwrap()];
    let anchors_of = |backups: &[&'static str], histories: &[History]| {
        let backups: Vec<Backup<&str>> = backups.iter().map(|text| backup(text)).collect();
        let sorted: Vec<&Backup<&str>> = sort(backups.iter(), histories);
        let anchors = anchors(&sorted, &ended(&sorted), histories, NOW, |_: &Backup<&str>| true);
        sorted.iter().zip(anchors).filter(|(_, is)| *is).map(|(backup, _)| backup.id).collect::<Vec<_>>()
    };
    // On the new timeline itself the older one has no part any more.
    assert_eq!(anchors_of(&["old a 1 0/1000 30", "new a 2 0/2800 20"], &histories), ["new"]);
    // The newest was left behind: what leads to the new timeline is the one before.
    let left = ["old a 1 0/1000 30", "left a 1 0/9000 20"];
    assert_eq!(anchors_of(&left, &histories), ["old", "left"]);
    // The history is not known, so any may lead there.
    assert_eq!(anchors_of(&left, &[]), ["left"]);
}
