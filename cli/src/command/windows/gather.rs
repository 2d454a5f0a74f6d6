//! What the windows of a server are made from, read from its home.

use barkeep_catalog::drill::Drill;
use barkeep_catalog::preflight::{Preflight, Transaction};
use barkeep_catalog::wal_map::{LoadOptions, Start, load};
use barkeep_catalog::windows::{Windows, windows};
use barkeep_catalog::{BackupId, Backups};
use barkeep_retention::Verdict;
use jiff::Timestamp;
use pgwal::{Lsn, PgTimestamp, SegmentSize, TimelineId};

use crate::command::check_wal::segment_size;
use crate::context::ServerContext;
use crate::error::CommandError;
use crate::verdicts::Verdicts;

/// All that is told of a server.
#[derive(Debug, Clone)]
pub(crate) struct Gathered {
    pub(crate) server: String,
    pub(crate) now: Timestamp,
    pub(crate) size: SegmentSize,
    pub(crate) windows: Windows,
    pub(crate) newest: Option<Newest>,
    pub(crate) backups: Vec<Shown>,
    /// Since when the retention policy keeps all, if it has a window.
    pub(crate) window_begin: Option<Timestamp>,
    /// Where what is at hand of the newest timeline ends.
    pub(crate) received_to: Option<Lsn>,
    /// How many archived segments have no index.
    pub(crate) unindexed: usize,
    pub(crate) index_fault: Option<String>,
}

/// The newest commit that can be had.
#[derive(Debug, Clone)]
pub(crate) struct Newest {
    pub(crate) backup: BackupId,
    pub(crate) timeline: TimelineId,
    /// From complete segments.
    pub(crate) archived: Option<Transaction>,
    /// With what is being received, too: by `restore --partial-wal`, or `--get-wal`.
    pub(crate) received: Option<Transaction>,
}

/// A backup, as far as it is drawn.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) start: Start,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) drill: Option<Drill>,
}

impl Gathered {
    /// Reads a server's home.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn of(
        server: &ServerContext,
        now: Timestamp,
        index_at_most: usize,
    ) -> Result<Self, CommandError> {
        let (catalog, layout) = (server.catalog(), server.layout());
        let backups = catalog.backups()?;
        let size = segment_size(server)?.unwrap_or_default();
        let loaded = load(&layout, size, LoadOptions { index_at_most, partial: true })?;
        let starts = starts(&backups);
        let windows = windows(&loaded.map, &starts);
        let newest = match windows.newest() {
            None => None,
            Some((timeline, interval)) => {
                let timeline = timeline.timeline;
                let start = starts.iter().rev().find(|start| interval.backups.last() == Some(&start.id));
                let commits = start
                    .map(|start| {
                        Preflight::new(&loaded.map, &layout)
                            .newest(start, &loaded.map.history(timeline))
                            .map(|(archived, received)| (start.id, archived, received))
                    })
                    .transpose()?;
                commits.map(|(backup, archived, received)| Newest { backup, timeline, archived, received })
            }
        };
        let verdicts = Verdicts::judge(server, &backups, now)?;
        let window_begin =
            verdicts.policy().and_then(|policy| policy.window()).map(|window| window.begin(now));
        let shown = starts.into_iter().map(|start| Shown {
            verdict: verdicts.of(start.id).map(|judgement| judgement.verdict),
            drill: catalog.drill(start.id).ok().flatten(),
            start,
        });
        Ok(Gathered {
            server: server.name().to_owned(),
            now,
            size,
            newest,
            backups: shown.collect(),
            window_begin,
            received_to: loaded.map.runs().last().map(|run| run.end),
            windows,
            unindexed: loaded.unindexed,
            index_fault: loaded.index_fault,
        })
    }

    /// How long ago the newest commit that can be had was, in seconds: what would be lost at most.
    pub(crate) fn loss_seconds(&self) -> Option<i64> {
        let newest = self.newest.as_ref()?;
        let commit = newest.received.or(newest.archived)?;
        Some((self.now.as_second() - unix_seconds(commit.time)?).max(0))
    }
}

/// The usable backups, in the order in which they became consistent.
pub(crate) fn starts(backups: &Backups) -> Vec<Start> {
    let mut starts: Vec<Start> = backups.iter().filter_map(Start::of).collect();
    starts.sort_by_key(|start| (start.end, start.timeline, start.id));
    starts
}

/// Seconds since 1970.
pub(crate) fn unix_seconds(time: PgTimestamp) -> Option<i64> {
    time.as_unix_micros().map(|micros| micros.div_euclid(1_000_000))
}
