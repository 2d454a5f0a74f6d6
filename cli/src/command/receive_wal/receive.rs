//! `receive-wal` without options: receives until it is told to stop.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgwal::Lsn;
use pgwal::replication::ConnInfo;
use pgwal::replication::receive::{
    Event, Observer, ReceiveError, Receiver, ReceiverOptions, StartOrigin, StartPoint, WriteError,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{connect, lock, make_directory, newest_archived};
use crate::context::{Context, ServerContext};
use crate::error::{CommandError, chain};
use crate::output::Output;

/// How long a question by SQL may take that can be done without.
const SQL_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(context: &mut Context, server: &ServerContext) -> Result<(), CommandError> {
    let name = server.config.name().to_owned();
    if !server.config.streaming_archiver() {
        let what = format!(
            "Unable to start receive-wal for server {name}: streaming_archiver is off in its configuration"
        );
        return Err(CommandError::new(what).hint("set streaming_archiver = on"));
    }
    let busy = format!("Another receive-wal process is already running for server {name}.");
    let Some(_lock) = lock(server, &busy)? else { return Ok(()) };
    let mut options = options(context, server)?;
    make_directory(&options.directory)?;
    server.output.info(format!("Starting receive-wal for server {name}"));
    let slot = options.slot.clone();
    let sql = connect::wal_sql(context, server).ok();
    let observer = Arc::new(Teller { server: name.clone(), output: server.output.clone() });
    let result = context.runtime()?.block_on(async {
        let stop =
            stop_requested().map_err(|error| CommandError::because("cannot wait for signals", &error))?;
        if let (Some(slot), Some(sql)) = (slot, sql) {
            options.slot_restart = kept_by_slot(&slot, &sql).await;
        }
        Ok::<_, CommandError>(Receiver::new(options, observer).run(stop).await)
    })?;
    result.map_err(|error| explain(&error, &name))
}

fn options(context: &Context, server: &ServerContext) -> Result<ReceiverOptions, CommandError> {
    let config = &server.config;
    let conninfo = connect::wal_streaming(context, server)?;
    let mut options = ReceiverOptions::new(conninfo, config.streaming_wals_directory());
    options.application_name = config.streaming_archiver_name().to_owned();
    options.slot = config.slot_name().map(str::to_owned);
    options.create_slot = config.create_slot_auto();
    options.system_id = server.catalog().identity()?.map(|identity| identity.system_id);
    options.newest_archived = newest_archived(&config.wals_directory())?;
    Ok(options)
}

/// Ready when SIGINT or SIGTERM has come.
fn stop_requested() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The position that a slot keeps WAL from, by SQL: the way for servers before 15. Without an answer the receiver
/// starts at the server's current position.
async fn kept_by_slot(slot: &str, conninfo: &ConnInfo) -> Option<Lsn> {
    let question = async {
        let client = pgwal::sql::connect(conninfo).await.map_err(|error| chain(&error))?;
        let text = "select restart_lsn::text from pg_replication_slots where slot_name = $1";
        let row = client.query_opt(text, &[&slot]).await.map_err(|error| chain(&error))?;
        Ok::<Option<String>, String>(row.and_then(|row| row.get(0)))
    };
    match tokio::time::timeout(SQL_LIMIT, question).await {
        Ok(Ok(lsn)) => lsn.and_then(|lsn| lsn.parse().ok()),
        Ok(Err(error)) => {
            tracing::debug!("cannot ask for the position of slot '{slot}': {error}");
            None
        }
        Err(_) => {
            tracing::debug!("no answer about the position of slot '{slot}'");
            None
        }
    }
}

/// Tells the receiver's events.
struct Teller {
    server: String,
    output: Output,
}

impl Observer for Teller {
    fn event(&self, event: &Event<'_>) {
        let (name, output) = (&self.server, &self.output);
        match event {
            Event::Streaming { start, server_version, system_id } => {
                let StartPoint { lsn, timeline, origin } = start;
                let after = match origin {
                    StartOrigin::Streaming => "after the WAL received so far",
                    StartOrigin::Archive => "after the archive's end",
                    StartOrigin::Slot => "where the replication slot keeps WAL from",
                    StartOrigin::Server => "the server's current position",
                };
                output.info(format!("{name}: streaming WAL from {lsn} (timeline {timeline}), {after}"));
                output.debug(format!("{name}: system {system_id}, server version {server_version}"));
            }
            Event::SlotCreated { slot } => {
                output.info(format!("{name}: created physical replication slot '{slot}'"));
            }
            Event::HistorySaved { timeline } => {
                output.info(format!("{name}: saved the history of timeline {timeline}"));
            }
            Event::HistoryMissing { timeline } => output.warning(format!(
                "{name}: the server has no history of timeline {timeline}: recovery cannot reach it from an earlier one. \
                 If there is no base backup of timeline {timeline} yet, take one: barkeep backup {name}"
            )),
            // One line every few seconds for years: for the log, and for those who ask for details.
            Event::SegmentCompleted { segment } => output.debug(format!("{name}: received {segment}")),
            Event::TimelineEnded { timeline, switch, next } => {
                output.info(format!("{name}: timeline {timeline} ended at {switch}; going on with timeline {next}"));
            }
            Event::Gap { from, to } => output.warning(format!(
                "{name}: the server has removed the WAL from {from} to {to}; backups taken before cannot be recovered \
                 beyond {from} unless the archive gets it another way. Take a new backup: barkeep backup {name}"
            )),
            Event::Retrying { error, after } => {
                let why = explain(error, name);
                let when = match after.as_secs() {
                    0 => "now".to_owned(),
                    seconds => format!("in {seconds} s"),
                };
                output.warning(format!("{name}: {why}; trying again {when}"));
            }
            Event::Stopped => output.info(format!("Stopped receive-wal for server {name}")),
            _ => {}
        }
    }
}

/// What to do about an error.
fn explain(error: &ReceiveError, name: &str) -> CommandError {
    let what = CommandError::new(chain(error));
    match error {
        ReceiveError::SlotMissing { .. } => what.hint(format!(
            "create it: barkeep receive-wal --create-slot {name}, or set create_slot = auto"
        )),
        ReceiveError::SlotActive { .. } => {
            what.hint("stop the other receiver, or give this one a slot_name of its own")
        }
        ReceiveError::WalRemoved { .. } => what.hint(format!(
            "to go on at the server's current position, with a gap: barkeep receive-wal --reset {name}, then \
             barkeep backup {name}"
        )),
        ReceiveError::Diverged { .. } => what.hint(format!(
            "if this is the right server: barkeep receive-wal --reset {name}, then barkeep backup {name}"
        )),
        ReceiveError::SystemIdentifier { .. } => what.hint(format!(
            "check streaming_conninfo of {name}; a new cluster needs a new server section or an empty backup_directory"
        )),
        ReceiveError::AheadOfServer { .. } => what.hint(format!(
            "a standby may catch up; if this is a server restored to an earlier moment, move its streaming directory away \
             and run: barkeep receive-wal --reset {name}"
        )),
        ReceiveError::Write(error) if error.is_disk_full() => {
            what.hint("nothing that was reported to the server is lost; free space there and receiving goes on")
        }
        ReceiveError::Write(WriteError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            what.hint("it was not written by this receiver: compare it with the .partial, and move it away")
        }
        ReceiveError::SaveHistory { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => what.hint(
            "two clusters share this timeline's number: make sure that streaming_conninfo names the right one, and move \
             the other's WAL and history away",
        ),
        ReceiveError::Write(WriteError::Io { .. }) => {
            what.hint("check the disk; nothing that it did not take was reported to the server")
        }
        _ => what,
    }
}
