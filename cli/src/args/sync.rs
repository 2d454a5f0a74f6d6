//! The options of the commands about further backup hosts, and of those that are not there yet.

use clap::Args;

/// `sync-info`.
#[derive(Debug, Args)]
pub struct SyncInfoArgs {
    /// Ask the primary backup host (of a passive server)
    #[arg(long)]
    pub primary: bool,
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The last WAL file that is known already
    #[arg(value_name = "LAST_WAL")]
    pub last_wal: Option<String>,
    /// Where that was in the list of WAL files, in bytes
    #[arg(value_name = "LAST_POSITION")]
    pub last_position: Option<u64>,
}

/// A command that is not available takes any words, to say so.
#[derive(Debug, Args)]
pub struct AbsentArgs {
    /// Whatever Barman takes here
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}
