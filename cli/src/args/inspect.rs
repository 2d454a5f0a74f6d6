//! Arguments of commands that show and change the configuration, and of those that look at servers.

use clap::Args;

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
