//! `restore` (once `recover`): a backup and archived WAL become a data directory that starts, and stops where it was
//! told to.
//!
//! Everything that can be wrong is found first; a refused restore has touched nothing.

pub(super) mod choose;
mod flight;
mod foresee;
mod options;
mod remote;
mod report;
mod scripts;
pub(super) mod supply;
mod tell;
mod watch;

use std::path::Path;
use std::time::{Duration, Instant};

use barkeep_catalog::lock::SharedLock;
use barkeep_catalog::{BackupInfo, backup_info};
use jiff::Zoned;
use pgbase::recovery::{RecoveryMode, RecoverySettings};
use pgbase::restore::{
    DestinationState, ExecuteOptions, PlanError, RestoreError, RestorePlan, RestoreRequest, Retry, WalSupply,
    look_at, look_at_remote, owner_for, plan_restore,
};
use pgwal::RecoveryTarget;

use super::stored_backup;
use crate::args::RestoreArgs;
use crate::config::ServerConfig;
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use crate::output::Output;
use flight::Flight;
use options::Target;
use remote::Remote;

/// The copy of the backup's record that Barman leaves in a restored cluster.
const RECOVER_INFO: &str = ".barman-recover.info";
/// The newest version whose settings are known; those for a target are the same in all.
const NEWEST_MAJOR: u32 = 18;
/// Where recovery settings go unless the user says otherwise.
const SETTINGS_FILE: &str = "postgresql.auto.conf";

/// Restores a backup.
///
/// # Errors
/// When the restore is impossible as asked, or fails on the way; what it had made is removed then.
pub fn run(context: &mut Context, args: &RestoreArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let output = server.output.clone();
    options::refuse_unavailable(args)?;
    let target = options::target(args, &output)?;
    if args.plan {
        let Planned { info, plan, lock: _lock, flight, .. } = plan(context, &server, args, &target)?;
        flight.tell(&output);
        return foresee::tell(&output, &server.catalog(), &info, &plan);
    }
    scripts::before(context, &server, args, &target)?;
    let Planned { info, plan, lock, remote, flight } = plan(context, &server, args, &target)?;

    output.info(format!(
        "Starting {} restore for server {} using backup {}",
        if remote.is_some() { "remote" } else { "local" },
        server.config.name(),
        info.id
    ));
    output.info(format!("Destination directory: {}", plan.trees[0].to.display()));
    if let Some(told) = &target.told {
        output.info(told);
    }
    flight.tell(&output);
    for warning in &plan.warnings {
        output.warning(warning.to_string());
    }
    let (begun, started) = (Zoned::now(), Instant::now());
    let owner = match &remote {
        // Whoever is logged in there makes the files.
        Some(_) => None,
        None => owner_for(&plan.trees[0].to, &plan.backup.data).map_err(|error| {
            CommandError::because("the owner of the restored files can't be found out", &error)
        })?,
    };
    let options = ExecuteOptions {
        jobs: stored_backup::jobs(args.jobs, &server.config),
        owner,
        retry: Retry {
            times: args.retry_times().unwrap_or_else(|| server.config.basebackup_retry_times()),
            pause: args.retry_sleep.map_or_else(
                || server.config.basebackup_retry_sleep(),
                |sleep| Duration::from_secs(sleep.into()),
            ),
        },
    };
    let limit = args.bwlimit.or(server.config.bandwidth_limit_kib());
    // Only what this machine can do unhindered says how long the next restore will take.
    let is_typical = remote.is_none() && limit.is_none_or(|limit| limit == 0);
    let is_remote = remote.is_some();
    let done = watch::execute(context, &output, &plan, options, limit, remote)?;
    let done = done.map_err(|error| {
        let known = supply::look_again(&server.layout(), &error).then(|| server.name());
        refused(&error, &plan, is_remote, known)
    })?;
    if is_typical && done.delta.is_none() {
        foresee::learn(&server.catalog(), &info, &plan, &done, started.elapsed());
    }
    drop(lock);
    scripts::after(context, &server, args, &info);
    report::finished(&output, &plan, &done, &begun, started.elapsed());
    if args.fetches_wal(&server.config) {
        output.warning(format!(
            "The restored server fetches its WAL with get-wal: before you start it, make sure that the \
             restore_command in {} works for the user that runs PostgreSQL",
            plan.settings_file
        ));
    }
    Ok(())
}

