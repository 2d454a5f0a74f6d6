//! Taking a base backup over a replication connection.
//!
//! ```text
//! socket (this task) -> queue of at most QUEUE_BYTES -> writer thread: parse, check, hash, write, barrier
//! ```
//!
//! The task only moves messages, so a slow disk makes the server wait and never fills memory. If the future is dropped
//! or fails, the connection closes, the server ends its backup mode, and the writer has stopped by then.

mod settings;
mod worker;

use std::path::Path;

use pgwal::replication::{
    BackupEvent, BaseBackupOptions, ConnectError, Connection, ManifestChecksum, ReplicationError, ServerError,
};
use pgwal::wire::BackupDialect;
use pgwal::{Lsn, TimelineId};

use crate::manifest::ChecksumAlgorithm;
use crate::pipeline::{CorruptPages, UnpackError, UnpackSettings, Unpacked, Unpacker};

use settings::page_geometry;
use worker::Worker;

pub use worker::QUEUE_BYTES;

/// Most warnings of the server that are kept; it sends at most five per file with corrupt pages.
pub const MAX_NOTICES: usize = 100;

/// What to ask the server for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    /// What `backup_label` says of the backup: at most 1023 bytes.
    pub label: String,
    /// Start with a checkpoint at once, at the cost of more I/O on the server, rather than with the next one.
    pub immediate_checkpoint: bool,
    /// Upper limit for the transfer, in KiB per second; the server takes 32 to 1048576.
    pub max_rate_kib: Option<u32>,
    /// How the manifest's files are hashed.
    pub manifest_checksum: ChecksumAlgorithm,
}

impl Default for BackupOptions {
    fn default() -> Self {
        BackupOptions {
            label: "barkeep base backup".to_owned(),
            immediate_checkpoint: false,
            max_rate_kib: None,
            manifest_checksum: ChecksumAlgorithm::Crc32c,
        }
    }
}

/// What happens while a backup is taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum BackupStep<'a> {
    /// The server was asked; it answers after a checkpoint, which may take minutes unless it is an immediate one.
    Requested,
    /// The server began to send.
    Started {
        /// Where the backup begins.
        start: Lsn,
        /// On which timeline.
        timeline: TimelineId,
        /// Roughly how many bytes will come, by the server.
        total_bytes: Option<u64>,
    },
    /// Bytes came. Told often: an observer draws as rarely as it likes.
    Received {
        /// Bytes received so far, archives and manifest.
        bytes: u64,
    },
    /// The server warns of something.
    Notice(&'a ServerError),
    /// All came; it is being made durable.
    Syncing,
}

