//! Carrying out a plan: files in parallel, then the configuration, then one barrier, and pg_control last of all.

mod configure;
mod delta;
mod ground;
mod old_wal;
mod over;
mod prune;
mod remote;
mod seams;
mod space;
#[cfg(test)]
mod tests;
mod unpack;
mod workers;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::facts::{BackupFormat, RestorePlan, STAGED_WAL, WalPlace};
use super::tree::{DataRules, Listing, PG_CONTROL, list};
use super::wal_copy::mark_archived;
use crate::copy::{CopyMethod, Directory, Owner};
use crate::recovery::{ConfigChange, ConfigNote, SettingsError};
use crate::tar::TarError;
use ground::{Ground, Root};

pub use old_wal::ShelvedWal;
pub use over::DeltaReport;
pub use remote::{execute_remote, look_at_remote};

/// The name that pg_control has until everything else is durable.
const CONTROL_IN_WAITING: &str = "global/pg_control.barkeep";
/// Owner only, as the server makes its own.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// What PostgreSQL calls the list of a base backup's files, which the restored cluster will soon outgrow.
const MANIFEST: &str = "backup_manifest";

/// How a plan is carried out.
#[derive(Debug, Clone, Copy)]
pub struct ExecuteOptions {
    /// How many files are copied at the same time; at least one.
    pub jobs: usize,
    /// Whom the files are given to; `None` leaves them to the user that runs this.
    pub owner: Option<Owner>,
    /// What is done about a file that can't be copied.
    pub retry: Retry,
}

/// How often something is tried again, and after how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often, besides the first time.
    pub times: u32,
    /// How long to wait before each.
    pub pause: Duration,
}

impl Retry {
    /// What fails has failed.
    pub const NEVER: Retry = Retry { times: 0, pause: Duration::ZERO };
}

/// What a restore is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Listing the backup.
    Listing,
    /// Copying files and WAL.
    Copying,
    /// Writing the configuration.
    Configuring,
    /// Waiting for everything to be on stable storage.
    Syncing,
}

/// News of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreEvent {
    /// Another phase begins.
    Phase(Phase),
    /// How much there is to copy.
    Total {
        /// Files of the backup.
        files: u64,
        /// Their bytes, and the bytes of the WAL.
        bytes: u64,
        /// WAL files.
        wal_files: u64,
    },
    /// Some more of it is there.
    Copied {
        /// Bytes since the last such event.
        bytes: u64,
    },
}

/// Who is told, from several threads at a time.
pub trait RestoreObserver: Sync {
    /// Something happened.
    fn event(&self, event: RestoreEvent);

    /// Whether the restore should stop and clean up after itself; asked every few megabytes.
    fn cancelled(&self) -> bool {
        false
    }
}

/// For those who don't want to know.
impl RestoreObserver for () {
    fn event(&self, _: RestoreEvent) {}
}

/// A change to a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The file's name.
    pub file: String,
    /// The change.
    pub change: ConfigChange,
}

/// A setting that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNote {
    /// The file's name.
    pub file: String,
    /// The setting.
    pub note: ConfigNote,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Files of the backup.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// WAL files.
    pub wal_files: u64,
    /// Whether blocks were shared with the backup instead of copied.
    pub shared: bool,
    /// Settings changed for safety.
    pub changes: Vec<FileChange>,
    /// Settings left, that point to places of the original machine.
    pub notes: Vec<FileNote>,
    /// Configuration files that the backup doesn't have: they were outside the data directory.
    pub missing_files: Vec<String>,
    /// Links and special files that were not copied.
    pub strangers: Vec<PathBuf>,
    /// What became of what was there before; `None` when the destination was empty.
    pub delta: Option<DeltaReport>,
}

