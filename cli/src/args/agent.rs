//! The options of `agent`.

use std::path::PathBuf;

use clap::Args;

use super::values;

/// `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// A directory that may be read; may be repeated
    #[arg(long, value_name = "DIRECTORY", value_parser = values::absolute_path)]
    pub read: Vec<PathBuf>,
    /// A directory that may be changed, as a restore does; it is made if it is missing; may be repeated
    #[arg(long, value_name = "DIRECTORY", value_parser = values::absolute_path)]
    pub restore: Vec<PathBuf>,
}
