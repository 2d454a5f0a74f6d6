//! `sync-info`: what a backup host that copies this one (Barman's passive node) needs to know. And what to do instead of
//! the commands that are not there.

use barkeep_catalog::sync::{self, Reached};
use barkeep_catalog::xlogdb::WalEntry;
use serde_json::{Value, json};

use super::config_values::{self, Spelling};
use super::diagnose;
use super::shown::{ctime, isoformat};
use crate::args::{BackupIdArgs, ServerArgs, SyncInfoArgs};
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use crate::output::text;

/// Tells usable backups, the configuration, and the WAL from a point on.
///
/// # Errors
/// When the server is unknown or passive, its home can't be read, or the point is not in the archive.
pub fn run(context: &mut Context, args: &SyncInfoArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    if args.primary {
        return Err(passive_only(&server));
    }
    let backups = server.catalog().backups()?;
    // Those that wait for WAL too: the other host will get that as well.
    let usable = || backups.by_id.values().filter(|info| info.status.is_usable());
    let first = usable().next().and_then(|info| info.begin_wal).map(|wal| wal.to_string());
    let reached =
        args.last_wal.as_ref().map(|name| Reached { name: name.clone(), position: args.last_position });
    let since = sync::since(&server.layout(), reached.as_ref(), first.as_deref())
        .map_err(|error| CommandError::new(chain(&error)))?;
    let mut records = serde_json::Map::new();
    for info in usable() {
        let mut record = diagnose::record(info)
            .map_err(|error| CommandError::because(format_args!("backup {}", info.id), &error))?;
        for (key, time) in [("begin_time", &info.begin_time), ("end_time", &info.end_time)] {
            record[key] = json!(time.as_ref().map(ctime));
            record[format!("{key}_iso")] = json!(time.as_ref().map(isoformat));
        }
        records.insert(info.id.to_string(), record);
    }
    let mut config = config_values::of_server(&server.config, Spelling::Diagnose);
    config.insert("disabled".to_owned(), json!(server.config.disabled()));
    let mut answer = json!({
        "backups": records,
        "config": config,
        "last_name": since.last_name,
        "last_position": since.last_position,
        "version": crate::BARMAN_VERSION,
        "wals": since.entries.iter().map(of_wal).collect::<Vec<Value>>(),
    });
    crate::output::redact_json(&mut answer);
    let mut rendered = String::new();
    text::json_indented(&answer, 0, &mut rendered);
    context.output().answer(&rendered);
    Ok(())
}

fn of_wal(entry: &WalEntry) -> Value {
    json!({
        "name": entry.file.to_string(),
        "size": entry.size,
        "time": entry.time,
        "compression": entry.compression,
        "encryption": entry.encryption,
    })
}

/// `sync-backup`.
///
/// # Errors
/// Always.
pub fn refuse_backup(context: &mut Context, args: &BackupIdArgs) -> Result<(), CommandError> {
    Err(passive_only(&context.server(&args.server, Policy::Operate)?))
}

/// `sync-wals`.
///
/// # Errors
/// Always.
pub fn refuse_wals(context: &mut Context, args: &ServerArgs) -> Result<(), CommandError> {
    Err(passive_only(&context.server(&args.server, Policy::Operate)?))
}

fn passive_only(server: &ServerContext) -> CommandError {
    let name = server.name();
    if server.config.passive() {
        CommandError::new(format!("barkeep does not copy from another backup host, as server '{name}' asks for"))
            .hint("let Barman's cron do it: it reads the same configuration and home, and barkeep's sync-info answers it")
    } else {
        CommandError::new(format!("server {name} is not passive"))
    }
}

/// A command of Barman's that is not there.
///
/// # Errors
/// Always.
pub fn refuse(command: &str) -> Result<(), CommandError> {
    let instead = match command {
        "export-backup" => {
            "restore the backup to a directory and archive that, or use Barman's own on the same home"
        }
        "import-backup" => "use Barman's own: it works on the same home",
        "cloud-wal-archive" => "use barkeep wal-archive, which hands WAL to a backup host, or Barman's own",
        _ => "use barkeep wal-restore, which fetches WAL from a backup host, or Barman's own",
    };
    Err(CommandError::new(format!("{command} is not available in this version of barkeep")).hint(instead))
}
