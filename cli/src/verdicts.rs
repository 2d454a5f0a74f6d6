//! The retention policy of a server, applied to its backups and its WAL.

use std::collections::{BTreeMap, BTreeSet};

use barkeep_catalog::verification::Verified;
use barkeep_catalog::{BackupId, BackupInfo, Backups, Catalog, CatalogError, Keep, Status, wal};
use barkeep_retention::{
    self as retention, Claim, Judgement, NoPlace, ParsePolicyError, Place, Policy, Rules, Stage, Verdict,
    WalPolicy,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgwal::{History, TimelineId};

use crate::config::ServerConfig;
use crate::context::ServerContext;
use crate::error::chain;

/// A retention policy that can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It can't be read.
    #[error(transparent)]
    Parse(#[from] ParsePolicyError),
    /// Its time zone is not known on this machine.
    #[error("the time zone \"{name}\" of the retention policy is not known: {why}")]
    Zone {
        /// The time zone.
        name: String,
        /// What the time zone database says.
        why: String,
    },
}

/// A retention policy with all that following it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decree {
    /// The policy.
    pub policy: Policy,
    /// The time zone that its days are in.
    pub zone: TimeZone,
}

impl Decree {
    /// Reads a policy.
    ///
    /// # Errors
    /// When it can't be read, or its time zone is not known.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Policy = text.parse()?;
        let zone = match policy.zone() {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name)
                .map_err(|error| PolicyError::Zone { name: name.to_owned(), why: chain(&error) })?,
        };
        Ok(Decree { policy, zone })
    }
}

/// The policy that a server's configuration asks for; `None` without one.
///
/// # Errors
/// When it can't be followed.
pub fn policy(config: &ServerConfig) -> Result<Option<Decree>, PolicyError> {
    config.retention_policy().map(Decree::parse).transpose()
}

