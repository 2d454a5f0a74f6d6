//! Backups by copying files, from this machine or over SSH: `backup_method = rsync` and `local-rsync`.

mod agent;
mod options;
mod teller;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barkeep_catalog::{BackupInfo, Catalog, Status, backup_info};
use jiff::Zoned;
use pgbase::file_backup::session::{BackupSession, SessionError};
use pgbase::file_backup::{
    BackupEnd, CopiedFiles, FileBackup, FileBackupError, FileBackupPlan, Reference, Reuse, SourceTablespace,
    copy_files,
};

use crate::command::signals;
use crate::context::ServerContext;
use crate::error::{CommandError, chain};

use super::Job;
use super::facts::ServerFacts;
use super::take::{CopyOptions, Interruption, nudge, position};

pub(super) use agent::Way;
pub(super) use options::{FilesOptions, prepare};
use teller::Teller;

/// How long the server may take to begin a backup before a word is said about it.
const PATIENCE: Duration = Duration::from_secs(3);

/// One backup under way.
pub(super) struct Copy<'a> {
    pub(super) server: &'a ServerContext,
    pub(super) catalog: &'a Catalog,
    pub(super) facts: &'a ServerFacts,
    pub(super) options: &'a CopyOptions,
    pub(super) files: &'a FilesOptions,
    pub(super) begin_time: Zoned,
}

/// A try that came to nothing.
enum Failure {
    Session(SessionError),
    Copy(FileBackupError),
    Other(Interruption),
}

impl<E: Into<CommandError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Other(Interruption::Command(error.into()))
    }
}

impl Failure {
    /// Whether the connection was lost, to the server or to its files: the next try may do better.
    fn may_pass(&self) -> bool {
        match self {
            Failure::Session(error) => error.is_lost(),
            Failure::Copy(error) => error.may_pass(),
            Failure::Other(_) => false,
        }
    }

    fn told(&self) -> String {
        match self {
            Failure::Session(error) => chain(error),
            Failure::Copy(error) => chain(error),
            Failure::Other(_) => String::new(),
        }
    }
}

impl From<Failure> for Interruption {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Session(error) => Interruption::Command(CommandError::new(chain(&error)).hint(
                "the user of conninfo needs the right to call the backup functions; see: barkeep check",
            )),
            Failure::Copy(error) => {
                let mut told = CommandError::new(chain(&error));
                if error.is_disk_full() {
                    told = told.hint("make room, then delete the failed backup and take another");
                }
                Interruption::Command(told)
            }
            Failure::Other(interruption) => interruption,
        }
    }
}

