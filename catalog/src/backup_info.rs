//! What is known of a backup, and its text form in `backup.info`.
//!
//! [`BackupInfo`] holds facts; [`parse`] and [`render`] know Barman 3.20's file format. Rendering what was parsed
//! gives the same bytes. A key that Barman does not know would stop every Barman command, so there is no way to
//! write one.

mod format;

use jiff::Zoned;
use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId};

pub use format::{BackupInfoError, FILE_BYTES_MAX, Parsed, Unrepresentable, parse, render};

use crate::literal::Literal;
use crate::{BackupId, Status};

/// A backup's record. What is `None` is not known (yet).
///
/// Texts are as the server or Barman gave them; [`render`] refuses those that one line can't hold.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupInfo {
    /// Its identifier (the file's name; not in the text).
    pub id: BackupId,
    /// How far it has come.
    pub status: Status,
    /// A name given by a person, besides the identifier.
    pub backup_name: Option<String>,
    /// The server's name in the configuration.
    pub server_name: Option<String>,
    /// How it was taken: `postgres`, `rsync-concurrent`, ...
    pub mode: Option<String>,
    /// What went wrong, when it has failed.
    pub error: Option<String>,

    /// When it began.
    pub begin_time: Option<Zoned>,
    /// Where recovery starts reading.
    pub begin_xlog: Option<Lsn>,
    /// The segment that holds [`begin_xlog`](Self::begin_xlog).
    pub begin_wal: Option<SegmentName>,
    /// The offset of [`begin_xlog`](Self::begin_xlog) in its segment, in bytes.
    pub begin_offset: Option<u64>,
    /// When the copy ended.
    pub end_time: Option<Zoned>,
    /// Where the backup becomes consistent.
    pub end_xlog: Option<Lsn>,
    /// The last segment needed to become consistent.
    pub end_wal: Option<SegmentName>,
    /// The offset of [`end_xlog`](Self::end_xlog) in its segment, in bytes.
    pub end_offset: Option<u64>,
    /// The timeline it was taken on.
    pub timeline: Option<TimelineId>,
    /// The size of the cluster's WAL segments.
    pub segment_size: SegmentSize,
    /// The text of `backup_label`.
    pub backup_label: Option<String>,

    /// The server's `server_version_num`, like 150020.
    pub version: Option<u32>,
    /// The cluster's system identifier.
    pub system_id: Option<String>,
    /// The data directory on the server.
    pub pgdata: Option<String>,
    /// The server's tablespaces besides the built-in two.
    pub tablespaces: Vec<Tablespace>,
    /// The main configuration file on the server.
    pub config_file: Option<String>,
    /// The client authentication file on the server.
    pub hba_file: Option<String>,
    /// The user name map on the server.
    pub ident_file: Option<String>,
    /// Files that the configuration includes.
    pub included_files: Vec<String>,
    /// `on` or `off`: whether the cluster has page checksums.
    pub data_checksums: Option<String>,
    /// `on` or `off`: whether the server summarizes WAL (PostgreSQL 17 and later).
    pub summarize_wal: Option<String>,
    /// The size of all tablespaces when the backup began, in bytes.
    pub cluster_size: Option<u64>,

    /// The size of the backup's files, in bytes.
    pub size: Option<u64>,
    /// The same without files shared with other backups, in bytes.
    pub deduplicated_size: Option<u64>,
    /// Times of the copy, as Barman keeps them; see [`copy_stats`].
    pub copy_stats: Option<Literal>,
    /// How the backup's archives are compressed; `None` for a plain tree. See also [`set_compressed_files`].
    ///
    /// [`set_compressed_files`]: Self::set_compressed_files
    pub compression: Option<String>,
    /// How they are encrypted (`gpg`).
    pub encryption: Option<String>,
    /// Disk snapshots, as Barman describes them.
    pub snapshots_info: Option<Literal>,

    /// The backup that this one is an increment of.
    pub parent_backup_id: Option<BackupId>,
    /// The increments of this one.
    pub children_backup_ids: Vec<BackupId>,
}

/// A tablespace of the server that was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its name.
    pub name: String,
    /// Its object id, which is also the name of its directory in the backup.
    pub oid: u32,
    /// Where it was on the server.
    pub location: String,
}

/// What kind of backup a record is of, as lists show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackupType {
    /// Copied file by file.
    Rsync,
    /// All of the cluster, over the replication protocol.
    Full,
    /// What has changed since another backup.
    Incremental,
    /// Disk snapshots.
    Snapshot,
}

