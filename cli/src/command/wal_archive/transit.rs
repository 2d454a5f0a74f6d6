//! Whether a backup host takes the stream compressed (`put-wal --zstd-stream`): barkeep's does, Barman's says that it knows no
//! such option. What a host has shown is remembered beside the connection that is kept open, so that it is asked once.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use barkeep_transport::ssh::{ControlDirectory, RemoteCommand, Ssh};
use sha2::{Digest as _, Sha256};

use super::ship::hex;

/// How long it is believed that a host does not know it. It may be brought up to date.
const PLAIN_BELIEVED: Duration = Duration::from_secs(24 * 3600);
/// How many bytes of a hash name a host.
const NAME_BYTES: usize = 16;

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing yet.
    Nothing,
    /// It takes compressed streams.
    Packed,
    /// It does not.
    Plain,
}

/// Where that is remembered.
#[derive(Debug, Clone)]
pub(super) struct Transit {
    note: PathBuf,
}

impl Transit {
    /// For `command` at the far end of `ssh`. `None` where nothing is kept from call to call: then streams are plain.
    pub(super) fn of(ssh: &Ssh, command: &RemoteCommand) -> Option<Self> {
        ssh.control_socket()?;
        let directory = ControlDirectory::find(|name| std::env::var_os(name)).ok()?;
        let digest = Sha256::digest(format!("{ssh}\0{command}"));
        let name = format!("{}.stream", hex(&digest[..NAME_BYTES]));
        Some(Transit { note: directory.path().join(name) })
    }

    pub(super) fn known(&self) -> Known {
        match fs::read(&self.note).as_deref() {
            Ok(b"zstd\n") => Known::Packed,
            Ok(b"plain\n") if self.is_fresh() => Known::Plain,
            _ => Known::Nothing,
        }
    }

    /// A note that can't be kept costs the next call an attempt.
    pub(super) fn remember(&self, known: Known) {
        let _ = match known {
            Known::Packed => fs::write(&self.note, "zstd\n"),
            Known::Plain => fs::write(&self.note, "plain\n"),
            Known::Nothing => fs::remove_file(&self.note),
        };
    }

    fn is_fresh(&self) -> bool {
        let modified = self.note.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age < PLAIN_BELIEVED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_remembered_but_not_that_a_host_is_old() {
        let directory = tempfile::tempdir().unwrap();
        let transit = Transit { note: directory.path().join("note") };
        assert_eq!(transit.known(), Known::Nothing);
        for known in [Known::Packed, Known::Plain, Known::Nothing, Known::Plain] {
            transit.remember(known);
            assert_eq!(transit.known(), known);
        }
        let yesterday = std::time::SystemTime::now() - PLAIN_BELIEVED;
        fs::File::options().write(true).open(&transit.note).unwrap().set_modified(yesterday).unwrap();
        assert_eq!(transit.known(), Known::Nothing);
        fs::write(&transit.note, "rubbish").unwrap();
        assert_eq!(transit.known(), Known::Nothing);
    }
}
