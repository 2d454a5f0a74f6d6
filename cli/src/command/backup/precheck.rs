//! The checks before a backup.
//!
//! What makes a backup impossible, or worthless whatever happens later, is refused. Trouble with the delivery of WAL is
//! told, and the backup is taken all the same: a receiver that is down tonight can fetch the WAL tomorrow, a backup
//! that was not taken tonight never will be.

use crate::command::check::{self, Line};
use crate::context::{Context, ServerContext};
use crate::error::CommandError;

/// Lines that a backup does not depend on: they are about earlier backups, or about how much there is of something.
const IRRELEVANT: [&str; 11] = [
    "minimum redundancy requirements",
    "backup maximum age",
    "backup minimum size",
    "failed backups",
    "archiver errors",
    "empty incoming directory",
    "empty streaming directory",
    "incoming WALs directory",
    "streaming WALs directory",
    "wal maximum age",
    "PostgreSQL server is standby",
];

/// Lines without which no backup is any good.
const NECESSARY: [&str; 10] = [
    "PostgreSQL",
    "PostgreSQL streaming",
    "wal_level",
    "directories",
    "configuration",
    "catalogue",
    "retention policy settings",
    "compression settings",
    "encryption",
    "systemid coherence",
];

/// Checks a server before its backup.
pub(super) fn run(
    context: &mut Context,
    server: &ServerContext,
    limit: Option<u64>,
) -> Result<(), CommandError> {
    let checked = check::check(context, server, limit)?;
    let failed = |line: &&Line| !line.ok && !IRRELEVANT.contains(&line.name.as_str());
    let (fatal, doubtful): (Vec<&Line>, Vec<&Line>) =
        checked.lines.iter().filter(failed).partition(|line| NECESSARY.contains(&line.name.as_str()));
    let name = server.name();
    if !fatal.is_empty() {
        return Err(CommandError::new(format!(
            "Impossible to start the backup of server '{name}': {}",
            told(&fatal)
        ))
        .hint(format!("see: barkeep check {name}")));
    }
    if !doubtful.is_empty() {
        server.output.warning(format!(
            "The backup of server '{name}' is taken although checks fail: {}; see: barkeep check {name}",
            told(&doubtful)
        ));
    }
    Ok(())
}

fn told(lines: &[&Line]) -> String {
    let one = |line: &&Line| match line.hint.as_str() {
        "" => format!("{} FAILED", line.name),
        hint => format!("{} FAILED ({hint})", line.name),
    };
    lines.iter().map(one).collect::<Vec<_>>().join("; ")
}
