//! One clause of a policy, asked about one full backup after the other, from the newest to the oldest.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Backup, Reason, Rules};
use crate::order::{self, Ended};
use crate::policy::{Clause, Period, Rule, Window};

/// What a clause asks of a finished full backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    /// Its place in the order, the oldest is 0.
    pub(super) index: usize,
    pub(super) ended: Ended,
    pub(super) verified: bool,
}

/// What a clause says of a backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding {
    /// Whether it needs it.
    pub(super) needed: bool,
    pub(super) ground: Ground,
    /// Whether it would need increments of it too, were the backup itself kept alone.
    pub(super) children_valid: bool,
    /// Until when it needs it, if that is known.
    pub(super) until: Option<Timestamp>,
}

/// [`Reason`] without an identifier.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ground {
    AmongNewest { place: u32, wanted: u32 },
    BeyondNewest { wanted: u32 },
    InWindow { begin: Timestamp },
    PerhapsInWindow { begin: Timestamp },
    Anchor { begin: Timestamp },
    BeforeWindow { begin: Timestamp },
    OfPeriod { period: Period, place: u32, wanted: u32 },
    OfNoPeriod,
    DoesNotCount,
}

impl Ground {
    pub(super) fn into_reason<Id>(self) -> Reason<Id> {
        match self {
            Ground::AmongNewest { place, wanted } => Reason::AmongNewest { place, wanted },
            Ground::BeyondNewest { wanted } => Reason::BeyondNewest { wanted },
            Ground::InWindow { begin } => Reason::InWindow { begin },
            Ground::PerhapsInWindow { begin } => Reason::PerhapsInWindow { begin },
            Ground::Anchor { begin } => Reason::Anchor { begin },
            Ground::BeforeWindow { begin } => Reason::BeforeWindow { begin },
            Ground::OfPeriod { period, place, wanted } => Reason::OfPeriod { period, place, wanted },
            Ground::OfNoPeriod => Reason::OfNoPeriod,
            Ground::DoesNotCount => Reason::DoesNotCount,
        }
    }

    /// Needed, with increments, for as long as nothing changes.
    fn needs(self) -> Finding {
        Finding { needed: true, ground: self, children_valid: true, until: None }
    }

    fn lets_go(self) -> Finding {
        Finding { needed: false, ground: self, children_valid: false, until: None }
    }
}

/// A clause and what it has seen so far.
pub(super) struct ClauseJudge {
    verified: bool,
    rule: RuleJudge,
}

enum RuleJudge {
    /// How many are wanted, and how many of them were seen.
    Redundancy {
        wanted: u32,
        seen: u32,
    },
    Window(WindowJudge),
    Calendar {
        zone: TimeZone,
        periods: Vec<PeriodJudge>,
    },
}

struct WindowJudge {
    window: Window,
    begin: Timestamp,
    /// Which backups the window's beginning may be recovered from.
    anchors: Vec<bool>,
    /// The place of the newest of these.
    newest_anchor: Option<usize>,
    /// When the backup that counts and came last, so the next newer one, ended.
    newer: Option<Ended>,
}

struct PeriodJudge {
    period: Period,
    wanted: u32,
    seen: u32,
    /// The one that has its backup already.
    last: Option<[i16; 4]>,
}

impl ClauseJudge {
    pub(super) fn new<Id>(
        clause: &Clause,
        rules: &Rules<'_>,
        now: Timestamp,
        oldest_first: &[&Backup<Id>],
        ended: &[Ended],
    ) -> Self {
        let rule = match &clause.rule {
            Rule::Redundancy(count) => {
                RuleJudge::Redundancy { wanted: (*count).max(rules.minimum_redundancy), seen: 0 }
            }
            Rule::RecoveryWindow(window) => {
                let begin = window.begin(now);
                let counts = |backup: &Backup<Id>| backup.verified || !clause.verified;
                let anchors = order::anchors(oldest_first, ended, rules.histories, begin, counts);
                let newest_anchor = anchors.iter().rposition(|is_anchor| *is_anchor);
                RuleJudge::Window(WindowJudge { window: *window, begin, anchors, newest_anchor, newer: None })
            }
            Rule::Keep(calendar) => {
                let periods = calendar.counts().filter(|(_, wanted)| *wanted > 0);
                let periods =
                    periods.map(|(period, wanted)| PeriodJudge { period, wanted, seen: 0, last: None });
                RuleJudge::Calendar { zone: rules.zone.clone(), periods: periods.collect() }
            }
        };
        ClauseJudge { verified: clause.verified, rule }
    }

