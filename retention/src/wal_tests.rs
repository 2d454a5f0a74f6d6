//! Tables and laws of what WAL may go.

use proptest::prelude::*;

use super::*;
use crate::evaluate::{Backup, Keep, Rules, Stage, evaluate};

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

fn onwards(id: &'static str, timeline: u32, begin: &str, end: &str) -> Claim<&'static str> {
    Claim::onwards(id, tli(timeline), lsn(begin), lsn(end))
}

/// The removable ones of the files, for claims and histories (`2: 1 0/3000148` for each).
#[track_caller]
fn check(claims: &[Claim<&str>], histories: &[(u32, &str)], files: &[&str], removable: &[&str]) {
    let histories: Vec<History> = histories
        .iter()
        .map(|(number, text)| History::parse(tli(*number), text.as_bytes()).unwrap())
        .collect();
    let files: Vec<WalFile> = files.iter().map(|name| name.parse().unwrap()).collect();
    let plan = plan(claims, &histories, &files, SegmentSize::DEFAULT);
    let gone = plan.iter().filter(|(_, fate)| fate.is_removable());
    let names: Vec<String> = gone.map(|(file, _)| file.to_string()).collect();
    assert_eq!(names, removable, "{plan:#?}");
}

#[test]
fn what_lies_before_every_backup_goes() {
    let files = [
        "000000010000000000000001",
        "000000010000000000000002",
        "000000010000000000000002.00000028.backup",
        "000000010000000000000003",
        "000000010000000000000003.00000028.backup",
        "000000010000000000000004.partial",
    ];
    let removable = &files[..3];
    check(&[onwards("b", 1, "0/3000028", "0/3000100")], &[], &files, removable);
    check(&[onwards("b", 1, "0/2FFFFFF", "0/3000100")], &[], &files, &files[..1]);
}

#[test]
fn nothing_goes_when_nothing_remains_to_measure_by() {
    check(&[], &[], &["000000010000000000000001", "00000002.history"], &[]);
}

#[test]
fn a_standalone_backup_needs_its_own_wal_alone() {
    let claim = Claim::standalone("b", tli(1), lsn("0/2000028"), lsn("0/3000000"));
    let files = ["000000010000000000000001", "000000010000000000000002", "000000010000000000000003"];
    check(std::slice::from_ref(&claim), &[], &files, &[files[0], files[2]]);
    check(&[claim, onwards("c", 1, "0/3000028", "0/3000100")], &[], &files, &files[..1]);
}

#[test]
fn an_abandoned_branch_goes_and_the_path_to_the_backup_stays() {
    // Timeline 2 left 1 in segment 3; the backup was taken on 2 and begins in that very segment.
    let files = [
        "000000010000000000000002",
        "000000010000000000000003",
        "000000010000000000000004",
        "000000020000000000000003",
        "000000020000000000000004",
        "00000002.history",
    ];
    let backup = onwards("b", 2, "0/3000148", "0/4000000");
    check(std::slice::from_ref(&backup), &[(2, "1 0/3000148 x")], &files, &[files[0], files[2]]);
    // Without the history file, what can't be told apart is kept.
    check(&[backup], &[], &files, &files[..1]);
}

#[test]
fn timelines_that_can_and_cannot_be_reached_from_a_backup() {
    let files = ["000000020000000000000005", "000000030000000000000005", "000000010000000000000005"];
    let histories = [(2, "1 0/4000000 after the backup"), (3, "1 0/2000000 before the backup")];
    let backup = onwards("b", 1, "0/3000028", "0/3000100");
    check(std::slice::from_ref(&backup), &histories, &files, &[files[1]]);
    // A timeline whose history is missing might lead anywhere.
    check(&[backup], &histories[..1], &files, &[]);
}

#[test]
fn a_low_name_on_a_high_timeline_is_not_old() {
    // By name order, everything on timeline 2 comes after everything on timeline 1.
    let files = ["000000010000000000000009", "000000020000000000000003", "000000020000000000000009"];
    let backup = onwards("b", 2, "0/9000028", "0/9000100");
    check(&[backup], &[(2, "1 0/3000148 x")], &files, &[files[0], files[1]]);
}

#[test]
fn the_whole_directory_rule_of_barman_is_not_followed() {
    // 255 segments and a label to go, one segment of the same directory needed: 256 entries are no reason to remove it.
    let mut files: Vec<String> = (0..=255).map(|n| format!("0000000100000000000000{n:02X}")).collect();
    files.push("000000010000000000000010.00000028.backup".to_owned());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let removable: Vec<&str> = files.iter().copied().filter(|name| *name != files[255]).collect();
    check(&[onwards("b", 1, "0/FF000028", "0/FF000100")], &[], &files, &removable);
}

#[test]
fn names_of_another_segment_size_are_kept() {
    let size = SegmentSize::new(64 << 20).unwrap();
    let claims = [onwards("b", 1, "9/0", "9/100")];
    let files = ["0000000100000000000000FF".parse().unwrap(), "00000001000000000000003F".parse().unwrap()];
    let plan = plan(&claims, &[], &files, size);
    let fates: Vec<_> = plan.iter().map(|(_, fate)| *fate).collect();
    assert_eq!(fates, [Fate::Unreadable, Fate::Removable]);
    assert_eq!(fates[0].to_string(), "its name does not fit the cluster's segment size");
}

/// A tree of timelines: each (but the first) leaves an earlier one somewhere.
fn any_tree() -> impl Strategy<Value = Vec<History>> {
    prop::collection::vec((0usize..8, 1u64..400), 0..6).prop_map(|branches| {
        let mut histories = vec![History::root(TimelineId::FIRST)];
        for (number, (parent, at)) in (2u32..).zip(branches) {
            let parent = &histories[parent % histories.len()];
            // It leaves its parent after the parent itself began.
            let begin = parent.begin().map_or(0, Lsn::as_u64);
            let end = begin + at * (1 << 17);
            let mut text: String = parent
                .entries()
                .iter()
                .map(|entry| format!("{}\t{}\tx\n", entry.timeline, entry.end))
                .collect();
            text.push_str(&format!("{}\t{}\tx\n", parent.timeline(), Lsn::from_u64(end)));
            histories.push(History::parse(tli(number), text.as_bytes()).unwrap());
        }
        histories
    })
}

proptest! {
    /// Recovery from every remaining backup to every reachable moment finds its WAL: simulated byte range by byte range.
    #[test]
    fn no_recovery_ever_misses_a_segment(
        tree in any_tree(),
        backups in prop::collection::vec((0usize..8, 0u64..600, 0u64..20, any::<bool>()), 1..5),
        known in 0u8..=255,
    ) {
        let size = SegmentSize::new(1 << 20).unwrap();
        const STEP: u64 = 1 << 17;
        const END: u64 = 1000 * STEP;
        let claims: Vec<Claim<usize>> = backups.iter().enumerate().map(|(id, (timeline, begin, length, alone))| {
            let history = &tree[timeline % tree.len()];
            let begin = history.begin().map_or(0, Lsn::as_u64) + begin * STEP / 4;
            let end = begin + 1 + length * STEP;
            let claim = Claim::onwards(id, history.timeline(), Lsn::from_u64(begin), Lsn::from_u64(end));
            Claim { standalone: *alone, ..claim }
        }).collect();
        let histories: Vec<History> =
            tree.iter().filter(|history| known >> history.timeline().as_u32() & 1 == 1).cloned().collect();
        let mut files = Vec::new();
        for history in &tree {
            for number in 0..END / size.bytes() {
                let name = SegmentName::at(history.timeline(), Lsn::from_u64(number * size.bytes()), size);
                files.push(WalFile::Segment(name));
            }
        }
        let plan = plan(&claims, &histories, &files, size);
        let gone: std::collections::BTreeSet<WalFile> =
            plan.iter().filter(|(_, fate)| fate.is_removable()).map(|(file, _)| *file).collect();
        for claim in &claims {
            for target in &tree {
                let left = target.end_of(claim.timeline);
                let reachable = target.includes(claim.timeline) && left.is_none_or(|left| left >= claim.end);
                if !reachable {
                    continue;
                }
                let last = if claim.standalone { claim.end.as_u64() } else { END };
                let mut at = claim.begin.as_u64();
                while at < last.min(END) {
                    let position = Lsn::from_u64(at);
                    let segment = SegmentName::at(target.timeline_at(position), position, size);
                    prop_assert!(!gone.contains(&WalFile::Segment(segment)), "{claim:?} needs {segment:?} along {target:?}");
                    at += STEP / 8;
                }
            }
        }
        // And what lies before all of them is not hoarded.
        let earliest = claims.iter().map(|claim| claim.begin).min().unwrap();
        for file in &files {
            let before = file.segment().and_then(|segment| segment.end_lsn(size)).is_some_and(|end| end <= earliest);
            prop_assert!(!before || gone.contains(file), "{file:?}");
        }
    }
}

#[test]
fn a_range_counts_both_its_ends() {
    let range = |first, last| SegmentRange { timeline: tli(1), first, last };
    assert_eq!((range(7, 7).count(), range(7, 9).count()), (1, 3));
}

#[test]
fn what_remains_and_is_not_lost_for_good_claims_its_wal() {
    let now = jiff::Timestamp::constant(1_795_000_000, 0);
    let stages = [Stage::Done, Stage::Waiting, Stage::Running, Stage::Failed, Stage::Leaving, Stage::Lost];
    let place = (tli(1), lsn("0/2000028"), lsn("0/3000000"));
    let backup = |stage: Stage| Backup::done(stage as u8, now).at_stage(stage).at(place.0, place.1, place.2);
    let backups = stages.map(backup);
    let claims = claims(&backups, &[], crate::policy::WalPolicy::Main, &[], now).unwrap();
    let expected = [Stage::Done, Stage::Waiting, Stage::Running, Stage::Lost].map(|stage| stage as u8);
    assert_eq!(claims.iter().map(|claim| claim.id).collect::<Vec<_>>(), expected);
    assert!(claims.iter().all(|claim| (claim.timeline, claim.begin, claim.end) == place));
}

/// Whether each backup claims no WAL but its own under these rules. They have so many days, and a segment each.
#[track_caller]
fn check_alone(policy: &str, wal_policy: &str, backups: &[(i64, Stage, Option<Keep>)], alone: &[bool]) {
    check_alone_with(policy, wal_policy, backups, None, alone);
}

/// The same, with one that is an increment of the one before it.
#[track_caller]
fn check_alone_with(
    policy: &str,
    wal_policy: &str,
    backups: &[(i64, Stage, Option<Keep>)],
    increment: Option<usize>,
    alone: &[bool],
) {
    let now = jiff::Timestamp::constant(1_795_000_000, 0);
    let backups: Vec<Backup<usize>> = backups
        .iter()
        .enumerate()
        .map(|(id, (days, stage, keep))| {
            let begin = Lsn::from_u64((id as u64 + 2) << 24);
            let end = begin.checked_add(1 << 20).unwrap();
            let ended = now - jiff::SignedDuration::from_hours(24 * days);
            let backup = Backup::done(id, ended).at_stage(*stage).at(tli(1), begin, end);
            let parent = id.checked_sub(1).filter(|_| increment == Some(id));
            Backup { keep: *keep, parent, ..backup }
        })
        .collect();
    let policy = policy.parse().unwrap();
    let judged = evaluate(&backups, &Rules::new(&policy), now);
    let claims = claims(&backups, &judged, wal_policy.parse().unwrap(), &[], now).unwrap();
    assert_eq!(claims.iter().map(|claim| claim.standalone).collect::<Vec<_>>(), alone, "{claims:#?}");
}

#[test]
fn who_claims_its_own_wal_alone() {
    let done = |days| (days, Stage::Done, None);
    let kept = |days, keep| (days, Stage::Done, Some(keep));
    let all = "REDUNDANCY 9";
    // Kept by itself: alone, unless the policy needs it, or its end is still to come.
    check_alone("REDUNDANCY 1", "main", &[kept(9, Keep::Standalone), done(1)], &[true, false]);
    check_alone(all, "main", &[kept(9, Keep::Standalone), done(1)], &[false, false]);
    check_alone("REDUNDANCY 1", "main", &[kept(9, Keep::Full), done(1)], &[false, false]);
    let running = (0, Stage::Running, Some(Keep::Standalone));
    check_alone("REDUNDANCY 1", "main", &[done(1), running], &[false, false]);
    // A window for WAL: those before the one from which its beginning is recovered, unless they are kept with all WAL.
    let week = "WINDOW OF 7 DAYS";
    check_alone(all, week, &[done(30), done(20), done(10), done(1)], &[true, true, false, false]);
    check_alone(all, week, &[kept(30, Keep::Full), done(20), done(10)], &[false, true, false]);
    check_alone(all, week, &[done(6), done(1)], &[false, false]);
    // One that waits for WAL can't be recovered from yet.
    let waiting = (8, Stage::Waiting, None);
    check_alone(all, week, &[done(20), done(10), waiting, done(1)], &[true, false, false, false]);
    check_alone(all, week, &[(20, Stage::Waiting, None), done(10), done(1)], &[false, false, false]);
}

#[test]
fn a_window_for_wal_begins_from_what_is_kept_by_itself_but_not_from_its_increments() {
    let done = |days| (days, Stage::Done, None);
    let kept = (20, Stage::Done, Some(Keep::Standalone));
    let (all, week) = ("REDUNDANCY 9", "WINDOW OF 7 DAYS");
    check_alone(all, week, &[done(30), kept, done(1)], &[true, false, false]);
    check_alone_with(all, week, &[done(30), kept, done(10), done(1)], Some(2), &[true, false, false, false]);
    check_alone_with(
        all,
        week,
        &[done(40), done(20), done(10), done(1)],
        Some(2),
        &[true, true, false, false],
    );
}
