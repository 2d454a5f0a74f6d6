//! Base backups by copying a cluster's files through a [`Host`]: this machine's, or another's through an agent.
//!
//! The server is told by SQL that a backup begins and ends (`session`, feature `stream`); in between the files are
//! copied as they are, since WAL repairs whatever changes meanwhile. Files that vanish were dropped, files that
//! shrink were truncated: replaying WAL does the same again. What a backup consists of and where it lies is the same
//! as for one [from the replication stream](crate::pipeline), manifest included.
//!
//! Bytes are read once: where they are read, page checksums are verified by [`PageInspector`]; where they are written, they
//! are hashed for the manifest. Large files are read in ranges by several threads, small ones in batches.

mod control;
mod copy;
mod error;
mod inspector;
mod limit;
mod list;
mod reference;
mod rules;
#[cfg(feature = "stream")]
pub mod session;
mod target;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use barkeep_transport::host::{Access, Host, Kind, Root};
use pgwal::{BackupLabel, Lsn, TimelineId};

use crate::checksum::PageGeometry;
use crate::manifest::{Checksum, ChecksumAlgorithm, MANIFEST_FILE, MAX_FILES, ManifestWriter, WalRange};
use crate::pipeline::{CorruptPages, DATA_DIRECTORY, durable};

use list::{FileList, State};
use target::Target;

pub use crate::packed::Packing;
pub use error::FileBackupError;
pub use inspector::PageInspector;
pub use reference::{Reference, Reuse};

/// The manifest's name until all that it lists is durable.
const MANIFEST_IN_WORK: &str = "backup_manifest.tmp";
/// Most things listed, with those that are left out.
const ENTRIES_MAX: usize = 2 * MAX_FILES;
/// Most things that are left out whose names are told.
const LEFT_OUT_TOLD: usize = 100;

/// A tablespace to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTablespace {
    /// Its object id.
    pub oid: u32,
    /// Where it is on the host.
    pub location: PathBuf,
    /// A limit of its own, in KiB a second.
    pub limit_kib: Option<u32>,
}

/// What is to be copied, and how.
#[derive(Debug, Clone)]
pub struct FileBackupPlan {
    /// The data directory on the host.
    pub data_directory: PathBuf,
    /// The tablespaces besides the built-in two.
    pub tablespaces: Vec<SourceTablespace>,
    /// Configuration files outside of the data directory; they are put at its top.
    pub outside_files: Vec<PathBuf>,
    /// The server's major version.
    pub major: u32,
    /// The cluster's system identifier.
    pub system_id: Option<u64>,
    /// Where the backup starts, by the server: younger pages are not judged.
    pub start: Lsn,
    /// How the cluster's pages lie in its files; `None` when it has no data checksums.
    pub pages: Option<PageGeometry>,
    /// How the manifest's files are hashed.
    pub manifest_checksum: ChecksumAlgorithm,
    /// How many threads copy.
    pub jobs: usize,
    /// A limit for all together, in KiB a second.
    pub limit_kib: Option<u32>,
    /// Earlier copies whose files may be used again, the best first.
    pub references: Vec<Reference>,
    /// Whether the host is far away: then hashing is cheaper than sending.
    pub remote: bool,
    /// How the copies are compressed, one by one; `None` stores files as they are.
    pub packing: Option<Packing>,
}

/// Gets what happens while files are copied, from several threads.
pub trait FileBackupObserver: Sync {
    /// All files are listed: how many, and their bytes.
    fn listed(&self, files: u64, bytes: u64);
    /// Bytes were copied, or found to be there already.
    fn copied(&self, bytes: u64);
    /// Something that a person should know of.
    fn warning(&self, message: &str);
    /// Whether to stop.
    fn cancelled(&self) -> bool;
}

/// What was copied: every byte of it durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBackup {
    /// Where the backup begins, by `backup_label`.
    pub start: Lsn,
    /// The timeline it began on; `None` for a label that does not say.
    pub start_timeline: Option<TimelineId>,
    /// The sum of all file sizes in bytes as they are stored, the manifest included.
    pub total_bytes: u64,
    /// The same without files shared with an earlier backup.
    pub new_bytes: u64,
    /// How many files there are, the manifest included.
    pub files: u64,
    /// Pages with wrong checksums: the backup has them as the server has.
    pub corrupt: CorruptPages,
}

