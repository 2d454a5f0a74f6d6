//! Into a backup home on this machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use barkeep_transport::durable::{self, DurableError, Step, TempFile};

use super::parcel::{CopyError, Parcel};
use super::{is_compressed, open, operands};
use crate::args::WalArchiveArgs;
use crate::context::{Context, Policy};
use crate::error::{CommandError, exit};

/// Size of the pieces in which files are compared, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Delivers a file into this machine's home.
///
/// # Errors
/// Exit code 2 when the file can't be read, 1 when it can't be kept.
pub fn run_local(context: &mut Context, args: &WalArchiveArgs) -> Result<(), CommandError> {
    let (destination, path) = operands(args)?;
    if is_compressed(args) || args.parallel.is_some() || args.md5 {
        let what =
            "--local compresses as the server's configuration says, one file at a time, and checks by itself";
        return Err(CommandError::new(what)
            .code(exit::USAGE)
            .hint("leave out -z and the like, -p and --md5"));
    }
    let server = context.server(&destination.server, Policy::Operate)?;
    if args.remote.test {
        server.output.info(format!("Ready to accept WAL files for the server {}", server.name()));
        return Ok(());
    }
    let mut parcel = open(&path)?;
    let incoming = server.layout().incoming;
    deliver(&mut parcel, &incoming)
}

/// Puts a file into `incoming/`, durably; the same file once more is fine, another of that name is not.
fn deliver(parcel: &mut Parcel, incoming: &Path) -> Result<(), CommandError> {
    let failed = |error: DurableError| CommandError::new(error.to_string());
    durable::create_dir_all(incoming).map_err(failed)?;
    let target = incoming.join(parcel.file.to_string());
    let mut copy = TempFile::create(&target).map_err(failed)?;
    parcel.copy(|piece| io::Write::write_all(&mut copy, piece)).map_err(|error| match error {
        CopyError::Source(source) => {
            CommandError::new(format!("cannot read '{}': {source}", parcel.path().display()))
                .code(exit::CLIENT)
        }
        CopyError::Sink(source) => failed(copy.failed(Step::Write, source)),
    })?;
    match copy.publish_new() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let same = File::open(&target).and_then(|mut there| same_content(parcel, &mut there));
            if !same.map_err(|error| {
                CommandError::because(format!("cannot read '{}'", target.display()), &error)
            })? {
                return Err(CommandError::new(format!(
                    "'{}' is there already, with other content",
                    target.display()
                ))
                .hint("two clusters must not archive into the same place"));
            }
            durable::sync_file(&target).and_then(|()| durable::sync_dir(incoming)).map_err(failed)
        }
        outcome => outcome.map_err(failed),
    }
}

fn same_content(parcel: &mut Parcel, there: &mut File) -> io::Result<bool> {
    if there.metadata()?.len() != parcel.size() {
        return Ok(false);
    }
    let mut other = vec![0; PIECE_BYTES];
    let mut same = true;
    parcel.copy(|piece| {
        let other = &mut other[..piece.len()];
        there.read_exact(other)?;
        same &= other == piece;
        Ok(())
    })?;
    Ok(same)
}
