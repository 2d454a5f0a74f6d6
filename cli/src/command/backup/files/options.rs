//! What the configuration and the command line say of a copy of files.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barkeep_catalog::{BackupInfo, Backups, Catalog, Status, Tablespace};
use barkeep_transport::codec::{Compression, Level};
use barkeep_transport::remote::AgentChoice;
use barkeep_transport::ssh::Ssh;
use pgbase::file_backup::session::Announcement;
use pgbase::file_backup::{Packing, Reference, Reuse};
use pgbase::pipeline::DATA_DIRECTORY;

use crate::args::{BackupArgs, ReuseBackup};
use crate::config::{BackupMethod, ServerConfig};
use crate::context::ServerContext;
use crate::error::CommandError;

use super::super::facts::ServerFacts;
use super::Way;

/// Most threads by default: beyond, a disk or a connection is what is waited for.
const DEFAULT_JOBS_MAX: usize = 8;
/// Fewest threads by default: one waits for the disk while the other works.
const DEFAULT_JOBS_MIN: usize = 2;
/// The same over a connection, where each waits for both ends.
const DEFAULT_REMOTE_JOBS_MIN: usize = 4;

/// How files are copied.
pub(in super::super) struct FilesOptions {
    pub(in super::super) way: Way,
    pub(super) jobs: usize,
    pub(super) announcement: Announcement,
    pub(super) heartbeat: Option<Duration>,
    pub(super) external_configuration: bool,
    pub(super) tablespace_limits: Vec<(String, u32)>,
    pub(super) packing: Option<Packing>,
    reuse: Option<Reuse>,
    resume: bool,
}

/// The zstd level unless another is configured: the format's own.
const ZSTD_LEVEL: i32 = 3;

fn packing(config: &ServerConfig) -> Result<Option<Packing>, CommandError> {
    let Some(name) = config.text("backup_compression").filter(|name| *name != "none") else {
        return Ok(None);
    };
    let compression = Compression::from_name(name).ok_or_else(|| {
        CommandError::new(format!("backup_compression = {name} of server '{}' is not known", config.name()))
    })?;
    let level = match (config.backup_compression_level(), compression) {
        (Some(level), _) => Level::Number(level),
        (None, Compression::Zstd) => Level::Number(ZSTD_LEVEL),
        (None, _) => Level::Medium,
    };
    Ok(Some(Packing { compression, level }))
}

/// Reads them.
///
/// # Errors
/// When something is missing or has no meaning.
pub(in super::super) fn prepare(
    server: &ServerContext,
    args: &BackupArgs,
) -> Result<FilesOptions, CommandError> {
    let config = &server.config;
    let name = config.name();
    let way = match config.backup_method() {
        BackupMethod::LocalRsync => Way::Local,
        _ => {
            let command = config.ssh_command().ok_or_else(|| {
                CommandError::new(format!("server '{name}' has no ssh_command"))
                    .hint("set it, or backup_method = local-rsync if the server is on this machine")
            })?;
            let ssh = Ssh::from_command(command).map_err(|error| {
                CommandError::because(format!("ssh_command of server '{name}' is wrong"), &error)
            })?;
            let agent = AgentChoice::from_name(config.agent()).unwrap_or_default();
            Way::Remote { ssh, agent, compression: config.network_compression() }
        }
    };
    let reuse = match args.reuse_backup {
        Some(ReuseBackup::Copy) => Some(Reuse::Copy),
        Some(ReuseBackup::Link) => Some(Reuse::Link),
        Some(ReuseBackup::Off) => None,
        None => match config.text("reuse_backup") {
            Some("copy") => Some(Reuse::Copy),
            Some("link") => Some(Reuse::Link),
            _ => None,
        },
    };
    let heartbeat = args.keepalive_interval.map(u64::from).or_else(|| config.keepalive_interval());
    let jobs = args
        .jobs
        .or_else(|| config.parallel_jobs())
        .map_or_else(|| default_jobs(&way), |jobs| usize::try_from(jobs).unwrap_or(1));
    Ok(FilesOptions {
        way,
        jobs,
        announcement: match config.has_backup_option("exclusive_backup") {
            true => Announcement::Exclusive,
            false => Announcement::Concurrent,
        },
        heartbeat: heartbeat.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        external_configuration: config.has_backup_option("external_configuration"),
        tablespace_limits: tablespace_limits(config.text("tablespace_bandwidth_limit").unwrap_or_default())
            .ok_or_else(|| {
            CommandError::new(format!("tablespace_bandwidth_limit of server '{name}' is wrong"))
                .hint("expected: name:kbps, name:kbps ...")
        })?,
        packing: packing(config)?,
        reuse,
        resume: args.resume,
    })
}

fn default_jobs(way: &Way) -> usize {
    let least = if way.is_remote() { DEFAULT_REMOTE_JOBS_MIN } else { DEFAULT_JOBS_MIN };
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.clamp(least, DEFAULT_JOBS_MAX)
}

