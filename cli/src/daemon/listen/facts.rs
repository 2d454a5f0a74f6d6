//! What is told of each server.

use std::sync::Arc;
use std::time::Duration;

use barkeep_catalog::{BackupInfo, ServerLock, Task};
use jiff::Timestamp;
use pgwal::Lsn;
use pgwal::replication::ConnInfo;

use crate::command::connect;
use crate::command::windows::gather::Gathered;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::notify::{self, CheckState};

/// How long all servers together may take to say where they are.
const ASK_PATIENCE: Duration = Duration::from_secs(5);

/// A server, and how it is reached.
#[derive(Debug)]
pub(super) struct Watched {
    server: ServerContext,
    conninfo: Option<ConnInfo>,
}

/// What is known of a server.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) server: String,
    pub(super) active: bool,
    /// What can be restored, or why that is not known.
    pub(super) windows: Result<Gathered, String>,
    pub(super) last_backup: Option<LastBackup>,
    pub(super) check: Option<CheckState>,
    /// Whether WAL is to be received, and whether somebody does.
    pub(super) receiver: Option<bool>,
    /// How far the server is ahead of what was received, in bytes.
    pub(super) lag_bytes: Option<u64>,
}

/// The newest backup that is whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastBackup {
    pub(super) end: Timestamp,
    /// In bytes.
    pub(super) size: Option<u64>,
    pub(super) seconds: Option<f64>,
}

impl Watched {
    /// All servers of a configuration.
    pub(super) fn all(context: &Context) -> Result<Vec<Self>, CommandError> {
        let servers = context.servers(&["all".to_owned()], Policy::Query)?;
        let watched = servers.into_iter().map(|server| {
            let reachable = server.config.active() && !server.config.disabled() && !server.config.passive();
            let conninfo = reachable.then(|| connect::sql(context, &server).ok()).flatten();
            Watched { server, conninfo }
        });
        Ok(watched.collect())
    }
}

/// Finds out all of it, server by server. Nothing is changed.
pub(super) async fn gather(watched: Arc<Vec<Watched>>) -> Vec<Facts> {
    let positions = positions(&watched).await;
    let read = move || {
        let now = Timestamp::now();
        watched.iter().zip(positions).map(|(watched, position)| watched.facts(position, now)).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Where the servers write; those that don't say so in time are left out.
async fn positions(watched: &[Watched]) -> Vec<Option<Lsn>> {
    let deadline = tokio::time::Instant::now() + ASK_PATIENCE;
    let mut asked = Vec::new();
    for watched in watched {
        let conninfo = watched.conninfo.clone();
        asked.push(tokio::spawn(async move {
            let client = pgwal::sql::connect(&conninfo?).await.ok()?;
            let position = "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() \
                            else pg_current_wal_flush_lsn() end)::text";
            let row = client.query_one(position, &[]).await.ok()?;
            row.try_get::<_, &str>(0).ok()?.parse().ok()
        }));
    }
    let mut positions = Vec::new();
    for mut task in asked {
        let answer = tokio::time::timeout_at(deadline, &mut task).await;
        if answer.is_err() {
            task.abort();
        }
        positions.push(answer.ok().and_then(Result::ok).flatten());
    }
    positions
}

impl Watched {
    fn facts(&self, position: Option<Lsn>, now: Timestamp) -> Facts {
        let server = &self.server;
        let windows = Gathered::of(server, now, 0).map_err(|error| error.to_string());
        let received = windows.as_ref().ok().and_then(|gathered| gathered.received_to);
        let streams = server.config.active() && server.config.streaming_archiver();
        let last_backup = server.catalog().backups().ok().and_then(|backups| {
            let last = backups.iter().rev().find(|backup| backup.status.is_usable())?;
            LastBackup::of(last)
        });
        Facts {
            server: server.name().to_owned(),
            active: server.config.active(),
            last_backup,
            check: notify::check_state(server),
            receiver: streams.then(|| is_receiving(server)),
            lag_bytes: position
                .zip(received)
                .map(|(at, received)| at.as_u64().saturating_sub(received.as_u64())),
            windows,
        }
    }
}

impl LastBackup {
    fn of(info: &BackupInfo) -> Option<Self> {
        let end = info.end_time.as_ref()?.timestamp();
        let begin = info.begin_time.as_ref().map(jiff::Zoned::timestamp);
        let seconds = begin.map(|begin| end.duration_since(begin).as_secs_f64());
        Some(LastBackup { end, size: info.size, seconds })
    }
}

/// Whether somebody holds the receiver's lock.
fn is_receiving(server: &ServerContext) -> bool {
    ServerLock::holder(&server.layout(), Task::ReceiveWal).is_ok_and(|holder| holder.is_some())
}
