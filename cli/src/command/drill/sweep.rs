//! What drills that were killed have left: directories, and servers that nobody stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::scratch::SOCKETS_NAME;

/// How long a server may take to stop before it is killed, and then to be gone.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(20);

/// Stops the servers of all drills below `parent` and removes what they left. What can't be removed stays, and is logged.
pub(super) fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if let Some(left) = Left::read(&path.join("data")) {
            left.stop();
            let is_ours = |name: &str| name.starts_with(SOCKETS_NAME);
            if left.sockets.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                remove(&left.sockets);
            }
        }
        remove(&path);
    }
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => tracing::info!(path = %path.display(), "removed what a drill that was killed had left"),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what a drill left could not be removed");
        }
    }
}

/// A server that nobody stopped.
struct Left {
    pid: Pid,
    data: PathBuf,
    sockets: PathBuf,
}

impl Left {
    /// By `postmaster.pid` (`miscadmin.h`): its process in the first line, the directory of its socket in the fifth.
    fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        // A negative one would be a process group's.
        let pid: i32 = text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        let pid = Pid::from_raw(pid)?;
        let sockets = PathBuf::from(text.lines().nth(4).unwrap_or_default());
        Some(Left { pid, data: data.to_owned(), sockets })
    }

    /// Whether the process is still that server: they work in their data directory.
    fn runs(&self) -> bool {
        let pid = self.pid.as_raw_nonzero();
        let directory = fs::read_link(format!("/proc/{pid}/cwd"));
        directory.is_ok_and(|directory| fs::canonicalize(&self.data).is_ok_and(|data| data == directory))
    }

    fn stop(&self) {
        for signal in [Signal::QUIT, Signal::KILL] {
            let begun = Instant::now();
            while self.runs() {
                if begun.elapsed() > STOP_PATIENCE {
                    break;
                }
                let _ = kill_process(self.pid, signal);
                std::thread::sleep(POLL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_no_process() {
        let data = tempfile::tempdir().unwrap();
        assert!(Left::read(data.path()).is_none());
        for text in ["", "x\n", "0\n", "-5\n", "99999999999\n"] {
            fs::write(data.path().join("postmaster.pid"), text).unwrap();
            assert!(Left::read(data.path()).is_none(), "{text}");
        }
        // This process, which works elsewhere: it is not that server.
        fs::write(data.path().join("postmaster.pid"), format!("{}\n/x\n", std::process::id())).unwrap();
        assert!(Left::read(data.path()).is_some_and(|left| !left.runs()));
    }
}