/// `name:kbps`, separated by commas or spaces.
fn tablespace_limits(text: &str) -> Option<Vec<(String, u32)>> {
    let items = text.split([',', ' ', '\t', '\n']).map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (name, limit) = item.rsplit_once(':')?;
            Some((name.to_owned(), limit.trim().parse().ok()?))
        })
        .collect()
}

/// A reference by the directory of a backup.
pub(super) fn reference(
    backup: &Path,
    tablespaces: &[Tablespace],
    horizon_ns: i64,
    reuse: Reuse,
    packed: bool,
) -> Reference {
    let tablespaces =
        tablespaces.iter().map(|tablespace| (tablespace.oid, backup.join(tablespace.oid.to_string())));
    Reference {
        data: backup.join(DATA_DIRECTORY),
        tablespaces: tablespaces.collect(),
        horizon_ns,
        reuse,
        packed,
    }
}

impl FilesOptions {
    /// The record's `mode`.
    pub(super) const fn mode(&self) -> &'static str {
        match self.announcement {
            Announcement::Concurrent => "rsync-concurrent",
            Announcement::Exclusive => "rsync-exclusive",
        }
    }

    /// Refuses to go on with nothing, before there is a record of it.
    pub(in super::super) fn check_resume(&self, catalog: &Catalog) -> Result<(), CommandError> {
        if self.resume { cut_off(catalog, &catalog.backups()?).map(drop) } else { Ok(()) }
    }

    /// The configuration files outside of the data directory that come along.
    pub(super) fn outside_files(&self, facts: &ServerFacts) -> Vec<PathBuf> {
        let data = facts.setting("data_directory").map(PathBuf::from).unwrap_or_default();
        match self.external_configuration {
            true => Vec::new(),
            false => ["config_file", "hba_file", "ident_file"]
                .into_iter()
                .filter_map(|name| facts.setting(name).map(PathBuf::from))
                .filter(|path| !path.starts_with(&data))
                .collect(),
        }
    }

    /// Refuses configuration files of one name: all are put at the top of the data directory.
    pub(in super::super) fn check_names(&self, facts: &ServerFacts) -> Result<(), CommandError> {
        let files = self.outside_files(facts);
        for (index, file) in files.iter().enumerate() {
            let taken = files.iter().take(index).find(|other| other.file_name() == file.file_name());
            if let Some(other) = taken {
                let what = format!(
                    "'{}' and '{}' have one name, and a backup has room for one of them",
                    other.display(),
                    file.display()
                );
                let hint = "rename one, or keep them yourself with backup_options = external_configuration";
                return Err(CommandError::new(what).hint(hint));
            }
        }
        Ok(())
    }

    /// The backups whose files may be used again.
    ///
    /// # Errors
    /// When the catalogue can't be read, or there is nothing to resume.
    pub(super) fn references(
        &self,
        catalog: &Catalog,
        info: &BackupInfo,
    ) -> Result<Vec<Reference>, CommandError> {
        let backups = catalog.backups()?;
        let mut references = Vec::new();
        if self.resume {
            let copy = cut_off(catalog, &backups)?;
            references.push(reference(
                &catalog.layout().backup(copy.id),
                &copy.tablespaces,
                0,
                Reuse::Compare,
                copy.has_compressed_files(),
            ));
        }
        if let Some(reuse) = self.reuse
            && let Some(previous) = backups.usable_before(info.id)
            && let Some(begin_time) = &previous.begin_time
        {
            let horizon_ns = i64::try_from(begin_time.timestamp().as_nanosecond()).unwrap_or(0);
            let directory = catalog.layout().backup(previous.id);
            let packed = previous.has_compressed_files();
            references.push(reference(&directory, &previous.tablespaces, horizon_ns, reuse, packed));
        }
        Ok(references)
    }
}

/// The copy that `--resume` goes on with: the newest one, unless a whole one came after it.
fn cut_off<'b>(catalog: &Catalog, backups: &'b Backups) -> Result<&'b BackupInfo, CommandError> {
    let nothing = |what: String| CommandError::new(what).hint("take a backup without --resume");
    let is_copy = |info: &&BackupInfo| info.mode.as_deref().is_some_and(|mode| mode.starts_with("rsync"));
    for info in backups.iter().rev().filter(is_copy) {
        match info.status {
            Status::Failed if catalog.layout().backup_data(info.id).is_dir() => return Ok(info),
            Status::Done | Status::WaitingForWals => {
                let id = info.id;
                return Err(nothing(format!(
                    "the newest copy of files, {id}, is whole: there is nothing to go on with"
                )));
            }
            // One that failed before it had anything, or the one that is about to go on.
            _ => {}
        }
    }
    Err(nothing("there is no failed copy of files to go on with".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_tablespaces_are_read() {
        assert_eq!(
            tablespace_limits(" a:100,b:x:7 ").unwrap(),
            [("a".to_owned(), 100), ("b:x".to_owned(), 7)]
        );
        assert_eq!(tablespace_limits("").unwrap(), []);
        for wrong in ["a", "a:", "a:fast"] {
            assert_eq!(tablespace_limits(wrong), None, "{wrong}");
        }
    }
}
