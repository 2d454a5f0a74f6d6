//! `list-files`: the paths of a backup's files, and of the WAL that belongs to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use barkeep_catalog::{BackupInfo, Backups, xlogdb};
use pgwal::{SegmentName, WalFile};

use crate::args::{FilesTarget, ListFilesArgs};
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::Output;

/// Deepest directory that is listed, counted from the backup's.
const DEPTH_MAX: u32 = 128;

/// Lists the files, one path a line.
///
/// # Errors
/// When server or backup are unknown, or a directory can't be read.
pub fn run(context: &mut Context, args: &ListFilesArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let catalog = server.catalog();
    let backups = catalog.current()?;
    let id = catalog.resolve(&backups, &args.backup).map_err(|error| {
        CommandError::from(error).hint(format!("list them with: barkeep list-backups {}", server.name()))
    })?;
    let Some(backup) = backups.get(id) else {
        return Err(CommandError::new(format!("Unknown backup '{id}' for server '{}'", server.name())));
    };
    let output = context.output();
    if args.target != FilesTarget::Wal {
        list_directory(output, &server.layout().backup(id), args.list_empty_directories, 0)?;
    }
    match args.target {
        FilesTarget::Data => Ok(()),
        FilesTarget::Standalone => own_wal(&server, backup),
        FilesTarget::Wal | FilesTarget::Full => later_wal(&server, &backups, backup),
    }
}

/// The files of a directory by name, then its directories in the order in which the system gives them, as Barman
/// does. Links to directories are not followed.
fn list_directory(output: &Output, path: &Path, with_empty: bool, depth: u32) -> Result<(), CommandError> {
    let failed =
        |error: io::Error| CommandError::because(format_args!("cannot list {}", path.display()), &error);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let (mut files, mut directories, mut empty) = (Vec::new(), Vec::new(), true);
    for entry in entries {
        let entry = entry.map_err(failed)?;
        empty = false;
        if entry.file_type().map_err(failed)?.is_dir() {
            directories.push(entry.path());
        } else if !entry.path().is_dir() {
            files.push(entry.file_name());
        }
    }
    files.sort();
    if empty && with_empty {
        tell(output, path);
    }
    for name in files {
        tell(output, &path.join(name));
    }
    if depth >= DEPTH_MAX && !directories.is_empty() {
        return Err(CommandError::new(format!("{} is nested too deeply", path.display())));
    }
    directories.iter().try_for_each(|directory| list_directory(output, directory, with_empty, depth + 1))
}

/// The segments from the backup's begin to its end, whether they are archived or not.
fn own_wal(server: &ServerContext, backup: &BackupInfo) -> Result<(), CommandError> {
    let (Some(begin), Some(end)) = (backup.begin_wal, backup.end_wal) else { return Ok(()) };
    let layout = server.layout();
    let numbers = begin.number(backup.segment_size).zip(end.number(backup.segment_size));
    if begin.timeline() != end.timeline() || numbers.is_none_or(|(begin, end)| begin > end) {
        return Err(CommandError::new(format!(
            "the record of backup {} says that it needs WAL from {begin} to {end}, which cannot be",
            backup.id
        )));
    }
    let mut next: Option<SegmentName> = Some(begin);
    while let Some(segment) = next {
        tell(&server.output, &layout.wal(&WalFile::Segment(segment)));
        next = if segment == end { None } else { segment.next(backup.segment_size) };
    }
    Ok(())
}

/// The archived segments of the backup's timeline from its begin up to the end of the next backup, and all histories,
/// in the order of the list.
fn later_wal(server: &ServerContext, backups: &Backups, backup: &BackupInfo) -> Result<(), CommandError> {
    let Some(begin) = backup.begin_wal else { return Ok(()) };
    let layout = server.layout();
    let limit = backups.usable_after(backup.id).and_then(|next| next.end_wal);
    let list = xlogdb::read(&layout)?;
    for fault in &list.faults {
        server.output.warning(format!("{}: {fault}", layout.xlogdb().display()));
    }
    let belongs = |file: &WalFile| match file {
        WalFile::History(_) => true,
        WalFile::Segment(name) => {
            *name >= begin && name.timeline() <= begin.timeline() && limit.is_none_or(|limit| *name <= limit)
        }
        WalFile::Partial(_) | WalFile::Label { .. } => false,
    };
    for entry in list.entries.iter().filter(|entry| belongs(&entry.file)) {
        tell(&server.output, &layout.wal(&entry.file));
    }
    Ok(())
}

fn tell(output: &Output, path: &Path) {
    let path: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    output.answer(&path.to_string_lossy());
}