/// What the server says when a backup ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEnd {
    /// The end of the WAL that the backup needs.
    pub stop: Lsn,
    /// The text of `backup_label`.
    pub label: String,
    /// The text of `tablespace_map`; empty without tablespaces.
    pub tablespace_map: String,
}

/// A tree that is copied.
#[derive(Debug)]
struct Tree {
    root: Root,
    /// Which of the backup's directories it goes to.
    target: usize,
    /// What its files' paths begin with in the manifest.
    prefix: String,
    kind: TreeKind,
    limiter: Option<limit::Limiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TreeKind {
    Data,
    Tablespace,
    /// The directory of a configuration file.
    Outside,
}

/// Files copied while the server knew of the backup; what is missing is what it says at the end.
#[derive(Debug)]
pub struct CopiedFiles {
    plan: FileBackupPlan,
    target: Target,
    trees: Vec<Tree>,
    list: FileList,
    corrupt: CorruptPages,
    total_bytes: u64,
    new_bytes: u64,
}

/// Copies a cluster's files into `destination`, pg_control last. The server must have been told before, and must not be
/// told of the end before this has returned.
///
/// # Errors
/// When the host fails, a file can't be read or written, or the observer cancels. What was written stays there.
pub fn copy_files(
    host: &dyn Host,
    destination: &Path,
    plan: FileBackupPlan,
    observer: &dyn FileBackupObserver,
) -> Result<CopiedFiles, FileBackupError> {
    let mut names = vec![DATA_DIRECTORY.to_owned()];
    names.extend(plan.tablespaces.iter().map(|tablespace| tablespace.oid.to_string()));
    let target =
        Target::create(destination, &names).map_err(|(path, error)| FileBackupError::write(&path, error))?;
    let mut list = FileList::new(plan.manifest_checksum);
    let trees = open_trees(host, &plan)?;
    list_trees(host, &plan, &trees, &mut list, observer)?;
    list.drop_unlogged();
    make_directories(&target, &trees, &list)?;
    let (files, bytes) = list.totals();
    observer.listed(files, bytes);
    let outcome = copy::copy_all(host, &plan, &target, &trees, list, observer)?;
    let mut copied = CopiedFiles {
        total_bytes: outcome.total_bytes,
        new_bytes: outcome.new_bytes,
        corrupt: outcome.corrupt,
        list: outcome.list,
        plan,
        target,
        trees,
    };
    copied.copy_control(host)?;
    Ok(copied)
}

fn open_trees(host: &dyn Host, plan: &FileBackupPlan) -> Result<Vec<Tree>, FileBackupError> {
    let mut trees = vec![Tree {
        root: host.open(&plan.data_directory, Access::Read)?,
        target: 0,
        prefix: String::new(),
        kind: TreeKind::Data,
        limiter: None,
    }];
    for (index, tablespace) in plan.tablespaces.iter().enumerate() {
        if tablespace.location.is_relative() {
            let location = tablespace.location.display().to_string();
            return Err(FileBackupError::InPlaceTablespace { oid: tablespace.oid, location });
        }
        trees.push(Tree {
            root: host.open(&tablespace.location, Access::Read)?,
            target: index + 1,
            prefix: format!("pg_tblspc/{}/", tablespace.oid),
            kind: TreeKind::Tablespace,
            limiter: tablespace.limit_kib.and_then(limit::Limiter::from_kib),
        });
    }
    for file in &plan.outside_files {
        let Some(directory) = file.parent() else { continue };
        trees.push(Tree {
            root: host.open(directory, Access::Read)?,
            target: 0,
            prefix: String::new(),
            kind: TreeKind::Outside,
            limiter: None,
        });
    }
    Ok(trees)
}

/// Lists what belongs to the backup.
fn list_trees(
    host: &dyn Host,
    plan: &FileBackupPlan,
    trees: &[Tree],
    list: &mut FileList,
    observer: &dyn FileBackupObserver,
) -> Result<(), FileBackupError> {
    let locations: Vec<PathBuf> = plan.tablespaces.iter().map(|one| one.location.clone()).collect();
    let closed = rules::closed(&plan.data_directory, &locations);
    let inside: Vec<&PathBuf> = closed.iter().skip(rules::EMPTIED.len() + 1).collect();
    let outside_names: Vec<_> = plan.outside_files.iter().filter_map(|file| file.file_name()).collect();
    let mut control_seen = false;
    let (mut entries, mut left_out) = (0, 0);
    for (number, tree) in trees.iter().enumerate() {
        if tree.kind == TreeKind::Outside {
            continue;
        }
        let number = u16::try_from(number).map_err(|_| FileBackupError::TooMany)?;
        let in_tablespace = tree.kind == TreeKind::Tablespace;
        let first = list.directories.len();
        list.add_directory(number, Path::new(""), 0o700).map_err(|_| FileBackupError::TooMany)?;
        // The directories on the way to what is being listed, innermost last.
        let mut stack = vec![first];
        let mut overflow = false;
        let closed: &[PathBuf] = if in_tablespace { &[] } else { &closed };
        let walked = host.walk(tree.root, closed, &mut |entry| {
            if observer.cancelled() {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            entries += 1;
            if entries > ENTRIES_MAX {
                overflow = true;
                return Err(std::io::ErrorKind::OutOfMemory.into());
            }
            let top = entry.path.iter().next().map(Path::new).unwrap_or(Path::new(""));
            if in_tablespace && !rules::is_own_directory(top, plan.major) {
                return Ok(());
            }
            if !in_tablespace && inside.iter().any(|inside| entry.path.starts_with(inside)) {
                return Ok(());
            }
            control_seen |= !in_tablespace && entry.path == Path::new(rules::PG_CONTROL);
            let parent = entry.path.parent().unwrap_or(Path::new(""));
            while stack.len() > 1 && stack.last().is_some_and(|index| list.directories[*index].path != parent)
            {
                stack.pop();
            }
            let Some(directory) = stack.last().copied() else { return Ok(()) };
            if list.directories[directory].path != parent {
                // Beneath something that was left out.
                return Ok(());
            }
            let added = match entry.kind {
                Kind::Directory => {
                    stack.push(list.directories.len());
                    list.add_directory(number, &entry.path, entry.mode)
                }
                Kind::File if rules::belongs(&entry.path, in_tablespace) => {
                    let name = entry.path.file_name().unwrap_or_default();
                    if parent == Path::new("") && outside_names.contains(&name) && !in_tablespace {
                        return Ok(());
                    }
                    list.add_file(directory, name, entry.size, entry.modified_ns, entry.mode)
                }
                Kind::File => Ok(()),
                Kind::Link | Kind::Other => {
                    let what = if entry.kind == Kind::Link {
                        "a link that leads nowhere"
                    } else {
                        "no ordinary file"
                    };
                    left_out += 1;
                    if left_out <= LEFT_OUT_TOLD {
                        observer.warning(&format!("'{}' is {what}: it is left out", entry.path.display()));
                    }
                    Ok(())
                }
            };
            overflow |= added.is_err();
            added.map_err(std::io::Error::other)
        });
        match walked {
            Err(_) if observer.cancelled() => return Err(FileBackupError::Cancelled),
            Err(_) if overflow => return Err(FileBackupError::TooMany),
            other => other?,
        }
    }
    if let Some(more @ 1..) = left_out.checked_sub(LEFT_OUT_TOLD) {
        observer.warning(&format!("{more} more names like these are left out"));
    }
    if !control_seen {
        return Err(FileBackupError::NoControlFile { path: plan.data_directory.clone() });
    }
    let outside = (0_u16..).zip(trees).filter(|(_, tree)| tree.kind == TreeKind::Outside);
    for ((number, _), name) in outside.zip(outside_names) {
        let directory = list.directories.len();
        let added = list
            .add_directory(number, Path::new(""), 0o700)
            .and_then(|()| list.add_file(directory, name, 0, 0, 0o600));
        added.map_err(|_| FileBackupError::TooMany)?;
    }
    Ok(())
}

fn make_directories(target: &Target, trees: &[Tree], list: &FileList) -> Result<(), FileBackupError> {
    for directory in list.directories.iter().filter(|one| !one.path.as_os_str().is_empty()) {
        let tree = &target.trees[trees[usize::from(directory.tree)].target];
        // Writable for whoever keeps the backup, whatever it was at home.
        let made = tree.directory.create_directory(&directory.path, directory.mode & 0o777 | 0o700, None);
        made.map_err(|error| FileBackupError::write(&tree.path.join(&directory.path), error))?;
    }
    Ok(())
}

impl CopiedFiles {
    /// The pages with wrong checksums that were found.
    pub const fn corrupt_pages(&self) -> &CorruptPages {
        &self.corrupt
    }

    /// Copies pg_control, once nothing else is left to copy.
    fn copy_control(&mut self, host: &dyn Host) -> Result<(), FileBackupError> {
        let (bytes, modified_ns) = control::read_control(host, self.trees[0].root)?;
        self.place(Path::new(rules::PG_CONTROL), &bytes, modified_ns)
    }

    /// Adds a small file of our own making to the data directory.
    fn place(&mut self, path: &Path, bytes: &[u8], modified_ns: i64) -> Result<(), FileBackupError> {
        let tree = &self.target.trees[0];
        let failed = |error| FileBackupError::write(&tree.path.join(path), error);
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = match parent.as_os_str().is_empty() {
            true => None,
            false => Some(tree.directory.directory(parent).map_err(failed)?),
        };
        let directory = directory.as_ref().unwrap_or(&tree.directory);
        let output = self.target.new_file(directory, name, 0o600, 0).map_err(failed)?;
        let mut writer = target::Writer::new();
        writer.put(&output, 0, bytes).map_err(failed)?;
        output.finish(bytes.len() as u64, modified_ns).map_err(failed)?;
        let mut hasher = self.plan.manifest_checksum.hasher();
        hasher.update(bytes);
        let mut checksum = Vec::new();
        hasher.finish_into(&mut checksum);
        let facts = (bytes.len() as u64, modified_ns);
        self.list.add_late(parent, name, facts, &checksum).map_err(|_| FileBackupError::TooMany)?;
        self.total_bytes += bytes.len() as u64;
        self.new_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Adds what the server said at the end, makes everything durable, and publishes the manifest.
    ///
    /// # Errors
    /// When the label makes no sense, or anything can't be written or made durable.
    pub fn finish(mut self, end: &BackupEnd) -> Result<FileBackup, FileBackupError> {
        let label = BackupLabel::parse(end.label.as_bytes())?;
        let now_ns = now_ns();
        self.place(Path::new("backup_label"), end.label.as_bytes(), now_ns)?;
        if !end.tablespace_map.is_empty() {
            self.place(Path::new("tablespace_map"), end.tablespace_map.as_bytes(), now_ns)?;
        }
        let data = &self.target.trees[0];
        for tree in &self.target.trees[1..] {
            let link = Path::new(rules::TABLESPACE_LINKS).join(tree.path.file_name().unwrap_or_default());
            let made = data.directory.create_link(&link, &tree.path, None);
            made.map_err(|error| FileBackupError::write(&data.path.join(&link), error))?;
        }
        let ranges: Vec<WalRange> = label
            .start_timeline
            .map(|timeline| WalRange { timeline, start: label.start, end: end.stop })
            .into_iter()
            .collect();
        let in_work = self.target.path.join(MANIFEST_IN_WORK);
        let manifest_bytes = self
            .write_manifest(&in_work, &ranges)
            .map_err(|error| FileBackupError::write(&in_work, error))?;
        durable::barrier(&self.target.root, &self.target.path)
            .map_err(|error| FileBackupError::Durable(error.to_string()))?;
        let publish = || -> std::io::Result<()> {
            std::fs::rename(&in_work, data.path.join(MANIFEST_FILE))?;
            data.directory.sync()
        };
        publish().map_err(|error| FileBackupError::write(&data.path.join(MANIFEST_FILE), error))?;
        let (files, _) = self.list.totals();
        Ok(FileBackup {
            start: label.start,
            start_timeline: label.start_timeline,
            total_bytes: self.total_bytes + manifest_bytes,
            new_bytes: self.new_bytes + manifest_bytes,
            files: files + 1,
            corrupt: self.corrupt,
        })
    }

    fn write_manifest(&self, path: &Path, ranges: &[WalRange]) -> std::io::Result<u64> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let mut writer = ManifestWriter::new(
            std::io::BufWriter::with_capacity(1 << 18, file),
            self.plan.major,
            self.plan.system_id,
        )?;
        let algorithm = self.plan.manifest_checksum;
        for (index, row) in self.list.rows.iter().enumerate().filter(|(_, row)| row.state == State::Copied) {
            let tree = &self.trees[usize::from(self.list.directory(row).tree)];
            let inner = self.list.path(row);
            let path = [tree.prefix.as_bytes(), inner.as_os_str().as_bytes()].concat();
            let bytes = self.list.checksum(index).to_vec();
            let checksum = (algorithm != ChecksumAlgorithm::None).then_some(Checksum { algorithm, bytes });
            writer.file(&path, row.size, row.modified_ns.div_euclid(1_000_000_000), checksum.as_ref())?;
        }
        let mut buffer = writer.finish(ranges)?;
        buffer.flush()?;
        let file = buffer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(file.metadata()?.len())
    }
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
