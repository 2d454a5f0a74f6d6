//! The options of `windows`.

use std::path::PathBuf;

use clap::Args;

/// `windows`.
#[derive(Debug, Args)]
pub struct WindowsArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
    /// Write a page with the timelines drawn to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Read all archived segments that are not indexed yet, however many
    #[arg(long)]
    pub index: bool,
}
