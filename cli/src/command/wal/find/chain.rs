//! A server's WAL along one timeline, and where names can be had from.

use std::fmt;

use barkeep_catalog::name_map::{KeptMap, names_of_backup};
use barkeep_catalog::{BackupId, BackupInfo, BackupType, Backups, IndexStore};
use pgwal::activity::Tracker;
use pgwal::{History, Lsn, PgTimestamp, SegmentName, TimelineId, WalVersion};

use super::super::Stop;
use super::super::input::Input;
use super::no_wal;
use crate::args::FindArgs;
use crate::command::restore::supply;
use crate::context::ServerContext;
use crate::error::chain;

/// The WAL of a server along one timeline.
pub(super) struct Chain {
    pub(super) input: Input,
    segments: Vec<SegmentName>,
    history: History,
    /// Where what is asked for begins.
    pub(super) start: Lsn,
    /// Where names can be had from, the best first.
    pub(super) bases: Vec<Base>,
    /// Where segments are missing.
    pub(super) gaps: Vec<String>,
    /// The server's name.
    pub(super) server: String,
    backups: Backups,
}

/// Where names can be had from.
pub(super) struct Base {
    /// The WAL has to be followed from here.
    pub(super) lsn: Lsn,
    kind: BaseKind,
}

enum BaseKind {
    Map(KeptMap),
    Backup(BackupId, WalVersion),
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            BaseKind::Map(_) => write!(f, "the map of names at {}", self.lsn),
            BaseKind::Backup(id, _) => write!(f, "backup {id}"),
        }
    }
}

impl Chain {
    pub(super) fn open(
        server: &ServerContext,
        args: &FindArgs,
        from: Option<PgTimestamp>,
    ) -> Result<Self, Stop> {
        let layout = server.layout();
        // What is archived is preferred to what is being received.
        let directories: Vec<_> =
            [&layout.streaming, &layout.wals].into_iter().filter(|path| path.is_dir()).cloned().collect();
        if directories.is_empty() {
            return Err(no_wal(server).into());
        }
        let mut source = args.source.clone();
        // The word that named the server is no path; and names need the WAL before the range.
        (source.paths, source.from) = (Vec::new(), None);
        source.server = Some(server.name().to_owned());
        let input = Input::open(&source, &directories, true)?;
        let size = input.segment_size;
        let all = input.segments();
        let histories = supply::histories(&layout).map_err(Stop::Failed)?;
        let newest = all.iter().map(|segment| segment.timeline()).max();
        let timeline = args.timeline.or(newest).ok_or_else(|| no_wal(server))?;
        let history = histories.into_iter().find(|history| history.timeline() == timeline);
        let history = history.unwrap_or_else(|| History::root(timeline));
        let mut segments: Vec<SegmentName> =
            all.into_iter().filter(|segment| history.uses(*segment, size)).collect();
        segments.sort_by_key(|segment| (segment.number(size), segment.timeline()));
        // Where a timeline begins, its own segment has all that the one before has up to there.
        segments.dedup_by(|later, kept| {
            let same = later.number(size) == kept.number(size);
            if same {
                *kept = *later;
            }
            same
        });
        let Some(first) = segments.first().and_then(|segment| segment.first_lsn(size)) else {
            return Err(no_wal(server).into());
        };
        let by_time =
            from.map_or(first, |from| begin_by_time(server, &segments, size, from).unwrap_or(first));
        let start = args.source.from.map_or(by_time, |from| from.max(by_time));
        let gaps = gaps(&segments, size, start);
        let catalog = server.catalog();
        let backups = catalog.backups().map_err(|error| Stop::Failed(error.into()))?;
        let bases = bases(&catalog.name_maps().unwrap_or_default(), &backups, &history, (first, start));
        let server = server.name().to_owned();
        Ok(Chain { input, segments, history, start, bases, gaps, server, backups })
    }

    /// The segments with WAL at `lsn` or later.
    pub(super) fn segments_from(&self, lsn: Lsn) -> Vec<SegmentName> {
        let size = self.input.segment_size;
        let reaches = |segment: &&SegmentName| segment.end_lsn(size).is_none_or(|end| end > lsn);
        self.segments.iter().filter(reaches).copied().collect()
    }

