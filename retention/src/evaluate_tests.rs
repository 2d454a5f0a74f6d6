//! The verdict tables that Barman 3.20.1 gave for the same facts, and laws.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

/// `b1 40 failed`, `b1i 39 ^b1`, `b4 5 keep-full`: an identifier, an age in days, and what is special.
fn backup(text: &'static str) -> Backup<&'static str> {
    let mut words = text.split(' ');
    let id = words.next().unwrap();
    let age: i64 = words.next().unwrap().parse().unwrap();
    let plain = Backup::done(id, NOW - SignedDuration::from_hours(24 * age));
    words.fold(plain, |backup, word| match word {
        "failed" | "started" => backup.at_stage(Stage::Unusable),
        "waiting" => backup.at_stage(Stage::Waiting),
        "keep-full" => backup.kept(Keep::Full),
        "keep-standalone" => backup.kept(Keep::Standalone),
        parent => backup.increment_of(parent.strip_prefix('^').unwrap()),
    })
}

/// Verdicts as in the table: O obsolete, V valid, O* potentially obsolete, KF and KS kept, - not judged.
#[track_caller]
fn check(policy: &str, minimum: u32, backups: &[&'static str], expected: &str) {
    let backups: Vec<_> = backups.iter().map(|text| backup(text)).collect();
    let judged = evaluate(&backups, policy.parse().unwrap(), minimum, NOW);
    let verdicts: Vec<&str> = judged
        .iter()
        .map(|judgement| match judgement.verdict {
            Verdict::Valid => "V",
            Verdict::PotentiallyObsolete => "O*",
            Verdict::Obsolete => "O",
            Verdict::KeepFull => "KF",
            Verdict::KeepStandalone => "KS",
            Verdict::None => "-",
        })
        .collect();
    assert_eq!(verdicts.join(" "), expected, "{judged:#?}");
}

const BASE: [&str; 5] = ["b1 40", "b2 20", "b3 10", "b4 5", "b5 1"];
const CHAINS: [&str; 6] = ["b1 40", "b1i 39 ^b1", "b2 20", "b2i 19 ^b2", "b2j 18 ^b2i", "b3 1"];
const UNFINISHED: [&str; 5] = ["b1 40", "b2 20 failed", "b3 10", "b4 5 waiting", "b5 1"];
const WEEK: &str = "RECOVERY WINDOW OF 7 DAYS";

#[test]
fn redundancy_keeps_the_newest() {
    check("REDUNDANCY 2", 0, &BASE, "O O O V V");
    check("REDUNDANCY 0", 0, &BASE, "O O O O O");
    check("REDUNDANCY 1", 3, &BASE, "O O V V V");
    check("REDUNDANCY 2", 0, &[], "");
}

#[test]
fn redundancy_counts_finished_backups_only() {
    let mut backups = UNFINISHED.to_vec();
    backups.extend(["b6 0 started", "b7 0 started"]);
    check("REDUNDANCY 2", 0, &backups, "O - V - V - -");
}

#[test]
fn kept_backups_take_their_place_among_the_newest() {
    let backups = ["b1 40 keep-full", "b2 20", "b3 10", "b4 5 keep-standalone", "b5 1"];
    check("REDUNDANCY 2", 0, &backups, "KF O O KS V");
    let backups = ["b1 40", "b2 20", "b3 10", "b4 5", "b5 1 keep-standalone"];
    check("REDUNDANCY 2", 0, &backups, "O O O V KS");
}

#[test]
fn a_window_reaches_back_to_the_backup_before_it() {
    check(WEEK, 0, &BASE, "O O V V V");
    check("RECOVERY WINDOW OF 2 WEEKS", 0, &BASE, "O V V V V");
    check("RECOVERY WINDOW OF 1 MONTH", 0, &BASE, "V V V V V");
    check("RECOVERY WINDOW OF 0 DAYS", 0, &BASE, "O O O O V");
    check(WEEK, 0, &["b1 40", "b2 30"], "O V");
    check(WEEK, 0, &UNFINISHED, "O - V - V");
}

#[test]
fn the_minimum_holds_back_what_the_window_lets_go() {
    check(WEEK, 4, &BASE, "O O* V V V");
    check(WEEK, 9, &BASE, "O* O* V V V");
    // A kept backup counts: it remains.
    let backups = ["b1 40", "b2 30", "b3 20 keep-full", "b4 10", "b5 1"];
    check(WEEK, 3, &backups, "O O KF V V");
    check(WEEK, 4, &backups, "O O* KF V V");
}

#[test]
fn a_window_and_kept_backups() {
    let backups = ["b1 40 keep-full", "b2 20", "b3 10 keep-standalone", "b4 5", "b5 1"];
    check(WEEK, 0, &backups, "KF O KS V V");
    let backups = ["b1 40 keep-full", "b2 20 keep-standalone", "b3 10", "b4 5", "b5 1"];
    check(WEEK, 4, &backups, "KF KS V V V");
}

#[test]
fn increments_share_the_fate_of_their_full_backup() {
    check("REDUNDANCY 1", 0, &CHAINS, "O O O O O V");
    check(WEEK, 0, &CHAINS, "O O V V V V");
}

#[test]
fn an_increment_that_waits_for_wal_follows_too_and_one_that_failed_does_not() {
    let backups = ["b1 40", "b1i 39 ^b1 waiting", "b2 20", "b2i 19 ^b2 waiting", "b2j 18 ^b2 failed", "b3 1"];
    check("REDUNDANCY 2", 0, &backups, "O O V V - V");
}

#[test]
fn increments_of_kept_backups() {
    let with = |at: usize, text: &'static str| {
        let mut backups = CHAINS;
        backups[at] = text;
        backups
    };
    check("REDUNDANCY 1", 0, &with(0, "b1 40 keep-full"), "KF V O O O V");
    check("REDUNDANCY 1", 0, &with(2, "b2 20 keep-standalone"), "O O KS O O V");
    check("REDUNDANCY 2", 0, &with(2, "b2 20 keep-standalone"), "O O KS V V V");
    // As observed: the increments of the window's anchor go when it is kept by itself, though they stay otherwise.
    check(WEEK, 0, &with(2, "b2 20 keep-standalone"), "O O KS O O V");
    check(WEEK, 0, &with(0, "b1 40 keep-standalone"), "KS O V V V V");
}

#[test]
fn a_broken_chain_is_not_judged() {
    check("REDUNDANCY 1", 0, &["b1 40 ^b0", "b2 20 ^b3", "b3 10 ^b2", "b4 1"], "- - - V");
}

#[test]
fn deleting_by_hand_respects_keep_and_minimum() {
    let backups: Vec<_> = ["b1 3 keep-full", "b2 2", "b2i 2 ^b2", "b3 1 failed"].map(backup).to_vec();
    assert_eq!(may_delete(&backups, &"b1", 0), Err(Refusal::Kept { keep: Keep::Full }));
    assert_eq!(may_delete(&backups, &"b2", 1), Ok(()));
    assert_eq!(may_delete(&backups, &"b2", 2), Err(Refusal::MinimumRedundancy { present: 2, minimum: 2 }));
    assert_eq!(may_delete(&backups, &"b2i", 2), Ok(()));
    assert_eq!(may_delete(&backups, &"b3", 9), Ok(()));
}

#[test]
fn every_verdict_tells_its_reason() {
    let backups: Vec<_> = BASE.map(backup).to_vec();
    let judged = evaluate(&backups, WEEK.parse().unwrap(), 4, NOW);
    let told: Vec<String> = judged.iter().map(ToString::to_string).collect();
    assert!(told[0].starts_with("b1: OBSOLETE: recovery to the beginning of the window"), "{told:#?}");
    assert!(told[1].starts_with("b2: OBSOLETE*: the policy does not need it"), "{told:#?}");
    assert!(told[2].starts_with("b3: VALID: the newest backup before"), "{told:#?}");
    assert!(told[4].starts_with("b5: VALID: it ended after the window began"), "{told:#?}");
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        (0u32..6).prop_map(Policy::Redundancy),
        (0u32..60).prop_map(|count| {
            Policy::RecoveryWindow(crate::Window { count, unit: crate::WindowUnit::Days })
        }),
    ]
}