/// Why a restore failed. What it had made is removed again, unless there was something there before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup can't be read.
    #[error("{path:?} of the backup can't be read")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The destination can't be written.
    #[error("{path:?} can't be written")]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file can't be copied, for a reason on either side.
    #[error("{from:?} can't be restored to {to:?}")]
    Copy {
        /// The backup's file.
        from: PathBuf,
        /// Its place.
        to: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Someone put something there since the plan was made.
    #[error("{path:?} is no longer empty")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Another restore is at work there.
    #[error("another restore is at work in {path:?}")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// A server runs on what was to be restored over.
    #[error("a server is running on {path:?} ({server}): stop it first")]
    Running {
        /// The directory.
        path: PathBuf,
        /// How it is known.
        server: String,
    },
    /// What was to be restored over belongs to another cluster.
    #[error(
        "{path:?} holds another cluster: its system identifier is {found}, that of the backup is {expected}"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The identifier there.
        found: u64,
        /// The backup's.
        expected: u64,
    },
    /// Too little space.
    #[error("{path:?} has room for {free} bytes, and the restore needs {needed}")]
    NoSpace {
        /// A directory on the full file system.
        path: PathBuf,
        /// What is free there.
        free: u64,
        /// What would go there.
        needed: u64,
    },
    /// The backup is not a data directory.
    #[error("{path:?} is missing: this is not a complete plain-format base backup")]
    NoControlFile {
        /// Where it should have been.
        path: PathBuf,
    },
    /// An archive is not as PostgreSQL makes them, or cut off.
    #[error("{path:?} can't be unpacked")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: TarError,
    },
    /// An archive that has two files of a name: nobody can tell which one is meant.
    #[error("{path:?} can't be unpacked: {name:?} is in it twice")]
    ArchivedTwice {
        /// The archive.
        path: PathBuf,
        /// The file.
        name: PathBuf,
    },
    /// A tablespace link that the backup's record knows nothing of: its files would be missing.
    #[error("{path:?} links to a tablespace that the backup's record does not list")]
    UnknownTablespace {
        /// The link.
        path: PathBuf,
    },
    /// Settings that can't be written.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The machine that is restored to, or the way to it, failed.
    #[error(transparent)]
    Host(#[from] barkeep_transport::host::HostError),
    /// The observer asked for it.
    #[error("the restore was interrupted")]
    Cancelled,
}

impl RestoreError {
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        RestoreError::Read { path: path.to_owned(), source }
    }

    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        RestoreError::Write { path: path.to_owned(), source }
    }

    /// Whether another try has a chance.
    fn may_pass(&self) -> bool {
        use io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let lasting = [NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
        matches!(self, RestoreError::Copy { source, .. } if !lasting.contains(&source.kind()))
    }
}

/// Carries out a plan.
///
/// Until it returns `Ok` the destination can't be started. After an error it is as it was before if it was empty; if not,
/// the restore can be repeated to be completed.
///
/// # Errors
/// When anything can't be read or written, the destination is no longer empty, there is too little space, or the
/// observer cancels.
pub fn execute(
    plan: &RestorePlan,
    options: ExecuteOptions,
    observer: &dyn RestoreObserver,
) -> Result<RestoreReport, RestoreError> {
    let mut ground = Ground::new(options.owner);
    let result = restore(plan, options, observer, &mut ground);
    if result.is_err() {
        ground.clear();
    }
    result
}

