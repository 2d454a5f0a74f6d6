//! The options of `daemon`.

use clap::Args;

/// `daemon`.
#[derive(Debug, Args)]
pub struct DaemonArgs {}
