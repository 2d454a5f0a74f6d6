//! Moving WAL into the archive: from `incoming/`, where `archive_command` delivers, and `streaming/`, where the receiver
//! writes, to `wals/`.
//!
//! A source is removed only when its copy, the copy's name and its line in `xlog.db` are on stable storage. Every step
//! can be repeated, so a crash anywhere costs nothing but the next run's time. Files are compressed in parallel, and a
//! batch shares its fsyncs of directories and list; the list is locked only while its lines are appended, and the archive
//! only while files are moved (`locks`). What was read and compressed before that is looked at again then (`found`).
//!
//! Each segment is read once: while its bytes pass by it is [judged](crate::inspect), hashed and
//! [indexed](crate::index_store), then it is compressed and written.

mod batch;
mod chain;
mod direct;
mod event;
mod found;
mod hooks;
mod locks;
mod look;
mod parallel;
mod place;
mod queue;
mod reindex;
mod run;
mod to_errors;

use std::num::NonZeroUsize;

use barkeep_transport::codec::{Compression, Level};
use jiff::Timestamp;
use pgwal::WalFile;

use crate::inspect::Cluster;
use crate::store::names_in;
use crate::wal::OpenWal;
use crate::{IndexStore, Layout, identity};
pub use direct::archive_directly;
pub use event::{ArchiveError, ArchiveEvent, ArchiveReport, Rejection, Verify};
pub use found::Change;
pub use hooks::{ArchiveHooks, HookFile, HookStop, NoHooks};
pub(crate) use look::{fill, look_at_one};
pub(crate) use place::{Flaw, flaw, same_content};
pub use reindex::{Indexed, index_archive};
use run::Run;
pub(crate) use to_errors::move_to_errors;

/// Most files that share one fsync of the list. Each holds a file open until then.
const BATCH_FILES_MAX: usize = 64;

/// Most files of a directory that are asked which cluster they are of.
const IDENTIFYING_FILES_MAX: usize = 64;

/// Where WAL comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `streaming/`, written by a receiver.
    Streaming,
    /// `incoming/`, written by `archive_command`.
    Incoming,
}

/// What to archive, and how.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Where to look, in order, and how many files to take from there at most (0 is all).
    pub origins: Vec<(Origin, usize)>,
    /// How to compress what does not come compressed already.
    pub compression: Compression,
    /// How hard.
    pub level: Level,
    /// How many threads compress; `None` uses every processor there is.
    pub workers: Option<NonZeroUsize>,
    /// What is done with segments that are not sound.
    pub verify: Verify,
}

impl Default for ArchiveOptions {
    /// Everything from both places, as it is and however it is.
    fn default() -> Self {
        ArchiveOptions {
            origins: vec![(Origin::Streaming, 0), (Origin::Incoming, 0)],
            compression: Compression::None,
            level: Level::Medium,
            workers: None,
            verify: Verify::Off,
        }
    }
}

/// Archives what there is. `observer` hears of every file, in order; of an archived one only when nothing can undo it any
/// more. `now` names rejected files.
///
/// ```
/// use barkeep_catalog::archive::{ArchiveOptions, archive_wal};
/// use barkeep_catalog::Layout;
/// # let home = tempfile::tempdir()?;
/// # let home = home.path();
/// let layout = Layout::new("pg15", home, home);
/// std::fs::create_dir_all(&layout.incoming)?;
/// std::fs::write(layout.incoming.join("000000010000000000000001"), "some WAL")?;
///
/// let report = archive_wal(&layout, &ArchiveOptions::default(), jiff::Timestamp::now(), |_| {})?;
/// assert_eq!(report.archived, 1);
/// assert!(home.join("wals/0000000100000000/000000010000000000000001").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When another process is archiving, or something fails that the next file would meet too.
pub fn archive_wal(
    layout: &Layout,
    options: &ArchiveOptions,
    now: Timestamp,
    observer: impl FnMut(ArchiveEvent),
) -> Result<ArchiveReport, ArchiveError> {
    archive_wal_with(layout, options, now, &NoHooks, observer)
}

/// Like [`archive_wal`], with [hooks](ArchiveHooks).
///
/// # Errors
/// As for [`archive_wal`], and when a hook stops it.
pub fn archive_wal_with(
    layout: &Layout,
    options: &ArchiveOptions,
    now: Timestamp,
    hooks: &dyn ArchiveHooks,
    mut observer: impl FnMut(ArchiveEvent),
) -> Result<ArchiveReport, ArchiveError> {
    let store = IndexStore::of(layout);
    let mut run = Run::begin(layout, options, now, hooks, &store, &mut observer)?;
    for (origin, limit) in &options.origins {
        run.origin(*origin, *limit)?;
    }
    Ok(run.report())
}

/// What is known of the cluster that a server's WAL is of: from the record of its first backup, or else from the WAL that
/// is archived, or waits for that.
pub fn known_cluster(layout: &Layout, store: &IndexStore) -> Option<Cluster> {
    let recorded = identity::read(layout).ok().flatten();
    let recorded = recorded.and_then(|identity| {
        let version = identity.version.parse().ok();
        identity.system_id.parse().ok().map(|system_id| Cluster { system_id, version })
    });
    recorded.or_else(|| {
        let system_id = store.system_id(layout).ok().flatten().or_else(|| system_id_of_files(layout))?;
        Some(Cluster { system_id, version: None })
    })
}

/// The system identifier of WAL that nothing is noted of: archived by Barman, received, or delivered, in this order.
fn system_id_of_files(layout: &Layout) -> Option<u64> {
    let mut archived = names_in(&layout.wals).ok()?;
    archived.sort_unstable();
    let newest = archived.into_iter().rev().map(|name| layout.wals.join(name)).find(|path| path.is_dir());
    newest.iter().chain([&layout.streaming, &layout.incoming]).find_map(|directory| {
        let mut names = names_in(directory).ok()?;
        names.retain(|name| matches!(name.parse(), Ok(WalFile::Segment(_) | WalFile::Partial(_))));
        names.sort_unstable();
        let mut files = names.iter().take(IDENTIFYING_FILES_MAX).map(|name| directory.join(name));
        files.find_map(|path| OpenWal::open(&path).ok()??.system_id())
    })
}

#[cfg(test)]
mod overtaken_tests;
#[cfg(test)]
mod sound_tests;
#[cfg(test)]
mod tests;