fn restore(
    plan: &RestorePlan,
    options: ExecuteOptions,
    observer: &dyn RestoreObserver,
    ground: &mut Ground,
) -> Result<RestoreReport, RestoreError> {
    observer.event(RestoreEvent::Phase(Phase::Listing));
    let mut content = Content::open(plan)?;
    for (tree, mode) in plan.trees.iter().zip(content.modes(plan)?) {
        ground.claim(&tree.to, mode, plan.delta)?;
    }
    over::check(plan, ground, &content.sources)?;
    ground.mark(&plan.backup.id)?;
    let mut delta = None;
    if ground.is_in_use() {
        over::check(plan, ground, &content.sources)?;
        ground.disarm(&[Path::new(PG_CONTROL), Path::new(CONTROL_IN_WAITING)])?;
        delta = Some(over::clear_the_way(plan, &content.listings, ground)?);
    }
    let wal_directory = make_directories(plan, &content.listings, ground, options.owner)?;
    if plan.wal_place == WalPlace::PgWal {
        // Before the WAL itself: what an interrupted restore has placed is then not taken for the old server's.
        mark_all_archived(plan, &wal_directory, options.owner)?;
    }
    let method = CopyMethod::default();
    space::check(plan, &content.listings, &content.sources, ground, &method)?;

    observer.event(RestoreEvent::Phase(Phase::Copying));
    let mut report = content.report(plan);
    observer.event(RestoreEvent::Total {
        files: report.files,
        bytes: report.bytes.saturating_add(space::wal_bytes(plan)),
        wal_files: report.wal_files,
    });
    let files = content.take_files();
    let work = workers::Work {
        plan,
        sources: &content.sources,
        ground,
        wal_directory: &wal_directory,
        seams: seams::Seams::new(plan),
        method: &method,
        options,
        observer,
    };
    workers::copy_wal(&work)?;
    let mut written = 0;
    if !content.archives.is_empty() {
        let unpacked = unpack::unpack_all(plan, &content.archives, ground, options, observer)?;
        (report.files, report.bytes, written) = (unpacked.files, unpacked.bytes, unpacked.bytes);
    }
    written += workers::copy_files(&work, files)?;
    report.shared = method.shares_blocks();
    report.delta = delta.map(|delta| DeltaReport { written, ..delta });

    observer.event(RestoreEvent::Phase(Phase::Configuring));
    let data = ground.data()?;
    for (oid, location) in plan.trees.iter().filter_map(|tree| Some((tree.tablespace.as_ref()?.0, &tree.to)))
    {
        let link = PathBuf::from(format!("pg_tblspc/{oid}"));
        let made = data.directory.create_link(&link, location, options.owner);
        made.map_err(|source| RestoreError::write(&data.path.join(&link), source))?;
    }
    // What came out of an archive is read where it is now.
    let inherited = content.sources.first().unwrap_or(&data.directory);
    configure::configure(plan, inherited, data, options.owner, &mut report)?;
    if let (Some(source), Some(mode)) = (content.sources.first(), content.control_mode) {
        place_control(plan, source, data, mode, options.owner)?;
    }

    observer.event(RestoreEvent::Phase(Phase::Syncing));
    ground.sync_file_systems(&wal_directory)?;
    if observer.cancelled() {
        return Err(RestoreError::Cancelled);
    }
    ground.finish(Path::new(CONTROL_IN_WAITING), Path::new(PG_CONTROL))?;
    Ok(report)
}

/// The backup, open: directories with what is in them, or archives.
#[derive(Debug, Default)]
struct Content {
    sources: Vec<Directory>,
    listings: Vec<Listing>,
    control_mode: Option<u32>,
    archives: Vec<unpack::Archive>,
}

impl Content {
    fn open(plan: &RestorePlan) -> Result<Self, RestoreError> {
        if plan.backup.format == BackupFormat::Tar {
            let archives = plan.trees.iter().map(unpack::Archive::open).collect::<Result<Vec<_>, _>>()?;
            let listings = plan.trees.iter().map(|_| Listing::default()).collect();
            return Ok(Content { archives, listings, ..Content::default() });
        }
        let (sources, listings) = list_sources(plan)?;
        let control_mode = listings.first().and_then(|listing| listing.control);
        control_mode.ok_or_else(|| no_control(plan))?;
        Ok(Content { sources, listings, control_mode, archives: Vec::new() })
    }

    /// The mode of each tree's own directory.
    fn modes(&self, plan: &RestorePlan) -> Result<Vec<u32>, RestoreError> {
        if self.sources.is_empty() {
            return Ok(vec![PRIVATE_DIRECTORY; plan.trees.len()]);
        }
        let pairs = self.sources.iter().zip(&plan.trees);
        pairs
            .map(|(source, tree)| {
                let mode = source.stat().map_err(|error| RestoreError::read(&tree.from, error))?.st_mode;
                Ok(super::tree::directory_mode(mode & 0o777))
            })
            .collect()
    }

    /// What is known before anything was copied.
    fn report(&mut self, plan: &RestorePlan) -> RestoreReport {
        let files = || self.listings.iter().flat_map(|listing| &listing.files);
        let listed: u64 = files().map(|file| file.size).sum();
        RestoreReport {
            files: files().count() as u64,
            bytes: listed + self.archives.iter().map(|archive| archive.stored_bytes).sum::<u64>(),
            wal_files: plan.wal.len() as u64,
            strangers: self
                .listings
                .iter_mut()
                .flat_map(|listing| std::mem::take(&mut listing.strangers))
                .collect(),
            ..RestoreReport::default()
        }
    }

    fn take_files(&mut self) -> Vec<super::tree::FileJob> {
        std::mem::take(&mut self.listings).into_iter().flat_map(|listing| listing.files).collect()
    }
}

fn no_control(plan: &RestorePlan) -> RestoreError {
    RestoreError::NoControlFile { path: plan.backup.data.join(PG_CONTROL) }
}