    /// The timeline that a position belongs to.
    pub(super) fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.history.timeline_at(lsn)
    }

    /// A tracker with the names of `base`.
    pub(super) fn tracker(&self, server: &ServerContext, base: &Base) -> Result<Tracker, String> {
        let catalog = server.catalog();
        match &base.kind {
            BaseKind::Map(map) => {
                let map = catalog.name_map(map).map_err(|error| chain(&error))?;
                let map = map.ok_or("it is damaged, or of another version")?;
                Ok(Tracker::new(map.names()))
            }
            BaseKind::Backup(id, version) => {
                let data = catalog.layout().backup_data(*id);
                let known = names_of_backup(&data, *version).map_err(|error| error.to_string())?;
                let mut tracker = Tracker::new(known.names);
                for (xid, change) in known.open {
                    tracker.resume(xid, change);
                }
                Ok(tracker)
            }
        }
    }

    /// The newest backup from which `lsn` can be reached.
    pub(super) fn backup_before(&self, lsn: Lsn) -> Option<BackupId> {
        let suits = |info: &&BackupInfo| {
            let on_way = |timeline: TimelineId, end: Lsn| {
                self.history.includes(timeline)
                    && self.history.end_of(timeline).is_none_or(|left| left >= end)
            };
            info.status.is_usable()
                && info.end_xlog.is_some_and(|end| end <= lsn)
                && info.timeline.zip(info.end_xlog).is_some_and(|(timeline, end)| on_way(timeline, end))
        };
        self.backups.iter().filter(suits).max_by_key(|info| info.end_xlog).map(|info| info.id)
    }
}

/// Where the first commit at `from` or later may be, by what is known of the segments.
fn begin_by_time(
    server: &ServerContext,
    segments: &[SegmentName],
    size: pgwal::SegmentSize,
    from: PgTimestamp,
) -> Option<Lsn> {
    let indexes = IndexStore::of(&server.layout()).load().ok()?;
    let ends_before = |segment: &SegmentName| {
        let index = indexes.get(*segment).and_then(|entry| entry.index());
        index.is_some_and(|index| index.commits.times.is_none_or(|(_, last)| last < from))
    };
    let first = segments.iter().position(|segment| !ends_before(segment)).unwrap_or(segments.len());
    // A commit's record may begin in the segment before.
    segments.get(first.saturating_sub(1))?.first_lsn(size)
}

/// Where names can be had from before `start`, while there is WAL from there on; the nearest first.
fn bases(maps: &[KeptMap], backups: &Backups, history: &History, (first, start): (Lsn, Lsn)) -> Vec<Base> {
    let on_way = |timeline: TimelineId, lsn: Lsn| {
        history.includes(timeline) && history.end_of(timeline).is_none_or(|left| left >= lsn)
    };
    let of_map = |map: &KeptMap| Base { lsn: map.lsn, kind: BaseKind::Map(map.clone()) };
    let of_backup = |info: &BackupInfo| {
        let version = info.version.and_then(|version| WalVersion::from_major(version / 10_000))?;
        let (timeline, lsn) = (info.timeline?, info.begin_xlog?);
        let is_plain = info.compression.is_none() && info.backup_type() != BackupType::Incremental;
        let usable = info.status.is_usable() && is_plain && on_way(timeline, lsn);
        usable.then_some(Base { lsn, kind: BaseKind::Backup(info.id, version) })
    };
    let maps = maps.iter().filter(|map| on_way(map.timeline, map.lsn)).map(of_map);
    let mut bases: Vec<Base> = maps.chain(backups.iter().filter_map(of_backup)).collect();
    bases.sort_by_key(|base| std::cmp::Reverse(base.lsn));
    let too_late = bases.iter().take_while(|base| base.lsn > start).count();
    let mut usable: Vec<Base> = bases.split_off(too_late);
    usable.retain(|base| base.lsn >= first);
    // Better late than never: what it knows holds for what is older, too, but for what has changed since.
    if usable.is_empty() {
        usable.extend(bases.pop());
    }
    usable
}

fn gaps(segments: &[SegmentName], size: pgwal::SegmentSize, start: Lsn) -> Vec<String> {
    let mut gaps = Vec::new();
    for pair in segments.windows(2) {
        let [before, after] = pair else { continue };
        let next = before.on(after.timeline()).next(size);
        if next != Some(*after) && after.end_lsn(size).is_some_and(|end| end > start) {
            gaps.push(format!("WAL is missing between {before} and {after}"));
        }
    }
    gaps
}
