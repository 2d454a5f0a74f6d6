//! The backup to restore, and the facts that its record gives.

use std::path::{Path, PathBuf};

use barkeep_catalog::{BackupInfo, Backups, Catalog};
use pgbase::restore::{BackupFacts, BackupFormat, TablespaceFacts, resolve_timeline};
use pgwal::{History, RecoveryTarget, TargetKind};

use crate::error::CommandError;
use crate::moment::postgres_time;

/// What the names of `pg_basebackup`'s archives end in.
const ARCHIVE_ENDS: [&str; 4] = [".tar", ".tar.gz", ".tar.lz4", ".tar.zst"];

/// Finds the backup that `text` means; `auto` is the newest one that the target can be reached from.
pub(super) fn choose(
    catalog: &Catalog,
    text: &str,
    target: &RecoveryTarget,
    histories: &[History],
) -> Result<BackupInfo, CommandError> {
    let backups = catalog.backups()?;
    let server = &catalog.layout().server;
    let info = if text == "auto" {
        automatic(catalog, &backups, target, histories)?
    } else {
        let id = catalog.resolve(&backups, text).map_err(|error| {
            CommandError::from(error).hint(format!("list them with: barkeep list-backups {server}"))
        })?;
        backups.get(id).cloned().map_or_else(|| catalog.read(id), Ok)?
    };
    check_restorable(&info, server)?;
    Ok(info)
}

fn automatic(
    catalog: &Catalog,
    backups: &Backups,
    target: &RecoveryTarget,
    histories: &[History],
) -> Result<BackupInfo, CommandError> {
    let server = &catalog.layout().server;
    if matches!(target.kind, Some(TargetKind::Xid(_) | TargetKind::Name(_) | TargetKind::Immediate)) {
        return Err(CommandError::new(
            "'auto' can find the backup for a target time or LSN, or without a target",
        )
        .hint(format!("name one of: barkeep list-backups {server}")));
    }
    let suits = |info: &&BackupInfo| {
        let reaches = match &target.kind {
            Some(TargetKind::Time(time)) => {
                info.end_time.as_ref().and_then(|end| postgres_time(end).ok()).is_some_and(|end| end <= *time)
            }
            Some(TargetKind::Lsn(lsn)) => info.end_xlog.is_some_and(|end| end <= *lsn),
            _ => true,
        };
        let on_timeline = target.timeline.is_none()
            || facts(catalog, info)
                .is_ok_and(|facts| resolve_timeline(&facts, target.timeline, histories).is_ok());
        info.status.is_usable() && reaches && on_timeline
    };
    backups.iter().rev().find(suits).cloned().ok_or_else(|| {
        CommandError::new(format!("Server '{server}' has no backup from which {target} can be reached"))
            .hint(format!("see: barkeep list-backups {server}"))
    })
}

/// Refuses a backup that can't be restored.
pub(in crate::command) fn check_restorable(info: &BackupInfo, server: &str) -> Result<(), CommandError> {
    let id = info.id;
    if !info.status.is_usable() {
        return Err(CommandError::new(format!(
            "Backup {id} of server '{server}' is {} and can't be restored",
            info.status.as_str()
        ))
        .hint(format!("see: barkeep list-backups {server}")));
    }
    let kind = if info.snapshots_info.is_some() {
        "made of disk snapshots"
    } else if info.encryption.is_some() {
        "encrypted"
    } else if info.parent_backup_id.is_some() {
        "incremental"
    } else {
        return Ok(());
    };
    Err(CommandError::new(format!("Backup {id} of server '{server}' is {kind}, which is not supported yet"))
        .hint("restore another one, or this one with Barman"))
}

/// What a restore has to know of a backup.
pub(in crate::command) fn facts(catalog: &Catalog, info: &BackupInfo) -> Result<BackupFacts, CommandError> {
    let missing = |key: &str| {
        CommandError::new(format!("The record of backup {} has no {key}", info.id))
            .hint(format!("look at {}", catalog.layout().backup_info(info.id).display()))
    };
    let layout = catalog.layout();
    let version = info.version.ok_or_else(|| missing("version"))?;
    let directory = layout.backup_data(info.id);
    let is_tar = info.compression.is_some() && !info.has_compressed_files();
    let packed = |stem: &str| archive(&directory, stem).filter(|_| is_tar);
    let tar = packed("base");
    if is_tar && tar.is_none() {
        return Err(CommandError::new(format!(
            "Backup {} has no archive base.tar in {}",
            info.id,
            directory.display()
        ))
        .hint("it is damaged, or stored in a way that is not supported yet"));
    }
    Ok(BackupFacts {
        id: info.id.to_string(),
        major: version / 10_000,
        timeline: info.timeline.ok_or_else(|| missing("timeline"))?,
        begin: info.begin_xlog.ok_or_else(|| missing("begin_xlog"))?,
        end: info.end_xlog.ok_or_else(|| missing("end_xlog"))?,
        end_time: info.end_time.as_ref().map(postgres_time).transpose()?,
        segment_size: info.segment_size,
        format: match tar {
            Some(_) => BackupFormat::Tar,
            None if info.has_compressed_files() => BackupFormat::Packed,
            None => BackupFormat::Plain,
        },
        data: tar.unwrap_or_else(|| directory.clone()),
        tablespaces: info
            .tablespaces
            .iter()
            .map(|tablespace| TablespaceFacts {
                oid: tablespace.oid,
                name: tablespace.name.clone(),
                location: tablespace.location.clone().into(),
                data: packed(&tablespace.oid.to_string())
                    .unwrap_or_else(|| layout.backup_tablespace(info.id, tablespace.oid)),
            })
            .collect(),
    })
}

/// The tar archive of this name in a directory, compressed or not.
pub(in crate::command) fn archive(directory: &Path, stem: &str) -> Option<PathBuf> {
    let names = ARCHIVE_ENDS.map(|end| directory.join(format!("{stem}{end}")));
    names.into_iter().find(|path| path.symlink_metadata().is_ok())
}
