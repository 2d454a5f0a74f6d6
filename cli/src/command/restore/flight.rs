//! Pre-flight: which backup, along which timeline, and where recovery will stop. Found in the archive before anything is
//! copied; what can't lead to the target is refused, with what can.

use std::num::NonZeroUsize;

use barkeep_catalog::archive::{Indexed, index_archive};
use barkeep_catalog::preflight::{Preflight, Stop, Unreachable, Verdict, Why};
use barkeep_catalog::wal_map::{Break, LoadOptions, Loaded, Start, load};
use barkeep_catalog::{BackupInfo, Backups, Catalog, IndexStore, Layout};
use pgbase::restore::{Foreseen, resolve_timeline};
use pgwal::{History, RecoveryTarget, SegmentName, SegmentSize, TargetKind, TargetTimeline, TimelineId};

use super::{choose, tell};
use crate::args::RestoreArgs;
use crate::command::stored_backup;
use crate::command::windows::end_in_words;
use crate::context::ServerContext;
use crate::error::{CommandError, chain};

/// How many segments without an index are read first: half a minute's work.
const INDEX_AT_MOST: usize = 1024;

/// A restore that can be planned.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) info: BackupInfo,
    /// The target, with the timeline named where that was chosen too.
    pub(super) target: RecoveryTarget,
    pub(super) foreseen: Foreseen,
    /// What there is to tell, before anything is done.
    pub(super) lines: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// The archive, and the wish.
pub(super) struct Airfield<'a> {
    pub(super) server: &'a ServerContext,
    pub(super) catalog: &'a Catalog,
    pub(super) layout: &'a Layout,
    pub(super) target: &'a RecoveryTarget,
    pub(super) args: &'a RestoreArgs,
    pub(super) loaded: Loaded,
}

/// A backup that could be restored, and the timeline that its recovery would follow.
struct Candidate {
    info: BackupInfo,
    start: Start,
    history: History,
}

/// Chooses, and looks where recovery stops. `named` is the backup that was asked for; without one it is chosen.
///
/// # Errors
/// When the target can't be reached and that was not waived, or something can't be read.
pub(super) fn prepare(
    server: &ServerContext,
    args: &RestoreArgs,
    target: &RecoveryTarget,
    named: Option<BackupInfo>,
) -> Result<Flight, CommandError> {
    let catalog = server.catalog();
    let layout = server.layout();
    let backups = catalog.backups()?;
    let size = named.as_ref().or_else(|| backups.iter().next_back()).map(|info| info.segment_size);
    // A server that fetches its WAL is given what was received of the last segment, too, unless it waits for more.
    let partial = args.partial_wal || (args.fetches_wal(&server.config) && !args.standby_mode);
    let options = LoadOptions { index_at_most: INDEX_AT_MOST, partial };
    let loaded = load(&layout, size.unwrap_or(SegmentSize::DEFAULT), options)?;
    let field = Airfield { server, catalog: &catalog, layout: &layout, target, args, loaded };
    match named {
        Some(info) => field.named(info, &backups),
        None => field.automatic(&backups),
    }
}