prop_compose! {
    /// Backups in the order of their ages, some unfinished, some kept, some increments of an earlier one.
    fn any_backups()(facts in prop::collection::vec((0i64..60, 0u8..10, 0usize..12), 0..12)) -> Vec<Backup<usize>> {
        let mut ages: Vec<i64> = facts.iter().map(|(age, ..)| *age).collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        facts.iter().zip(ages).enumerate().map(|(id, ((_, kind, parent), age))| {
            let backup = Backup::done(id, NOW - SignedDuration::from_hours(24 * age));
            match kind {
                0 => backup.at_stage(if *parent < 6 { Stage::Waiting } else { Stage::Unusable }),
                1 => backup.kept(Keep::Full),
                2 => backup.kept(Keep::Standalone),
                3 | 4 if *parent < id => backup.increment_of(*parent),
                _ => backup,
            }
        }).collect()
    }
}

proptest! {
    #[test]
    fn what_remains_satisfies_the_policy(backups in any_backups(), policy in any_policy(), minimum in 0u32..4) {
        let judged = evaluate(&backups, policy, minimum, NOW);
        prop_assert_eq!(judged.len(), backups.len());
        let goes = |id: usize| judged[id].verdict == Verdict::Obsolete;
        let roots: Vec<&Backup<usize>> = backups.iter().filter(|b| b.is_done() && b.parent.is_none()).collect();
        let staying = roots.iter().filter(|root| !goes(root.id)).count();
        // Never fewer than the minimum, unless there were fewer.
        prop_assert!(staying >= roots.len().min(minimum as usize));
        match policy {
            Policy::Redundancy(count) => prop_assert!(staying >= roots.len().min(count as usize)),
            Policy::RecoveryWindow(window) => {
                // Every moment of the window has the full backup it is recovered from: the newest one before it.
                let begin = window.begin(NOW);
                for root in &roots {
                    let end = root.end_time.unwrap();
                    let next = roots.iter().find(|other| other.id > root.id);
                    if end >= begin || next.is_none_or(|next| next.end_time.unwrap() >= begin) {
                        prop_assert!(!goes(root.id), "{root:?}");
                    }
                }
            }
        }
        for backup in &backups {
            // Kept and unfinished backups never go, and nothing goes from under an increment that stays.
            prop_assert!(!goes(backup.id) || (backup.stage != Stage::Unusable && backup.keep.is_none()));
            if let Some(parent) = backup.parent.filter(|_| backup.is_done() && !goes(backup.id)) {
                prop_assert!(!goes(parent), "{backup:?} would lose its parent");
            }
        }
    }

    #[test]
    fn a_longer_policy_never_lets_more_go(backups in any_backups(), count in 0u32..20, more in 0u32..20) {
        for wide in [false, true] {
            let policy = |count| if wide {
                Policy::RecoveryWindow(crate::Window { count, unit: crate::WindowUnit::Days })
            } else {
                Policy::Redundancy(count)
            };
            let gone = |count| -> Vec<usize> {
                let judged = evaluate(&backups, policy(count), 0, NOW);
                judged.iter().filter(|j| j.verdict == Verdict::Obsolete).map(|j| j.id).collect()
            };
            let (short, long) = (gone(count), gone(count + more));
            prop_assert!(long.iter().all(|id| short.contains(id)), "{short:?} {long:?}");
        }
    }
}
