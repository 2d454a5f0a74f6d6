//! The options of `backup`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values;

/// `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
    /// Start at once, with a fast checkpoint (overrides immediate_checkpoint)
    #[arg(long, overrides_with = "no_immediate_checkpoint")]
    pub immediate_checkpoint: bool,
    /// Start when the next spread checkpoint is done
    #[arg(long)]
    pub no_immediate_checkpoint: bool,
    /// Copy only what changed since this backup (PostgreSQL 17)
    #[arg(long, value_name = "BACKUP")]
    pub incremental: Option<String>,
    /// Reuse the files of the previous backup (rsync method)
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "link", value_name = "HOW")]
    pub reuse_backup: Option<ReuseBackup>,
    /// Try the copy again this often (overrides basebackup_retry_times)
    #[arg(long, value_name = "COUNT", overrides_with = "no_retry")]
    pub retry_times: Option<u32>,
    /// Wait this many seconds between tries (overrides basebackup_retry_sleep)
    #[arg(long, value_name = "SECONDS")]
    pub retry_sleep: Option<u32>,
    /// Try the copy once
    #[arg(long)]
    pub no_retry: bool,
    /// Copy with this many workers (overrides parallel_jobs)
    #[arg(short, long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs: Option<u32>,
    /// Start workers in groups, one group in this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = values::positive)]
    pub jobs_start_batch_period: Option<u32>,
    /// Start this many workers in a group
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs_start_batch_size: Option<u32>,
    /// Read at most this many KiB a second; 0 is no limit (overrides bandwidth_limit)
    #[arg(long, value_name = "KBPS")]
    pub bwlimit: Option<u32>,
    /// Go on with the newest failed copy of files: what it has is compared, and not sent again
    #[arg(long)]
    pub resume: bool,
    /// Wait until the WAL that the backup needs is archived
    #[arg(short, long)]
    pub wait: bool,
    /// With --wait: wait at most this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = values::positive)]
    pub wait_timeout: Option<u32>,
    /// Send a sign of life on the backup's connection every so many seconds; 0 never does
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_interval: Option<u32>,
    /// Name the backup
    #[arg(long, value_name = "NAME", value_parser = values::backup_name)]
    pub name: Option<String>,
    /// Make a manifest (rsync method)
    #[arg(long, overrides_with = "no_manifest")]
    pub manifest: bool,
    /// Make no manifest (rsync method)
    #[arg(long)]
    pub no_manifest: bool,
    /// Give up on the checks before the backup after this many seconds; 0 never does (overrides check_timeout)
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u64>,
    /// Keep the backup here until it is uploaded
    #[arg(long, value_name = "DIRECTORY", value_parser = values::absolute_path)]
    pub cloud_staging_directory: Option<PathBuf>,
    /// Pause the backup when that directory holds more
    #[arg(long, value_name = "SIZE")]
    pub cloud_staging_max_size: Option<String>,
}

/// `--reuse-backup`.
/// Copied, or linked, from the previous backup where unchanged; or all from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(
    missing_docs,
    reason = "the names are the documentation, and comments would become a second, longer help"
)]
pub enum ReuseBackup {
    Copy,
    Link,
    Off,
}

impl BackupArgs {
    /// `--immediate-checkpoint`, `--no-immediate-checkpoint`, or `None` to go by the configuration.
    pub fn immediate_checkpoint(&self) -> Option<bool> {
        switch(self.immediate_checkpoint, self.no_immediate_checkpoint)
    }

    /// `--retry-times`, `--no-retry` as 0, or `None` to go by the configuration.
    pub fn retry_times(&self) -> Option<u32> {
        if self.no_retry { Some(0) } else { self.retry_times }
    }
}

/// A pair of options of which the later one was kept.
pub(super) fn switch(on: bool, off: bool) -> Option<bool> {
    match (on, off) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}
