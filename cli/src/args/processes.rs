//! The options of the commands about barkeep's own processes.

use clap::Args;

/// `terminate-process`.
#[derive(Debug, Args)]
pub struct TerminateProcessArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// What it does: receive-wal, backup, cron, archive-wal, sync-backup or sync-wal
    #[arg(value_name = "TASK")]
    pub task: String,
}
