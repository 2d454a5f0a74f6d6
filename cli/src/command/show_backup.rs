//! `show-backup`: everything known about one backup.

mod console;
mod facts;
mod json;

use barkeep_catalog::{Status, xlogdb};

use super::shown::LastDrill;
use crate::archive_stats::ArchiveStats;
use crate::args::BackupIdArgs;
use crate::context::{Context, Policy};
use crate::error::CommandError;
use crate::verdicts::Verdicts;
use facts::Facts;

/// Shows a backup.
///
/// # Errors
/// When server or backup are unknown, or the catalogue can't be read.
pub fn run(context: &mut Context, args: &BackupIdArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let catalog = server.catalog();
    let backups = catalog.current()?;
    let id = catalog.resolve(&backups, &args.backup).map_err(|error| {
        CommandError::from(error).hint(format!("list them with: barkeep list-backups {}", server.name()))
    })?;
    let Some(backup) = backups.get(id) else {
        return Err(CommandError::new(format!("Unknown backup '{id}' for server '{}'", server.name())));
    };
    let usable = matches!(backup.status, Status::Done | Status::WaitingForWals);
    let archived = if usable { xlogdb::read(&server.layout())?.entries } else { Vec::new() };
    let verdicts = Verdicts::judge(&server, &backups, context.now())?;
    let facts = Facts {
        server: server.name(),
        backup,
        wal: ArchiveStats::new(&archived).among(&backups, backup),
        timelines: facts::reachable_timelines(&server, backup, &archived),
        policy: verdicts.policy().and(verdicts.of(id)).map(|judgement| judgement.verdict),
        previous: backups.usable_before(id).map(|previous| previous.id),
        next: backups.usable_after(id).map(|next| next.id),
        chain: facts::chain(&backups, backup),
        drill: LastDrill::of(&catalog, id),
    };
    context.output().report(&facts);
    Ok(())
}
