//! The WAL at hand, and the command by which a restored server fetches more.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use barkeep_catalog::archive::{Indexed, index_archive};
use barkeep_catalog::{IndexStore, Layout, wal, xlogdb};
use pgbase::recovery::command_word;
use pgbase::restore::{AvailableWal, RestoreError};
use pgwal::{History, PgTimestamp, SegmentName, SegmentSize, TimelineId, WalFile};

use crate::error::CommandError;

/// All WAL that a restore could use: what is archived, and whole segments that are about to be.
pub(in crate::command) fn available(
    layout: &Layout,
    size: SegmentSize,
    partials: bool,
) -> Result<Vec<AvailableWal>, CommandError> {
    // What is archived meanwhile is seen in both places rather than in neither; the archive's copy goes first.
    let mut on_their_way = Vec::new();
    for directory in [&layout.streaming, &layout.incoming] {
        on_their_way.extend(waiting(directory, size, partials)?);
    }
    let mut files = Vec::new();
    for (directory, archived) in xlogdb::archived_directories(layout)? {
        let directory: Arc<Path> = directory.into();
        files.extend(
            archived.into_iter().map(|file| AvailableWal { file, directory: Arc::clone(&directory) }),
        );
    }
    files.extend(on_their_way);
    Ok(files)
}

/// Segments that wait for the archiver. One that has not its full size is being written.
fn waiting(directory: &Path, size: SegmentSize, partials: bool) -> Result<Vec<AvailableWal>, CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::because(format!("{} can't be read", directory.display()), &error)
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let shared: Arc<Path> = directory.into();
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(file) = name.to_str().and_then(|name| name.parse::<WalFile>().ok()) else { continue };
        let usable = match file {
            WalFile::Segment(_) => entry.metadata().is_ok_and(|metadata| metadata.len() == size.bytes()),
            WalFile::Partial(_) => partials,
            WalFile::History(_) => true,
            WalFile::Label { .. } => false,
        };
        if usable {
            files.push(AvailableWal { file, directory: Arc::clone(&shared) });
        }
    }
    Ok(files)
}

/// The history files, read: those of the archive, and one that is on its way there.
pub(in crate::command) fn histories(layout: &Layout) -> Result<Vec<History>, CommandError> {
    let mut timelines: BTreeSet<TimelineId> = wal::archived_histories(layout)?.into_iter().collect();
    for directory in [&layout.streaming, &layout.incoming] {
        let waiting = waiting(directory, SegmentSize::MIN, false)?;
        timelines.extend(waiting.into_iter().filter_map(|wal| history_timeline(wal.file)));
    }
    let read = timelines.into_iter().filter_map(|timeline| wal::history(layout, timeline).transpose());
    Ok(read.collect::<Result<_, _>>()?)
}

fn history_timeline(file: WalFile) -> Option<TimelineId> {
    match file {
        WalFile::History(timeline) => Some(timeline),
        _ => None,
    }
}

/// Looks again at the segment of the archive that a restore failed over, and keeps what is found: `windows`, `check` and the next
/// restore then know of damage that came after it was archived. Whether there is any.
pub(in crate::command) fn look_again(layout: &Layout, error: &RestoreError) -> bool {
    let RestoreError::Copy { from, .. } = error else { return false };
    let segment = from.file_name().and_then(|name| name.to_str()?.parse::<SegmentName>().ok());
    let Some(segment) = segment.filter(|segment| layout.wal(&WalFile::Segment(*segment)) == *from) else {
        return false;
    };
    let mut is_damaged = false;
    // With its neighbours: it may be a record that goes over from one into the other.
    let size = IndexStore::of(layout).entry(segment).ok().flatten().and_then(|entry| entry.index());
    let size = size.map_or(SegmentSize::DEFAULT, |index| index.segment_size);
    let all = [segment.previous(size), Some(segment), segment.next(size)];
    let is_archived = |segment: &SegmentName| layout.wal(&WalFile::Segment(*segment)).exists();
    let together: Vec<SegmentName> = all.into_iter().flatten().filter(is_archived).collect();
    // Where it can't be kept, the restore has failed all the same, and says why.
    let kept = index_archive(layout, &together, Some(NonZeroUsize::MIN), |indexed| {
        is_damaged |= matches!(indexed, Indexed::Read(facts) if facts.soundness.is_damage());
    });
    is_damaged && kept.is_ok()
}

/// When the newest WAL was written, as well as that is known: by the time of the last file of each timeline.
pub(super) fn archived_until(available: &[AvailableWal]) -> Option<PgTimestamp> {
    let mut newest: Vec<&AvailableWal> = Vec::new();
    for wal in available.iter().filter(|wal| wal.file.segment().is_some()) {
        match newest.iter_mut().find(|known| known.file.timeline() == wal.file.timeline()) {
            Some(known) if known.file.segment() < wal.file.segment() => *known = wal,
            Some(_) => {}
            None => newest.push(wal),
        }
    }
    let written = |wal: &AvailableWal| {
        let age = wal.path().metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        PgTimestamp::from_unix_micros(age.as_micros().try_into().ok()?)
    };
    newest.into_iter().filter_map(written).max()
}

/// `restore_command` for a server on this machine: this very program, on this configuration. By `exec` it takes the place of the
/// shell that PostgreSQL starts for it: many shells would start another process, and wait for that.
pub(super) fn get_wal_command(config: &Path, server: &str, partial: bool) -> Result<String, CommandError> {
    let program = std::env::current_exe()
        .map_err(|error| CommandError::because("the path of barkeep is not known", &error))?;
    let config = std::path::absolute(config)?;
    let word = |path: &Path| {
        let text = path.to_str().ok_or_else(|| {
            CommandError::new(format!("{} can't be written into restore_command", path.display()))
                .hint("give one with --restore-command")
        })?;
        command_word(text).map_err(|error| CommandError::new(error.to_string()))
    };
    let partial = if partial { "-P " } else { "" };
    let server = command_word(server).map_err(|error| CommandError::new(error.to_string()))?;
    Ok(format!("exec {} -c {} wal-restore --local {partial}{server} %f %p", word(&program)?, word(&config)?))
}
