//! The verdict tables (data files in `cases`, which the real Barman is asked too), and what they don't say.

use jiff::SignedDuration;
use testkit::{CaseBackup, VerdictCase};

use super::*;
use crate::policy::{Clause, Rule};

/// 12:00 UTC on a Wednesday, so that hours and days from it are what they look like.
const NOW: Timestamp = Timestamp::constant(1_794_916_800 + 24 * 3600, 0);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn ago(days: f64) -> Timestamp {
    NOW - SignedDuration::from_millis((days * 86_400_000.0) as i64)
}

fn of_case(backup: &CaseBackup) -> Backup<String> {
    let segment = |number: u64| Lsn::from_u64(number << 24);
    let timeline = TimelineId::new(backup.timeline).unwrap();
    Backup {
        id: backup.name.clone(),
        stage: match backup.status.as_str() {
            "done" => Stage::Done,
            "waiting" => Stage::Waiting,
            "started" => Stage::Running,
            _ => Stage::Failed,
        },
        end_time: Some(ago(backup.age_days)),
        parent: backup.parent.clone(),
        keep: backup.keep.as_deref().map(|keep| if keep == "full" { Keep::Full } else { Keep::Standalone }),
        kept_until: backup.until_days.map(|days| NOW + SignedDuration::from_hours(24 * days)),
        place: Some(Place { timeline, begin: segment(backup.at), end: segment(backup.at) }),
        system_id: Some(backup.cluster.to_string()),
        verified: backup.verified,
    }
}

fn histories(case: &VerdictCase) -> Vec<History> {
    let history = |(timeline, ancestors): &(u32, Vec<(u32, u64)>)| {
        let lines =
            ancestors.iter().map(|(ancestor, at)| format!("{ancestor}\t{}\tx\n", Lsn::from_u64(at << 24)));
        History::parse(TimelineId::new(*timeline).unwrap(), lines.collect::<String>().as_bytes()).unwrap()
    };
    case.histories.iter().map(history).collect()
}

const fn letter(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "V",
        Verdict::PotentiallyObsolete => "O*",
        Verdict::Obsolete => "O",
        Verdict::KeepFull => "KF",
        Verdict::KeepStandalone => "KS",
        Verdict::None => "-",
    }
}

fn check_file(text: &str, count: usize) {
    let cases = VerdictCase::parse_all(text);
    assert!(cases.len() >= count, "only {} cases", cases.len());
    for case in cases {
        // In whatever order they are given, as Barman's names would be for these ages.
        let mut backups: Vec<Backup<String>> = case.backups.iter().map(of_case).collect();
        backups.reverse();
        let policy: Policy = case.policy.parse().unwrap();
        let histories = histories(&case);
        let rules = Rules { minimum_redundancy: case.minimum, histories: &histories, ..Rules::new(&policy) };
        let judged = evaluate(&backups, &rules, NOW);
        for backup in &case.backups {
            let judgement = judged.iter().find(|judgement| judgement.id == backup.name).unwrap();
            assert_eq!(letter(judgement.verdict), backup.verdict, "{}: {judged:#?}", case.name);
        }
    }
}

#[test]
fn verdicts_are_barmans() {
    check_file(include_str!("../cases/barman.txt"), 23);
}

#[test]
fn verdicts_beyond_barmans() {
    check_file(include_str!("../cases/own.txt"), 30);
}

