//! What a restore is decided from, and what was decided: plain data.

use std::path::PathBuf;

use pgwal::{History, Lsn, PgTimestamp, RecoveryTarget, SegmentSize, TimelineId};

use super::wal::{AvailableWal, WalCopy};
use super::warning::PlanWarning;
use crate::recovery::RecoverySettings;

/// The directory in the restored cluster that holds WAL for recovery: Barman's name for it.
pub const STAGED_WAL: &str = "barman_wal";

/// What is known of the backup to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFacts {
    /// How people call it.
    pub id: String,
    /// The server's major version.
    pub major: u32,
    /// The cluster's system identifier, as far as it was recorded.
    pub system_id: Option<u64>,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where recovery has to begin: the backup label's start position.
    pub begin: Lsn,
    /// Where the cluster becomes consistent: the backup's end.
    pub end: Lsn,
    /// When it ended, by the clock of whoever took it.
    pub end_time: Option<PgTimestamp>,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// How the copies are stored.
    pub format: BackupFormat,
    /// The copy of the data directory.
    pub data: PathBuf,
    /// The tablespaces outside the data directory.
    pub tablespaces: Vec<TablespaceFacts>,
}

/// How the data directory and tablespaces of a backup are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackupFormat {
    /// Each as a directory.
    #[default]
    Plain,
    /// Each as a directory, with files that may be compressed one by one (`docs/formats.md`, "Compressed files").
    Packed,
    /// Each as a tar archive of PostgreSQL's kind, compressed or not: `pg_basebackup --format=tar`.
    Tar,
}

/// A tablespace of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceFacts {
    /// Its oid: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Where it was on the original machine.
    pub location: PathBuf,
    /// Its copy.
    pub data: PathBuf,
}

/// Where the restored cluster gets its WAL from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalSupply {
    /// Copied along with the restore.
    Copy {
        /// Whether a last segment that was never completed is taken too.
        partials: bool,
        /// Where WAL for recovery to a target is put; [`STAGED_WAL`] in the destination by default.
        staging: Option<PathBuf>,
    },
    /// Fetched by the server as it needs it.
    Fetch {
        /// The `restore_command`, in PostgreSQL's notation.
        restore_command: String,
    },
}

/// What is known beforehand of where recovery stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Foreseen {
    /// Nothing: the target is judged by what the backup's record says.
    #[default]
    Nothing,
    /// The target was found in the WAL: recovery reads up to here and no further.
    Stop(Lsn),
    /// It can't be reached, or it is not known whether it can, and is to be tried all the same.
    Tried,
}

/// A wish, with the facts it is judged by.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The backup.
    pub backup: BackupFacts,
    /// The new data directory; absolute.
    pub destination: PathBuf,
    /// Whether destinations may be in use by an earlier state of the cluster, of which what is right is kept.
    pub delta: bool,
    /// New locations of tablespaces, by name; the others go where they were.
    pub tablespace_locations: Vec<(String, PathBuf)>,
    /// Where recovery stops.
    pub target: RecoveryTarget,
    /// Whether the new cluster is a standby.
    pub standby: bool,
    /// Where its WAL comes from.
    pub wal: WalSupply,
    /// The WAL at hand, at least all of it that belongs to the backup or is later.
    pub available_wal: Vec<AvailableWal>,
    /// The history files among it, read.
    pub histories: Vec<History>,
    /// What is known of where recovery stops.
    pub foreseen: Foreseen,
    /// Up to when the archive is known to reach, if it is.
    pub archived_until: Option<PgTimestamp>,
    /// The file in the data directory that gets the recovery settings.
    pub settings_file: String,
    /// Small files to add to the data directory, by name.
    pub extra_files: Vec<(String, Vec<u8>)>,
}

/// One tree to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeCopy {
    /// The tablespace; `None` for the data directory.
    pub tablespace: Option<(u32, String)>,
    /// Its copy in the backup.
    pub from: PathBuf,
    /// Where it goes.
    pub to: PathBuf,
}

/// Where WAL files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalPlace {
    /// `pg_wal`, marked as archived: replayed by a plain start.
    PgWal,
    /// [`STAGED_WAL`] in the data directory.
    Staged,
    /// A directory elsewhere.
    Elsewhere(PathBuf),
}

/// All that a restore will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupFacts,
    /// Whether what is right at the destinations is kept, rather than their being empty.
    pub delta: bool,
    /// The trees, the data directory first.
    pub trees: Vec<TreeCopy>,
    /// The WAL files to place.
    pub wal: Vec<WalCopy>,
    /// Where.
    pub wal_place: WalPlace,
    /// The timeline that recovery follows.
    pub timeline: TimelineId,
    /// What the new cluster is told.
    pub settings: RecoverySettings,
    /// In which file.
    pub settings_file: String,
    /// Small files to add.
    pub extra_files: Vec<(String, Vec<u8>)>,
    /// What a person should know first.
    pub warnings: Vec<PlanWarning>,
}
