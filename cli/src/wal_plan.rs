//! What is to become of a server's archived WAL.

use std::collections::{BTreeMap, BTreeSet};

use barkeep_catalog::xlogdb::{self, WalEntry};
use barkeep_catalog::{BackupId, BackupInfo, Backups};
use barkeep_retention::{Claim, Fate, NoPlace, WalPlan};
use pgwal::{SegmentSize, WalFile};

use crate::context::ServerContext;
use crate::error::{CommandError, chain};
use crate::verdicts;

/// The files of an archive, and the fate of each.
#[derive(Debug, Default)]
pub struct WalFates {
    /// In name order. What the list names and the archive has lost is here too: it goes from the list.
    pub files: Vec<(WalEntry, Fate<BackupId>)>,
    /// Why all of them stay, whatever their fate: something about a backup that needs WAL is not known.
    pub all_kept: Option<String>,
    /// The size of their segments; `None` when no backup tells it.
    pub segment_size: Option<SegmentSize>,
}

/// What a backup that goes needs of the WAL, for the case that no other remains: what it begins with may be what the next
/// backup needs.
#[derive(Debug, Clone)]
pub struct Origin {
    claim: Claim<BackupId>,
    size: SegmentSize,
}

impl Origin {
    /// Where a backup begins, if it says so.
    pub fn of(info: &BackupInfo) -> Option<Self> {
        let (timeline, begin) = (info.timeline?, info.begin_xlog?);
        Some(Origin { claim: Claim::onwards(info.id, timeline, begin, begin), size: info.segment_size })
    }

    /// The one that begins first.
    pub fn first<'a>(backups: impl IntoIterator<Item = &'a BackupInfo>) -> Option<Self> {
        backups.into_iter().filter_map(Origin::of).min_by_key(|origin| origin.claim.begin)
    }
}

impl WalFates {
    /// Decides about every file of the archive by what backups claim; without any claim, by `origin`.
    ///
    /// # Errors
    /// When the archive can't be read.
    pub fn decide(
        server: &ServerContext,
        backups: &Backups,
        claims: Result<Vec<Claim<BackupId>>, NoPlace<BackupId>>,
        origin: Option<&Origin>,
    ) -> Result<Self, CommandError> {
        let entries = entries(server)?;
        let all_kept = |why: String| {
            let files = entries.iter().map(|entry| (entry.clone(), Fate::Unreadable)).collect();
            Ok(WalFates { files, all_kept: Some(why), segment_size: None })
        };
        let marked: BTreeSet<BackupId> = server.catalog().marked()?.into_iter().collect();
        // A record that can't be read may be that of a backup that needs anything.
        if let Some(fault) = backups.faults.iter().find(|fault| !marked.iter().any(|id| names(fault, *id))) {
            return all_kept(chain(fault));
        }
        let mut claims = match claims {
            Ok(claims) => claims,
            Err(no_place) => return all_kept(no_place.to_string()),
        };
        let infos = claims.iter().filter_map(|claim| backups.get(claim.id));
        let mut sizes: BTreeSet<SegmentSize> = infos.map(|info| info.segment_size).collect();
        if let (true, Some(origin)) = (claims.is_empty(), origin) {
            claims.push(origin.claim.clone());
            sizes.insert(origin.size);
        }
        let segment_size = sizes.pop_first();
        if !sizes.is_empty() {
            return all_kept("its backups have WAL segments of different sizes".to_owned());
        }
        let timelines = entries.iter().map(|entry| entry.file.timeline()).collect();
        let histories = verdicts::histories(server, &timelines);
        let size = segment_size.unwrap_or(SegmentSize::DEFAULT);
        let plan = WalPlan::new(&claims, &histories, timelines, size);
        let files = entries.into_iter().map(|entry| {
            let fate = plan.fate(&entry.file).copied();
            (entry, fate)
        });
        Ok(WalFates { files: files.collect(), all_kept: None, segment_size })
    }

    /// The files that may go, in name order.
    pub fn removable(&self) -> impl Iterator<Item = &WalEntry> {
        let all_kept = self.all_kept.is_some();
        let files = self.files.iter().filter(move |(_, fate)| !all_kept && fate.is_removable());
        files.map(|(entry, _)| entry)
    }
}

/// What the archive holds and what its list names, in name order.
fn entries(server: &ServerContext) -> Result<Vec<WalEntry>, CommandError> {
    let layout = server.layout();
    let mut entries: BTreeMap<String, WalEntry> = BTreeMap::new();
    for entry in xlogdb::read(&layout)?.entries {
        entries.insert(entry.file.to_string(), entry);
    }
    let listed: BTreeSet<WalFile> = entries.values().map(|entry| entry.file).collect();
    for (file, path) in xlogdb::archived_files(&layout)? {
        if !listed.contains(&file)
            && let Ok(entry) = WalEntry::of_file(file, &path)
        {
            entries.insert(file.to_string(), entry);
        }
    }
    Ok(entries.into_values().collect())
}

/// Whether a fault is about this backup's record.
fn names(fault: &barkeep_catalog::CatalogError, id: BackupId) -> bool {
    fault.to_string().contains(id.as_str())
}