impl Airfield<'_> {
    pub(super) fn preflight(&self) -> Preflight<'_> {
        Preflight::new(&self.loaded.map, self.layout)
    }

    fn candidate(&self, info: &BackupInfo, wish: Option<TargetTimeline>) -> Option<Candidate> {
        let start = Start::of(info)?;
        let facts = choose::facts(self.catalog, info).ok()?;
        let resolved = resolve_timeline(&facts, wish, self.loaded.map.histories()).ok()?;
        Some(Candidate { info: info.clone(), start, history: resolved.history })
    }

    /// The backup that was asked for.
    fn named(&self, info: BackupInfo, backups: &Backups) -> Result<Flight, CommandError> {
        let Some(candidate) = self.candidate(&info, self.target.timeline) else {
            // What is wrong with it, the plan will say.
            return Ok(self.flight(info, self.target.clone(), Foreseen::Nothing));
        };
        self.check_histories(&candidate)?;
        if !self.can_be_read(&candidate) {
            let mut flight = self.flight(info, self.target.clone(), Foreseen::Nothing);
            flight.warnings.push(self.not_looked());
            return Ok(flight);
        }
        match self.preflight().locate(&candidate.start, &candidate.history, self.target) {
            Ok(Verdict::Reachable(stop)) => Ok(self.cleared(candidate, self.target.clone(), &stop)),
            Ok(Verdict::Unreachable(no)) => self.unreachable(&candidate, &no, backups),
            Err(error) if self.args.force => {
                let mut flight = self.flight(info, self.target.clone(), Foreseen::Tried);
                flight.warnings.push(format!("The target can't be looked for: {}", chain(&error)));
                Ok(flight)
            }
            Err(error) => Err(CommandError::from(error)
                .hint("the target can't be looked for; --force restores all the same")),
        }
    }

    /// The newest backup from which the target can be reached.
    fn automatic(&self, backups: &Backups) -> Result<Flight, CommandError> {
        let restorable: Vec<&BackupInfo> = backups
            .iter()
            .rev()
            .filter(|info| stored_backup::check_restorable(info, self.server.name()).is_ok())
            .collect();
        let all: Vec<Candidate> =
            restorable.iter().filter_map(|info| self.candidate(info, self.target.timeline)).collect();
        let Some(newest) = all.first() else { return Err(self.no_backup()) };
        self.check_histories(newest)?;
        // A backup that ended after the target won't do; of these, the oldest comes nearest.
        let (plausible, late): (Vec<_>, Vec<_>) =
            all.iter().partition(|candidate| self.is_plausible(candidate));
        let mut found: Vec<(&Candidate, Stop)> = Vec::new();
        for candidate in plausible.iter().copied().chain(late.last().copied()) {
            if !self.can_be_read(candidate) {
                return self.unread(candidate);
            }
            let stop = self.preflight().reach(&candidate.start, &candidate.history, self.target)?;
            found.extend(stop.map(|stop| (candidate, stop)));
            // Names are looked for everywhere, to see whether they mean one moment.
            if !found.is_empty() && !matches!(self.target.kind, Some(TargetKind::Name(_))) {
                break;
            }
        }
        if let Some((candidate, stop)) = found.first() {
            let meanings =
                found.iter().filter(|(_, other)| other.at != stop.at).count() + stop.same_name_later;
            if meanings > 0 && !self.args.force {
                return Err(self.ambiguous(&found));
            }
            let candidate = Candidate {
                info: candidate.info.clone(),
                start: candidate.start.clone(),
                history: candidate.history.clone(),
            };
            return Ok(self.cleared(candidate, self.target.clone(), stop));
        }
        if self.target.timeline.is_none()
            && let Some(flight) = self.another_timeline(&restorable)?
        {
            return Ok(flight);
        }
        // The nearest miss tells most.
        let nearest = plausible.first().copied().or(late.last().copied()).unwrap_or(newest);
        match self.preflight().locate(&nearest.start, &nearest.history, self.target)? {
            Verdict::Unreachable(no) => self.unreachable(nearest, &no, backups),
            Verdict::Reachable(_) => Err(self.no_backup()),
        }
    }

    /// Whether a backup may be old enough for the target, by what its record says.
    fn is_plausible(&self, candidate: &Candidate) -> bool {
        match &self.target.kind {
            Some(TargetKind::Time(time)) => candidate.start.end_time.is_none_or(|end| end <= *time),
            Some(TargetKind::Lsn(lsn)) => candidate.start.end <= *lsn,
            _ => true,
        }
    }

    /// A target that is not on the newest timeline may be on another.
    fn another_timeline(&self, restorable: &[&BackupInfo]) -> Result<Option<Flight>, CommandError> {
        let starts: Vec<Start> = restorable.iter().rev().filter_map(|info| Start::of(info)).collect();
        for elsewhere in self.preflight().elsewhere(&starts, self.target)? {
            let info = restorable.iter().find(|info| info.id == elsewhere.backup);
            let wish = Some(TargetTimeline::Id(elsewhere.timeline));
            let Some(candidate) = info.and_then(|info| self.candidate(info, wish)) else { continue };
            let target = RecoveryTarget { timeline: wish, ..self.target.clone() };
            let mut flight = self.cleared(candidate, target, &elsewhere.stop);
            flight.warnings.push(format!(
                "The target is not on the latest timeline: recovery follows timeline {}",
                elsewhere.timeline
            ));
            return Ok(Some(flight));
        }
        Ok(None)
    }

    /// Refuses what the server would do silently: to stay on an older timeline for want of a history file.
    fn check_histories(&self, candidate: &Candidate) -> Result<(), CommandError> {
        let looks_for_newest = matches!(self.target.timeline, None | Some(TargetTimeline::Latest));
        if !looks_for_newest || self.args.force {
            return Ok(());
        }
        let overlooked = self.preflight().overlooked(&candidate.start, &candidate.history);
        let Some(segment) = overlooked.last() else { return Ok(()) };
        Err(CommandError::new(format!(
            "{:08X}.history is missing, although there is WAL of that timeline (up to {segment}): recovery would \
             silently stay on timeline {}",
            segment.timeline().as_u32(),
            candidate.history.timeline()
        ))
        .hint(format!(
            "put the file back into the archive, or name the timeline with --target-tli {}, or use --force",
            candidate.history.timeline()
        )))
    }

    /// Whether the segments without an index are few enough to be read.
    fn can_be_read(&self, candidate: &Candidate) -> bool {
        self.loaded.unindexed == 0
            || self.preflight().unread(&candidate.start, &candidate.history) <= INDEX_AT_MOST
    }

    fn not_looked(&self) -> String {
        format!(
            "{} segments are not indexed, so the target was not looked for; index them with: barkeep windows --index {}",
            self.loaded.unindexed,
            self.server.name()
        )
    }

    /// Where too much would have to be read, the records of the backups have to do.
    fn unread(&self, candidate: &Candidate) -> Result<Flight, CommandError> {
        match self.target.kind {
            Some(TargetKind::Xid(_) | TargetKind::Name(_)) => {
                Err(CommandError::new(self.not_looked()).hint("or name the backup"))
            }
            _ => {
                let info = candidate.info.clone();
                let mut flight = self.flight(info, self.target.clone(), Foreseen::Nothing);
                flight.warnings.push(self.not_looked());
                Ok(flight)
            }
        }
    }

    fn flight(&self, info: BackupInfo, target: RecoveryTarget, foreseen: Foreseen) -> Flight {
        let warnings = self.loaded.index_fault.iter();
        let warnings = warnings.map(|fault| format!("Segments could not be indexed: {fault}")).collect();
        Flight { info, target, foreseen, lines: Vec::new(), warnings }
    }

    /// A restore that gets there.
    fn cleared(&self, candidate: Candidate, target: RecoveryTarget, stop: &Stop) -> Flight {
        let timeline = candidate.history.timeline();
        tell::reachable_json(&self.server.output, &candidate.info, timeline, &target, stop);
        // Without a target all there is counts, and the plan tells where it is cut short.
        let foreseen = match target.kind {
            None => Foreseen::Nothing,
            Some(_) => Foreseen::Stop(stop.read_to),
        };
        let mut flight = self.flight(candidate.info, target, foreseen);
        flight.lines.push(tell::reachable(&flight.target, stop));
        if let Some(why) = stop.cut_short.as_ref().filter(|by| matches!(by, Break::Damaged { .. })) {
            let why = end_in_words(why).unwrap_or_default();
            flight.warnings.push(format!("Recovery will not get past {}: {why}", stop.at));
        }
        if flight.target.kind.is_none() {
            flight.warnings.extend(self.altered_at_the_end(timeline, stop));
        }
        if stop.same_name_later > 0 {
            flight.warnings.push(format!(
                "There are {} later restore points of this name: recovery stops at the first, at {}; the others are reached \
                 with --target-lsn",
                stop.same_name_later, stop.at
            ));
        }
        flight
    }

    /// What is wrong with the segment that all ends with, where its last record goes on in one that is not there: no checksum tells
    /// that then. It is remembered.
    fn altered_at_the_end(&self, timeline: TimelineId, stop: &Stop) -> Option<String> {
        let segment = SegmentName::ending_at(timeline, stop.at, self.loaded.map.size);
        if !matches!(IndexStore::of(self.layout).is_altered(self.layout, segment), Ok(Some(true))) {
            return None;
        }
        let mut note = None;
        let kept = index_archive(self.layout, &[segment], Some(NonZeroUsize::MIN), |indexed| {
            if let Indexed::Read(facts) = indexed {
                note = Some(facts.note);
            }
        });
        kept.ok().and(note).map(|note| {
            format!(
                "Segment {segment} is not sound: {note}. Recovery would not get past that, whatever follows"
            )
        })
    }

    /// A restore that doesn't: refused, unless it is to be tried all the same, or waits for what may still come.
    fn unreachable(
        &self,
        candidate: &Candidate,
        no: &Unreachable,
        backups: &Backups,
    ) -> Result<Flight, CommandError> {
        let starts: Vec<Start> = backups
            .iter()
            .filter(|info| stored_backup::check_restorable(info, self.server.name()).is_ok())
            .filter_map(Start::of)
            .collect();
        let timeline: TimelineId = candidate.history.timeline();
        let elsewhere = match self.target.kind {
            None => Vec::new(),
            Some(_) => self.preflight().elsewhere(&starts, self.target)?,
        };
        let refusal = tell::Refusal { info: &candidate.info, timeline, target: self.target, no, elsewhere };
        refusal.json(&self.server.output);
        // What the end of the WAL needs may still come to where a server fetches it from.
        let may_come = self.target.kind.is_none() && self.args.fetches_wal(&self.server.config);
        // A standby waits for what it has not got, but no server may stop before its backup is consistent.
        let waits = self.args.standby_mode && !matches!(no.why, Why::BeforeBackupEnd { .. });
        if self.args.force || waits || may_come {
            let foreseen = Foreseen::Tried;
            let mut flight = self.flight(candidate.info.clone(), self.target.clone(), foreseen);
            flight.warnings.push(refusal.reason());
            return Ok(flight);
        }
        Err(CommandError::new(refusal.reason()).hint(refusal.alternatives()))
    }

    fn ambiguous(&self, found: &[(&Candidate, Stop)]) -> CommandError {
        let mut moments: Vec<String> = Vec::new();
        for (candidate, stop) in found {
            let moment = format!("{} from backup {}", stop.at, candidate.info.id);
            let more = if stop.same_name_later > 0 { " and later" } else { "" };
            if found.iter().all(|(_, other)| other.at != stop.at || std::ptr::eq(other, stop))
                || moments.is_empty()
            {
                moments.push(format!("{moment}{more}"));
            }
        }
        CommandError::new(format!("{} is ambiguous: it was made at {}", self.target, moments.join(", at ")))
            .hint("name the backup, or give the position with --target-lsn; --force takes the newest backup")
    }

    fn no_backup(&self) -> CommandError {
        let server = self.server.name();
        CommandError::new(format!(
            "Server '{server}' has no backup from which {} can be reached",
            self.target
        ))
        .hint(format!("see: barkeep windows {server}"))
    }
}
