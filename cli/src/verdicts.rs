//! The retention policy of a server, applied to its backups.

use std::collections::BTreeMap;

use barkeep_catalog::{BackupId, Backups, Keep, Status};
use barkeep_retention::{self as retention, Judgement, Policy};
use jiff::Timestamp;

use crate::config::ServerConfig;
use crate::context::ServerContext;
use crate::error::CommandError;

/// The verdicts on a server's backups; none when no policy is in force.
#[derive(Debug, Default)]
pub struct Verdicts {
    policy: Option<Policy>,
    by_id: BTreeMap<BackupId, Judgement<BackupId>>,
}

impl Verdicts {
    /// Judges a server's backups. A policy that can't be read is as none at all: nothing is deleted by it.
    ///
    /// # Errors
    /// When a backup's keep mark can't be read.
    pub fn judge(server: &ServerContext, backups: &Backups, now: Timestamp) -> Result<Self, CommandError> {
        let Ok(Some(policy)) = policy(&server.config) else { return Ok(Verdicts::default()) };
        let facts = facts(server, backups)?;
        let judged = retention::evaluate(&facts, policy, server.config.minimum_redundancy(), now);
        let by_id = judged.into_iter().map(|judgement| (judgement.id, judgement)).collect();
        Ok(Verdicts { policy: Some(policy), by_id })
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Policy> {
        self.policy
    }

    /// The verdict on a backup; `None` when no policy is in force.
    pub fn of(&self, id: BackupId) -> Option<&Judgement<BackupId>> {
        self.by_id.get(&id)
    }

    /// All verdicts, from the oldest backup to the newest.
    pub fn iter(&self) -> impl Iterator<Item = &Judgement<BackupId>> {
        self.by_id.values()
    }
}

/// The policy that a server's configuration asks for; `None` without one.
///
/// # Errors
/// When it can't be read.
pub fn policy(config: &ServerConfig) -> Result<Option<Policy>, retention::ParsePolicyError> {
    config.retention_policy().map(str::parse).transpose()
}

/// What retention needs to know of a server's backups.
///
/// # Errors
/// When a backup's keep mark can't be read.
pub fn facts(
    server: &ServerContext,
    backups: &Backups,
) -> Result<Vec<retention::Backup<BackupId>>, CommandError> {
    let catalog = server.catalog();
    let fact = |backup: &barkeep_catalog::BackupInfo| {
        let keep = catalog.keep(backup.id)?.map(|keep| match keep {
            Keep::Full => retention::Keep::Full,
            Keep::Standalone => retention::Keep::Standalone,
        });
        Ok(retention::Backup {
            id: backup.id,
            stage: match backup.status {
                Status::Done => retention::Stage::Done,
                Status::WaitingForWals => retention::Stage::Waiting,
                Status::Empty | Status::Started | Status::Syncing | Status::Failed => {
                    retention::Stage::Unusable
                }
            },
            end_time: backup.end_time.as_ref().map(jiff::Zoned::timestamp),
            parent: backup.parent_backup_id,
            keep,
        })
    };
    backups.iter().map(fact).collect()
}
