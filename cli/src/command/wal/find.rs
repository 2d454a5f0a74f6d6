//! `wal find`: what happened, by name, and how to go back to just before.

mod chain;
mod event;
mod screen;

use std::ops::ControlFlow;

use pgwal::activity::{Commit, Tracker};
use pgwal::names::Names;
use pgwal::record::RecordHeader;
use pgwal::rmgr::Rmgr;
use pgwal::{Keep, Lsn, Parts, PgTimestamp, TimelineId, WalFile};
use serde_json::json;

use super::input::{Input, Pace};
use super::stream::{self, Ended};
use super::{Lines, Stop};
use crate::args::FindArgs;
use crate::context::ServerContext;
use crate::error::CommandError;
use chain::Chain;
use event::{Event, Point, Wanted};

/// Most events that are shown at once.
const EVENTS_MAX: usize = 200_000;
/// How long before and after a moment, in microseconds.
const MARGIN_MICROS: i64 = 5 * 60 * 1_000_000;
/// Commits may be logged out of the order of their times, by this much, in microseconds.
const DISORDER_MICROS: i64 = 60 * 1_000_000;
/// `XLOG_RESTORE_POINT` of `catalog/pg_control.h`.
const RESTORE_POINT: u8 = 0x70;
/// How often names are looked for further back.
const RETRIES_MAX: usize = 3;

/// The moments that are asked for.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Option<PgTimestamp>,
    to: Option<PgTimestamp>,
}

impl Span {
    fn new(args: &FindArgs) -> Self {
        match (args.around, args.between.as_slice()) {
            (Some(moment), _) => {
                let margin = args.margin.unwrap_or(MARGIN_MICROS);
                let micros = moment.as_micros();
                Span {
                    from: Some(PgTimestamp::from_micros(micros.saturating_sub(margin))),
                    to: Some(PgTimestamp::from_micros(micros.saturating_add(margin))),
                }
            }
            (None, [from, to]) => Span { from: Some(*from.min(to)), to: Some(*from.max(to)) },
            _ => Span { from: None, to: None },
        }
    }

    fn holds(&self, time: PgTimestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time <= to)
    }

    /// Whether nothing can come any more.
    fn is_over(&self, time: PgTimestamp) -> bool {
        self.to.is_some_and(|to| time.as_micros() > to.as_micros().saturating_add(DISORDER_MICROS))
    }
}

/// What was found.
struct Found {
    events: Vec<Event>,
    /// Where they are asked for.
    points: Vec<Point>,
    more: bool,
    ended: Option<Ended>,
    /// The times of the first and the last commit that were seen, wanted or not.
    seen: Option<(PgTimestamp, PgTimestamp)>,
}

impl Found {
    /// What to say where nothing was found: whether the WAL is of that time at all.
    fn nothing(&self, span: Span) -> String {
        let why = match self.seen {
            None => "there are no commits in this WAL".to_owned(),
            Some((first, _)) if span.to.is_some_and(|to| to < first) => {
                format!("the first commit in this WAL is of {first}")
            }
            Some((_, last)) if span.from.is_some_and(|from| from > last) => {
                format!("the last commit in this WAL is of {last}")
            }
            Some((first, last)) => format!("the commits that were looked at are of {first} to {last}"),
        };
        format!("Nothing of the sort was found; {why}")
    }
}

pub(super) fn run(
    server: Option<&ServerContext>,
    args: &FindArgs,
    lines: &mut Lines,
) -> Result<Option<Ended>, Stop> {
    if args.tui {
        screen::check(lines.json)?;
    }
    let found = match server {
        Some(server) => in_archive(server, args, lines)?,
        None => {
            let input = Input::open(&args.source, &[], true)?;
            let segments = input.segments();
            let tracker = Tracker::new(Names::new());
            look(&input, &segments, tracker, args, (Span::new(args), Lsn::INVALID), None)?
        }
    };
    if args.tui {
        let title = server.map_or_else(|| "WAL".to_owned(), |server| server.name().to_owned());
        if let Some(picked) = screen::show(title, found.events, found.points, found.more)? {
            lines.line(|| picked, || json!(null))?;
        }
        return Ok(found.ended);
    }
    for event in &found.events {
        lines.line(|| event.text(), || event.json())?;
    }
    if found.more {
        let text = format!("... and more: at most {EVENTS_MAX} are shown; narrow it with --between");
        lines.line(|| text, || json!({"more": true, "shown": EVENTS_MAX}))?;
    } else if found.events.is_empty() && !lines.json {
        lines.output.info(found.nothing(Span::new(args)));
    }
    match (server, found.ended) {
        (Some(server), Some(end)) if !lines.json && is_being_received(server, &end) => {
            lines.output.info(format!("What happened after {} has not been received yet", end.lsn));
            Ok(None)
        }
        (_, ended) => Ok(ended),
    }
}

