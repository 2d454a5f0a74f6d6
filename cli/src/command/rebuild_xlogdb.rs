//! `rebuild-xlogdb`: makes the list of archived files anew from the files.

use barkeep_catalog::xlogdb;
use pgwal::WalFile;

use crate::args::ServersArgs;
use crate::context::{Context, Policy};
use crate::error::CommandError;

/// Makes the lists of the servers anew. Readers see the old list until the new one is complete.
///
/// # Errors
/// When a server is unknown. What can't be made is told, and the others get their turn.
pub fn run(context: &mut Context, args: &ServersArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Operate)? {
        let (name, output) = (server.name(), &server.output);
        output.info(format!("Rebuilding xlogdb for server {name}"));
        let rebuilt = match xlogdb::rebuild(&server.layout()) {
            Ok(rebuilt) => rebuilt,
            Err(error) => {
                output.error(format!("the list of server '{name}' stays as it was: {error}"));
                continue;
            }
        };
        for path in &rebuilt.foreign {
            output
                .warning(format!("unexpected file in the archive of server '{name}': '{}'", path.display()));
        }
        let count = |wanted: fn(&WalFile) -> bool| rebuilt.files.iter().filter(|file| wanted(file)).count();
        output.info(format!(
            "Done rebuilding xlogdb for server {name} (history: {}, backup_labels: {}, wal_file: {})",
            count(|file| matches!(file, WalFile::History(_))),
            count(|file| matches!(file, WalFile::Label { .. })),
            count(|file| matches!(file, WalFile::Segment(_) | WalFile::Partial(_))),
        ));
    }
    Ok(())
}