/// What a restore will do, and what it holds meanwhile.
struct Planned {
    info: BackupInfo,
    plan: RestorePlan,
    lock: Option<SharedLock>,
    remote: Option<Remote>,
    flight: Told,
}

/// Whether a server could follow the target, wherever it lies.
fn check_wish(target: &RecoveryTarget, standby: bool) -> Result<(), CommandError> {
    let mode = if standby { RecoveryMode::Standby } else { RecoveryMode::Archive };
    let settings = RecoverySettings { mode, target: target.clone(), ..RecoverySettings::default() };
    settings.render(NEWEST_MAJOR).map(|_| ()).map_err(|error| CommandError::new(chain(&error)))
}

/// Works out what to do. Touches nothing but the WAL that waits to be archived.
fn plan(
    context: &Context,
    server: &ServerContext,
    args: &RestoreArgs,
    target: &Target,
) -> Result<Planned, CommandError> {
    let catalog = server.catalog();
    let layout = catalog.layout();
    let destination = options::destination(args)?;
    let get_wal = args.fetches_wal(&server.config);
    let wal = if get_wal {
        let restore_command = match &args.restore_command {
            Some(command) => command.clone(),
            None if args.remote_ssh_command.is_some() => remote::get_wal_command(
                &context.config().global.barman_user,
                server.config.name(),
                !args.standby_mode,
            )?,
            None => supply::get_wal_command(context.config_path(), server.config.name(), !args.standby_mode)?,
        };
        WalSupply::Fetch { restore_command }
    } else {
        if args.restore_command.is_some() {
            return Err(CommandError::new("--restore-command is of use with --get-wal only"));
        }
        let staging = args.staging_wal_directory.as_deref().map(options::absolute).transpose()?;
        WalSupply::Copy { partials: args.partial_wal, staging }
    };
    // Whoever wishes what no server can do should not have to wait for a look at the archive.
    check_wish(&target.recovery, args.standby_mode)?;
    // Looked for before anything is archived: a wrong name should not cost the time.
    let named = named(server, args)?;
    let lock = named.as_ref().map(|info| stored_backup::keep_from_deletion(server, info.id)).transpose()?;
    if !args.skip_archive_wal && !args.plan {
        archive_first(server);
    }
    let Flight { info, target, foreseen, lines, warnings } =
        flight::prepare(server, args, &target.recovery, named)?;
    let lock = match lock {
        Some(lock) => lock,
        None => stored_backup::keep_from_deletion(server, info.id)?,
    };
    let request = |available_wal, histories, archived_until| -> Result<RestoreRequest, CommandError> {
        Ok(RestoreRequest {
            backup: choose::facts(&catalog, &info)?,
            destination: destination.clone(),
            delta: args.delta_restore().unwrap_or_else(|| server.config.recovery_delta()),
            tablespace_locations: args
                .tablespace
                .iter()
                .map(|mapping| Ok((mapping.name.clone(), options::absolute(&mapping.location)?)))
                .collect::<Result<_, CommandError>>()?,
            target: target.clone(),
            standby: args.standby_mode,
            wal: wal.clone(),
            available_wal,
            histories,
            foreseen,
            archived_until,
            settings_file: args.recovery_conf_filename.clone().unwrap_or_else(|| SETTINGS_FILE.to_owned()),
            extra_files: vec![(
                RECOVER_INFO.to_owned(),
                backup_info::render(&info).map(String::into_bytes).unwrap_or_default(),
            )],
        })
    };
    let available = supply::available(layout, info.segment_size, args.partial_wal)?;
    let until = supply::archived_until(&available);
    let request = request(available, supply::histories(layout)?, until)?;
    let remote = match &args.remote_ssh_command {
        Some(command) => Some(Remote::connect(server, command, args.network_compression(), &request)?),
        None => None,
    };
    let look = |path: &Path| match &remote {
        Some(remote) => look_at_remote(remote.host.host(), path),
        None => look_at(path),
    };
    let plan = plan_restore(request, &look).map_err(|error| impossible(&error, server))?;
    Ok(Planned { info, plan, lock, remote, flight: Told { lines, warnings } })
}