impl BackupType {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackupType::Rsync => "rsync",
            BackupType::Full => "full",
            BackupType::Incremental => "incremental",
            BackupType::Snapshot => "snapshot",
        }
    }
}

/// What follows a compression's name in the record of a backup whose files are compressed one by one. Barman knows no
/// such compression: it lists and deletes the backup, and refuses to restore it.
const FILES_SUFFIX: &str = "-files";

impl BackupInfo {
    /// Notes that the backup's files, rather than archives of them, are compressed one by one.
    pub fn set_compressed_files(&mut self, compression: &str) {
        self.compression = Some(format!("{compression}{FILES_SUFFIX}"));
    }

    /// Whether the backup's files are compressed one by one.
    pub fn has_compressed_files(&self) -> bool {
        self.compression.as_deref().is_some_and(|name| name.ends_with(FILES_SUFFIX))
    }

    /// Whether the backup is stored as tar archives, compressed or not.
    pub fn is_archived(&self) -> bool {
        self.compression.is_some() && !self.has_compressed_files()
    }

    /// The record of a backup that is about to start: [`Status::Empty`], nothing else known.
    pub fn new(id: BackupId, server_name: &str) -> Self {
        let server_name = Some(server_name.to_owned());
        BackupInfo { server_name, ..Self::empty(id) }
    }

    /// A record of which nothing is known.
    pub(crate) const fn empty(id: BackupId) -> Self {
        BackupInfo {
            id,
            status: Status::Empty,
            backup_name: None,
            server_name: None,
            mode: None,
            error: None,
            begin_time: None,
            begin_xlog: None,
            begin_wal: None,
            begin_offset: None,
            end_time: None,
            end_xlog: None,
            end_wal: None,
            end_offset: None,
            timeline: None,
            segment_size: SegmentSize::DEFAULT,
            backup_label: None,
            version: None,
            system_id: None,
            pgdata: None,
            tablespaces: Vec::new(),
            config_file: None,
            hba_file: None,
            ident_file: None,
            included_files: Vec::new(),
            data_checksums: None,
            summarize_wal: None,
            cluster_size: None,
            size: None,
            deduplicated_size: None,
            copy_stats: None,
            compression: None,
            encryption: None,
            snapshots_info: None,
            parent_backup_id: None,
            children_backup_ids: Vec::new(),
        }
    }

    /// Sets where the backup begins, and all that follows from it.
    pub fn set_begin(&mut self, timeline: TimelineId, lsn: Lsn) {
        self.timeline = Some(timeline);
        self.begin_xlog = Some(lsn);
        self.begin_wal = Some(SegmentName::at(timeline, lsn, self.segment_size));
        self.begin_offset = Some(self.segment_size.offset_of(lsn));
    }

    /// Sets where the backup ends, and all that follows from it. An end on a segment boundary belongs to the segment
    /// before it: the one after may never be written.
    pub fn set_end(&mut self, timeline: TimelineId, lsn: Lsn) {
        self.end_xlog = Some(lsn);
        self.end_wal = Some(SegmentName::ending_at(timeline, lsn, self.segment_size));
        self.end_offset = Some(self.segment_size.offset_of(lsn));
    }

    /// Marks the backup as failed, in the words `failure <action> (<first line of reason>)`.
    pub fn set_failed(&mut self, action: &str, reason: &str) {
        let reason = reason.trim().lines().next().unwrap_or_default();
        self.status = Status::Failed;
        self.error = Some(format!("failure {action} ({reason})"));
    }

    /// What kind of backup it is.
    pub fn backup_type(&self) -> BackupType {
        let mode = self.mode.as_deref().unwrap_or_default();
        if mode.starts_with("snapshot") {
            BackupType::Snapshot
        } else if mode.starts_with("rsync") {
            BackupType::Rsync
        } else if self.parent_backup_id.is_some() {
            BackupType::Incremental
        } else {
            BackupType::Full
        }
    }

    /// Whether it stands on its own, without a parent.
    pub const fn is_root(&self) -> bool {
        self.parent_backup_id.is_none()
    }
}

/// The `copy_stats` of a copy that took this many seconds, with as many workers when the method has any.
pub fn copy_stats(copy_seconds: f64, total_seconds: f64, workers: Option<u32>) -> Literal {
    let round = |seconds: f64| Literal::float((seconds * 1e6).round() / 1e6);
    let mut pairs = vec![
        (Literal::text("copy_time"), round(copy_seconds)),
        (Literal::text("total_time"), round(total_seconds)),
    ];
    if let Some(workers) = workers {
        pairs.push((Literal::text("number_of_workers"), Literal::integer(workers)));
    }
    Literal::Dict(pairs)
}
