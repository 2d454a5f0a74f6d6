//! `drill`: proves that a backup restores, by restoring it to a scratch directory, recovering, starting and asking it.
//!
//! Nothing of the original is touched: every tablespace is remapped into the scratch directory, the server gets a
//! configuration of the drill's own (no TCP, a private socket, no archiving, nothing inherited but the recovery
//! settings), and what the drill made is removed at its end, however it ends.

mod checks;
mod expect;
mod scratch;
mod server;
mod sweep;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barkeep_catalog::drill::Drill;
use barkeep_catalog::lock::LockError;
use barkeep_catalog::preflight::Transaction;
use barkeep_catalog::rates::{Rates, blend};
use barkeep_catalog::verification::{Verification, Verified};
use barkeep_catalog::{BackupInfo, Catalog, ServerLock};
use clap::ValueEnum;
use pgbase::checksum::{PageGeometry, check_cluster};
use pgbase::restore::{
    ExecuteOptions, Foreseen, PlanWarning, RestoreError, RestoreEvent, RestoreObserver, RestorePlan,
    RestoreReport, RestoreRequest, Retry, WalSupply, execute, look_at, owner_for, plan_restore,
    resolve_timeline, select_wal,
};
use pgwal::{Lsn, RecoveryTarget, TargetAction, TargetKind};
use serde_json::json;

use super::restore::{choose, supply};
use super::signals::{self, Signal};
use super::stored_backup;
use crate::args::{DrillArgs, DrillCheck, DrillTarget};
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use crate::output::text;
use checks::Ended;
use scratch::Scratch;
use server::Server;

/// Where recovery settings are.
const SETTINGS_FILE: &str = "postgresql.auto.conf";

/// What a server and the programs it calls say of a full disk.
const NO_SPACE: &str = "No space left on device";

/// Tries a backup out.
///
/// # Errors
/// When the drill could not be carried out, or what was restored is not sound.
pub fn run(context: &mut Context, args: &DrillArgs) -> Result<(), CommandError> {
    // PostgreSQL refuses that, but only after everything has been restored.
    if rustix::process::geteuid().is_root() {
        return Err(CommandError::new("PostgreSQL does not run as root, and so no drill does")
            .hint("run it as an ordinary user who may read the backups (barman_user in the configuration)"));
    }
    let server = context.server(&args.server, Policy::Stored)?;
    let catalog = server.catalog();
    let info = pick(&server, &catalog, &args.backup)?;
    let lock = stored_backup::keep_from_deletion(&server, info.id)?;
    let major = info.version.unwrap_or_default() / 10_000;
    let check = match args.check {
        Some(check) => check,
        None => DrillCheck::from_str(server.config.drill_check(), false)
            .map_err(|_| CommandError::new(format!("drill_check of server '{}' is none", server.name())))?,
    };
    let programs = server::find_programs(args.pg_bin.as_deref(), &server.config, major)?;
    let _alone = alone(&server)?;
    let scratch = Scratch::create(&server, args.directory.as_deref())?;
    let Aim { plan, target, expected } = aim(&catalog, &info, scratch.path(), args.target)?;
    let output = server.output.clone();
    output.info(format!(
        "Drill of server {} with backup {}: restoring below {}, recovering to {target}",
        server.name(),
        info.id,
        scratch.path().display()
    ));

    let jobs = stored_backup::jobs(args.jobs, &server.config);
    let options = ExecuteOptions {
        jobs,
        owner: owner_for(scratch.path(), &plan.backup.data).map_err(|error| {
            CommandError::because("the owner of the restored files can't be found out", &error)
        })?,
        retry: Retry::NEVER,
    };
    let tried = context.runtime()?.block_on(async {
        let mut stop = pin!(signals::stop());
        let begun = Instant::now();
        let report = restore(&plan, options, stop.as_mut()).await?.map_err(|error| {
            supply::look_again(&server.layout(), &error);
            CommandError::new(format!("Backup {} can't be restored: {}", info.id, chain(&error)))
        })?;
        let restore_time = begun.elapsed();
        drop(lock);
        scratch.configure(&plan)?;
        let begun = Instant::now();
        let running = Server::start(&programs, &scratch)?;
        let outcome = tokio::select! {
            biased;
            signal = stop.as_mut() => Err(Ended::Unjudged(interrupted(signal))),
            outcome = checks::run(&running, args, check, expected.as_ref()) => outcome,
        };
        let log = running.stop();
        let found = match outcome {
            Ok(found) => found,
            Err(Ended::Unjudged(error)) => return Err(error),
            Err(Ended::Failed(error)) => {
                checks::Found { faults: vec![failure(&error, &log)], ..checks::Found::default() }
            }
        };
        // A full disk says nothing about the backup, whatever else went wrong for it.
        if !found.faults.is_empty() && log.contains(NO_SPACE) {
            let what =
                format!("The drill ran out of space below {}: it has no result", scratch.path().display());
            return Err(CommandError::new(what).hint("make room, or name a larger place with --directory"));
        }
        let recovery_time = found.recovered.map_or_else(|| begun.elapsed(), |at| at.duration_since(begun));
        Ok(Tried { report, found, restore_time, recovery_time })
    });
    let Tried { report, mut found, restore_time, recovery_time } = tried?;
    if let Some(geometry) = found.wants_pages {
        check_pages(&scratch.data(), geometry, jobs, &mut found);
    }
    // The end was asked for, and what is behind a gap can't be had.
    let gaps = plan.warnings.iter().filter(|warning| matches!(warning, PlanWarning::Gap { .. }));
    gaps.for_each(|gap| found.fault(gap.to_string()));
    let drill = Drill {
        id: info.id,
        at: jiff::Timestamp::now(),
        target,
        bytes: report.bytes,
        restore_seconds: restore_time.as_secs_f64(),
        recovery_seconds: recovery_time.as_secs_f64(),
        last_commit: found.last_commit.clone(),
        faults: found.faults.clone(),
    };
    remember(&server, &catalog, &info, &drill, &plan, &report);
    tell(&server, &drill, &found)
}

