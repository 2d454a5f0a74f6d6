//! Archiving what has arrived, so that a backup need not wait for cron.

use barkeep_catalog::archive::{ArchiveError, ArchiveEvent, ArchiveOptions, Origin, archive_wal};
use barkeep_catalog::lock::LockError;
use barkeep_transport::codec::{Compression, Level};

use crate::context::ServerContext;
use crate::error::CommandError;

/// Archives once. If another process is at it already, that does as well.
pub(crate) fn once(server: &ServerContext) -> Result<(), CommandError> {
    let config = &server.config;
    let mut origins = Vec::new();
    if config.streaming_archiver() {
        origins.push((Origin::Streaming, config.streaming_archiver_batch_size().unwrap_or(0)));
    }
    if config.archiver() {
        origins.push((Origin::Incoming, config.archiver_batch_size().unwrap_or(0)));
    }
    let compression = match config.compression() {
        None => Compression::None,
        Some(name) => Compression::from_name(name).ok_or_else(|| {
            CommandError::new(format!("compression = {name} of server '{}' is unknown", config.name()))
        })?,
    };
    let level = Level::from_name(config.compression_level()).unwrap_or_default();
    let options = ArchiveOptions { origins, compression, level, workers: None };
    let mut teller = Teller { server, origin: None };
    match archive_wal(&server.layout(), &options, jiff::Timestamp::now(), |event| teller.tell(event)) {
        Ok(_) | Err(ArchiveError::Lock(LockError::Held { .. })) => Ok(()),
        Err(error) => Err(CommandError::because("the WAL that has arrived can't be archived", &error)),
    }
}

struct Teller<'a> {
    server: &'a ServerContext,
    /// Where the next files come from, until it is told.
    origin: Option<Origin>,
}

impl Teller<'_> {
    fn tell(&mut self, event: ArchiveEvent) {
        let output = &self.server.output;
        match event {
            ArchiveEvent::Origin(origin) => self.origin = Some(origin),
            ArchiveEvent::Archived(entry) => {
                if let Some(origin) = self.origin.take() {
                    let origin = match origin {
                        Origin::Streaming => "streaming",
                        Origin::Incoming => "file archival",
                    };
                    let name = self.server.config.name();
                    output.info(format!("Processing xlog segments from {origin} for {name}"));
                }
                output.info(format!("\t{}", entry.file));
            }
            ArchiveEvent::AlreadyArchived(file) => output.debug(format!("{file} was archived before")),
            ArchiveEvent::Rejected { name, moved_to, reason } => output.warning(format!(
                "'{}' can't be archived ({reason:?}): it is now '{}'",
                name.display(),
                moved_to.display()
            )),
            ArchiveEvent::Left { path, reason } => {
                output.warning(format!("'{}' is left where it is: {reason}", path.display()));
            }
        }
    }
}
