//! The options of `daemon`.

use std::net::SocketAddr;

use clap::Args;

use super::values;

/// `daemon`.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Serve Prometheus metrics (/metrics), /health and a page with the timelines (/) here, read-only, as 127.0.0.1:9187
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = values::address)]
    pub listen: Option<SocketAddr>,
    /// Serve on an address that other machines can reach: whoever can, reads names and times of backups
    #[arg(long, requires = "listen")]
    pub listen_publicly: bool,
}
