//! `receive-wal`: the receiver itself, and what belongs to it: stopping it, starting it afresh, its replication slot.

mod newest;
mod receive;
mod slot;
pub(super) mod stop;

use std::path::Path;

pub(super) use newest::newest_archived;

use barkeep_catalog::lock::LockError;
use barkeep_catalog::{ServerLock, Task};
use pgwal::replication::Connection;
use pgwal::replication::receive::{ResetOutcome, reset as reset_directory};
use pgwal::{SegmentName, SegmentSize};

use super::connect;
use crate::args::ReceiveWalArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;

/// Runs the command.
///
/// # Errors
/// What ended receiving before it was asked to stop, or what the option asked for and could not be done.
pub fn run(context: &mut Context, args: &ReceiveWalArgs) -> Result<(), CommandError> {
    if args.stop {
        // Also for a server that was made inactive while its receiver was running.
        let server = context.server(&args.server, Policy::Query)?;
        return stop::run(&server);
    }
    let server = context.server(&args.server, Policy::Operate)?;
    match (args.create_slot, args.drop_slot, args.reset) {
        (true, ..) => slot::create(context, &server, args.if_not_exists),
        (_, true, _) => slot::drop(context, &server),
        (.., true) => reset(context, &server),
        _ => receive::run(context, &server),
    }
}

/// The receiver's lock; `None`, once told, when a receiver is running.
fn lock(server: &ServerContext, running: &str) -> Result<Option<ServerLock>, CommandError> {
    match ServerLock::try_acquire(&server.layout(), Task::ReceiveWal) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Held { .. }) => {
            server.output.info(running);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The streaming directory, made if it is missing.
fn make_directory(path: &Path) -> Result<(), CommandError> {
    std::fs::create_dir_all(path).map_err(|error| {
        CommandError::because(
            format_args!("cannot create the streaming directory {}", path.display()),
            &error,
        )
    })
}

/// `--reset`: makes the receiver start at the server's current position.
fn reset(context: &mut Context, server: &ServerContext) -> Result<(), CommandError> {
    let name = server.config.name();
    let output = server.output.clone();
    let busy =
        format!("Unable to reset the state of receive-wal for server {name}: the process is still running");
    let Some(_lock) = lock(server, &busy)? else { return Ok(()) };
    output.info(format!("Resetting receive-wal for server {name}"));
    let conninfo = connect::wal_streaming(context, server)?;
    let slot = server.config.slot_name();
    let (start, current) = context.runtime()?.block_on(async {
        let mut connection = Connection::connect(&conninfo).await?;
        let identity = connection.identify_system().await?;
        let size: SegmentSize =
            connection.show("wal_segment_size").await?.parse().map_err(|error| {
                CommandError::because("the server's wal_segment_size cannot be used", &error)
            })?;
        let current = SegmentName::at(identity.timeline, identity.flush_lsn, size);
        let kept = match slot {
            // Older servers can't be asked this way; there the current position is the start.
            Some(slot) if connection.server_version_num() >= 150_000 => connection.read_slot(slot).await?,
            _ => None,
        };
        connection.close().await;
        let kept = kept.and_then(|slot| slot.restart_lsn);
        let start = kept.map_or(current, |lsn| SegmentName::at(identity.timeline, lsn, size));
        Ok::<_, CommandError>((start.min(current), current))
    })?;
    let directory = server.config.streaming_wals_directory();
    make_directory(&directory)?;
    match reset_directory(&directory, start, current)? {
        ResetOutcome::Aligned => output.info("Nothing to do: receive-wal is where the server is"),
        ResetOutcome::Ahead { newest } => {
            let what = format!(
                "The position of receive-wal is ahead of the server's current WAL ({newest} > {current})"
            );
            return Err(CommandError::new(what).hint("check that streaming_conninfo names the right server"));
        }
        ResetOutcome::Moved { partial, removed, start } => {
            match (partial, removed) {
                (Some(partial), true) => output.info(format!("Removed {partial}.partial, which was empty")),
                (Some(partial), false) => {
                    output.info(format!("Kept {partial}.partial, which holds WAL, for the archive"));
                }
                (None, _) => {}
            }
            output.info(format!("The next receive-wal starts at {start}"));
            output.warning(format!(
                "WAL before {start} that was not received is missing from the archive: take a new backup of {name}"
            ));
        }
    }
    Ok(())
}