/// The policy for WAL that a server's configuration asks for. One that can't be read is as none at all, and keeps most.
pub fn wal_policy(config: &ServerConfig) -> WalPolicy {
    config.wal_retention_policy().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A server's backups as retention sees them, and the verdicts on them; none when no policy is in force.
#[derive(Debug)]
pub struct Verdicts {
    decree: Option<Decree>,
    wal_policy: WalPolicy,
    facts: Vec<retention::Backup<BackupId>>,
    histories: Vec<History>,
    now: Timestamp,
    by_id: BTreeMap<BackupId, Judgement<BackupId>>,
}

impl Verdicts {
    /// Judges a server's backups by its configuration. A policy that can't be read is as none at all: nothing is deleted
    /// by it.
    ///
    /// # Errors
    /// When a backup's marks can't be read.
    pub fn judge(server: &ServerContext, backups: &Backups, now: Timestamp) -> Result<Self, CatalogError> {
        let decree = policy(&server.config).unwrap_or_default();
        Self::judge_by(server, backups, decree, wal_policy(&server.config), now)
    }

    /// Judges a server's backups by these policies.
    ///
    /// # Errors
    /// When a backup's marks can't be read.
    pub fn judge_by(
        server: &ServerContext,
        backups: &Backups,
        decree: Option<Decree>,
        wal_policy: WalPolicy,
        now: Timestamp,
    ) -> Result<Self, CatalogError> {
        let verified = decree
            .as_ref()
            .is_some_and(|decree| decree.policy.clauses().iter().any(|clause| clause.verified));
        let facts = facts(server, backups, verified)?;
        let mut timelines: BTreeSet<TimelineId> =
            facts.iter().filter_map(|backup| backup.place).map(|place| place.timeline).collect();
        timelines.extend(wal::archived_histories(&server.layout())?);
        let histories = histories(server, &timelines);
        let judged = match &decree {
            None => Vec::new(),
            Some(Decree { policy, zone }) => {
                let rules = Rules {
                    policy,
                    minimum_redundancy: server.config.minimum_redundancy(),
                    histories: &histories,
                    zone: zone.clone(),
                };
                retention::evaluate(&facts, &rules, now)
            }
        };
        let by_id = judged.into_iter().map(|judgement| (judgement.id, judgement)).collect();
        Ok(Verdicts { decree, wal_policy, facts, histories, now, by_id })
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<&Policy> {
        self.decree.as_ref().map(|decree| &decree.policy)
    }

    /// The policy for WAL in force.
    pub fn wal_policy(&self) -> WalPolicy {
        self.wal_policy
    }

    /// The moment of judgement.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The backups as retention sees them.
    pub fn facts(&self) -> &[retention::Backup<BackupId>] {
        &self.facts
    }

    /// The verdict on a backup; `None` when no policy is in force.
    pub fn of(&self, id: BackupId) -> Option<&Judgement<BackupId>> {
        self.by_id.get(&id)
    }

    /// All verdicts, from the oldest backup to the newest by their identifiers.
    pub fn iter(&self) -> impl Iterator<Item = &Judgement<BackupId>> {
        self.by_id.values()
    }

    /// What the backups that are left when the obsolete ones are gone claim of the WAL.
    ///
    /// # Errors
    /// With a backup that may need any WAL.
    pub fn claims(&self) -> Result<Vec<Claim<BackupId>>, NoPlace<BackupId>> {
        self.claims_with(self.iter().cloned().collect())
    }

    /// What all backups that are there claim of the WAL, obsolete ones included.
    ///
    /// # Errors
    /// With a backup that may need any WAL.
    pub fn remaining_claims(&self) -> Result<Vec<Claim<BackupId>>, NoPlace<BackupId>> {
        let stays = |judgement: &&Judgement<BackupId>| judgement.verdict != Verdict::Obsolete;
        self.claims_with(self.iter().filter(stays).cloned().collect())
    }

    fn claims_with(
        &self,
        judged: Vec<Judgement<BackupId>>,
    ) -> Result<Vec<Claim<BackupId>>, NoPlace<BackupId>> {
        // WAL is given up by the policy for WAL only where there is a policy at all.
        let wal_policy = if self.decree.is_some() { self.wal_policy } else { WalPolicy::Main };
        retention::claims(&self.facts, &judged, wal_policy, &self.histories, self.now)
    }
}

/// The histories of these timelines, as far as the archive has them. What can't be read is told, and counts as missing.
pub fn histories(server: &ServerContext, timelines: &BTreeSet<TimelineId>) -> Vec<History> {
    let known = |timeline: &TimelineId| match wal::history(&server.layout(), *timeline) {
        Ok(history) => history,
        Err(error) => {
            server.output.warning(chain(&error));
            None
        }
    };
    timelines.iter().filter(|timeline| **timeline != TimelineId::FIRST).filter_map(known).collect()
}

/// What retention needs to know of a server's backups; whether they are verified only if that is asked for.
///
/// # Errors
/// When a backup's marks can't be read.
pub fn facts(
    server: &ServerContext,
    backups: &Backups,
    verified: bool,
) -> Result<Vec<retention::Backup<BackupId>>, CatalogError> {
    let catalog = server.catalog();
    let marked: BTreeSet<BackupId> = catalog.marked()?.into_iter().collect();
    // Where not one backup has its directory, that says nothing of any: the disk that they are on may not be there.
    let has_files = |backup: &BackupInfo| catalog.layout().backup(backup.id).exists();
    let any_has_files = backups.iter().any(|backup| backup.status.is_usable() && has_files(backup));
    let fact = |backup: &BackupInfo| {
        let kept = catalog.kept(backup.id)?;
        let keep = kept.as_ref().map(|kept| match kept.keep {
            Keep::Full => retention::Keep::Full,
            Keep::Standalone => retention::Keep::Standalone,
        });
        Ok(retention::Backup {
            id: backup.id,
            stage: match backup.status {
                _ if marked.contains(&backup.id) => Stage::Leaving,
                Status::Done | Status::WaitingForWals if any_has_files && !has_files(backup) => Stage::Lost,
                Status::Done => Stage::Done,
                Status::WaitingForWals => Stage::Waiting,
                Status::Empty | Status::Started | Status::Syncing => Stage::Running,
                Status::Failed => Stage::Failed,
            },
            end_time: backup.end_time.as_ref().map(jiff::Zoned::timestamp),
            parent: backup.parent_backup_id,
            keep,
            kept_until: kept.and_then(|kept| kept.until),
            place: place(backup),
            system_id: backup.system_id.clone(),
            verified: verified && is_verified(&catalog, backup.id)?,
        })
    };
    backups.iter().map(fact).collect()
}

/// Whether the last verification of a backup, or the last drill with it, whichever came later, found it sound.
fn is_verified(catalog: &Catalog, id: BackupId) -> Result<bool, CatalogError> {
    let verification = catalog.verification(id)?.map(|last| (last.at, last.verdict == Verified::Sound));
    let drill = catalog.drill(id)?.map(|last| (last.at, last.faults.is_empty()));
    Ok(verification.max(drill).is_some_and(|(_, sound)| sound))
}

fn place(backup: &BackupInfo) -> Option<Place> {
    let begin = backup.begin_xlog?;
    Some(Place { timeline: backup.timeline?, begin, end: backup.end_xlog.unwrap_or(begin) })
}