impl Copy<'_> {
    /// Takes the backup; on return `info` is recorded as waiting for its WAL.
    pub(super) async fn run(&self, job: &Job, info: &mut BackupInfo) -> Result<(), Interruption> {
        let output = &self.server.output;
        let destination = self.catalog.layout().backup(info.id);
        let mode = self.files.mode();
        info.mode = Some(mode.to_owned());
        if let Some(packing) = self.files.packing {
            info.set_compressed_files(packing.compression.name());
        }
        output.info(format!(
            "Starting backup using {mode} method for server {} in {}",
            self.server.config.name(),
            destination.display()
        ));
        let started = Instant::now();
        let mut references = self.files.references(self.catalog, info)?;
        let mut tries_left = self.options.retry_times;
        let (backup, end, copy_time) = loop {
            let failure = match self.once(job, info, &references).await {
                Ok(done) => break done,
                Err(failure) => failure,
            };
            if !failure.may_pass() || tries_left == 0 {
                return Err(failure.into());
            }
            tries_left -= 1;
            let pause = self.options.retry_sleep;
            output.warning(format!(
                "The copy failed: {}. Going on in {} seconds ({tries_left} tries left after that)",
                failure.told(),
                pause.as_secs()
            ));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                signal = signals::stop() => return Err(Interruption::Signal(signal?)),
            }
            // What is there already is compared with the server's files, and not sent again.
            references = self.set_aside(info, references)?;
        };
        self.clear_aside(info)?;
        self.record(info, &backup, &end);
        let workers = u32::try_from(self.files.jobs).ok();
        let (copy_seconds, total_seconds) = (copy_time.as_secs_f64(), started.elapsed().as_secs_f64());
        info.copy_stats = Some(backup_info::copy_stats(copy_seconds, total_seconds, workers));
        if backup.corrupt.count > 0 {
            let told = CommandError::new(backup.corrupt.to_string());
            return Err(Interruption::Command(
                told.hint("the server's data is damaged: see its log, and keep the backups from before"),
            ));
        }
        tokio::select! {
            () = nudge(self.server, self.facts, job, info) => {}
            // The backup is complete: this is no reason to lose it.
            signal = signals::stop() => output.warning(format!("No further word to the server: {}", signal?)),
        }
        info.status = Status::WaitingForWals;
        self.catalog.save(info)?;
        Ok(())
    }

    /// One try, from the word to the server that a backup begins to the last durable byte.
    async fn once(
        &self,
        job: &Job,
        info: &mut BackupInfo,
        references: &[Reference],
    ) -> Result<(FileBackup, BackupEnd, Duration), Failure> {
        let output = &self.server.output;
        let client = pgwal::sql::connect(&job.conninfo)
            .await
            .map_err(|error| CommandError::because("the SQL connection (conninfo) failed", &error))?;
        // Barman's own label: whoever reads backup_label may know it.
        let label = format!("Barman backup {} {}", self.server.config.name(), info.id);
        let begin = BackupSession::begin(
            client,
            self.facts.version,
            &label,
            self.options.immediate_checkpoint,
            self.files.announcement,
        );
        let session = tokio::select! {
            session = begin => session.map_err(Failure::Session)?,
            never = self.tell_what_is_waited_for() => match never {},
            signal = signals::stop() => return Err(Failure::Other(Interruption::Signal(signal?))),
        };
        let copying_since = Instant::now();
        info.status = Status::Started;
        info.begin_time = Some(self.begin_time.clone());
        info.set_begin(session.timeline, session.start);
        self.catalog.save(info)?;
        output.info(format!("Backup start at LSN: {}", position(info, session.timeline, session.start)));
        output.info(format!("Starting backup copy {} for {}", self.files.way.told(), info.id));

        let copied = tokio::select! {
            copied = self.copy(info, session.start, references) => copied,
            error = session.heartbeat(self.files.heartbeat) => Err(Failure::Session(error)),
        };
        let copied = match copied {
            Ok(copied) => copied,
            Err(failure) => {
                session.abandon().await;
                return Err(failure);
            }
        };
        let end = session.end().await.map_err(Failure::Session)?;
        let said = end.clone();
        let finished = on_a_thread(move || copied.finish(&said)).await?.map_err(Failure::Copy)?;
        Ok((finished, end, copying_since.elapsed()))
    }

    /// Says once, when the server takes its time to begin, what it is at, and how that can be hastened.
    async fn tell_what_is_waited_for(&self) -> Infallible {
        tokio::time::sleep(PATIENCE).await;
        if !self.options.immediate_checkpoint {
            self.server.output.info(
                "The server makes a checkpoint first, spread over time (immediate_checkpoint = true, or \
                 --immediate-checkpoint, has it done at once)",
            );
        }
        std::future::pending().await
    }

    /// Copies on a thread of its own. Dropped, it stops the thread, and waits until it has stopped.
    async fn copy(
        &self,
        info: &BackupInfo,
        start: pgwal::Lsn,
        references: &[Reference],
    ) -> Result<CopiedFiles, Failure> {
        let plan = self.plan(start, references)?;
        let destination = self.catalog.layout().backup(info.id);
        let way = self.files.way.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let teller = Teller::new(&self.server.output, Arc::clone(&stop));
        let (tell, outcome) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("backup-copy".to_owned()).spawn(move || {
            let copied = way
                .open(&plan)
                .map_err(Failure::from)
                .and_then(|host| copy_files(host.host(), &destination, plan, &teller).map_err(Failure::Copy));
            // Nobody may be waiting for the outcome any more.
            let _ = tell.send(copied);
        })?;
        let mut guard = Guard { stop, thread: Some(thread) };
        tokio::select! {
            copied = outcome => {
                guard.join();
                copied.unwrap_or_else(|_| Err(CommandError::new("the copying thread ended without a result").into()))
            }
            signal = signals::stop() => Err(Failure::Other(Interruption::Signal(signal?))),
        }
    }

    fn plan(&self, start: pgwal::Lsn, references: &[Reference]) -> Result<FileBackupPlan, CommandError> {
        let facts = self.facts;
        let data_directory = facts.setting("data_directory").map(PathBuf::from).ok_or_else(|| {
            CommandError::new("the server does not tell where its data directory is")
                .hint("grant pg_read_all_settings to the user of conninfo")
        })?;
        let limits = &self.files.tablespace_limits;
        let tablespaces = facts.tablespaces.iter().map(|tablespace| SourceTablespace {
            oid: tablespace.oid,
            location: PathBuf::from(&tablespace.location),
            limit_kib: limits.iter().find(|(name, _)| *name == tablespace.name).map(|(_, limit)| *limit),
        });
        let outside = |path: &PathBuf| !path.starts_with(&data_directory);
        let outside_files = self.files.outside_files(facts);
        for file in facts.included_files.iter().map(PathBuf::from).filter(outside) {
            self.server.output.warning(format!(
                "'{}' holds settings and lies outside of the data directory: it is not part of the backup",
                file.display()
            ));
        }
        Ok(FileBackupPlan {
            tablespaces: tablespaces.collect(),
            outside_files,
            major: facts.version / 10_000,
            system_id: facts.system_id.parse().ok(),
            start,
            pages: facts.pages()?,
            manifest_checksum: self.options.manifest_checksum,
            jobs: self.files.jobs,
            limit_kib: self.options.max_rate_kib,
            references: references.to_vec(),
            remote: self.files.way.is_remote(),
            packing: self.files.packing,
            data_directory,
        })
    }

    /// Where a copy that was cut off is kept until the next try has used it.
    fn aside(&self, info: &BackupInfo) -> PathBuf {
        self.catalog.layout().backup(info.id).with_extension("cut-off")
    }

    fn set_aside(
        &self,
        info: &BackupInfo,
        mut known: Vec<Reference>,
    ) -> Result<Vec<Reference>, Interruption> {
        let (from, to) = (self.catalog.layout().backup(info.id), self.aside(info));
        self.clear_aside(info)?;
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(known),
            Err(error) => return Err(error.into()),
        }
        known.retain(|reference| reference.reuse != Reuse::Compare);
        known.push(options::reference(
            &to,
            &info.tablespaces,
            0,
            Reuse::Compare,
            info.has_compressed_files(),
        ));
        Ok(known)
    }

    fn clear_aside(&self, info: &BackupInfo) -> Result<(), Interruption> {
        match std::fs::remove_dir_all(self.aside(info)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Writes what the copy has told into the backup's record.
    fn record(&self, info: &mut BackupInfo, backup: &FileBackup, end: &BackupEnd) {
        let timeline = backup.start_timeline.or(info.timeline).unwrap_or(self.facts.timeline);
        info.set_begin(timeline, backup.start);
        info.set_end(timeline, end.stop);
        info.end_time = Some(Zoned::now());
        info.backup_label = Some(end.label.clone());
        info.size = Some(backup.total_bytes);
        info.deduplicated_size = Some(backup.new_bytes);
    }
}

/// Runs what takes long and waits for no socket.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let (tell, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("backup-finish".to_owned()).spawn(move || {
        let _ = tell.send(work());
    })?;
    outcome.await.map_err(|_| CommandError::new("a thread ended without a result"))
}

/// Sees to it that nothing is written any more once the copy is given up.
struct Guard {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Guard {
    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}
