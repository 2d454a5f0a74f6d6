//! Into a backup home on this machine.

use std::fs::File;
use std::path::Path;

use barkeep_catalog::archive::{ArchiveEvent, ArchiveOptions, archive_directly};
use barkeep_catalog::reception::{ReceiveError, Reception};

use super::parcel::Parcel;
use super::{is_compressed, open, operands};
use crate::args::WalArchiveArgs;
use crate::command::{archive_wal, put_wal};
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain, exit};
use crate::hooks::ArchiveScripts;

/// Brings a file into this machine's home.
///
/// # Errors
/// Exit code 2 when the file can't be read, 1 when it can't be kept.
pub fn run_local(context: &mut Context, args: &WalArchiveArgs) -> Result<(), CommandError> {
    let (destination, path) = operands(args)?;
    if is_compressed(args) || args.parallel > 1 || args.md5 {
        let what =
            "--local compresses as the server's configuration says, one file at a time, and checks by itself";
        return Err(CommandError::new(what)
            .code(exit::USAGE)
            .hint("leave out -z and the like, -p and --md5"));
    }
    let server = context.server(&destination.server, Policy::Stored)?;
    if !server.config.active() {
        return Err(CommandError::new(format!("Inactive server: {}", server.name())));
    }
    if args.remote.test {
        server.output.info(format!("Ready to accept WAL files for the server {}", server.name()));
        return Ok(());
    }
    let parcel = open(&path)?;
    let options = archive_wal::options(&server)?;
    let failed = |error: String| {
        CommandError::new(format!("WAL file '{}' is not archived: {error}", parcel.file))
            .hint("PostgreSQL keeps it and tries again")
    };
    // Hook scripts take their time: they run when the archiver comes by.
    if ArchiveScripts::of(&server).is_none() {
        let layout = server.layout();
        let told = |event| tell(&server, event);
        let now = context.now();
        match archive_directly(&layout, &options, parcel.file, parcel.path(), now, told) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(failed(chain(&error))),
        }
    }
    receive(context, &server, &options, &parcel, &path).map_err(|error| match error {
        ReceiveError::Source { .. } => failed(chain(&error)).code(exit::CLIENT),
        error => match put_wal::next_step(&error) {
            Some(hint) => failed(chain(&error)).hint(hint),
            None => failed(chain(&error)),
        },
    })
}

/// By way of `incoming/`, as for files of other hosts.
fn receive(
    context: &Context,
    server: &ServerContext,
    options: &ArchiveOptions,
    parcel: &Parcel,
    path: &Path,
) -> Result<(), ReceiveError> {
    let file = parcel.file;
    let unreadable = |source| ReceiveError::Source { file, source };
    let source = File::open(path).map_err(unreadable)?;
    let modified = source.metadata().and_then(|metadata| metadata.modified()).map_err(unreadable)?;
    let layout = server.layout();
    let reception = Reception::new(&layout, options.verify, context.now())?;
    let received = reception.receive(file, Some(modified), source)?;
    for receipt in reception.accept(vec![received])? {
        if !receipt.note.is_empty() {
            server
                .output
                .warning(format!("WAL file '{file}' is archived, but is not sound: {}", receipt.note));
        }
    }
    Ok(())
}

fn tell(server: &ServerContext, event: ArchiveEvent) {
    match event {
        ArchiveEvent::Doubtful { file, note, .. } => {
            server.output.warning(format!("WAL file '{file}' is archived, but is not sound: {note}"));
        }
        ArchiveEvent::NotIndexed(error) => server.output.debug(format!("Not indexed: {error}")),
        _ => {}
    }
}
