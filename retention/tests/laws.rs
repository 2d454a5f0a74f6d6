//! Laws of retention over random histories of a cluster, checked against a slow and obvious model of recovery.
//!
//! The model plays a cluster's life: it writes WAL, is backed up, promoted, recovered to an earlier moment, its clock is set
//! back. It knows the true time and place of everything, and what recovery takes: a finished backup from before the moment,
//! on the way to it, and every segment from the backup's beginning to the moment's position along the timeline. The plan
//! only sees what a catalogue has.

// Helpers of tests may panic as tests do; clippy's own exemption ends at functions marked as tests.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};

use barkeep_retention::{
    Backup, Claim, Fate, Judgement, Keep, Place, Policy, Rules, SegmentRange, Stage, Verdict, WalPlan,
    WalPolicy, claims, evaluate, plan,
};
use jiff::{SignedDuration, Timestamp};
use pgwal::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};
use proptest::prelude::*;

const EPOCH: Timestamp = Timestamp::constant(1_790_000_000, 0);
const SIZE: SegmentSize = SegmentSize::MIN;
const QUARTER: u64 = 1 << 18;

/// What happens to the cluster next, after some hours.
#[derive(Debug, Clone)]
enum Event {
    /// So many quarters of a segment are written.
    Write(u64),
    /// A backup is taken, over so many quarters of a segment.
    BackUp { length: u64, fate: u8, keep: u8, verified: bool },
    /// The cluster goes on on a new timeline, from so many quarters of a segment before its end.
    Promote(u64),
    /// The clock of the backup host is set back by so many hours.
    SetClockBack(i64),
}

fn any_life() -> impl Strategy<Value = Life> {
    let event = prop_oneof![
        3 => (0u64..30).prop_map(Event::Write),
        4 => (0u64..6, any::<u8>(), 0u8..12, any::<bool>())
            .prop_map(|(length, fate, keep, verified)| Event::BackUp { length, fate, keep, verified }),
        1 => (0u64..40).prop_map(Event::Promote),
        1 => (1i64..100).prop_map(Event::SetClockBack),
    ];
    prop::collection::vec((1i64..60, event), 1..40).prop_map(|events| Life::of(&events))
}

/// Where the cluster was at a moment.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// True hours since the beginning.
    hours: i64,
    timeline: TimelineId,
    lsn: u64,
}

/// A cluster's life, as it truly was and as the catalogue has it.
#[derive(Debug)]
struct Life {
    backups: Vec<Backup<usize>>,
    histories: BTreeMap<TimelineId, History>,
    moments: Vec<Moment>,
    now: Timestamp,
    archive: BTreeSet<WalFile>,
}

impl Life {
    fn of(events: &[(i64, Event)]) -> Self {
        // The clock only ever goes back, and is right in the end.
        let back = |(_, event): &(i64, Event)| if let Event::SetClockBack(by) = event { *by } else { 0 };
        let mut ahead: i64 = events.iter().map(back).sum();
        let first = TimelineId::FIRST;
        let (mut timeline, mut lsn, mut hours) = (first, 8 * QUARTER, 0);
        let mut written = BTreeMap::from([(first, (0, lsn))]);
        let mut life = Life {
            backups: Vec::new(),
            histories: BTreeMap::from([(first, History::root(first))]),
            moments: Vec::new(),
            now: EPOCH,
            archive: BTreeSet::new(),
        };
        for (wait, event) in events {
            hours += wait;
            match event {
                Event::Write(quarters) => lsn += quarters * QUARTER,
                Event::BackUp { length, fate, keep, verified } => {
                    let begin = lsn + 40;
                    lsn = begin + length * QUARTER + 100;
                    let place = Place { timeline, begin: Lsn::from_u64(begin), end: Lsn::from_u64(lsn) };
                    let taken = life.backup_at(place, EPOCH + hours_of(hours + ahead), *fate, *keep);
                    life.backups.push(Backup { verified: *verified, ..taken });
                }
                Event::Promote(quarters) => {
                    let parent = &life.histories[&timeline];
                    let begin = parent.begin().map_or(4 * QUARTER, Lsn::as_u64);
                    lsn = lsn.saturating_sub(quarters * QUARTER).max(begin + 1);
                    let ancestors =
                        parent.entries().iter().map(|e| format!("{}\t{}\tx\n", e.timeline, e.end));
                    let text =
                        ancestors.collect::<String>() + &format!("{timeline}\t{}\tx\n", Lsn::from_u64(lsn));
                    timeline = TimelineId::new(life.histories.len() as u32 + 1).unwrap();
                    life.histories.insert(timeline, History::parse(timeline, text.as_bytes()).unwrap());
                    written.insert(timeline, (lsn, lsn));
                }
                Event::SetClockBack(by) => ahead -= by,
            }
            let written = written.get_mut(&timeline).unwrap();
            written.1 = written.1.max(lsn);
            life.moments.push(Moment { hours, timeline, lsn });
        }
        life.now = EPOCH + hours_of(hours);
        for (timeline, (from, to)) in written {
            for number in from / SIZE.bytes()..=to / SIZE.bytes() {
                let at = Lsn::from_u64(number * SIZE.bytes());
                life.archive.insert(WalFile::Segment(SegmentName::at(timeline, at, SIZE)));
            }
            life.archive.insert(WalFile::History(timeline));
        }
        life
    }

