//! `backup`: takes base backups.
//!
//! The order of things follows Barman's, so that both can work on one home: facts first, then the lock, the record
//! (EMPTY), STARTED, the copy, WAITING_FOR_WALS, and DONE once the WAL that makes the backup consistent is archived.
//! Whatever goes wrong after the record exists ends in FAILED with the reason in it.

pub(crate) mod facts;
mod files;
mod notice;
mod precheck;
mod report;
mod scripts;
mod take;
mod wals;

use std::time::{Duration, Instant};

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{BackupInfo, Catalog, Identity, ServerLock, Status, Task};
use jiff::Zoned;
use pgbase::manifest::UnknownAlgorithm;
use pgwal::replication::ConnInfo;

use crate::args::BackupArgs;
use crate::command::{connect, deletion, name_map};
use crate::config::BackupMethod;
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use crate::output::text;

use facts::ServerFacts;
use files::FilesOptions;
use take::{CopyOptions, Interruption};

/// Backs up the servers one after the other; the failure of one does not keep the others from their turn.
///
/// # Errors
/// When a server is unknown. Failed backups are told of as they happen, and make the exit code 1.
pub fn run(context: &mut Context, args: &BackupArgs) -> Result<(), CommandError> {
    refuse_unavailable(args)?;
    let servers = context.servers(&args.servers, Policy::Operate)?;
    let streams = |server: &ServerContext| server.config.backup_method() == BackupMethod::Postgres;
    warn_of_ignored(context, args, servers.iter().any(streams));
    for server in servers {
        if server.config.passive() {
            server.output.info(format!("Skipping passive server '{}'", server.name()));
            continue;
        }
        let outcome = back_up(context, &server, args);
        notice::tell(&server, &outcome);
        match outcome {
            Ok(_) => {}
            Err(Stop::Failed(error)) => server.output.error(error.to_string()),
            Err(Stop::Interrupted(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Why a server's backup came to nothing.
enum Stop {
    /// The next server may have better luck.
    Failed(CommandError),
    /// Somebody wants barkeep to end.
    Interrupted(CommandError),
}

impl<E: Into<CommandError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Failed(error.into())
    }
}

/// Everything that is decided before the server is asked for anything.
struct Job {
    conninfo: ConnInfo,
    method: Method,
    primary_conninfo: Option<ConnInfo>,
    options: CopyOptions,
}

/// How the server's files come here.
enum Method {
    /// Over the replication protocol, with this connection.
    Stream(ConnInfo),
    /// Copied.
    Files(Box<FilesOptions>),
}

impl Job {
    fn streaming_conninfo(&self) -> Option<&ConnInfo> {
        match &self.method {
            Method::Stream(conninfo) => Some(conninfo),
            Method::Files(_) => None,
        }
    }
}

fn back_up(context: &mut Context, server: &ServerContext, args: &BackupArgs) -> Result<BackupInfo, Stop> {
    let name = server.config.name().to_owned();
    let job = prepare(context, server, args)?;
    let catalog = server.catalog();
    catalog.create_directories()?;
    let lock = lock(server, &catalog)?;

    let facts = context
        .runtime()?
        .block_on(facts::ask(&job.conninfo, job.streaming_conninfo()))
        .map_err(|error| error.hint(format!("nothing was stored; see: barkeep check {name}")))?;
    check_identity(&catalog, &facts, &name)?;
    precheck::run(context, server, args.check_timeout)?;
    if let Method::Files(files) = &job.method {
        files.check_resume(&catalog)?;
        files.check_names(&facts)?;
    }

    let started = Instant::now();
    let begin_time = Zoned::now();
    let mut info = catalog.start_backup(&begin_time)?;
    let id = info.id;
    facts.record(&mut info);
    info.backup_name.clone_from(&args.name);
    let lock = match scripts::before(context, server, &catalog, &info, lock) {
        Ok(lock) => lock,
        Err(error) => {
            let stop = fail(server, &catalog, &mut info, "starting backup", Interruption::Command(error));
            scripts::after(context, server, &catalog, &info);
            return Err(stop);
        }
    };
    let (catalog_ref, facts_ref, options) = (&catalog, &facts, &job.options);
    let taken = match &job.method {
        Method::Stream(conninfo) => {
            let copy = take::Copy { server, catalog: catalog_ref, facts: facts_ref, options, begin_time };
            context.runtime()?.block_on(copy.run(&job, conninfo, &mut info))
        }
        Method::Files(files) => {
            let copy =
                files::Copy { server, catalog: catalog_ref, facts: facts_ref, options, files, begin_time };
            context.runtime()?.block_on(copy.run(&job, &mut info))
        }
    };
    if let Err(interruption) = taken {
        let stop = fail(server, &catalog, &mut info, "copying files", interruption);
        drop(lock);
        scripts::after(context, server, &catalog, &info);
        return Err(stop);
    }
    let elapsed = started.elapsed();
    report::copied(server, &info, elapsed);
    if let Err(error) = context.runtime()?.block_on(name_map::save(server, &catalog, &job.conninfo)) {
        server.output.warning(format!("The names of relations were not saved: {error}"));
    }
    let is_first = catalog.backups()?.usable_before(id).is_none();
    if is_first {
        server.output.info(format!("This is the first backup for server {name}"));
    }
    drop(lock);

    let patience = args.wait.then(|| args.wait_timeout.map(|seconds| Duration::from_secs(seconds.into())));
    if !args.wait {
        scripts::after(context, server, &catalog, &info);
    }
    let waited = context.runtime()?.block_on(wals::complete(server, &catalog, &mut info, patience));
    if args.wait {
        scripts::after(context, server, &catalog, &info);
    }
    if is_first && info.status == Status::Done && !server.config.worm_mode() {
        deletion::purge_before_first(server)?;
    }
    report::finished(server, &info);
    match waited {
        Ok(()) if info.status == Status::Failed => {
            let reason = info.error.unwrap_or_default();
            Err(CommandError::new(format!("Backup {id} of server '{name}' failed: {reason}")).into())
        }
        Ok(()) => Ok(info),
        Err(wals::WaitError::Interrupted(signal)) => Err(Stop::Interrupted(CommandError::new(format!(
            "{signal} while waiting for WAL: backup {id} is complete but for it, and is {}",
            info.status
        )))),
        Err(wals::WaitError::Failed(error)) => Err(error.into()),
    }
}

/// The server's backup lock. What has been left unfinished by others is recorded as failed.
fn lock(server: &ServerContext, catalog: &Catalog) -> Result<ServerLock, CommandError> {
    let name = server.name();
    let busy = |pid: Option<u32>| {
        let who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        CommandError::new(format!("A backup of server '{name}' is already running{who}"))
    };
    let lock = match ServerLock::try_acquire(catalog.layout(), Task::Backup) {
        Ok(lock) => lock,
        Err(LockError::Held { pid, .. }) => return Err(busy(pid)),
        Err(error) => return Err(error.into()),
    };
    for id in catalog.sweep_locked(&lock)? {
        server
            .output
            .warning(format!("Backup {id} of server '{name}' was left unfinished: it is marked as FAILED"));
    }
    // One that is not dead, with the lock free, waits for its hook scripts.
    let backups = catalog.backups()?;
    let waiting = backups.iter().find(|info| matches!(info.status, Status::Empty | Status::Started));
    if let Some(waiting) = waiting {
        let holder = ServerLock::holder(catalog.layout(), Task::OneBackup(waiting.id))?;
        return Err(busy(holder.and_then(|holder| holder.pid)));
    }
    Ok(lock)
}

/// What the configuration and the options say, with everything wrong in them found before anything is touched.
fn prepare(context: &Context, server: &ServerContext, args: &BackupArgs) -> Result<Job, CommandError> {
    let config = &server.config;
    let name = config.name();
    let conninfo = connect::sql(context, server)?;
    let method = match config.backup_method() {
        BackupMethod::Postgres => {
            if args.resume {
                return Err(CommandError::new(
                    "--resume goes on with copies of files: backup_method = rsync",
                ));
            }
            let mut streaming = connect::backup_streaming(context, server)?;
            streaming
                .set("application_name", config.streaming_backup_name())
                .map_err(|error| CommandError::because("streaming_backup_name is wrong", &error))?;
            Method::Stream(streaming)
        }
        BackupMethod::Rsync | BackupMethod::LocalRsync => {
            Method::Files(Box::new(files::prepare(server, args)?))
        }
        BackupMethod::Snapshot | BackupMethod::LocalToCloud => {
            let method = config.text("backup_method").unwrap_or_default();
            return Err(CommandError::new(format!(
                "backup_method = {method} of server '{name}' is not available"
            ))
            .hint("set backup_method = postgres, rsync or local-rsync"));
        }
    };
    let primary_conninfo = connect::primary(context, server)?;
    let manifest_checksum = config.manifest_checksums().parse().map_err(|error: UnknownAlgorithm| {
        CommandError::because(format!("manifest_checksums of server '{name}' is wrong"), &error)
    })?;
    let max_rate_kib = match args.bwlimit {
        Some(0) => None,
        Some(limit) => Some(limit),
        None => config.bandwidth_limit_kib(),
    };
    let options = CopyOptions {
        immediate_checkpoint: args.immediate_checkpoint().unwrap_or_else(|| config.immediate_checkpoint()),
        max_rate_kib,
        manifest_checksum,
        retry_times: args.retry_times().unwrap_or_else(|| config.basebackup_retry_times()),
        retry_sleep: args
            .retry_sleep
            .map_or_else(|| config.basebackup_retry_sleep(), |seconds| Duration::from_secs(seconds.into())),
    };
    Ok(Job { conninfo, method, primary_conninfo, options })
}

fn refuse_unavailable(args: &BackupArgs) -> Result<(), CommandError> {
    match args.incremental {
        Some(_) => Err(CommandError::new("incremental backups are not available in this version of barkeep")),
        None => Ok(()),
    }
}

/// Options of other backup methods are accepted, and named once.
fn warn_of_ignored(context: &Context, args: &BackupArgs, streams: bool) {
    let given = [
        ("--reuse-backup", streams && args.reuse_backup.is_some()),
        ("--jobs", streams && args.jobs.is_some()),
        ("--jobs-start-batch-period", args.jobs_start_batch_period.is_some()),
        ("--jobs-start-batch-size", args.jobs_start_batch_size.is_some()),
        ("--keepalive-interval", streams && args.keepalive_interval.is_some()),
        ("--manifest", streams && args.manifest),
        ("--no-manifest", args.no_manifest),
        ("--cloud-staging-directory", args.cloud_staging_directory.is_some()),
        ("--cloud-staging-max-size", args.cloud_staging_max_size.is_some()),
    ];
    let ignored: Vec<&str> =
        given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect();
    if !ignored.is_empty() {
        let plural = if ignored.len() == 1 { "Option without" } else { "Options without" };
        context.output().warning(format!("{plural} effect on this backup: {}", ignored.join(", ")));
    }
}

/// A backup of another cluster must not get into this one's catalogue.
fn check_identity(catalog: &Catalog, facts: &ServerFacts, name: &str) -> Result<(), CommandError> {
    match catalog.identity()? {
        Some(recorded) if recorded.system_id != facts.system_id => Err(CommandError::new(format!(
            "Server '{name}' is another cluster than the one backed up before: its system identifier is {}, \
             {} is recorded",
            facts.system_id, recorded.system_id
        ))
        .hint(format!(
            "point conninfo at the right cluster, or use another server name for the new one; the record is {}",
            catalog.layout().identity().display()
        ))),
        Some(_) => Ok(()),
        None => {
            let identity = Identity { system_id: facts.system_id.clone(), version: facts.major_version() };
            Ok(catalog.record_identity(&identity)?)
        }
    }
}

/// Records a failure with its reason; what was copied stays for whoever wants to look at it.
fn fail(
    server: &ServerContext,
    catalog: &Catalog,
    info: &mut BackupInfo,
    action: &str,
    interruption: Interruption,
) -> Stop {
    let name = server.config.name();
    let (reason, hint) = match &interruption {
        Interruption::Signal(signal) => (signal.to_string(), None),
        Interruption::Error(error) => (chain(error), take::hint(error)),
        Interruption::Command(error) => (error.to_string(), None),
    };
    info.set_failed(action, &reason);
    info.end_time = Some(Zoned::now());
    if let Err(error) = catalog.save(info) {
        server.output.error(format!("Backup {} can't be marked as failed: {}", info.id, chain(&error)));
    }
    report::finished(server, info);
    let mut error = CommandError::new(format!("Backup {} of server '{name}' failed: {reason}", info.id));
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    match interruption {
        Interruption::Signal(_) => Stop::Interrupted(error),
        Interruption::Error(_) | Interruption::Command(_) => Stop::Failed(error),
    }
}

/// `1 second`, as Barman has it.
fn seconds(elapsed: Duration) -> String {
    text::duration(elapsed)
}
