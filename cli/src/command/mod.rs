//! The commands, one file each: `pub fn run(context: &mut Context, args: &...Args) -> Result<(), CommandError>`.
//!
//! A command reads its arguments, asks the context for its servers, makes one library call, and reports the result. To
//! add one: write `command/<name>.rs`, declare it below (`pub mod`), and give it its line in [`dispatch`].

use crate::args::Command;
use crate::context::Context;
use crate::error::CommandError;

pub mod agent;
pub mod archive_wal;
pub mod backup;
pub mod check;
pub mod check_backup;
pub mod check_wal;
pub mod config_switch;
pub mod config_update;
mod config_values;
pub(crate) mod connect;
pub mod cron;
pub mod daemon;
pub mod delete;
mod deletion;
pub mod diagnose;
pub mod drill;
pub mod generate_manifest;
pub mod get_wal;
mod heal;
mod index;
pub mod init;
pub mod keep;
pub mod list_backups;
pub mod list_files;
pub mod list_servers;
mod lost;
pub(crate) mod name_map;
pub mod processes;
pub mod put_wal;
pub mod rebuild_xlogdb;
pub mod receive_wal;
mod remote;
mod remote_values;
pub mod replication_status;
mod restart;
pub mod restore;
pub mod retention;
pub(crate) mod scheduled_drill;
pub(crate) mod setup;
pub mod show_backup;
pub mod show_servers;
mod shown;
pub(crate) mod signals;
pub mod status;
mod stored_backup;
pub mod switch_wal;
pub mod sync_info;
pub mod verify_backup;
pub mod wal;
pub mod wal_archive;
pub mod wal_restore;
pub mod windows;

/// Runs a command.
///
/// # Errors
/// What the command could not do.
pub fn dispatch(context: &mut Context, command: &Command) -> Result<(), CommandError> {
    match command {
        Command::Agent(args) => agent::run(args),
        Command::ListServers(args) => list_servers::run(context, args),
        Command::ArchiveWal(args) => archive_wal::run(context, args),
        Command::Backup(args) => backup::run(context, args),
        Command::Check(args) => check::run(context, args),
        Command::CheckArchivedWalRange(args) => check_wal::range(context, args),
        Command::CheckBackup(args) => check_backup::run(context, args),
        Command::CheckWalArchive(args) => check_wal::archive(context, args),
        Command::ConfigSwitch(args) => config_switch::run(context, args),
        Command::ConfigUpdate(args) => config_update::run(context, args),
        Command::Cron(args) => cron::run(context, args),
        Command::Daemon(args) => daemon::run(context, args),
        Command::Delete(args) => delete::run(context, args),
        Command::Drill(args) => drill::run(context, args),
        Command::GenerateManifest(args) => generate_manifest::run(context, args),
        Command::Diagnose(args) => diagnose::run(context, args),
        Command::GetWal(args) => get_wal::run(context, args),
        Command::Keep(args) => keep::run(context, args),
        Command::Init(args) => init::run(context, args),
        Command::ListBackups(args) => list_backups::run(context, args),
        Command::ListFiles(args) => list_files::run(context, args),
        Command::ListProcesses(args) => processes::list(context, args),
        Command::LockDirectoryCleanup => processes::clean_locks(context),
        Command::PutWal(args) => put_wal::run(context, args),
        Command::RebuildXlogdb(args) => rebuild_xlogdb::run(context, args),
        Command::ReceiveWal(args) => receive_wal::run(context, args),
        Command::ReplicationStatus(args) => replication_status::run(context, args),
        Command::Restore(args) => restore::run(context, args),
        Command::Retention(args) => retention::run(context, args),
        Command::ShowBackup(args) => show_backup::run(context, args),
        Command::ShowServers(args) => show_servers::run(context, args),
        Command::Status(args) => status::run(context, args),
        Command::SwitchWal(args) => switch_wal::run(context, args),
        Command::SyncInfo(args) => sync_info::run(context, args),
        Command::SyncBackup(args) => sync_info::refuse_backup(context, args),
        Command::SyncWals(args) => sync_info::refuse_wals(context, args),
        Command::ExportBackup(_) => sync_info::refuse("export-backup"),
        Command::ImportBackup(_) => sync_info::refuse("import-backup"),
        Command::CloudWalArchive(_) => sync_info::refuse("cloud-wal-archive"),
        Command::CloudWalRestore(_) => sync_info::refuse("cloud-wal-restore"),
        Command::TerminateProcess(args) => processes::terminate(context, args),
        // They need no context and were run before there was one.
        Command::InstallLinks(_) | Command::Completions(_) | Command::ManPages(_) => Ok(()),
        Command::VerifyBackup(args) => verify_backup::run(context, args),
        Command::WalArchive(args) => wal_archive::run_local(context, args),
        Command::WalRestore(args) => wal_restore::run_local(context, args),
        Command::Windows(args) => windows::run(context, args),
        Command::Wal(args) => wal::run(&context.output().clone(), Some(context), args),
    }
}