    fn backup_at(&self, place: Place, end_time: Timestamp, fate: u8, keep: u8) -> Backup<usize> {
        // PostgreSQL takes no increment of a backup that its timeline does not lead back to.
        let leads_back = |other: Place| {
            let history = &self.histories[&place.timeline];
            history.includes(other.timeline)
                && history.end_of(other.timeline).is_none_or(|left| other.end <= left)
        };
        let is_parent =
            |b: &&Backup<usize>| b.parent.is_none() && b.stage == Stage::Done && leads_back(b.place.unwrap());
        let root = self.backups.iter().rev().find(is_parent);
        let parent = root.filter(|_| fate.is_multiple_of(5)).map(|root| root.id);
        let stage = match fate % 11 {
            1 => Stage::Failed,
            2 => Stage::Waiting,
            3 => Stage::Running,
            4 => Stage::Leaving,
            _ => Stage::Done,
        };
        let keep = match keep {
            0 if parent.is_none() => Some(Keep::Full),
            1 | 2 if parent.is_none() => Some(Keep::Standalone),
            _ => None,
        };
        Backup { place: Some(place), stage, parent, keep, ..Backup::done(self.backups.len(), end_time) }
    }

    fn histories(&self) -> Vec<History> {
        self.histories.values().cloned().collect()
    }

    fn present(&self) -> BTreeSet<usize> {
        self.backups.iter().filter(|backup| backup.stage != Stage::Leaving).map(|backup| backup.id).collect()
    }

    /// Whether recovery to a moment works with these backups and this WAL.
    fn recoverable(&self, moment: Moment, backups: &BTreeSet<usize>, archive: &BTreeSet<WalFile>) -> bool {
        backups.iter().map(|id| &self.backups[*id]).any(|backup| {
            let chain_is_there = backup.parent.is_none_or(|parent| backups.contains(&parent));
            backup.stage == Stage::Done
                && chain_is_there
                && self.leads(backup.place.unwrap(), moment, archive)
        })
    }

    /// Whether recovery from a place leads to a moment: every byte of the way is in the segment of the timeline that it
    /// belongs to, looked at quarter by quarter.
    fn leads(&self, place: Place, moment: Moment, archive: &BTreeSet<WalFile>) -> bool {
        let history = &self.histories[&moment.timeline];
        let on_the_way = history.includes(place.timeline)
            && history.end_of(place.timeline).is_none_or(|left| place.end <= left)
            && place.end.as_u64() <= moment.lsn;
        let (from, to) = (place.begin.as_u64(), moment.lsn.max(place.begin.as_u64() + 1));
        on_the_way
            && (from / QUARTER..=(to - 1) / QUARTER).all(|quarter| {
                let at = Lsn::from_u64((quarter * QUARTER).max(from));
                archive.contains(&WalFile::Segment(SegmentName::at(history.timeline_at(at), at, SIZE)))
            })
    }
}

fn hours_of(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let clause = prop_oneof![
        (0u32..5).prop_map(|count| format!("REDUNDANCY {count}")),
        (0u32..400).prop_map(|hours| format!("RECOVERY WINDOW OF {hours} HOURS")),
        (1u32..5, 0u32..3).prop_map(|(days, weeks)| format!("KEEP {days} DAILY {weeks} WEEKLY")),
    ];
    (prop::collection::vec(clause, 1..3), prop::bool::weighted(0.2)).prop_map(|(clauses, verified)| {
        let text = clauses.join(" AND ") + if verified { " AND VERIFIED" } else { "" };
        text.parse().unwrap()
    })
}

fn any_wal_policy() -> impl Strategy<Value = WalPolicy> {
    prop_oneof![
        3 => Just(WalPolicy::Main),
        1 => (0u32..400).prop_map(|hours| format!("WINDOW OF {hours} HOURS").parse().unwrap()),
    ]
}

/// What is left when a plan has been carried out.
struct Carried {
    judged: Vec<Judgement<usize>>,
    backups: BTreeSet<usize>,
    archive: BTreeSet<WalFile>,
}

