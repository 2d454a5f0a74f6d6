//! The copy itself: STARTED, the stream, WAITING_FOR_WALS.

use std::path::Path;
use std::time::{Duration, Instant};

use barkeep_catalog::{BackupInfo, Catalog, Status, backup_info};
use jiff::Zoned;
use pgbase::manifest::ChecksumAlgorithm;
use pgbase::pipeline::Unpacked;
use pgbase::stream::{BackupObserver, BackupOptions, BackupStep, TakeBackupError, take_backup};
use pgwal::replication::{ConnInfo, Connection};
use pgwal::{SegmentName, TimelineId};

use crate::command::signals::{self, Signal};
use crate::context::ServerContext;
use crate::error::{CommandError, chain};
use crate::output::{Output, Progress};

use super::Job;
use super::facts::ServerFacts;

/// How the copy is made.
pub(super) struct CopyOptions {
    pub(super) immediate_checkpoint: bool,
    pub(super) max_rate_kib: Option<u32>,
    pub(super) manifest_checksum: ChecksumAlgorithm,
    pub(super) retry_times: u32,
    pub(super) retry_sleep: Duration,
}

/// Why there is no backup.
pub(super) enum Interruption {
    Signal(Signal),
    Error(TakeBackupError),
    Command(CommandError),
}

impl<E: Into<CommandError>> From<E> for Interruption {
    fn from(error: E) -> Self {
        Interruption::Command(error.into())
    }
}

/// One backup under way.
pub(super) struct Copy<'a> {
    pub(super) server: &'a ServerContext,
    pub(super) catalog: &'a Catalog,
    pub(super) facts: &'a ServerFacts,
    pub(super) options: &'a CopyOptions,
    pub(super) begin_time: Zoned,
}

impl Copy<'_> {
    /// Takes the backup; on return `info` is recorded as waiting for its WAL.
    pub(super) async fn run(
        &self,
        job: &Job,
        conninfo: &ConnInfo,
        info: &mut BackupInfo,
    ) -> Result<(), Interruption> {
        let output = &self.server.output;
        let destination = self.catalog.layout().backup(info.id);
        output.info(format!(
            "Starting backup using postgres method for server {} in {}",
            self.server.config.name(),
            destination.display()
        ));
        info.status = Status::Started;
        info.begin_time = Some(self.begin_time.clone());
        // Provisional, for whoever looks meanwhile; backup_label will tell.
        info.set_begin(self.facts.timeline, self.facts.position);
        self.catalog.save(info)?;

        let started = Instant::now();
        let unpacked = tokio::select! {
            unpacked = self.copy_with_retries(conninfo, info, &destination) => unpacked?,
            signal = signals::stop() => return Err(Interruption::Signal(signal?)),
        };
        let copy_seconds = started.elapsed().as_secs_f64();
        self.record(info, &unpacked, copy_seconds);
        tokio::select! {
            () = nudge(self.server, self.facts, job, info) => {}
            // The backup is complete: this is no reason to lose it.
            signal = signals::stop() => {
                output.warning(format!("No further word to the server: {}", signal?));
            }
        }
        info.status = Status::WaitingForWals;
        self.catalog.save(info)?;
        Ok(())
    }

    async fn copy_with_retries(
        &self,
        conninfo: &ConnInfo,
        info: &BackupInfo,
        destination: &Path,
    ) -> Result<Unpacked, Interruption> {
        let mut tries_left = self.options.retry_times;
        loop {
            let error = match self.copy_once(conninfo, info, destination).await {
                Ok(unpacked) => return Ok(unpacked),
                Err(error) => error,
            };
            if !may_pass(&error) || tries_left == 0 {
                return Err(Interruption::Error(error));
            }
            tries_left -= 1;
            let pause = self.options.retry_sleep;
            self.server.output.warning(format!(
                "The copy failed: {}. Trying again in {} seconds ({tries_left} tries left after that)",
                chain(&error),
                pause.as_secs()
            ));
            tokio::time::sleep(pause).await;
            wipe(destination)?;
        }
    }

    async fn copy_once(
        &self,
        conninfo: &ConnInfo,
        info: &BackupInfo,
        destination: &Path,
    ) -> Result<Unpacked, TakeBackupError> {
        let connection = match Connection::connect(conninfo).await {
            Ok(connection) => connection,
            Err(error) => return Err(TakeBackupError::Connect(error)),
        };
        let options = BackupOptions {
            label: format!("barkeep backup {} {}", self.server.config.name(), info.id),
            immediate_checkpoint: self.options.immediate_checkpoint,
            max_rate_kib: self.options.max_rate_kib,
            manifest_checksum: self.options.manifest_checksum,
        };
        let teller = Teller::new(&self.server.output, info);
        take_backup(connection, destination, &options, &teller).await
    }

    /// Writes what the copy has told into the backup's record.
    fn record(&self, info: &mut BackupInfo, unpacked: &Unpacked, copy_seconds: f64) {
        info.set_begin(unpacked.start_timeline, unpacked.start);
        info.set_end(unpacked.end_timeline, unpacked.end);
        info.end_time = Some(Zoned::now());
        info.backup_label = Some(unpacked.label_text.clone());
        info.size = Some(unpacked.total_bytes);
        info.deduplicated_size = Some(unpacked.total_bytes);
        info.copy_stats = Some(backup_info::copy_stats(copy_seconds, copy_seconds, None));
    }
}