/// Gets the steps of a backup as they happen, on the task that takes it: it must not block.
pub trait BackupObserver {
    /// Something happened.
    fn step(&self, step: &BackupStep<'_>);
}

/// An observer that looks away.
impl BackupObserver for () {
    fn step(&self, _: &BackupStep<'_>) {}
}

/// A backup that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeBackupError {
    /// There was no connection to begin with. [`take_backup`] itself gets one; this is for callers that make it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection, or the server, failed.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The server was told, or found, that pages are corrupt.
    #[error("the server found corrupt data pages: {}", corruption(message, warnings, pages))]
    ServerFoundCorruption {
        /// The server's error.
        message: String,
        /// The server's warnings, which name files and blocks.
        warnings: Vec<String>,
        /// What was found here of the same.
        pages: CorruptPages,
    },
    /// What came can't be unpacked or trusted.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A setting of the server can't be understood.
    #[error("the server's setting {name} = '{value}' can't be understood")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The writer's thread couldn't be started, or is gone.
    #[error("the thread that writes the backup failed: {0}")]
    Thread(#[source] std::io::Error),
}

impl TakeBackupError {
    /// Whether the destination is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, TakeBackupError::Unpack(error) if error.is_disk_full())
    }
}

fn corruption(message: &str, warnings: &[String], pages: &CorruptPages) -> String {
    match (pages.count, warnings.first()) {
        (0, None) => message.to_owned(),
        (0, Some(warning)) => warning.clone(),
        _ => pages.to_string(),
    }
}

/// Takes a base backup of the server at the other end of `connection` into `destination`.
///
/// The layout beneath `destination` is that of [`crate::pipeline`]. On success everything is durable and agrees with the
/// server's manifest, and with the data page checksums if the cluster has them. On failure what was written stays
/// there, without a `backup_manifest`.
///
/// # Errors
/// When the connection or the server fails, the server sends what it must not, a file can't be written, something
/// doesn't agree with the manifest, or a page is corrupt.
pub async fn take_backup(
    mut connection: Connection,
    destination: &Path,
    options: &BackupOptions,
    observer: &dyn BackupObserver,
) -> Result<Unpacked, TakeBackupError> {
    let pages = match connection.show("data_checksums").await?.as_str() {
        "on" => Some(page_geometry(&mut connection).await?),
        _ => None,
    };
    let settings = UnpackSettings {
        dialect: BackupDialect::of(connection.server_version_num()),
        manifest_checksum: options.manifest_checksum,
        pages,
    };
    let worker = Worker::start(Unpacker::new(destination, settings)?).map_err(TakeBackupError::Thread)?;
    let mut stream = connection.base_backup(&options.for_server()).await?;
    observer.step(&BackupStep::Requested);
    let mut notices = Notices::default();
    let mut received = 0;
    let outcome = loop {
        let event = match stream.next().await {
            Ok(Some(event)) => event,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        match &event {
            BackupEvent::Data(data) => {
                received += data.len() as u64;
                observer.step(&BackupStep::Received { bytes: received });
            }
            BackupEvent::Start { start, timeline, tablespaces } => {
                let total_bytes = tablespaces.iter().map(|tablespace| tablespace.size_bytes).sum();
                observer.step(&BackupStep::Started { start: *start, timeline: *timeline, total_bytes });
            }
            BackupEvent::Notice(notice) => {
                observer.step(&BackupStep::Notice(notice));
                notices.add(notice);
                continue;
            }
            _ => {}
        }
        if !worker.send(event).await {
            // Only an error ends the writer early; what the server may say matters no more.
            return worker.finish().await;
        }
    };
    match outcome {
        Ok(()) => {
            observer.step(&BackupStep::Syncing);
            worker.finish().await
        }
        Err(error) if is_data_corrupted(&error) => {
            let (message, warnings) = (error.to_string(), notices.texts);
            Err(TakeBackupError::ServerFoundCorruption { message, warnings, pages: worker.abandon().await? })
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the server itself found wrong page checksums (`data_corrupted`), which it says once all is sent.
fn is_data_corrupted(error: &ReplicationError) -> bool {
    error.sqlstate().is_some_and(|state| state.as_str() == "XX001")
}

impl BackupOptions {
    fn for_server(&self) -> BaseBackupOptions {
        BaseBackupOptions {
            label: self.label.clone(),
            fast_checkpoint: self.immediate_checkpoint,
            progress: true,
            max_rate_kib: self.max_rate_kib,
            manifest: Some(self.manifest_checksum.into()),
            ..BaseBackupOptions::default()
        }
    }
}

impl From<ChecksumAlgorithm> for ManifestChecksum {
    fn from(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::None => ManifestChecksum::None,
            ChecksumAlgorithm::Crc32c => ManifestChecksum::Crc32c,
            ChecksumAlgorithm::Sha224 => ManifestChecksum::Sha224,
            ChecksumAlgorithm::Sha256 => ManifestChecksum::Sha256,
            ChecksumAlgorithm::Sha384 => ManifestChecksum::Sha384,
            ChecksumAlgorithm::Sha512 => ManifestChecksum::Sha512,
        }
    }
}

#[derive(Default)]
struct Notices {
    texts: Vec<String>,
}

impl Notices {
    fn add(&mut self, notice: &ServerError) {
        if self.texts.len() < MAX_NOTICES {
            self.texts.push(notice.to_string());
        }
    }
}
