//! Being told to stop, by a signal.

use std::fmt;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A signal that ends what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
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
pub(crate) async fn stop() -> io::Result<Signal> {
    let ignored = ignored_signals();
    tokio::select! {
        outcome = wait(SignalKind::interrupt(), ignored) => outcome.map(|()| Signal::Interrupt),
        outcome = wait(SignalKind::terminate(), ignored) => outcome.map(|()| Signal::Terminate),
        outcome = wait(SignalKind::hangup(), ignored) => outcome.map(|()| Signal::HangUp),
    }
}

/// Waits for one signal; for ever, if whoever started the process wants it ignored: `nohup` does so with SIGHUP, and a
/// shell script with SIGINT for what it starts in the background.
async fn wait(kind: SignalKind, ignored: u64) -> io::Result<()> {
    if is_ignored(ignored, kind.as_raw_value()) {
        return std::future::pending().await;
    }
    signal(kind)?.recv().await;
    Ok(())
}

/// Bit `n - 1` stands for signal `n`, as Linux tells it. Elsewhere nothing counts as ignored.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status).unwrap_or(0)
}

fn parse_ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn is_ignored(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1).ok().and_then(|bit| mask.checked_shr(bit)).is_some_and(|bits| bits & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignores_is_seen() {
        let mask = parse_ignored("Name:\tbarkeep\nSigIgn:\t0000000000000001\nSigCgt:\t00\n").unwrap();
        assert!(is_ignored(mask, 1), "SIGHUP");
        assert!(
            !is_ignored(mask, 2)
                && !is_ignored(mask, 15)
                && !is_ignored(mask, 0)
                && !is_ignored(u64::MAX, 65)
        );
        assert_eq!(parse_ignored("Name:\tbarkeep\n"), None);
    }
}