fn done(id: &'static str, days: i64) -> Backup<&'static str> {
    Backup::done(id, NOW - DAY * i32::try_from(days).unwrap())
}

#[track_caller]
fn judge(policy: &str, backups: &[Backup<&'static str>]) -> Vec<Judgement<&'static str>> {
    evaluate(backups, &Rules::new(&policy.parse().unwrap()), NOW)
}

#[test]
fn a_broken_chain_is_not_judged() {
    let backups = [
        done("b1", 40).increment_of("b0"),
        done("b2", 20).increment_of("b3"),
        done("b3", 10).increment_of("b2"),
        done("b4", 1),
    ];
    let judged = judge("REDUNDANCY 1", &backups);
    let letters: Vec<&str> = judged.iter().map(|judgement| letter(judgement.verdict)).collect();
    assert_eq!(letters, ["-", "-", "-", "V"]);
    assert_eq!(judged[0].reason, Reason::NoRoot);
}

#[test]
fn what_is_going_or_gone_does_not_count() {
    let backups = [
        done("b1", 40),
        done("b2", 20),
        done("b3", 2).at_stage(Stage::Leaving),
        done("b4", 1).at_stage(Stage::Lost),
    ];
    let judged = judge("REDUNDANCY 1", &backups);
    let told: Vec<String> = judged.iter().map(ToString::to_string).collect();
    assert_eq!(told[1], "b2: VALID: number 1 of the 1 newest full backups to be kept");
    assert_eq!(told[2], "b3: -: its deletion has begun");
    assert_eq!(told[3], "b4: -: its files are gone");
}

#[test]
fn days_begin_where_the_policy_says() {
    // 23:30 and 00:30 in Berlin (UTC+1 in November) are the same day in UTC.
    let at = |id: &'static str, time: &str| Backup::done(id, time.parse().unwrap());
    let backups = [
        at("b1", "2026-11-10T22:30:00Z"),
        at("b2", "2026-11-10T23:30:00Z"),
        at("b3", "2026-11-12T12:00:00Z"),
    ];
    let policy: Policy = "KEEP 3 DAILY IN Europe/Berlin".parse().unwrap();
    let valid = |zone: TimeZone| {
        let judged = evaluate(&backups, &Rules { zone, ..Rules::new(&policy) }, NOW);
        judged.iter().filter(|judgement| judgement.verdict == Verdict::Valid).count()
    };
    assert_eq!(valid(TimeZone::UTC), 2);
    assert_eq!(valid(TimeZone::fixed(jiff::tz::offset(1))), 3);
}

#[test]
fn weeks_begin_on_mondays_and_years_with_january() {
    let at = |id: &'static str, time: &str| Backup::done(id, time.parse().unwrap());
    let letters = |policy: &str, times: &[&str]| -> String {
        let names = ["b1", "b2", "b3", "b4"];
        let backups: Vec<_> = names.iter().zip(times).map(|(name, time)| at(name, time)).collect();
        let judged = judge(policy, &backups);
        judged.iter().map(|judgement| letter(judgement.verdict)).collect()
    };
    // A Sunday, the Monday after it, the Sunday of that week.
    let week = ["2026-11-08T12:00:00Z", "2026-11-09T12:00:00Z", "2026-11-15T12:00:00Z"];
    assert_eq!(letters("KEEP 9 WEEKLY", &week), "VOV");
    // The days around New Year 2027 (a Friday) are one week of two years.
    let year = ["2026-12-30T12:00:00Z", "2026-12-31T12:00:00Z", "2027-01-01T12:00:00Z"];
    assert_eq!(letters("KEEP 9 WEEKLY", &year), "OOV");
    assert_eq!(letters("KEEP 9 YEARLY", &year), "OVV");
    assert_eq!(letters("KEEP 9 MONTHLY", &year), "OVV");
    let hour = ["2026-11-08T11:59:59Z", "2026-11-08T12:00:00Z", "2026-11-08T12:59:59Z"];
    assert_eq!(letters("KEEP 9 HOURLY", &hour), "VOV");
    let same_day_of_months = ["2026-10-08T12:00:00Z", "2026-11-08T12:00:00Z"];
    assert_eq!(letters("KEEP 9 DAILY", &same_day_of_months), "VV");
    assert_eq!(letters("KEEP 9 HOURLY", &same_day_of_months), "VV");
    assert_eq!(letters("KEEP 9 MONTHLY", &["2025-11-08T12:00:00Z", "2026-11-08T12:00:00Z"]), "VV");
}

#[test]
fn an_end_is_told_where_it_is_known() {
    let until = |policy: &str, backups: &[Backup<&'static str>]| -> Vec<Option<i64>> {
        let days = |moment: Timestamp| moment.duration_since(NOW).as_hours() / 24;
        judge(policy, backups).iter().map(|judgement| judgement.until.map(days)).collect()
    };
    let backups = [done("b1", 40), done("b2", 10), done("b3", 5), done("b4", 1)];
    // Each stays until the next one has left the window.
    assert_eq!(until("RECOVERY WINDOW OF 7 DAYS", &backups), [None, Some(2), Some(6), None]);
    assert_eq!(until("REDUNDANCY 2", &backups), [None; 4]);
    assert_eq!(until("RECOVERY WINDOW OF 7 DAYS AND REDUNDANCY 2", &backups), [None, Some(2), None, None]);
    assert_eq!(
        until("RECOVERY WINDOW OF 7 DAYS AND RECOVERY WINDOW OF 8 DAYS", &backups),
        [None, Some(3), Some(7), None]
    );
    let kept = |until: i32| {
        let mut backups = backups.clone();
        backups[0] = Backup { kept_until: Some(NOW + DAY * until), ..done("b1", 40).kept(Keep::Full) };
        backups[1] = Backup { kept_until: Some(NOW + DAY * until), ..done("b2", 10).kept(Keep::Standalone) };
        backups
    };
    assert_eq!(until("RECOVERY WINDOW OF 7 DAYS", &kept(1))[..2], [Some(1), Some(2)]);
    assert_eq!(until("RECOVERY WINDOW OF 7 DAYS", &kept(9))[..2], [Some(9), Some(9)]);
    let chain = [done("b1", 40), done("b2", 10), done("b2i", 9).increment_of("b2"), done("b3", 5)];
    assert_eq!(until("RECOVERY WINDOW OF 7 DAYS", &chain), [None, Some(2), Some(2), None]);
}

#[test]
fn who_is_needed_is_told_apart_from_who_stays() {
    let needed = |policy: &str, minimum: u32, backups: &[Backup<&'static str>]| -> String {
        let policy: Policy = policy.parse().unwrap();
        let rules = Rules { minimum_redundancy: minimum, ..Rules::new(&policy) };
        let judged = evaluate(backups, &rules, NOW);
        judged.iter().map(|judgement| if judgement.needed { 'n' } else { '-' }).collect()
    };
    let backups = [
        done("b1", 40).kept(Keep::Full),
        done("b2", 20),
        done("b3", 10).kept(Keep::Standalone),
        done("b4", 1),
    ];
    assert_eq!(needed("RECOVERY WINDOW OF 7 DAYS", 0, &backups), "--nn");
    assert_eq!(needed("RECOVERY WINDOW OF 7 DAYS", 3, &backups), "--nn");
    assert_eq!(needed("REDUNDANCY 1", 0, &backups), "---n");
    assert_eq!(needed("REDUNDANCY 0", 0, &backups), "----");
}

#[test]
fn deleting_by_hand_respects_keep_minimum_and_the_last() {
    let kept = Backup { kept_until: Some(NOW + DAY), ..done("b1", 3).kept(Keep::Full) };
    let failed = done("b3", 1).at_stage(Stage::Failed);
    let backups = [kept, done("b2", 2), done("b2i", 2).increment_of("b2"), failed];
    let may = |id, minimum| may_delete(&backups, &id, minimum, NOW);
    assert_eq!(may("b1", 0), Err(Refusal::Kept { keep: Keep::Full }));
    assert_eq!(may("b2", 1), Ok(()));
    assert_eq!(may("b2", 2), Err(Refusal::MinimumRedundancy { present: 2, minimum: 2 }));
    assert_eq!(may("b2i", 2), Ok(()));
    assert_eq!(may("b3", 9), Ok(()));
    assert_eq!(may("b9", 9), Ok(()));
    // The keep has run out; nothing else protects it.
    assert_eq!(may_delete(&backups, &"b1", 1, NOW + DAY), Ok(()));
    assert_eq!(may_delete(&backups[1..], &"b2", 0, NOW), Err(Refusal::LastRestorable));
    // One that waits for WAL is no replacement for a finished one, but worth protecting when there is none.
    let waiting = |id| done(id, 1).at_stage(Stage::Waiting);
    assert_eq!(may_delete(&[done("b1", 3), waiting("b2")], &"b1", 0, NOW), Err(Refusal::LastRestorable));
    assert_eq!(may_delete(&[done("b1", 3), waiting("b2")], &"b2", 0, NOW), Ok(()));
    assert_eq!(may_delete(&[waiting("b1"), waiting("b2")], &"b1", 0, NOW), Ok(()));
    assert_eq!(may_delete(&[waiting("b1"), waiting("b2")], &"b1", 3, NOW), Ok(()));
    assert_eq!(may_delete(&[waiting("b1")], &"b1", 0, NOW), Err(Refusal::LastRestorable));
}

#[test]
fn every_reason_is_told_in_words() {
    let told = |policy: &str, backups: &[Backup<&'static str>], at: usize| {
        judge(policy, backups)[at].reason.to_string()
    };
    let backups = [done("b1", 40), done("b2", 20), done("b3", 10), done("b4", 5), done("b5", 1)];
    let week = "RECOVERY WINDOW OF 7 DAYS";
    let begin = "2026-11-11T12:00:00Z";
    assert_eq!(
        told(week, &backups, 0),
        format!("recovery to the beginning of the window, {begin}, starts from a newer backup")
    );
    assert_eq!(
        told(week, &backups, 2),
        format!("the newest backup before {begin}: recovery to the beginning of the window starts from it")
    );
    assert_eq!(told(week, &backups, 4), format!("it ended after the window began, at {begin}"));
    assert_eq!(told("REDUNDANCY 2", &backups, 0), "2 newer full backups are kept");
    assert_eq!(told("REDUNDANCY 2", &backups, 3), "number 2 of the 2 newest full backups to be kept");
    assert_eq!(
        told("REDUNDANCY 0", &backups, 4),
        "the policy does not need it, but it is the newest that can be restored"
    );
    assert_eq!(
        told("KEEP 2 DAILY", &backups, 3),
        "the newest of its day, number 2 of the 2 for which one is kept"
    );
    assert_eq!(
        told("KEEP 1 DAILY", &backups, 0),
        "no hour, day, week, month or year for which one is kept has it as its newest"
    );
    assert_eq!(
        told("REDUNDANCY 2 AND KEEP 1 DAILY", &backups, 0),
        "2 newer full backups are kept; no hour, day, week, month or year for which one is kept has it as its newest"
    );
    assert!(
        told("REDUNDANCY 2 VERIFIED", &backups, 0)
            .starts_with("it is not verified or its end time is doubtful")
    );
    let set_back =
        [done("b1", 2), done("b2", 40)].map(|backup| Backup { place: Some(place(backup.id)), ..backup });
    assert_eq!(
        told(week, &set_back, 1),
        format!(
            "its end time contradicts an older backup's, so it may have ended after the window began, at {begin}"
        )
    );
    let kept = Backup { kept_until: Some(NOW + DAY), ..done("b1", 1).kept(Keep::Full) };
    assert_eq!(told(week, &[kept], 0), "it is kept, with all later WAL, until 2026-11-19T12:00:00Z");
    assert_eq!(
        told(week, &[done("b1", 1).kept(Keep::Standalone)], 0),
        "it is kept, with the WAL it needs itself"
    );
    let chain = [
        done("b1", 40).kept(Keep::Standalone),
        done("b1i", 39).increment_of("b1"),
        done("b2", 20),
        done("b2i", 1).increment_of("b2"),
    ];
    assert_eq!(
        told(week, &chain, 1),
        "its full backup b1 is kept by itself, and the policy has no use for increments of it"
    );
    assert_eq!(told(week, &chain, 3), "it is an increment of b2 and shares its fate");
    let rules = Policy::new(vec![Clause { rule: Rule::Redundancy(1), verified: false }]).unwrap();
    let rules = Rules { minimum_redundancy: 3, ..Rules::new(&rules) };
    assert_eq!(
        evaluate(&backups, &rules, NOW)[2].reason.to_string(),
        "number 3 of the 3 newest full backups to be kept"
    );
    let policy: Policy = week.parse().unwrap();
    let rules = Rules { minimum_redundancy: 4, ..Rules::new(&policy) };
    assert_eq!(
        evaluate(&backups, &rules, NOW)[1].reason.to_string(),
        "the policy does not need it, but minimum_redundancy asks for 4 backups"
    );
}

fn place(id: &str) -> Place {
    let at = Lsn::from_u64(u64::from(id.as_bytes()[1]) << 24);
    Place { timeline: TimelineId::FIRST, begin: at, end: at }
}

/// The judgement on each of these, by a policy.
fn judged(policy: &str, backups: &[Backup<&'static str>]) -> Vec<Judgement<&'static str>> {
    let policy: Policy = policy.parse().unwrap();
    evaluate(backups, &Rules::new(&policy), NOW)
}

#[test]
fn what_is_not_finished_says_so_and_its_increments_have_no_root() {
    let waiting = Backup::done("a", ago(1.0)).at_stage(Stage::Waiting);
    let increment = Backup::done("b", ago(0.5)).increment_of("a");
    let reasons: Vec<_> =
        judged("REDUNDANCY 1", &[waiting, increment]).into_iter().map(|judgement| judgement.reason).collect();
    assert_eq!(reasons, [Reason::NotDone, Reason::NoRoot]);
}

#[test]
fn increments_need_later_wal_where_the_policy_needs_them_and_nowhere_else() {
    let with_increment = |keep: Option<Keep>| {
        let old = Backup { keep, ..Backup::done("a", ago(9.0)) };
        [old, Backup::done("b", ago(8.0)).increment_of("a"), Backup::done("c", ago(1.0))]
    };
    let increment = |policy: &str, keep| {
        let judgement = judged(policy, &with_increment(keep)).swap_remove(1);
        (judgement.verdict, judgement.needed)
    };
    assert_eq!(increment("REDUNDANCY 2", None), (Verdict::Valid, true));
    assert_eq!(increment("REDUNDANCY 1", None), (Verdict::Obsolete, false));
    // It stays for its root's sake, and the policy has no use for it.
    assert_eq!(increment("REDUNDANCY 1", Some(Keep::Full)), (Verdict::Valid, false));
    assert_eq!(increment("REDUNDANCY 1", Some(Keep::Standalone)), (Verdict::Obsolete, false));
    assert_eq!(increment("REDUNDANCY 2", Some(Keep::Standalone)), (Verdict::Valid, true));
    // The window begins in the root, and what follows it: of its increments nothing.
    assert_eq!(increment("RECOVERY WINDOW OF 2 DAYS", Some(Keep::Standalone)), (Verdict::Obsolete, false));
}

#[test]
fn what_does_not_count_stays_until_what_does_has_left_the_window() {
    let verified = Backup { verified: true, ..Backup::done("b", ago(3.0)) };
    let backups = [Backup::done("a", ago(10.0)), verified, Backup::done("c", ago(1.0))];
    let judged = judged("RECOVERY WINDOW OF 7 DAYS VERIFIED", &backups);
    assert_eq!(judged[0].reason, Reason::DoesNotCount);
    assert_eq!(judged[0].until, Some(ago(3.0) + DAY * 7));
    // It is the newest, and nothing newer counts: until when is not known.
    assert_eq!((&judged[2].reason, judged[2].until), (&Reason::DoesNotCount, None));
}

#[test]
fn a_backup_of_a_window_stays_until_the_next_newer_one_has_left_it() {
    let backups = [10.0, 3.0, 1.0].map(ago);
    let backups = [("a", 0), ("b", 1), ("c", 2)].map(|(id, at): (_, usize)| Backup::done(id, backups[at]));
    let untils = judged("RECOVERY WINDOW OF 7 DAYS", &backups).into_iter().map(|judgement| judgement.until);
    assert_eq!(untils.collect::<Vec<_>>(), [Some(ago(3.0) + DAY * 7), Some(ago(1.0) + DAY * 7), None]);
}

#[test]
fn one_whose_end_is_not_known_stays_until_the_next_newer_one_has_left_the_window() {
    let at = |backup: Backup<&'static str>, segment: u64| {
        let begin = Lsn::from_u64(segment << 24);
        backup.at(TimelineId::FIRST, begin, begin)
    };
    let unknown = Backup { end_time: None, ..Backup::done("a", NOW) };
    let backups = [at(unknown, 2), at(Backup::done("b", ago(3.0)), 3)];
    let judged = judged("RECOVERY WINDOW OF 7 DAYS", &backups);
    assert!(matches!(judged[0].reason, Reason::PerhapsInWindow { .. }), "{:?}", judged[0].reason);
    assert_eq!(judged[0].until, Some(ago(3.0) + DAY * 7));
}

#[test]
fn what_remains_is_judged_again_where_a_clock_was_set_back() {
    // That the third one's clock is wrong shows only by the second, which goes; then the third stands for its day.
    let ends = [(3.0, false), (1.0, false), (3.0, true), (1.0, true)];
    let backups: Vec<Backup<usize>> = (0..4)
        .map(|id| {
            let begin = Lsn::from_u64((id as u64 + 2) << 24);
            let backup = Backup::done(id, ago(ends[id].0)).at(TimelineId::FIRST, begin, begin);
            Backup { verified: ends[id].1, keep: (id > 1).then_some(Keep::Full), ..backup }
        })
        .collect();
    let policy = "KEEP 2 DAILY VERIFIED".parse().unwrap();
    let verdicts = |backups: &[Backup<usize>]| -> Vec<Verdict> {
        evaluate(backups, &Rules::new(&policy), NOW).iter().map(|judgement| judgement.verdict).collect()
    };
    assert_eq!(verdicts(&backups)[..2], [Verdict::Obsolete; 2]);
    assert!(!verdicts(&backups[2..]).contains(&Verdict::Obsolete));
}
