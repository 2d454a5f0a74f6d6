//! What a running server says of itself, by SQL and over the replication protocol.
//!
//! Everything is asked in one go and kept as plain facts, for `check`, `status` and `show-servers` to judge and to print.
//! What can't be had (a privilege is missing, the server is down) is absent, and does not keep the rest from being known.

mod names;
pub mod replication;
mod sql;

use std::future::Future;
use std::time::Duration;

use pgwal::replication::{ConnInfo, Connection};
use pgwal::{Lsn, TimelineId};

use crate::command::connect;
use crate::context::{Context, ServerContext};
use crate::error::{CommandError, chain};

pub(crate) use names::ask as ask_names;
pub use sql::{Archiver, Slot, Sql};

/// How long to ask where no limit is configured, in seconds: a person is waiting.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);

/// What a running server says of itself. An `Err` says why there is no answer.
#[derive(Debug, Default)]
pub struct Live {
    /// The server by `conninfo`.
    pub sql: Answer<Sql>,
    /// The server by `streaming_conninfo`; not asked when nothing streams from it.
    pub streaming: Option<Answer<Streaming>>,
    /// The host that WAL comes from, where it is not the one that is backed up.
    pub wal_host: Option<WalHost>,
    /// The primary of a standby that is backed up.
    pub primary: Option<Answer<Sql>>,
}

/// The host that WAL comes from.
#[derive(Debug)]
pub struct WalHost {
    /// By `wal_conninfo`.
    pub sql: Answer<Sql>,
    /// By `wal_streaming_conninfo`.
    pub streaming: Answer<Streaming>,
}

/// What the replication protocol says of a server.
#[derive(Debug, Clone)]
pub struct Streaming {
    /// Its system identifier.
    pub system_id: String,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The end of its WAL.
    pub position: Lsn,
}

/// Facts, or why there are none.
#[derive(Debug, Clone)]
pub enum Answer<T> {
    /// The facts.
    Known(T),
    /// Why there are none.
    Failed(String),
    /// There was no time to ask.
    TimedOut,
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Answer::Failed("not asked".to_owned())
    }
}

impl<T> Answer<T> {
    /// The facts, if there are any.
    pub fn known(&self) -> Option<&T> {
        match self {
            Answer::Known(facts) => Some(facts),
            Answer::Failed(_) | Answer::TimedOut => None,
        }
    }

    /// Why there are no facts.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Answer::Known(_) => None,
            Answer::Failed(reason) => Some(reason),
            Answer::TimedOut => Some("no answer in time"),
        }
    }
}

impl Live {
    /// Asks a server everything. `limit` bounds the whole of it; `None` is for ever.
    ///
    /// # Errors
    /// When the event loop can't be started; everything else is in the answers.
    pub fn ask(
        context: &mut Context,
        server: &ServerContext,
        limit: Option<Duration>,
    ) -> Result<Self, CommandError> {
        // Started here, so that the context can be lent below.
        context.runtime()?;
        match context.started_runtime() {
            Some(runtime) => Ok(Self::ask_on(runtime, context, server, limit)),
            None => Ok(Live::default()),
        }
    }

    /// [`ask`](Self::ask) on an event loop of the caller's, for servers that are asked at the same time.
    pub fn ask_on(
        runtime: &tokio::runtime::Runtime,
        context: &Context,
        server: &ServerContext,
        limit: Option<Duration>,
    ) -> Self {
        if server.config.passive() || !server.config.active() {
            return Live::default();
        }
        let config = &server.config;
        let slot = config.slot_name().map(str::to_owned);
        let main = connect::sql(context, server);
        let streams =
            config.streaming_archiver() || config.backup_method() == crate::config::BackupMethod::Postgres;
        let streaming = streams.then(|| connect::backup_streaming(context, server));
        let other_host = config.wal_conninfo().is_some() || config.wal_streaming_conninfo().is_some();
        let wal_host =
            other_host.then(|| (connect::wal_sql(context, server), connect::wal_streaming(context, server)));
        let primary = connect::primary(context, server).transpose();
        runtime.block_on(async {
            let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
            let sql = within(deadline, ask_sql(main, slot.clone())).await;
            let streaming = match streaming {
                Some(conninfo) => Some(within(deadline, ask_streaming(conninfo)).await),
                None => None,
            };
            let wal_host = match wal_host {
                Some((by_sql, by_stream)) => Some(WalHost {
                    sql: within(deadline, ask_sql(by_sql, slot)).await,
                    streaming: within(deadline, ask_streaming(by_stream)).await,
                }),
                None => None,
            };
            let primary = match primary {
                Some(conninfo) => Some(within(deadline, ask_sql(conninfo, None)).await),
                None => None,
            };
            Live { sql, streaming, wal_host, primary }
        })
    }

    /// [`ask`](Self::ask) for commands that have no limit of their own: as long as a check may take.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn ask_patiently(context: &mut Context, server: &ServerContext) -> Result<Self, CommandError> {
        let limit = server.config.check_timeout().unwrap_or(DEFAULT_PATIENCE);
        Self::ask(context, server, Some(limit))
    }

    /// Whether something was not asked because time was up.
    pub fn timed_out(&self) -> bool {
        let late = |answer: Option<&Answer<Sql>>| matches!(answer, Some(Answer::TimedOut));
        let late_stream = |answer: Option<&Answer<Streaming>>| matches!(answer, Some(Answer::TimedOut));
        late(Some(&self.sql))
            || late_stream(self.streaming.as_ref())
            || late(self.wal_host.as_ref().map(|host| &host.sql))
            || late_stream(self.wal_host.as_ref().map(|host| &host.streaming))
            || late(self.primary.as_ref())
    }
}

/// The answer, or that time is up.
async fn within<T>(
    deadline: Option<tokio::time::Instant>,
    question: impl Future<Output = Result<T, String>>,
) -> Answer<T> {
    let answer = match deadline {
        Some(deadline) => match tokio::time::timeout_at(deadline, question).await {
            Ok(answer) => answer,
            Err(_) => return Answer::TimedOut,
        },
        None => question.await,
    };
    match answer {
        Ok(facts) => Answer::Known(facts),
        Err(reason) => Answer::Failed(reason),
    }
}

async fn ask_sql(conninfo: Result<ConnInfo, CommandError>, slot: Option<String>) -> Result<Sql, String> {
    let conninfo = conninfo.map_err(|error| error.to_string())?;
    let client = pgwal::sql::connect(&conninfo).await.map_err(|error| chain(&error))?;
    sql::ask(&client, slot.as_deref()).await.map_err(|error| chain(&error))
}

/// Everything that a server says by SQL, to a client that is connected already.
pub(crate) async fn ask_by_sql(
    client: &pgwal::sql::tokio_postgres::Client,
) -> Result<Sql, pgwal::sql::tokio_postgres::Error> {
    sql::ask(client, None).await
}

async fn ask_streaming(conninfo: Result<ConnInfo, CommandError>) -> Result<Streaming, String> {
    let conninfo = conninfo.map_err(|error| error.to_string())?;
    let mut connection = Connection::connect(&conninfo).await.map_err(|error| chain(&error))?;
    let identity = connection.identify_system().await.map_err(|error| chain(&error))?;
    connection.close().await;
    Ok(Streaming { system_id: identity.system_id, timeline: identity.timeline, position: identity.flush_lsn })
}
