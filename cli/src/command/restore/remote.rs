//! The way to another machine that is restored to: `--remote-ssh-command`.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use barkeep_transport::agent::Confinement;
use barkeep_transport::remote::{AgentChoice, RemoteHost};
use barkeep_transport::ssh::Ssh;
use pgbase::restore::{RestoreRequest, WalSupply};

use crate::command::agent;
use crate::context::ServerContext;
use crate::error::CommandError;

/// Another machine, and a directory here for what is made on the way.
pub(super) struct Remote {
    pub(super) host: RemoteHost,
    pub(super) staging: Staging,
}

/// A directory of ours, removed when it is no longer needed.
pub(super) struct Staging(PathBuf);

impl Staging {
    fn create(backup_directory: &Path) -> Result<Self, CommandError> {
        let path = backup_directory.join(".barkeep").join(format!("restore-{}", std::process::id()));
        // Left by a process that had this number and was killed.
        let _ = std::fs::remove_dir_all(&path);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| CommandError::because(format!("'{}' can't be made", path.display()), &error))?;
        Ok(Staging(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Remote {
    /// Connects, for just the directories that the restore may change.
    ///
    /// # Errors
    /// When the machine can't be reached, or has no agent.
    pub(super) fn connect(
        server: &ServerContext,
        command: &str,
        compression: Option<bool>,
        request: &RestoreRequest,
    ) -> Result<Self, CommandError> {
        let ssh = Ssh::from_command(command)
            .map_err(|error| CommandError::because("--remote-ssh-command is wrong", &error))?;
        let config = &server.config;
        let agent = AgentChoice::from_name(config.agent()).unwrap_or_default();
        let mut change = vec![request.destination.clone()];
        for tablespace in &request.backup.tablespaces {
            let moved = request.tablespace_locations.iter().find(|(name, _)| *name == tablespace.name);
            change.push(moved.map_or_else(|| tablespace.location.clone(), |(_, location)| location.clone()));
        }
        if let WalSupply::Copy { staging: Some(staging), .. } = &request.wal {
            change.push(staging.clone());
        }
        let confinement = Confinement { read: Vec::new(), change };
        let options = agent::options(compression.or_else(|| config.network_compression()));
        let host = RemoteHost::connect(&ssh, agent, &confinement, options)
            .map_err(|error| CommandError::because("the destination can't be reached", &error))?;
        Ok(Remote { host, staging: Staging::create(&config.backup_directory())? })
    }
}

/// The `restore_command` of a server on another machine: Barman's own, which `barkeep install-links` provides there too.
pub(super) fn get_wal_command(user: &str, server: &str, partial: bool) -> Result<String, CommandError> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    if ![user, server, &host].into_iter().all(plain) {
        return Err(CommandError::new("the restore_command can't be made from odd names")
            .hint("give it with --restore-command"));
    }
    let partial = if partial { "-P " } else { "" };
    Ok(format!("barman-wal-restore {partial}-U {user} {host} {server} %f %p"))
}
