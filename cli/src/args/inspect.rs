//! Arguments of commands that show and change the configuration, and of those that look at servers.

use clap::{Args, ValueEnum};

/// `diagnose`.
#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// Tell for each configuration value which file it comes from
    #[arg(long)]
    pub show_config_source: bool,
}

/// `config-switch`.
#[derive(Debug, Args)]
pub struct ConfigSwitchArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The model to lay over the server's own values
    #[arg(value_name = "MODEL", required_unless_present = "reset", conflicts_with = "reset")]
    pub model: Option<String>,
    /// Go back to the server's own values
    #[arg(long)]
    pub reset: bool,
}

/// `config-update`.
#[derive(Debug, Args)]
pub struct ConfigUpdateArgs {
    /// The changes: [{"scope": "server", "server_name": "main", "key": "value", ...}, ...], or "model" and
    /// "model_name"; "-" reads them from standard input
    #[arg(value_name = "JSON")]
    pub changes: String,
}

/// `list-files`.
#[derive(Debug, Args)]
pub struct ListFilesArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, or latest, oldest, latest-full, last-failed
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Which files: of the backup (data), with the WAL that makes it consistent (standalone), all WAL up to the next
    /// backup (wal), or data and wal (full)
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    pub target: FilesTarget,
    /// List empty directories too
    #[arg(long)]
    pub list_empty_directories: bool,
}

/// `list-files --target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[allow(missing_docs, reason = "the help of the option says what they are")]
pub enum FilesTarget {
    #[default]
    Standalone,
    Data,
    Wal,
    Full,
}

/// `replication-status`.
#[derive(Debug, Args)]
pub struct ReplicationStatusArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
    /// One line for each client
    #[arg(long)]
    pub minimal: bool,
    /// Which clients: servers that replay WAL, programs that only receive it, or both
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    pub target: ClientsTarget,
    /// Which server to ask, where WAL comes from another than backups do
    #[arg(long, value_name = "HOST", value_enum, default_value_t)]
    pub source: ClientsSource,
}

/// `replication-status --target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[allow(missing_docs, reason = "the help of the option says what they are")]
pub enum ClientsTarget {
    #[default]
    All,
    HotStandby,
    WalStreamer,
}

/// `replication-status --source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[allow(missing_docs, reason = "the help of the option says what they are")]
pub enum ClientsSource {
    #[default]
    BackupHost,
    WalHost,
}

/// `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The name of the new server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// How to reach it, as barkeep is going to: key=value pairs or a URI, without a password
    #[arg(long, value_name = "CONNINFO")]
    pub conninfo: String,
    /// Print the configuration rather than write it
    #[arg(long)]
    pub dry_run: bool,
}
