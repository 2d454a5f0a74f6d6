//! The options of `verify-backup` and `generate-manifest`.

use clap::Args;

use super::values;

/// `verify-backup`.
#[derive(Debug, Args)]
pub struct VerifyBackupArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, or latest, oldest, latest-full
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Read with this many workers
    #[arg(short, long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs: Option<u32>,
    /// Don't look into the WAL that the backup needs
    #[arg(short, long)]
    pub no_parse_wal: bool,
}

/// `generate-manifest`.
#[derive(Debug, Args)]
pub struct GenerateManifestArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, or latest, oldest, latest-full
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Read with this many workers
    #[arg(short, long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs: Option<u32>,
}