/// The backup that was asked for by name; `None` when it is to be chosen.
fn named(server: &ServerContext, args: &RestoreArgs) -> Result<Option<BackupInfo>, CommandError> {
    if args.backup == "auto" {
        return Ok(None);
    }
    let info = stored_backup::find(server, &args.backup)?;
    stored_backup::check_restorable(&info, server.name())?;
    Ok(Some(info))
}

/// What pre-flight has to say.
struct Told {
    lines: Vec<String>,
    warnings: Vec<String>,
}

impl Told {
    fn tell(&self, output: &Output) {
        self.lines.iter().for_each(|line| output.info(line));
        self.warnings.iter().for_each(|warning| output.warning(warning));
    }
}

/// WAL that was received but not archived yet may be just what the target needs. A restore does not fail because of
/// it: there is nothing better to do with what is there.
fn archive_first(server: &ServerContext) {
    if let Err(error) = super::archive_wal::archive(server, super::archive_wal::Verbosity::Brief) {
        server.output.warning(format!("Restoring from what is archived already: {error}"));
    }
}

impl RestoreArgs {
    /// Whether the restored server fetches its own WAL.
    fn fetches_wal(&self, config: &ServerConfig) -> bool {
        self.get_wal().unwrap_or_else(|| config.recovery_get_wal())
    }
}

/// A refused plan, with what to do about it.
fn impossible(error: &PlanError, server: &ServerContext) -> CommandError {
    let name = server.config.name();
    let text = CommandError::new(chain(error));
    match error {
        PlanError::NotEmpty { interrupted: true, .. } => {
            text.hint(
                "an earlier restore was interrupted there: complete it with --delta-restore, or remove what is in it and \
                 restore again",
            )
        }
        PlanError::NotEmpty { .. } | PlanError::NotADirectory { .. } => {
            text.hint("choose another place, or empty this one; --tablespace NAME:LOCATION moves a tablespace")
        }
        PlanError::TimeBeforeEnd { .. } | PlanError::LsnBeforeEnd { .. } => {
            text.hint(format!("choose an older backup, or auto; see: barkeep list-backups {name}"))
        }
        PlanError::MissingWal { .. } => text.hint(format!(
            "it may still arrive: see barkeep show-backup {name}; a segment that is still being received is used \
             with --partial-wal"
        )),
        PlanError::Timeline(_) => text.hint("see the .history files in the WAL archive"),
        _ => text,
    }
}

/// A restore that failed on the way; over a segment that is damaged, as is known of this server from now on.
fn refused(error: &RestoreError, plan: &RestorePlan, is_remote: bool, damaged: Option<&str>) -> CommandError {
    let text = CommandError::new(format!("Restore of backup {} failed: {}", plan.backup.id, chain(error)));
    match error {
        RestoreError::NoSpace { .. } => {
            text.hint("nothing was copied; free some space or choose another place")
        }
        RestoreError::NoControlFile { .. } | RestoreError::UnknownTablespace { .. } => text
            .hint("the backup is damaged or was made in a way that is not supported yet; nothing was copied"),
        RestoreError::Running { .. } | RestoreError::OtherCluster { .. } | RestoreError::Busy { .. } => {
            text.hint("nothing was touched")
        }
        RestoreError::Host(_) => text.hint(
            "look at the destination: what is there can't be started, and is completed by the same with --delta-restore",
        ),
        _ => {
            let is_left = if is_remote { plan.delta } else { left_behind(plan) };
            let left =
                if is_left { "the destination can't be started as it is" } else { "nothing of it was left behind" };
            text.hint(match damaged {
                Some(name) => {
                    format!("{left}; barkeep windows {name} tells what can be restored without this segment")
                }
                None if is_left => format!("{left}; repeat the restore with --delta-restore to complete it"),
                None => left.to_owned(),
            })
        }
    }
}

/// Whether a restore that failed is still there, because there had been something before it.
fn left_behind(plan: &RestorePlan) -> bool {
    let state = plan.trees.first().and_then(|tree| look_at(&tree.to).ok());
    matches!(state, Some(DestinationState::NotEmpty { interrupted: true, .. }))
}
