//! What is told about a backup, computed once for both forms of the answer.

use barkeep_catalog::xlogdb::WalEntry;
use barkeep_catalog::{BackupId, BackupInfo, BackupType, Backups};
use barkeep_retention::Verdict;
use pgwal::{TimelineId, WalFile};

use crate::archive_stats::WalOfBackup;
use crate::command::shown::LastDrill;
use crate::context::ServerContext;

/// A backup and its surroundings.
pub(super) struct Facts<'a> {
    pub(super) server: &'a str,
    pub(super) backup: &'a BackupInfo,
    pub(super) wal: WalOfBackup,
    /// The timelines that left the backup's after its end.
    pub(super) timelines: Vec<TimelineId>,
    /// The verdict of the policy in force.
    pub(super) policy: Option<Verdict>,
    /// The usable backup before it.
    pub(super) previous: Option<BackupId>,
    /// The usable backup after it.
    pub(super) next: Option<BackupId>,
    /// The backups it is built on, itself first; the full one is last.
    pub(super) chain: Vec<BackupId>,
    /// The last drill with it.
    pub(super) drill: Option<LastDrill>,
}

/// How long a copy took and how fast it was.
pub(super) struct Copy {
    pub(super) seconds: f64,
    pub(super) analysis_seconds: Option<f64>,
    pub(super) bytes_per_second: Option<f64>,
    pub(super) workers: u64,
}

/// How much less was copied than the cluster has.
pub(super) struct Saved {
    pub(super) bytes: i64,
    pub(super) share: f64,
}

impl Facts<'_> {
    /// Whether it can be restored, and therefore has all the details.
    pub(super) fn usable(&self) -> bool {
        self.backup.status.is_usable()
    }

    /// Whether it came over the replication protocol.
    pub(super) fn streamed(&self) -> bool {
        matches!(self.backup.backup_type(), BackupType::Full | BackupType::Incremental)
    }

    /// The copy's figures, when they were kept.
    pub(super) fn copy(&self) -> Option<Copy> {
        let stats = self.backup.copy_stats.as_ref()?;
        let number = |key: &str| stats.get(key).and_then(barkeep_catalog::literal::Literal::as_f64);
        let seconds = number("copy_time")?;
        let bytes = self.backup.deduplicated_size.unwrap_or(0) as f64;
        Some(Copy {
            seconds,
            analysis_seconds: number("analysis_time"),
            bytes_per_second: if seconds > 0.0 { Some(bytes / seconds) } else { None },
            workers: number("number_of_workers").map_or(1, |workers| workers as u64),
        })
    }

    /// What an increment, or the reuse of the previous backup's files, saved.
    pub(super) fn saved(&self) -> Option<Saved> {
        let backup = self.backup;
        let cluster = backup.cluster_size? as f64;
        let stored = backup.deduplicated_size? as f64;
        match backup.backup_type() {
            BackupType::Incremental if cluster > 0.0 => {
                Some(Saved { bytes: (cluster - stored) as i64, share: 1.0 - stored / cluster })
            }
            BackupType::Rsync => {
                let share =
                    backup.size.filter(|size| *size > 0).map_or(0.0, |size| 1.0 - stored / size as f64);
                Some(Saved { bytes: (cluster * share) as i64, share })
            }
            _ => None,
        }
    }

    /// The space it takes, without files shared with other backups, in bytes.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.backup.deduplicated_size.unwrap_or(0)
    }

    /// The same with the WAL it needs.
    pub(super) fn stored_bytes_with_wal(&self) -> u64 {
        self.stored_bytes().saturating_add(self.wal.own.bytes)
    }

    /// The policy's verdict in Barman's words.
    pub(super) fn retention(&self) -> &'static str {
        self.policy.map_or("not enforced", Verdict::as_str)
    }

    /// The backup before it, in Barman's words.
    pub(super) fn previous_text(&self) -> String {
        self.previous.map_or_else(|| "- (this is the oldest base backup)".to_owned(), |id| id.to_string())
    }

    /// The backup after it, in Barman's words.
    pub(super) fn next_text(&self) -> String {
        self.next.map_or_else(|| "- (this is the latest base backup)".to_owned(), |id| id.to_string())
    }
}

/// The timelines that recovery from the backup can reach besides its own: those that left it after the backup's end.
/// A history that can't be read is told in the log and left out.
pub(super) fn reachable_timelines(
    server: &ServerContext,
    backup: &BackupInfo,
    archived: &[WalEntry],
) -> Vec<TimelineId> {
    let (Some(own), Some(end)) = (backup.timeline, backup.end_xlog) else { return Vec::new() };
    let layout = server.layout();
    let mut timelines: Vec<TimelineId> = archived
        .iter()
        .filter_map(|entry| match entry.file {
            WalFile::History(timeline) if timeline > own => Some(timeline),
            _ => None,
        })
        .collect();
    timelines.sort_unstable();
    timelines.dedup();
    let reachable = |timeline: &TimelineId| match barkeep_catalog::wal::history(&layout, *timeline) {
        Ok(Some(history)) => history.end_of(own).is_some_and(|left| left >= end),
        Ok(None) => false,
        Err(error) => {
            tracing::warn!("timeline {timeline} is left out: {error}");
            false
        }
    };
    timelines.retain(reachable);
    timelines
}

/// The backups that a backup is built on, itself first. A chain that breaks ends there.
pub(super) fn chain(backups: &Backups, backup: &BackupInfo) -> Vec<BackupId> {
    let mut chain = vec![backup.id];
    let mut parent = backup.parent_backup_id;
    while let Some(id) = parent.filter(|id| !chain.contains(id)) {
        chain.push(id);
        parent = backups.get(id).and_then(|backup| backup.parent_backup_id);
    }
    chain
}
