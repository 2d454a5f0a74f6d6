//! `archive-wal`: moves WAL that has arrived into the archive.

use std::path::Path;
use std::time::{Duration, SystemTime};

use barkeep_catalog::archive::{
    ArchiveError, ArchiveEvent, ArchiveHooks, ArchiveOptions, ArchiveReport, Change, NoHooks, Origin,
    Rejection, Verify, archive_wal_with,
};
use barkeep_catalog::inspect::Soundness;
use barkeep_catalog::lock::LockError;
use barkeep_transport::codec::{Compression, Level};

use crate::args::ServerArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::hooks::ArchiveScripts;

/// A file younger than this that is not whole yet is probably still being copied: no reason for alarm.
const STILL_ARRIVING: Duration = Duration::from_secs(60);

/// What to do about another cluster's WAL.
pub(crate) const OTHER_CLUSTER: &str = "see which cluster archives to this server; a new cluster needs a server section of its own, or an empty \
     backup_directory";

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Each place looked at, even when there is nothing.
    Full,
    /// What was archived, and trouble.
    Brief,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This was archived.
    Ran(ArchiveReport),
    /// Another process is archiving.
    Busy,
}

/// Archives what there is of one server.
///
/// # Errors
/// When something can't be archived.
pub fn run(context: &mut Context, args: &ServerArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Operate)?;
    if archive(&server, Verbosity::Full)? == Outcome::Busy {
        server
            .output
            .info(format!("Another archive-wal process is already running on server {}", server.name()));
    }
    Ok(())
}

/// Archives what there is of a server, telling each file as soon as it is safe. Trouble with single files is told and
/// makes the exit code 1; the others are archived all the same.
///
/// # Errors
/// When the configuration or the storage does not allow it at all.
pub(crate) fn archive(server: &ServerContext, verbosity: Verbosity) -> Result<Outcome, CommandError> {
    let options = options(server)?;
    archive_by(server, verbosity, &options)
}

/// Archives what barkeep itself has put into `incoming/`, also of a server that delivers nothing there.
///
/// # Errors
/// As for [`archive`].
pub(super) fn archive_delivered(server: &ServerContext) -> Result<(), CommandError> {
    let options = ArchiveOptions { origins: vec![(Origin::Incoming, 0)], ..options(server)? };
    archive_by(server, Verbosity::Brief, &options).map(drop)
}

fn archive_by(
    server: &ServerContext,
    verbosity: Verbosity,
    options: &ArchiveOptions,
) -> Result<Outcome, CommandError> {
    let mut teller = Teller { server, verbosity, header: None, told: 0 };
    let scripts = ArchiveScripts::of(server);
    let hooks = scripts.as_ref().map_or(&NoHooks as &dyn ArchiveHooks, |scripts| scripts);
    let (layout, now) = (server.layout(), jiff::Timestamp::now());
    let outcome = archive_wal_with(&layout, options, now, hooks, |event| teller.tell(event));
    teller.finish();
    match outcome {
        Ok(report) => Ok(Outcome::Ran(report)),
        Err(ArchiveError::Lock(LockError::Held { .. })) => Ok(Outcome::Busy),
        Err(error) => {
            let what = format!("WAL of server '{}' cannot be archived", server.name());
            Err(CommandError::because(what, &error)
                .hint("nothing is lost: what was not archived is where it was; run archive-wal again when this is mended"))
        }
    }
}

/// The archiver that the configuration describes.
pub(super) fn options(server: &ServerContext) -> Result<ArchiveOptions, CommandError> {
    let config = &server.config;
    let mut origins = Vec::new();
    if config.streaming_archiver() {
        origins.push((Origin::Streaming, config.streaming_archiver_batch_size().unwrap_or(0)));
    }
    // A server with neither archiver gets this one: WAL that somebody delivers is not left lying.
    if config.archiver() || origins.is_empty() {
        origins.push((Origin::Incoming, config.archiver_batch_size().unwrap_or(0)));
    }
    let compression = match config.compression() {
        None => Compression::None,
        Some(name) => Compression::from_name(name).ok_or_else(|| {
            CommandError::new(format!("compression = {name} of server '{}' is not available", server.name()))
                .hint("use one of: gzip, bzip2, xz, zstd, lz4, snappy; WAL waits where it is meanwhile")
        })?,
    };
    if let Some(how) = config.encryption() {
        return Err(CommandError::new(format!(
            "encryption = {how} of server '{}' is not available",
            server.name()
        ))
        .hint("WAL waits where it is meanwhile, rather than being archived unencrypted"));
    }
    let level = Level::from_name(config.compression_level()).unwrap_or_default();
    let verify = Verify::from_name(config.wal_verify()).unwrap_or_default();
    Ok(ArchiveOptions { origins, compression, level, workers: None, verify })
}