/// What came of it.
struct Tried {
    report: RestoreReport,
    found: checks::Found,
    restore_time: Duration,
    recovery_time: Duration,
}

/// Restores in a thread of its own, until it is told to stop.
async fn restore(
    plan: &RestorePlan,
    options: ExecuteOptions,
    stop: Pin<&mut impl Future<Output = io::Result<Signal>>>,
) -> Result<Result<RestoreReport, RestoreError>, CommandError> {
    let ear = Arc::new(Ear::default());
    let (plan, heard) = (plan.clone(), Arc::clone(&ear));
    let mut work = tokio::task::spawn_blocking(move || execute(&plan, options, &*heard));
    tokio::select! {
        done = &mut work => {
            done.map_err(|error| CommandError::because("the restore ended unexpectedly", &error))
        }
        signal = stop => {
            ear.0.store(true, Ordering::Relaxed);
            // What it has begun to write is removed once it has ended.
            let _ = work.await;
            Err(interrupted(signal))
        }
    }
}

/// Whether a restore is to end.
#[derive(Default)]
struct Ear(AtomicBool);

impl RestoreObserver for Ear {
    fn event(&self, _: RestoreEvent) {}

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// It tells nothing about the backup, so nothing is recorded.
fn interrupted(signal: io::Result<Signal>) -> CommandError {
    match signal {
        Ok(signal) => CommandError::new(format!("The drill was {signal}: it has no result")),
        Err(error) => CommandError::because("signals can't be awaited", &error),
    }
}

/// What failed, with the last words of the server's log.
fn failure(error: &CommandError, log: &str) -> String {
    let last: Vec<&str> =
        log.lines().filter(|line| line.contains("FATAL") || line.contains("PANIC")).collect();
    match last.last() {
        Some(line) => format!("{error}: {}", line.trim()),
        None => error.to_string(),
    }
}

fn pick(server: &ServerContext, catalog: &Catalog, wish: &str) -> Result<BackupInfo, CommandError> {
    if wish != "random" {
        let info = stored_backup::find(server, wish)?;
        stored_backup::check_restorable(&info, server.name())?;
        return Ok(info);
    }
    let backups = catalog.backups()?;
    let usable: Vec<&BackupInfo> =
        backups.iter().filter(|info| stored_backup::check_restorable(info, server.name()).is_ok()).collect();
    let count = usable.len().max(1) as u64;
    usable.get((random() % count) as usize).map(|info| (*info).clone()).ok_or_else(|| {
        CommandError::new(format!("Server '{}' has no backup that could be restored", server.name()))
            .hint(format!("take one with: barkeep backup {}", server.name()))
    })
}

/// A number that nobody foresees; not for secrets.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What a drill aims at.
struct Aim {
    plan: RestorePlan,
    /// In words.
    target: String,
    /// The last commit that has to be there then.
    expected: Option<Transaction>,
}

/// Plans the restore into the scratch directory.
fn aim(catalog: &Catalog, info: &BackupInfo, scratch: &Path, wish: DrillTarget) -> Result<Aim, CommandError> {
    let archive = expect::Archive::load(catalog, info)?;
    let layout = catalog.layout();
    let backup = choose::facts(catalog, info)?;
    let available = supply::available(layout, info.segment_size, false)?;
    let histories = supply::histories(layout)?;
    let kind = match wish {
        DrillTarget::End => None,
        DrillTarget::Immediate => Some(TargetKind::Immediate),
        DrillTarget::Random => {
            let resolved = resolve_timeline(&backup, None, &histories)
                .map_err(|error| CommandError::new(chain(&error)))?;
            let selected = select_wal(&backup, &resolved.history, None, None, &available, false);
            // Recovery stops at a record that starts at the target or later: the last segment has one, or none at all.
            let last = selected.last.and_then(|segment| segment.first_lsn(info.segment_size));
            let room = last.map_or(0, |last| last.as_u64().saturating_sub(backup.end.as_u64()));
            Some(match room {
                0 => TargetKind::Immediate,
                room => TargetKind::Lsn(Lsn::from_u64(backup.end.as_u64() + random() % room)),
            })
        }
    };
    let told = match &kind {
        None => "the end of the archived WAL".to_owned(),
        Some(TargetKind::Lsn(lsn)) => format!("LSN {lsn}"),
        Some(_) => "the end of the backup".to_owned(),
    };
    let locations = backup
        .tablespaces
        .iter()
        .map(|tablespace| (tablespace.name.clone(), scratch.join(format!("tablespace-{}", tablespace.oid))))
        .collect();
    let action = kind.as_ref().map(|_| TargetAction::Promote);
    let target = RecoveryTarget { kind, action, ..RecoveryTarget::default() };
    let expected = archive.last_commit(catalog, info, &backup, &target)?;
    let request = RestoreRequest {
        backup,
        destination: scratch.join("data"),
        delta: false,
        tablespace_locations: locations,
        target,
        standby: false,
        wal: WalSupply::Copy { partials: false, staging: None },
        available_wal: available,
        histories,
        foreseen: Foreseen::Nothing,
        archived_until: None,
        settings_file: SETTINGS_FILE.to_owned(),
        extra_files: Vec::new(),
    };
    let plan = plan_restore(request, &look_at).map_err(|error| {
        CommandError::new(format!("Backup {} can't be restored: {}", info.id, chain(&error)))
    })?;
    Ok(Aim { plan, target: told, expected })
}

/// One drill at a time: two would measure each other.
fn alone(server: &ServerContext) -> Result<ServerLock, CommandError> {
    let private = server.layout().private();
    barkeep_transport::durable::create_dir_all(&private)?;
    match ServerLock::acquire_path_within(&private.join("drill.lock"), Duration::ZERO) {
        Ok(lock) => Ok(lock),
        Err(LockError::Held { .. }) => {
            Err(CommandError::new(format!("Another drill of server '{}' is going on", server.name()))
                .hint("wait for its end"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks at every page of the stopped cluster.
fn check_pages(data: &Path, geometry: PageGeometry, jobs: usize, found: &mut checks::Found) {
    let mut wrong = Vec::new();
    let checked = check_cluster(data, geometry, jobs, |path, page| {
        if wrong.len() < checks::FAULTS_MAX {
            wrong.push(format!("page {} of file {} has a wrong checksum", page.block, path.display()));
        }
    });
    wrong.into_iter().for_each(|fault| found.fault(fault));
    match checked {
        Ok(checked) => found.pages = Some(checked),
        Err(error) => found.fault(format!("the files of the restored cluster can't be read: {error}")),
    }
}

/// Keeps the result, the verdict and the rates where others find them.
fn remember(
    server: &ServerContext,
    catalog: &Catalog,
    info: &BackupInfo,
    drill: &Drill,
    plan: &RestorePlan,
    report: &RestoreReport,
) {
    let verdict = if drill.faults.is_empty() { Verified::Sound } else { Verified::Damaged };
    let verification = Verification {
        id: info.id,
        verdict,
        at: drill.at,
        files: report.files,
        bytes: report.bytes,
        wal: true,
    };
    let wal_bytes = plan.wal.len() as u64 * info.segment_size.bytes();
    let record = || {
        let known = catalog.rates()?;
        let rates = Rates {
            copy: blend(known.copy, report.bytes + wal_bytes, drill.restore_seconds),
            replay: if drill.faults.is_empty() {
                blend(known.replay, wal_bytes, drill.recovery_seconds)
            } else {
                known.replay
            },
        };
        catalog.record_rates(rates)?;
        catalog.record_drill(drill)?;
        catalog.record_verification(&verification)
    };
    if let Err(error) = record() {
        server.output.warning(format!("The result could not be recorded: {}", chain(&error)));
    }
}

fn tell(server: &ServerContext, drill: &Drill, found: &checks::Found) -> Result<(), CommandError> {
    let output = &server.output;
    for fault in &drill.faults {
        output.error(fault);
    }
    for answer in &found.answers {
        output.info(format!("Answer: {answer}"));
    }
    output.set(
        server.name(),
        json!({"backup_id": drill.id.to_string(), "target": drill.target, "passed": drill.faults.is_empty(),
               "bytes": drill.bytes, "restore_seconds": drill.restore_seconds,
               "recovery_seconds": drill.recovery_seconds, "databases": found.databases,
               "indexes_checked": found.indexes, "tables_checked": found.tables, "answers": found.answers,
               "reached": found.reached, "last_commit": drill.last_commit,
               "page_bytes_checked": found.pages.map(|pages| pages.bytes), "faults": drill.faults}),
    );
    let seconds = |seconds: f64| text::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    output.info(format!(
        "Restored {} in {}; recovered in {}, up to {}",
        text::size_u64(drill.bytes),
        seconds(drill.restore_seconds),
        seconds(drill.recovery_seconds),
        found.reached.as_deref().unwrap_or("an unknown position"),
    ));
    if found.indexes > 0 {
        output.info(format!(
            "Checked {} databases, {} tables and {} indexes",
            found.databases, found.tables, found.indexes
        ));
    } else {
        output.info(format!("Opened {} databases", found.databases));
    }
    if let Some(commit) = &drill.last_commit {
        output.info(format!(
            "The last commit is the one foretold by the archive: transaction {} at {}, {}",
            commit.xid, commit.lsn, commit.time
        ));
    }
    if found.without_checksums {
        output.warning("The cluster has no data checksums: amcheck has looked at it instead");
    }
    if let Some(pages) = found.pages {
        output.info(format!(
            "Checked the checksum of every page: {} in {} files",
            text::size_u64(pages.bytes),
            pages.files
        ));
    } else if found.unchecked > 0 {
        output.warning(format!(
            "{} databases could not be checked: the extension amcheck is not installed for this server",
            found.unchecked
        ));
    }
    if drill.faults.is_empty() {
        output.info(format!("Backup {} passed the drill", drill.id));
        Ok(())
    } else {
        Err(CommandError::new(format!("Backup {} of server '{}' failed the drill", drill.id, server.name()))
            .hint("the result is recorded; take a new backup and look for the cause"))
    }
}