/// Opens and lists every tree of the backup.
fn list_sources(plan: &RestorePlan) -> Result<(Vec<Directory>, Vec<Listing>), RestoreError> {
    let oids: Vec<u32> = plan.trees.iter().filter_map(|tree| Some(tree.tablespace.as_ref()?.0)).collect();
    let rewritten: Vec<&str> = configure::REWRITTEN
        .into_iter()
        .map(|(name, _)| name)
        .chain([plan.settings_file.as_str()])
        .chain(plan.extra_files.iter().map(|(name, _)| name.as_str()))
        .collect();
    let staged = (plan.wal_place == WalPlace::Staged).then_some(STAGED_WAL);
    let rules = DataRules { rewritten: &rewritten, staged, tablespaces: &oids };
    let mut sources = Vec::new();
    let mut listings = Vec::new();
    for (index, tree) in plan.trees.iter().enumerate() {
        let source = Directory::open(&tree.from).map_err(|error| RestoreError::read(&tree.from, error))?;
        let rules = tree.tablespace.is_none().then_some(&rules);
        let packed = plan.backup.format == BackupFormat::Packed;
        listings.push(list(index, &source, &tree.from, rules, packed)?);
        sources.push(source);
    }
    Ok((sources, listings))
}

/// Makes all directories, and answers the one for WAL.
fn make_directories(
    plan: &RestorePlan,
    listings: &[Listing],
    ground: &mut Ground,
    owner: Option<Owner>,
) -> Result<Root, RestoreError> {
    for (root, listing) in ground.roots().iter().zip(listings) {
        // The WAL directory is made below, or is somewhere else.
        for job in listing.directories.iter().filter(|job| !root.in_use || job.path != Path::new("pg_wal")) {
            root.make_directory(&job.path, job.mode, owner)?;
        }
    }
    let data = ground.data()?;
    for name in ["global", "pg_tblspc"] {
        data.make_directory(Path::new(name), PRIVATE_DIRECTORY, owner)?;
    }
    let pg_wal = over::pg_wal(data, owner)?;
    pg_wal.make_directory(Path::new("archive_status"), PRIVATE_DIRECTORY, owner)?;
    match &plan.wal_place {
        WalPlace::PgWal => Ok(pg_wal),
        WalPlace::Staged => {
            data.make_directory(Path::new(STAGED_WAL), PRIVATE_DIRECTORY, owner)?;
            data.below(Path::new(STAGED_WAL))
        }
        WalPlace::Elsewhere(path) => {
            ground.claim(path, PRIVATE_DIRECTORY, plan.delta)?;
            let staging = ground.last()?;
            // What an interrupted restore left there is copied again.
            let emptied = staging.directory.remove_contents(0);
            emptied.map_err(|source| RestoreError::write(path, source))?;
            Ok(staging)
        }
    }
}

fn mark_all_archived(plan: &RestorePlan, wal: &Root, owner: Option<Owner>) -> Result<(), RestoreError> {
    let status = wal.below(Path::new("archive_status"))?;
    for wal in &plan.wal {
        let name = wal.name();
        mark_archived(&status.directory, &name, owner)
            .map_err(|source| RestoreError::write(&status.path.join(&name), source))?;
    }
    Ok(())
}

/// The name that the backup's manifest gets in the restored cluster, as Barman has it.
fn manifest_aside(plan: &RestorePlan) -> String {
    format!("{MANIFEST}.{}", plan.backup.id)
}

/// Copies pg_control under a name that no server looks for, and puts the backup's manifest aside.
fn place_control(
    plan: &RestorePlan,
    source: &Directory,
    data: &Root,
    mode: u32,
    owner: Option<Owner>,
) -> Result<(), RestoreError> {
    let copy = || -> io::Result<()> {
        let mut from = source.read(Path::new(PG_CONTROL))?;
        let mut to = data.directory.create(Path::new(CONTROL_IN_WAITING), mode, owner)?;
        let metadata = from.metadata()?;
        CopyMethod::default().copy(&mut from, &mut to, metadata.len(), &|_| Ok(()))?;
        to.set_modified(metadata.modified()?)
    };
    copy().map_err(|source| RestoreError::Copy {
        from: plan.backup.data.join(PG_CONTROL),
        to: data.path.join(PG_CONTROL),
        source,
    })?;
    let aside = manifest_aside(plan);
    match data.directory.rename(Path::new(MANIFEST), Path::new(&aside)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RestoreError::write(&data.path.join(aside), error))
        }
        _ => Ok(()),
    }
}