/// Puts events into words.
struct Teller<'a> {
    server: &'a ServerContext,
    verbosity: Verbosity,
    /// A header that was not printed yet.
    header: Option<String>,
    /// Files told under the present header.
    told: usize,
}

impl Teller<'_> {
    fn tell(&mut self, event: ArchiveEvent) {
        let name = self.server.name();
        let output = &self.server.output;
        match event {
            ArchiveEvent::Origin(origin) => {
                self.finish();
                let origin = match origin {
                    Origin::Streaming => "streaming",
                    Origin::Incoming => "file archival",
                };
                self.header = Some(format!("Processing xlog segments from {origin} for {name}"));
                self.told = 0;
            }
            ArchiveEvent::Archived(entry) => self.file(&entry.file.to_string()),
            ArchiveEvent::AlreadyArchived(file) => {
                self.file(&file.to_string());
                output.debug(format!(
                    "{file} was in the archive of server '{name}' already, with the same content"
                ));
            }
            ArchiveEvent::Rejected { name: file, moved_to, reason } => {
                self.told += 1;
                let (file, moved_to) = (file.display(), moved_to.display());
                match reason {
                    Rejection::Duplicate(difference) => output.error(format!(
                        "{file} is already present in server {name} with other content: {difference}. The new one was \
                         moved to '{moved_to}': compare the two, and see whether two clusters archive to this server"
                    )),
                    Rejection::Unknown => output
                        .warning(format!("'{file}' is no WAL file of server {name}: it was moved to '{moved_to}'")),
                    Rejection::Damaged(fault) => output.error(format!(
                        "{file} of server {name} is not sound, and was moved to '{moved_to}' instead of the archive: \
                         {fault}. Recovery past it needs a good copy of it, or a new backup"
                    )),
                    Rejection::Foreign(fault) => output.error(format!(
                        "{file} is not WAL of server {name}, and was moved to '{moved_to}': {fault} ({OTHER_CLUSTER})"
                    )),
                }
            }
            ArchiveEvent::Doubtful { file, soundness, note } => {
                let what = match soundness {
                    Soundness::Unknown => "cannot be verified",
                    Soundness::Unlinked => "is archived, but recovery may not get past its beginning",
                    _ => "is archived, and PostgreSQL replays it, but it is not as a server writes it",
                };
                output.warning(format!("{file} of server {name} {what}: {note}"));
            }
            ArchiveEvent::Healed { file, moved_to } => output.warning(format!(
                "{file} of server {name} was damaged in the archive: a sound one took its place, and the damaged one was \
                 moved to '{}'",
                moved_to.display()
            )),
            ArchiveEvent::NotIndexed(error) => output.warning(format!(
                "WAL of server {name} is archived, but barkeep's index of it cannot be kept, and will be made again: {error}"
            )),
            ArchiveEvent::Overtaken { file, change } => {
                self.told += 1;
                let text = format!("{file} of server {name}: {change}");
                match change {
                    Change::Gone => output.debug(text),
                    Change::Rewritten | Change::Archive => {
                        output.info(format!("{text}; the next archive-wal looks at it again"));
                    }
                }
            }
            ArchiveEvent::Left { path, reason } => {
                self.told += 1;
                let text = format!("'{}' is not archived and stays where it is: {reason}", path.display());
                if is_still_arriving(&path) { output.warning(text) } else { output.error(text) }
            }
        }
    }

    fn file(&mut self, name: &str) {
        if let Some(header) = self.header.take() {
            self.server.output.info(header);
        }
        self.told += 1;
        self.server.output.info(format!("\t{name}"));
    }

    /// Ends a place: says that nothing was there, if that is wanted.
    fn finish(&mut self) {
        if let Some(header) = self.header.take()
            && self.verbosity == Verbosity::Full
            && self.told == 0
        {
            self.server.output.info(header);
            self.server.output.info("\tno file found");
        }
    }
}

fn is_still_arriving(path: &Path) -> bool {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| {
        SystemTime::now().duration_since(modified).is_ok_and(|age| age < STILL_ARRIVING)
    })
}
