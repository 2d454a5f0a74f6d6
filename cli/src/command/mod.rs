//! The commands, one file each: `pub fn run(context: &mut Context, args: &...Args) -> Result<(), CommandError>`.
//!
//! A command reads its arguments, asks the context for its servers, makes one library call, and reports the result. To
//! add one: write `command/<name>.rs`, declare it below (`pub mod`), and give it its line in [`dispatch`].

use crate::args::Command;
use crate::context::Context;
use crate::error::CommandError;

pub mod archive_wal;
pub mod backup;
mod connect;
pub mod cron;
pub mod delete;
mod deletion;
pub mod get_wal;
pub mod list_backups;
pub mod list_servers;
pub mod receive_wal;
pub mod restore;
pub mod show_backup;
mod shown;
pub mod switch_wal;

/// Runs a command.
///
/// # Errors
/// What the command could not do.
pub fn dispatch(context: &mut Context, command: &Command) -> Result<(), CommandError> {
    match command {
        Command::ListServers(args) => list_servers::run(context, args),
        Command::ArchiveWal(args) => archive_wal::run(context, args),
        Command::Backup(args) => backup::run(context, args),
        Command::Check(_) => unavailable("check"),
        Command::Cron(args) => cron::run(context, args),
        Command::Delete(args) => delete::run(context, args),
        Command::GetWal(args) => get_wal::run(context, args),
        Command::ListBackups(args) => list_backups::run(context, args),
        Command::ReceiveWal(args) => receive_wal::run(context, args),
        Command::Restore(args) => restore::run(context, args),
        Command::ShowBackup(args) => show_backup::run(context, args),
        Command::ShowServers(_) => unavailable("show-servers"),
        Command::Status(_) => unavailable("status"),
        Command::SwitchWal(args) => switch_wal::run(context, args),
    }
}

fn unavailable(name: &str) -> Result<(), CommandError> {
    Err(CommandError::new(format!("{name} is not available in this version of barkeep")))
}
