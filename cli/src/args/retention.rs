//! The options of `retention` and `keep`.

use clap::{Args, ValueEnum};

/// `retention`.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// Say why, for every backup and every range of WAL
    #[arg(long)]
    pub explain: bool,
    /// Judge as of this moment: "2027-01-01 12:00", "+7 days"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Judge by this policy in place of the configured one: "RECOVERY WINDOW OF 4 WEEKS"
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// Judge WAL by this policy in place of the configured one: "MAIN", "WINDOW OF 7 DAYS"
    #[arg(long, value_name = "POLICY")]
    pub wal_policy: Option<String>,
}

/// `keep`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct KeepArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, or latest, oldest, latest-full
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Keep it no longer
    #[arg(short, long, conflicts_with_all = ["status", "target"])]
    pub release: bool,
    /// Say whether it is kept
    #[arg(short, long, conflicts_with = "target")]
    pub status: bool,
    /// Keep it with all later WAL (full), or with the WAL that makes it consistent (standalone)
    #[arg(long, value_name = "TARGET", value_enum)]
    pub target: Option<KeepTarget>,
    /// With --target: until this moment: "2027-01-01", "+6 months"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with_all = ["status", "release"])]
    pub until: Option<String>,
    /// With --target: why
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["status", "release"])]
    pub note: Option<String>,
}

/// `keep --target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the help of the option says it")]
pub enum KeepTarget {
    Full,
    Standalone,
}
