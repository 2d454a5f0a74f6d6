//! The facts that a backup's record gives for a restore.

use std::path::{Path, PathBuf};

use barkeep_catalog::{BackupInfo, Catalog};
use pgbase::restore::{BackupFacts, BackupFormat, TablespaceFacts};

use crate::error::CommandError;
use crate::moment::postgres_time;

/// What the names of `pg_basebackup`'s archives end in.
const ARCHIVE_ENDS: [&str; 4] = [".tar", ".tar.gz", ".tar.lz4", ".tar.zst"];

/// What a restore has to know of a backup.
pub(in crate::command) fn facts(catalog: &Catalog, info: &BackupInfo) -> Result<BackupFacts, CommandError> {
    let missing = |key: &str| {
        CommandError::new(format!("The record of backup {} has no {key}", info.id))
            .hint(format!("look at {}", catalog.layout().backup_info(info.id).display()))
    };
    let layout = catalog.layout();
    let version = info.version.ok_or_else(|| missing("version"))?;
    let directory = layout.backup_data(info.id);
    let is_tar = info.is_archived();
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
        system_id: info.system_id.as_deref().and_then(|id| id.parse().ok()),
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
