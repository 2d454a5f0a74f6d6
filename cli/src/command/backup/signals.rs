//! Being told to stop.

use std::fmt;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A signal that ends a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Interrupt,
    Terminate,
    HangUp,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "interrupted by SIGINT",
            Signal::Terminate => "interrupted by SIGTERM",
            Signal::HangUp => "interrupted by SIGHUP",
        })
    }
}

/// Waits for the first of them. From the first call on, they end this wait rather than the process.
///
/// # Errors
/// When the system does not let them be waited for.
pub(super) async fn stop() -> io::Result<Signal> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => Signal::Interrupt,
        _ = terminate.recv() => Signal::Terminate,
        _ = hang_up.recv() => Signal::HangUp,
    })
}
