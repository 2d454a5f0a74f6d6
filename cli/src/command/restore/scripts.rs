//! The hook scripts around a restore. They run while nothing is locked.

use std::path::Path;

use barkeep_catalog::BackupInfo;
use pgwal::TargetTimeline;
use serde_json::{Map, Value};

use super::flight;
use super::options::{self, Target};
use crate::args::RestoreArgs;
use crate::context::{Context, ServerContext};
use crate::error::CommandError;
use crate::hooks::{Environment, Event, Hooks, Recovery};

/// Runs the scripts before a restore: before it is planned, for they may be what makes it possible.
///
/// # Errors
/// When there is no such backup, or a script wants no restore.
pub(super) fn before(
    context: &mut Context,
    server: &ServerContext,
    args: &RestoreArgs,
    target: &Target,
) -> Result<(), CommandError> {
    let hooks = Hooks::new(server);
    if !hooks.any_before(Event::Recovery) {
        return Ok(());
    }
    let info = match super::named(server, args)? {
        Some(info) => info,
        None => flight::prepare(server, args, &target.recovery, None)?.info,
    };
    let environment = environment(server, args, &info)?;
    hooks.before_listening(context, Event::Recovery, environment)
}

/// Runs the scripts after a restore that has succeeded.
pub(super) fn after(context: &mut Context, server: &ServerContext, args: &RestoreArgs, info: &BackupInfo) {
    let hooks = Hooks::new(server);
    if !hooks.any(Event::Recovery) {
        return;
    }
    match environment(server, args, info) {
        Ok(environment) => hooks.after_listening(context, Event::Recovery, environment),
        Err(error) => server.output.warning(format!("The scripts after the restore were not run: {error}")),
    }
}

fn environment(
    server: &ServerContext,
    args: &RestoreArgs,
    info: &BackupInfo,
) -> Result<Environment, CommandError> {
    let catalog = server.catalog();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let tablespaces = args.tablespace.iter().map(|mapping| (mapping.name.clone(), text(&mapping.location)));
    let destination = options::destination(args)?;
    let recovery = Recovery {
        destination: &destination,
        tablespaces: tablespaces.collect(),
        remote_command: args.remote_ssh_command.as_deref(),
        options: recover_options(args),
    };
    Ok(Environment::of_recovery(catalog.layout(), &catalog.backups()?, info, &recovery))
}

/// The options by Barman's names, those that say nothing left out.
fn recover_options(args: &RestoreArgs) -> Map<String, Value> {
    let text = |value: Option<String>| value.map_or(Value::Null, Value::from);
    let all = [
        ("target_tli", args.target_tli.map_or(Value::Null, timeline)),
        ("target_time", text(args.target_time.clone())),
        ("target_xid", text(args.target_xid.clone())),
        ("target_lsn", text(args.target_lsn.map(|lsn| lsn.to_string()))),
        ("target_name", text(args.target_name.clone())),
        ("target_immediate", Value::from(args.target_immediate)),
        ("exclusive", Value::from(args.exclusive)),
        ("target_action", text(args.target_action.map(|action| action.to_string()))),
        ("standby_mode", Value::from(args.standby_mode)),
        ("recovery_conf_filename", text(args.recovery_conf_filename.clone())),
        ("recovery_option_port", args.recovery_option_port.map_or(Value::Null, Value::from)),
        ("custom_restore_command", text(args.restore_command.clone())),
        ("copy_partial", Value::from(args.partial_wal)),
    ];
    let said = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    all.into_iter().filter(|(_, value)| said(value)).map(|(key, value)| (key.to_owned(), value)).collect()
}

fn timeline(timeline: TargetTimeline) -> Value {
    match timeline {
        TargetTimeline::Id(id) => Value::from(id.as_u32()),
        word => Value::from(word.to_string()),
    }
}