fn carry_out(
    backups: &[Backup<usize>],
    archive: &BTreeSet<WalFile>,
    rules: &Rules<'_>,
    wal: WalPolicy,
    now: Timestamp,
) -> Carried {
    let judged = evaluate(backups, rules, now);
    let claims = claims(backups, &judged, wal, rules.histories, now).unwrap();
    let files: Vec<WalFile> = archive.iter().copied().collect();
    let fates = plan(&claims, rules.histories, &files, SIZE);
    let archive = fates.iter().filter(|(_, fate)| !fate.is_removable()).map(|(file, _)| *file).collect();
    let gone = obsolete(&judged);
    let left = |backup: &&Backup<usize>| backup.stage != Stage::Leaving && !gone.contains(&backup.id);
    let backups = backups.iter().filter(left).map(|backup| backup.id).collect();
    Carried { judged, backups, archive }
}

fn obsolete(judged: &[Judgement<usize>]) -> BTreeSet<usize> {
    judged.iter().filter(|j| j.verdict == Verdict::Obsolete).map(|j| j.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_advertised_window_stays_recoverable(life in any_life(), policy in any_policy(), wal in any_wal_policy()) {
        let histories = life.histories();
        let rules = Rules { histories: &histories, ..Rules::new(&policy) };
        let carried = carry_out(&life.backups, &life.archive, &rules, wal, life.now);
        let Some(window) = policy.window() else { return Ok(()) };
        let begin = match wal {
            WalPolicy::Main => window.begin(life.now),
            WalPolicy::Window(wal) => window.begin(life.now).max(wal.begin(life.now)),
        };
        // Where only verified backups count, only they carry the promise.
        let verified_only = policy.clauses().iter().any(|clause| clause.verified);
        let before: BTreeSet<usize> =
            life.present().into_iter().filter(|id| !verified_only || life.backups[*id].verified).collect();
        for moment in life.moments.iter().filter(|moment| EPOCH + hours_of(moment.hours) >= begin) {
            let was = life.recoverable(*moment, &before, &life.archive);
            prop_assert!(!was || life.recoverable(*moment, &carried.backups, &carried.archive), "{:?}", moment);
        }
    }

    #[test]
    fn what_stays_can_be_used_and_enough_stays(
        life in any_life(), policy in any_policy(), wal in any_wal_policy(), minimum in 0u32..4,
    ) {
        let histories = life.histories();
        let rules = Rules { minimum_redundancy: minimum, histories: &histories, ..Rules::new(&policy) };
        let carried = carry_out(&life.backups, &life.archive, &rules, wal, life.now);
        let done = |id: &&usize| life.backups[**id].stage == Stage::Done;
        for backup in carried.backups.iter().filter(done).map(|id| &life.backups[*id]) {
            let place = backup.place.unwrap();
            let own = Moment { hours: 0, timeline: place.timeline, lsn: place.end.as_u64() };
            prop_assert!(life.leads(place, own, &carried.archive), "{:?} cannot become consistent", backup);
            let led = life.moments.iter().filter(|moment| life.leads(place, **moment, &life.archive));
            for moment in led.filter(|_| backup.keep == Some(Keep::Full)) {
                prop_assert!(life.leads(place, *moment, &carried.archive), "{:?} {:?}", backup, moment);
            }
        }
        // The minimum holds, and the last that can be restored stays.
        let roots = |ids: &BTreeSet<usize>| ids.iter().filter(done).filter(|id| life.backups[**id].parent.is_none()).count();
        prop_assert!(roots(&carried.backups) >= roots(&life.present()).min(minimum.max(1) as usize));
        // What is kept or unfinished stays, and nothing goes from under an increment that stays.
        for id in obsolete(&carried.judged) {
            let backup = &life.backups[id];
            prop_assert!(backup.keep.is_none() && backup.stage.is_usable());
            let mut children = life.backups.iter().filter(|child| child.parent == Some(id) && child.stage.is_usable());
            prop_assert!(children.all(|child| !carried.backups.contains(&child.id)), "{:?}", backup);
        }
    }

    #[test]
    fn carrying_out_a_plan_twice_frees_nothing_more(
        life in any_life(), policy in any_policy(), wal in any_wal_policy(), minimum in 0u32..4,
    ) {
        let histories = life.histories();
        let rules = Rules { minimum_redundancy: minimum, histories: &histories, ..Rules::new(&policy) };
        let once = carry_out(&life.backups, &life.archive, &rules, wal, life.now);
        let left: Vec<_> = life.backups.iter().filter(|backup| once.backups.contains(&backup.id)).cloned().collect();
        let twice = carry_out(&left, &once.archive, &rules, wal, life.now);
        prop_assert_eq!(twice.backups, once.backups);
        prop_assert_eq!(twice.archive, once.archive);
    }

    #[test]
    fn a_later_moment_never_resurrects(
        life in any_life(), policy in any_policy(), wal in any_wal_policy(), later in 0i64..500,
    ) {
        let histories = life.histories();
        let rules = Rules { histories: &histories, ..Rules::new(&policy) };
        let then = life.now + hours_of(later);
        let first = carry_out(&life.backups, &life.archive, &rules, wal, life.now);
        let second = carry_out(&life.backups, &life.archive, &rules, wal, then);
        prop_assert!(second.backups.is_subset(&first.backups));
        prop_assert!(second.archive.is_subset(&first.archive));
        // And nothing goes before the moment that was told.
        let told = first.judged.iter().filter(|judgement| judgement.until.is_some_and(|until| then < until));
        for judgement in told {
            prop_assert!(second.backups.contains(&judgement.id), "{:?}", judgement);
        }
    }

    #[test]
    fn another_backup_never_makes_an_older_one_needed_again(
        life in any_life(), policy in any_policy(), minimum in 0u32..4, verified: bool,
    ) {
        let histories = life.histories();
        let rules = Rules { minimum_redundancy: minimum, histories: &histories, ..Rules::new(&policy) };
        let last = *life.moments.last().unwrap();
        let (begin, end) = (Lsn::from_u64(last.lsn + 40), Lsn::from_u64(last.lsn + 200));
        let another = Backup::done(usize::MAX, life.now).at(last.timeline, begin, end);
        let mut more = life.backups.clone();
        more.push(Backup { verified, ..another });
        let gone = |backups: &[Backup<usize>]| obsolete(&evaluate(backups, &rules, life.now));
        prop_assert!(gone(&life.backups).is_subset(&gone(&more)));
    }

    /// Files and ranges have the fate that the slow rule gives them: what goes is needed by nothing, and what is needed by
    /// nothing goes.
    #[test]
    fn wal_goes_exactly_when_the_slow_rule_says_so(life in any_life(), known: u16, standalone: u16) {
        let histories: Vec<History> =
            life.histories.values().filter(|h| known >> (h.timeline().as_u32() % 16) & 1 == 1).cloned().collect();
        let claims: Vec<Claim<usize>> = life.backups.iter().map(|backup| {
            let place = backup.place.unwrap();
            let claim = Claim::onwards(backup.id, place.timeline, place.begin, place.end);
            Claim { standalone: standalone >> (backup.id % 16) & 1 == 1, ..claim }
        }).collect();
        let ranges = SegmentRange::of(life.archive.iter().filter_map(|file| file.segment()), SIZE);
        let plan = WalPlan::new(&claims, &histories, life.archive.iter().map(|file| file.timeline()), SIZE);
        let parts: Vec<_> = plan.ranges(ranges.iter().copied()).collect();
        let count = |ranges: &mut dyn Iterator<Item = SegmentRange>| ranges.map(SegmentRange::count).sum::<u64>();
        prop_assert_eq!(count(&mut parts.iter().map(|(part, _)| *part)), count(&mut ranges.iter().copied()));
        for file in &life.archive {
            let fate = plan.fate(file);
            let Some(segment) = file.segment() else {
                prop_assert_eq!(fate, Fate::History);
                continue;
            };
            let number = segment.number(SIZE).unwrap();
            let holds = |part: &SegmentRange| part.timeline == segment.timeline() && (part.first..=part.last).contains(&number);
            prop_assert_eq!(Some(fate), parts.iter().find(|(part, _)| holds(part)).map(|(_, fate)| *fate));
            let free = claims.iter().all(|claim| needs(&histories, claim, segment) == Some(false));
            prop_assert!(claims.is_empty() || free == fate.is_removable(), "{} is {:?}", file, fate);
            if let Fate::Needed { by } = fate {
                prop_assert_eq!(needs(&histories, &claims[*by], segment), Some(true));
            }
        }
    }
}

/// The slow rule: whether recovery from a claim, along any timeline, reads a segment; `None` when a missing history leaves
/// that open.
fn needs(histories: &[History], claim: &Claim<usize>, segment: SegmentName) -> Option<bool> {
    let (from, to) = (segment.first_lsn(SIZE).unwrap(), segment.end_lsn(SIZE).unwrap());
    let begins_in_it = (from..to).contains(&claim.begin);
    // Recovery reads forward from where the backup begins.
    if to <= claim.begin || (claim.standalone && from >= claim.end && !begins_in_it) {
        return Some(false);
    }
    let timeline = segment.timeline();
    if timeline == claim.timeline {
        return Some(true);
    }
    let newer = timeline.max(claim.timeline);
    let line = histories.iter().find(|history| history.timeline() == newer)?;
    // On the way from an ancestor, or on a timeline that left the backup's after it became consistent.
    let reached =
        timeline < claim.timeline || line.end_of(claim.timeline).is_some_and(|left| left >= claim.end);
    Some(reached && line.uses(segment, SIZE))
}
