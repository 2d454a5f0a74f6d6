//! `agent`: the files of this machine for a barkeep elsewhere, over standard input and output.
//!
//! Backups and restores start it over SSH by themselves. It reads no configuration, changes no user, and ends with its
//! input. A line in `authorized_keys` with `command="barkeep agent --read /srv/pg"` keeps a key to just that.

use std::os::unix::fs::DirBuilderExt;

use barkeep_transport::agent::{AgentOptions, Confinement, FrameCompression, serve};
use barkeep_transport::host::Inspectors;
use pgbase::file_backup::PageInspector;
use pgbase::restore::ServerInspector;

use crate::args::AgentArgs;
use crate::error::CommandError;

/// Serves until the other side goes away.
///
/// # Errors
/// When the connection fails, or nobody at its other end speaks the protocol.
pub fn run(args: &AgentArgs) -> Result<(), CommandError> {
    for directory in &args.restore {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
            CommandError::because(format!("'{}' can't be made", directory.display()), &error)
        })?;
    }
    let confinement = Confinement { read: args.read.clone(), change: args.restore.clone() };
    let (input, output) = (std::io::stdin().lock(), std::io::stdout());
    serve(input, output, confinement, inspectors())
        .map_err(|error| CommandError::because("the agent ends", &error))
}

/// The zstd level of `network_compression`: quick enough for any network that needs it.
const NETWORK_LEVEL: i8 = 1;

/// How to speak with an agent, by `network_compression`.
pub(crate) const fn options(network_compression: Option<bool>) -> AgentOptions {
    let compression = match network_compression {
        Some(true) => FrameCompression::Always(NETWORK_LEVEL),
        Some(false) => FrameCompression::Off,
        None => FrameCompression::WhereItHelps(NETWORK_LEVEL),
    };
    AgentOptions { compression }
}

/// What this program knows of the insides of files.
pub(crate) fn inspectors() -> Inspectors {
    Inspectors::none().with(PageInspector).with(ServerInspector)
}
