//! The recovery that asks: PostgreSQL runs `restore_command` in the data directory.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

/// A recovery under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recovery {
    data_directory: PathBuf,
    postmaster: i32,
}

impl Recovery {
    /// The recovery of the server whose data directory this process runs in, if there is one.
    pub(super) fn here() -> Option<Self> {
        Self::of(&std::env::current_dir().ok()?)
    }

    pub(super) fn of(data_directory: &Path) -> Option<Self> {
        let postmaster = postmaster(data_directory)?;
        let recovery = Recovery { data_directory: data_directory.to_owned(), postmaster };
        recovery.goes_on().then_some(recovery)
    }

    /// The server's process.
    pub(super) fn postmaster(&self) -> i32 {
        self.postmaster
    }

    /// Whether the same server is still running, and still recovering: it removes these files when it is done.
    pub(super) fn goes_on(&self) -> bool {
        let is_there = |name: &str| self.data_directory.join(name).exists();
        let same = postmaster(&self.data_directory) == Some(self.postmaster);
        let alive = Pid::from_raw(self.postmaster).is_some_and(|pid| test_kill_process(pid).is_ok());
        same && alive && (is_there("recovery.signal") || is_there("standby.signal"))
    }

    /// Whether the server is a standby: it ends recovery only when it is promoted.
    pub(super) fn is_standby(&self) -> bool {
        self.data_directory.join("standby.signal").exists()
    }

    /// Where the server itself keeps WAL.
    pub(super) fn wal_directory(&self) -> PathBuf {
        self.data_directory.join("pg_wal")
    }

    /// The cluster's system identifier: the first field of `pg_control` (`catalog/pg_control.h`), in the machine's byte
    /// order, which for this purpose is little-endian.
    pub(super) fn system_id(&self) -> Option<u64> {
        let mut first = [0; 8];
        let mut file = fs::File::open(self.data_directory.join("global/pg_control")).ok()?;
        file.read_exact(&mut first).ok()?;
        Some(u64::from_le_bytes(first)).filter(|id| *id != 0)
    }
}

/// The process that the first line of `postmaster.pid` names.
fn postmaster(data_directory: &Path) -> Option<i32> {
    let text = fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_a_running_server_with_a_signal_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert_eq!(Recovery::of(directory.path()), None);
        fs::write(at("postmaster.pid"), format!("{}\n/data\n", std::process::id())).unwrap();
        assert_eq!(Recovery::of(directory.path()), None);
        fs::write(at("standby.signal"), "").unwrap();
        let recovery = Recovery::of(directory.path()).unwrap();
        assert!(recovery.is_standby());
        fs::remove_file(at("standby.signal")).unwrap();
        assert!(!recovery.goes_on(), "promoted");
        fs::write(at("recovery.signal"), "").unwrap();
        assert!(recovery.goes_on() && !recovery.is_standby());
        fs::write(at("postmaster.pid"), "1\n").unwrap();
        assert!(!recovery.goes_on(), "restarted");
        fs::create_dir(at("global")).unwrap();
        fs::write(at("global/pg_control"), [7, 0, 0, 0, 0, 0, 0, 0, 9]).unwrap();
        assert_eq!(recovery.system_id(), Some(7));
    }
}
