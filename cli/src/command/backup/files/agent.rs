//! The way to the server's files.

use barkeep_transport::agent::Confinement;
use barkeep_transport::host::{Host, LocalHost};
use barkeep_transport::remote::{AgentChoice, RemoteHost};
use barkeep_transport::ssh::Ssh;
use pgbase::file_backup::FileBackupPlan;

use crate::command::agent::{inspectors, options};
use crate::error::CommandError;

/// Where the server's files are.
#[derive(Debug, Clone)]
pub(in super::super) enum Way {
    /// On this machine.
    Local,
    /// On another, with an agent.
    Remote {
        /// How to get there.
        ssh: Ssh,
        /// Which agent.
        agent: AgentChoice,
        /// Whether to compress on the way.
        compression: Option<bool>,
    },
}

/// An open way.
pub(super) enum Opened {
    Local(LocalHost),
    Remote(RemoteHost),
}

impl Opened {
    pub(super) fn host(&self) -> &dyn Host {
        match self {
            Opened::Local(host) => host,
            Opened::Remote(host) => host.host(),
        }
    }
}

impl Way {
    pub(super) const fn is_remote(&self) -> bool {
        matches!(self, Way::Remote { .. })
    }

    pub(super) const fn told(&self) -> &'static str {
        match self {
            Way::Local => "of local files",
            Way::Remote { .. } => "via SSH",
        }
    }

    /// Opens it, for just the directories that the plan names.
    pub(super) fn open(&self, plan: &FileBackupPlan) -> Result<Opened, CommandError> {
        match self {
            Way::Local => Ok(Opened::Local(LocalHost::new(inspectors()))),
            Way::Remote { ssh, agent, compression } => {
                let mut read = vec![plan.data_directory.clone()];
                read.extend(plan.tablespaces.iter().map(|tablespace| tablespace.location.clone()));
                read.extend(plan.outside_files.iter().filter_map(|file| file.parent()).map(Into::into));
                let confinement = Confinement { read, change: Vec::new() };
                let host = RemoteHost::connect(ssh, *agent, &confinement, options(*compression));
                Ok(Opened::Remote(
                    host.map_err(|error| {
                        CommandError::because("the server's files can't be reached", &error)
                    })?,
                ))
            }
        }
    }
}
