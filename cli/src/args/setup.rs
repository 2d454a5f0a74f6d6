//! The options of what sets barkeep up on a machine.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `install-links`.
#[derive(Debug, Args)]
pub struct InstallLinksArgs {
    /// The directory, one of PATH
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `man-pages`.
#[derive(Debug, Args)]
pub struct ManPagesArgs {
    /// The directory, which is made if it is missing
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}