/// Sees to it that the backup's last WAL segment gets archived soon. A primary switches segments by itself at the
/// end of a backup; a standby can't, so the primary is asked to, if it is known.
pub(super) async fn nudge(server: &ServerContext, facts: &ServerFacts, job: &Job, info: &BackupInfo) {
    let (conninfo, statement) = if !facts.in_recovery {
        // A name to recover to; needs a right that a backup user may not have.
        let name = format!("barman_{}", info.id);
        (&job.conninfo, format!("select pg_catalog.pg_create_restore_point('{name}')"))
    } else if let Some(primary) = &job.primary_conninfo {
        (primary, "select pg_catalog.pg_switch_wal()".to_owned())
    } else {
        return;
    };
    let outcome = match pgwal::sql::connect(conninfo).await {
        Ok(client) => client.simple_query(&statement).await.map(|_| ()).map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    match outcome {
        Err(error) if facts.in_recovery => server.output.warning(format!(
            "The primary could not be asked to switch WAL segments: {error}. The backup will be complete when it does"
        )),
        Err(error) => server.output.debug(format!("No restore point was made: {error}")),
        Ok(()) => {}
    }
}

/// Whether another try may do better: trouble with the connection, a server that is restarting or short of something.
/// A full disk, a corrupt page, a wrong password or a server that can't be trusted will be the same in a minute.
fn may_pass(error: &TakeBackupError) -> bool {
    let state = match error {
        TakeBackupError::Connect(error) => error.sqlstate(),
        TakeBackupError::Replication(error) => error.sqlstate(),
        _ => return false,
    };
    // Classes: connection exception, insufficient resources, operator intervention.
    state.is_none_or(|state| matches!(state.class(), "08" | "53" | "57"))
}

/// Empties a backup's directory for another try. What is in it was made by barkeep; links in it are not followed.
fn wipe(destination: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(destination) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What to do about a failed copy.
pub(super) fn hint(error: &TakeBackupError) -> Option<String> {
    if error.is_disk_full() {
        return Some("make room, then delete the failed backup and take another".to_owned());
    }
    match error {
        TakeBackupError::ServerFoundCorruption { .. } => {
            Some("the server's data is damaged: see its log, and keep the backups from before".to_owned())
        }
        _ => None,
    }
}

/// Tells people how the copy gets on.
struct Teller<'a> {
    output: &'a Output,
    progress: Progress,
    info: &'a BackupInfo,
}

impl<'a> Teller<'a> {
    fn new(output: &'a Output, info: &'a BackupInfo) -> Self {
        let progress = output.progress("Waiting for a checkpoint", None);
        Teller { output, progress, info }
    }
}

impl BackupObserver for Teller<'_> {
    fn step(&self, step: &BackupStep<'_>) {
        match step {
            BackupStep::Started { start, timeline, total_bytes } => {
                self.output.info(format!("Backup start at LSN: {}", position(self.info, *timeline, *start)));
                self.output
                    .info(format!("Starting backup copy via the replication protocol for {}", self.info.id));
                self.progress.set_label("Copying");
                if let Some(total) = total_bytes {
                    self.progress.set_total(*total);
                }
            }
            BackupStep::Received { bytes } => self.progress.set_done(*bytes),
            BackupStep::Notice(notice) => self.output.warning(format!("The server says: {notice}")),
            BackupStep::Syncing => self.progress.set_label("Syncing"),
            _ => {}
        }
    }
}

/// `0/4000028 (000000010000000000000004, 00000028)`
pub(super) fn position(info: &BackupInfo, timeline: TimelineId, lsn: pgwal::Lsn) -> String {
    let segment = SegmentName::at(timeline, lsn, info.segment_size);
    format!("{lsn} ({segment}, {:08X})", info.segment_size.offset_of(lsn))
}
