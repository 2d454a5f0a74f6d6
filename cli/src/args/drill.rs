//! The options of `drill`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values;

/// `drill`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, latest, oldest, latest-full, or random
    #[arg(value_name = "BACKUP", default_value = "latest")]
    pub backup: String,
    /// Where recovery stops
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    pub target: DrillTarget,
    /// Look at the recovered cluster with amcheck, by page checksums, or both [default: drill_check, or amcheck]
    #[arg(long, value_enum, value_name = "HOW")]
    pub check: Option<DrillCheck>,
    /// Restore below this directory [default: the server's own, .barkeep/drill]
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// The directory with PostgreSQL's programs of the backup's major version [default: looked for]
    #[arg(long, value_name = "DIRECTORY")]
    pub pg_bin: Option<PathBuf>,
    /// The superuser to connect as
    #[arg(long, value_name = "USER", default_value = "postgres")]
    pub user: String,
    /// Ask the restored server this; an error fails the drill
    #[arg(long, value_name = "SQL")]
    pub sql: Option<String>,
    /// The database that --sql is asked in
    #[arg(long, value_name = "DATABASE", default_value = "postgres")]
    pub database: String,
    /// Give up when recovery takes longer than this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = values::positive)]
    pub timeout: u32,
    /// Copy with this many workers
    #[arg(short, long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs: Option<u32>,
}

/// `--target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[allow(
    missing_docs,
    reason = "the names are the documentation, and comments would become a second, longer help"
)]
pub enum DrillTarget {
    #[default]
    Random,
    Immediate,
    End,
}

/// `--check`, and `drill_check` in the configuration: amcheck looks at every B-tree index and, from PostgreSQL 14, every table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(
    missing_docs,
    reason = "the names are the documentation, and comments would become a second, longer help"
)]
pub enum DrillCheck {
    Amcheck,
    Checksums,
    Both,
}
