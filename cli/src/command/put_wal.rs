//! `put-wal`: takes WAL files from a PostgreSQL host, for its `archive_command`.
//!
//! PostgreSQL forgets a segment when this exits with 0, so that has one meaning only: every file of the stream is whole,
//! was verified, and is durable under its own name.

use std::io::{self, Read};

use barkeep_catalog::archive::Verify;
use barkeep_catalog::inspect::Soundness;
use barkeep_catalog::reception::{Accepted, ReceiveError, Reception, receive_tar};
use barkeep_transport::codec::Compression;

use crate::args::PutWalArgs;
use crate::command::archive_wal::OTHER_CLUSTER;
use crate::context::{Context, Policy};
use crate::error::{CommandError, chain};

/// Receives a tar stream from standard input.
///
/// # Errors
/// When anything in it can't be accepted.
pub fn run(context: &mut Context, args: &PutWalArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let name = server.name();
    if !server.config.active() {
        return Err(CommandError::new(format!("Inactive server: {name}")));
    }
    if args.test {
        server.output.info(format!("Ready to accept WAL files for the server {name}"));
        return Ok(());
    }
    let from = caller(context);
    let layout = server.layout();
    let verify = Verify::from_name(server.config.wal_verify()).unwrap_or_default();
    let stream = io::stdin();
    let stream: Box<dyn Read + Send> = if args.zstd_stream {
        let unpacked = Compression::Zstd.reader(stream);
        unpacked.map_err(|error| CommandError::because("cannot decompress the stream", &error))?
    } else {
        Box::new(stream)
    };
    let received =
        Reception::new(&layout, verify, context.now()).and_then(|reception| receive_tar(&reception, stream));
    let receipts = received.map_err(|error| refused(&error, name, &from))?;
    for receipt in receipts {
        let file = receipt.file;
        match receipt.accepted {
            Accepted::New => tracing::info!("Received file '{file}' by put-wal for server '{name}'{from}"),
            Accepted::Same => server.output.debug(format!(
                "File '{file}' is there already on server '{name}', with the same content{from}"
            )),
        }
        if !receipt.note.is_empty() {
            let note = receipt.note;
            server
                .output
                .warning(format!("'{file}' of server '{name}' was received, but is not sound: {note}{from}"));
        }
    }
    Ok(())
}

fn refused(error: &ReceiveError, server: &str, from: &str) -> CommandError {
    let text = CommandError::new(format!("{} in put-wal for server '{server}'{from}", chain(error)));
    match next_step(error) {
        Some(hint) => text.hint(hint),
        None => text,
    }
}

/// What is to be done about a file that was not accepted.
pub(super) fn next_step(error: &ReceiveError) -> Option<&'static str> {
    match error {
        ReceiveError::Duplicate { .. } => {
            Some("compare the two, and see whether two clusters archive to this server")
        }
        ReceiveError::Refused { soundness: Soundness::Foreign, .. } => Some(OTHER_CLUSTER),
        ReceiveError::Refused { .. } => {
            Some("the sender keeps it; see whether it is the right server, and whether its disk is sound")
        }
        _ => None,
    }
}

/// Who called, when it came by SSH: the first word of `SSH_CONNECTION` is the client's address.
fn caller(context: &Context) -> String {
    let connection =
        context.env("SSH_CONNECTION").and_then(|text| text.into_string().ok()).unwrap_or_default();
    connection.split_whitespace().next().map(|host| format!(" (SSH host: {host})")).unwrap_or_default()
}
