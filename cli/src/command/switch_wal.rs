//! `switch-wal`: makes servers begin a new WAL file.

use std::time::{Duration, Instant};

use pgwal::sql::tokio_postgres::Client;
use pgwal::sql::tokio_postgres::error::SqlState;
use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId};

use super::archive_wal::{Verbosity, archive};
use super::connect;
use super::receive_wal::newest_archived;
use crate::args::SwitchWalArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};

/// How often to look whether the closed segment has been archived.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often to archive where any file will do.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(1);

/// What a switch did.
enum Switch {
    /// This segment was closed.
    Closed(SegmentName),
    /// Nothing was written since the last switch.
    NotRequired,
    /// The server is a standby and writes no WAL.
    Standby,
}

/// Runs the command.
///
/// # Errors
/// When a server is unknown; what fails with one server is told, and the next gets its turn.
pub fn run(context: &mut Context, args: &SwitchWalArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Operate)? {
        if let Err(error) = switch(context, &server, args) {
            server.output.error(error.to_string());
        }
    }
    Ok(())
}

fn switch(context: &mut Context, server: &ServerContext, args: &SwitchWalArgs) -> Result<(), CommandError> {
    let name = server.config.name();
    let conninfo = connect::sql(context, server)?;
    let switch = context.runtime()?.block_on(async {
        let client = pgwal::sql::connect(&conninfo).await.map_err(|error| {
            CommandError::because(format_args!("cannot connect to server '{name}'"), &error)
        })?;
        switch_by_sql(&client, name, args.force).await
    })?;
    let closed = match switch {
        Switch::Closed(segment) => {
            server.output.info(format!("The WAL file {segment} has been closed on server '{name}'"));
            Some(segment)
        }
        Switch::NotRequired => {
            server.output.info(format!("No switch required for server '{name}'"));
            None
        }
        Switch::Standby => {
            server.output.info(format!("No switch performed because server '{name}' is a standby."));
            None
        }
    };
    if args.archive {
        return wait_until_archived(server, closed, args.archive_timeout);
    }
    Ok(())
}

async fn switch_by_sql(client: &Client, name: &str, force: bool) -> Result<Switch, CommandError> {
    let failed =
        |error| CommandError::because(format_args!("cannot switch the WAL file of server '{name}'"), &error);
    let facts = "select pg_is_in_recovery(), pg_size_bytes(current_setting('wal_segment_size'))";
    let row = client.query_one(facts, &[]).await.map_err(failed)?;
    if row.get(0) {
        return Ok(Switch::Standby);
    }
    let size = u64::try_from(row.get::<_, i64>(1)).ok().and_then(SegmentSize::new).ok_or_else(|| {
        CommandError::new(format!("server '{name}' reports an impossible wal_segment_size"))
    })?;
    if force {
        client.batch_execute("checkpoint").await.map_err(|error| {
            let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
            let what = CommandError::because(format_args!("cannot checkpoint server '{name}'"), &error);
            if denied {
                what.hint("--force needs a superuser or a member of pg_checkpoint (PostgreSQL 15 and later)")
            } else {
                what
            }
        })?;
    }
    // Statement by statement: in one, their order would not be certain.
    let before = lsn(client, "select pg_current_wal_insert_lsn()::text").await.map_err(failed)?;
    let switched = lsn(client, "select pg_switch_wal()::text").await.map_err(|error| {
        let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        let what =
            CommandError::new(format!("cannot switch the WAL file of server '{name}': {}", chain(&error)));
        if denied {
            what.hint("the role of conninfo needs: GRANT EXECUTE ON FUNCTION pg_switch_wal() TO ...")
        } else {
            what
        }
    })?;
    // Any position's name tells the timeline.
    let text = format!("select pg_walfile_name('{switched}')");
    let row = client.query_one(&text, &[]).await.map_err(failed)?;
    let current = row.get::<_, String>(0).parse::<SegmentName>().map_err(|error| {
        CommandError::because(format_args!("server '{name}' names a WAL file in its own way"), &error)
    })?;
    Ok(closed(before, switched, current.timeline(), size).map_or(Switch::NotRequired, Switch::Closed))
}

async fn lsn(client: &Client, text: &str) -> Result<Lsn, pgwal::sql::tokio_postgres::Error> {
    let row = client.query_one(text, &[]).await?;
    Ok(row.get::<_, String>(0).parse().unwrap_or(Lsn::INVALID))
}

/// Which segment `pg_switch_wal` closed. It returns the end of the switch record, or, when nothing was written since
/// the segment began, the segment's start.
fn closed(before: Lsn, switched: Lsn, timeline: TimelineId, size: SegmentSize) -> Option<SegmentName> {
    let at_start = size.offset_of(switched) == 0;
    let moved = size.start_of(before) < switched;
    (!at_start || moved).then(|| SegmentName::ending_at(timeline, switched, size))
}

/// Archives until the closed segment is in the archive, or, where none was closed, until anything new is.
fn wait_until_archived(
    server: &ServerContext,
    closed: Option<SegmentName>,
    seconds: u32,
) -> Result<(), CommandError> {
    let name = server.config.name();
    let wals = server.config.wals_directory();
    let newest = newest_archived(&wals)?;
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    let what = match closed {
        Some(segment) => format!("the WAL file {segment} from server '{name}'"),
        None => format!("a WAL file from server '{name}' to be archived"),
    };
    server.output.info(format!("Waiting for {what} (max: {seconds} seconds)"));
    loop {
        if closed.is_none_or(|segment| has_come(server, segment)) {
            // Somebody else archiving is as good.
            archive(server, Verbosity::Brief)?;
        }
        let archived = match closed {
            Some(segment) => wals.join(segment.directory()).join(segment.to_string()).exists(),
            None => newest_archived(&wals)? != newest,
        };
        if archived {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return match closed {
                Some(segment) => {
                    let what = format!("The WAL file {segment} has not been received in {seconds} seconds");
                    let hint =
                        format!("is a receiver running, or archive_command set? See: barkeep check {name}");
                    Err(CommandError::new(what).hint(hint))
                }
                None => {
                    server.output.info(format!("A WAL file has not been received in {seconds} seconds"));
                    Ok(())
                }
            };
        }
        std::thread::sleep(if closed.is_some() { POLL_INTERVAL } else { ARCHIVE_INTERVAL });
    }
}

/// Whether a segment waits to be archived. Looked at before archiving: each run of that tells of every file it has to
/// leave where it is.
fn has_come(server: &ServerContext, segment: SegmentName) -> bool {
    let config = &server.config;
    [config.streaming_wals_directory(), config.incoming_wals_directory()]
        .iter()
        .any(|directory| directory.join(segment.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_segment_is_told_from_none() {
        let size = SegmentSize::DEFAULT;
        let check = |before: &str, switched: &str, expected: Option<&str>| {
            let found = closed(before.parse().unwrap(), switched.parse().unwrap(), TimelineId::FIRST, size);
            assert_eq!(found.map(|name| name.to_string()).as_deref(), expected, "{before} {switched}");
        };
        check("0/3000100", "0/3000118", Some("000000010000000000000003"));
        check("0/4000000", "0/4000000", None);
        // The position after a page header.
        check("0/4000028", "0/4000000", None);
        // The switch record was the last thing that fitted.
        check("0/3FFFFE0", "0/4000000", Some("000000010000000000000003"));
    }
}