/// Whether WAL ends where it should: in the segment that is not in the archive yet.
fn is_being_received(server: &ServerContext, end: &Ended) -> bool {
    !server.layout().wal(&WalFile::Segment(end.segment)).exists()
}

/// Looks into a server's archive, with the names that are known there.
fn in_archive(server: &ServerContext, args: &FindArgs, lines: &Lines) -> Result<Found, Stop> {
    let span = Span::new(args);
    let chain = Chain::open(server, args, span.from)?;
    for gap in &chain.gaps {
        lines.output.warning(format!("{gap}: names may be out of date behind it"));
    }
    let mut tries = 0;
    let mut bases = chain.bases.iter();
    loop {
        let base = bases.next();
        let (tracker, from) = match base {
            Some(base) => match chain.tracker(server, base) {
                Ok(tracker) => (tracker, base.lsn.min(chain.start)),
                Err(reason) => {
                    lines.output.debug(format!("Names from {base} can't be had: {reason}"));
                    continue;
                }
            },
            None => (Tracker::new(Names::new()), chain.start),
        };
        let segments = chain.segments_from(from);
        let found = look(&chain.input, &segments, tracker, args, (span, chain.start), Some(&chain))?;
        tries += 1;
        // What began before the names were taken is told by earlier ones.
        let is_told = found.events.iter().all(Event::is_told);
        if is_told || base.is_none() || tries > RETRIES_MAX || bases.len() == 0 {
            return Ok(found);
        }
    }
}

/// Goes through the segments and gathers what is wanted from `start` on.
fn look(
    input: &Input,
    segments: &[pgwal::SegmentName],
    mut tracker: Tracker,
    args: &FindArgs,
    (span, start): (Span, Lsn),
    chain: Option<&Chain>,
) -> Result<Found, Stop> {
    let wanted = Wanted::new(args);
    let start = args.source.from.map_or(start, |from| from.max(start));
    let (mut events, mut points, mut more) = (Vec::new(), Vec::new(), false);
    let mut seen: Option<(PgTimestamp, PgTimestamp)> = None;
    let mut parts = Parts::new();
    let keep = if args.tui { needs_with_points } else { Tracker::needs };
    let ended = stream::scan(input, segments, Keep::Some(keep), Pace::Steady, |segment, record| {
        if args.source.to.is_some_and(|to| record.lsn >= to) {
            return Ok(ControlFlow::Break(()));
        }
        if args.tui
            && record.lsn >= start
            && points.len() < EVENTS_MAX
            && let Some(point) = Point::read(record, &mut parts, segment, chain)
            && span.holds(point.time)
        {
            points.push(point);
        }
        let Some(commit) = tracker.record(record) else { return Ok(ControlFlow::Continue(())) };
        seen = Some(seen.map_or((commit.time, commit.time), |(first, last)| {
            (first.min(commit.time), last.max(commit.time))
        }));
        if span.is_over(commit.time) {
            return Ok(ControlFlow::Break(()));
        }
        if record.lsn < start || !span.holds(commit.time) {
            return Ok(ControlFlow::Continue(()));
        }
        let timeline = chain.map_or(segment.timeline(), |chain| chain.timeline_at(commit.lsn));
        let Some(event) = wanted.event(commit, timeline, &tracker) else {
            return Ok(ControlFlow::Continue(()));
        };
        if events.len() == EVENTS_MAX {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        events.push(event.with_way_back(chain));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Found { events, points, more, ended, seen })
}

/// What the tracker needs of records, and restore points.
fn needs_with_points(header: &RecordHeader) -> bool {
    Tracker::needs(header) || is_restore_point(header)
}

fn is_restore_point(header: &RecordHeader) -> bool {
    Rmgr::from_id(header.rmid) == Rmgr::Xlog && header.operation() == RESTORE_POINT
}

/// What the library says of a commit, and where.
type Told = (Commit, TimelineId);

fn no_wal(server: &ServerContext) -> CommandError {
    CommandError::new(format!("Server '{}' has no WAL to look into", server.name()))
        .hint(format!("see: barkeep check {}", server.name()))
}