    /// Judges the next older backup.
    pub(super) fn next(&mut self, root: Root) -> Finding {
        let counts = root.verified || !self.verified;
        match &mut self.rule {
            RuleJudge::Redundancy { wanted, seen } => {
                let wanted = *wanted;
                if *seen >= wanted {
                    return Ground::BeyondNewest { wanted }.lets_go();
                }
                if !counts {
                    return Ground::DoesNotCount.needs();
                }
                *seen += 1;
                Ground::AmongNewest { place: *seen, wanted }.needs()
            }
            RuleJudge::Window(judge) => judge.next(root, counts),
            RuleJudge::Calendar { zone, periods } => next_of_calendar(zone, periods, root.ended, counts),
        }
    }
}

impl WindowJudge {
    fn next(&mut self, root: Root, counts: bool) -> Finding {
        let begin = self.begin;
        let is_anchor = self.anchors.get(root.index).is_some_and(|is_anchor| *is_anchor);
        // As long as no other is met that ended before the window, one that does not count is better than none.
        let is_before = root.ended.is_before(begin)
            && (counts || self.newest_anchor.is_some_and(|anchor| anchor > root.index));
        if is_before && !is_anchor {
            return Ground::BeforeWindow { begin }.lets_go();
        }
        // It is needed at least until the next newer one has left the window.
        let until = self.newer.and_then(Ended::latest).and_then(|end| self.window.end_for(end));
        if !counts {
            return Finding { until, ..Ground::DoesNotCount.needs() };
        }
        self.newer = Some(root.ended);
        match root.ended {
            // Its increments are from after it and yet before the window: of no use, as Barman has it.
            _ if is_anchor => Finding { until, children_valid: false, ..Ground::Anchor { begin }.needs() },
            Ended::At(_) => Finding { until, ..Ground::InWindow { begin }.needs() },
            Ended::Unknown(_) => Finding { until, ..Ground::PerhapsInWindow { begin }.needs() },
        }
    }
}

/// The newest backup of each period stands for it. One that does not count stands for nothing, and stays as long as the
/// period it may belong to has no other.
fn next_of_calendar(zone: &TimeZone, periods: &mut [PeriodJudge], ended: Ended, counts: bool) -> Finding {
    // One that cannot be dated is taken for as new as it can be, so that it takes no place from one that can.
    let keys = ended.latest().map(|end| end.to_zoned(zone.clone()));
    let mut ground = None;
    for judge in periods.iter_mut().filter(|judge| judge.seen < judge.wanted) {
        let key = keys.as_ref().map(|zoned| key_of(judge.period, zoned));
        if key.is_some() && key == judge.last {
            continue;
        }
        let found = if key.is_some() && counts {
            judge.seen += 1;
            judge.last = key;
            Ground::OfPeriod { period: judge.period, place: judge.seen, wanted: judge.wanted }
        } else {
            Ground::DoesNotCount
        };
        // The longest period is the most telling.
        ground = Some(found);
    }
    ground.map_or_else(|| Ground::OfNoPeriod.lets_go(), Ground::needs)
}

/// Which hour, day, week, month or year a moment is in.
fn key_of(period: Period, zoned: &jiff::Zoned) -> [i16; 4] {
    let (year, month, day) = (zoned.year(), i16::from(zoned.month()), i16::from(zoned.day()));
    match period {
        Period::Hour => [year, month, day, i16::from(zoned.hour())],
        Period::Day => [year, month, day, 0],
        Period::Week => {
            let week = zoned.date().iso_week_date();
            [week.year(), i16::from(week.week()), 0, 0]
        }
        Period::Month => [year, month, 0, 0],
        Period::Year => [year, 0, 0, 0],
    }
}
