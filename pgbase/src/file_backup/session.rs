//! Telling the server, by SQL, that a backup begins and ends.
//!
//! The session stays open in between: when it ends, so does the server's knowledge of the backup.

use std::time::Duration;

use pgwal::sql::tokio_postgres::{Client, Error};
use pgwal::{Lsn, TimelineId};

use super::BackupEnd;

/// PostgreSQL 15: `pg_start_backup` became `pg_backup_start`, and exclusive backups went away.
const NEW_FUNCTIONS: u32 = 150_000;

/// How a backup is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// Any number of backups may be under way.
    Concurrent,
    /// One at a time, with the label in the data directory: PostgreSQL 14 and older, not on a standby.
    Exclusive,
}

/// A backup that the server would not begin or end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The server refused, or the connection failed.
    #[error("the server does not {action} the backup: {source}")]
    Server {
        /// `begin` or `end`.
        action: &'static str,
        /// What it says.
        #[source]
        source: Error,
    },
    /// Exclusive backups where there are none.
    #[error("PostgreSQL {major} has no exclusive backups")]
    NoExclusive {
        /// The server's major version.
        major: u32,
    },
    /// An answer that can't be understood.
    #[error("the server's answer about the backup can't be understood: {0}")]
    Answer(String),
}

impl SessionError {
    /// Whether the connection was lost, rather than something refused.
    pub fn is_lost(&self) -> bool {
        matches!(self, SessionError::Server { source, .. } if source.is_closed() || source.as_db_error().is_none())
    }
}

/// A backup that the server knows of.
pub struct BackupSession {
    client: Client,
    version: u32,
    announcement: Announcement,
    /// Where the backup starts.
    pub start: Lsn,
    /// The timeline that the server is on.
    pub timeline: TimelineId,
}

impl std::fmt::Debug for BackupSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupSession").field("start", &self.start).finish_non_exhaustive()
    }
}

impl BackupSession {
    /// Begins a backup; this waits for a checkpoint, for a fast one or the next of its own.
    ///
    /// # Errors
    /// When the server refuses: for lack of rights, or since an exclusive backup is under way.
    pub async fn begin(
        client: Client,
        version: u32,
        label: &str,
        immediate_checkpoint: bool,
        announcement: Announcement,
    ) -> Result<Self, SessionError> {
        if announcement == Announcement::Exclusive && version >= NEW_FUNCTIONS {
            return Err(SessionError::NoExclusive { major: version / 10_000 });
        }
        let failed = |source| SessionError::Server { action: "begin", source };
        // A backup takes as long as it takes, and nobody's settings may end it.
        let quiet = "set statement_timeout = 0; set idle_session_timeout = 0";
        let quiet = if version < 140_000 { "set statement_timeout = 0" } else { quiet };
        client.batch_execute(quiet).await.map_err(failed)?;
        let call = match (version >= NEW_FUNCTIONS, announcement) {
            (true, _) => "pg_catalog.pg_backup_start($1::text, $2::bool)",
            (false, Announcement::Concurrent) => "pg_catalog.pg_start_backup($1::text, $2::bool, false)",
            (false, Announcement::Exclusive) => "pg_catalog.pg_start_backup($1::text, $2::bool)",
        };
        let question = format!(
            "select s::text, (select timeline_id::int8 from pg_catalog.pg_control_checkpoint()) from {call} as s"
        );
        let row = client.query_one(&question, &[&label, &immediate_checkpoint]).await.map_err(failed)?;
        let start: String = row.try_get(0).map_err(failed)?;
        let timeline: i64 = row.try_get(1).map_err(failed)?;
        let start = start.parse().map_err(|_| SessionError::Answer(start.clone()))?;
        let timeline = u32::try_from(timeline).ok().and_then(TimelineId::new);
        let timeline = timeline.ok_or_else(|| SessionError::Answer("its timeline".to_owned()))?;
        Ok(BackupSession { client, version, announcement, start, timeline })
    }

    /// Asks for a sign of life every so often, and returns only when none comes.
    pub async fn heartbeat(&self, interval: Option<Duration>) -> SessionError {
        let Some(interval) = interval else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval).await;
            if let Err(source) = self.client.simple_query("select 1").await {
                return SessionError::Server { action: "go on with", source };
            }
        }
    }

    /// Ends the backup. It does not wait for WAL to be archived: whoever keeps the backup looks for it anyway.
    ///
    /// # Errors
    /// When the server refuses, as it does when it was promoted meanwhile.
    pub async fn end(self) -> Result<BackupEnd, SessionError> {
        let failed = |source| SessionError::Server { action: "end", source };
        let answer = |text: String| text.parse::<Lsn>().map_err(|_| SessionError::Answer(text));
        if self.announcement == Announcement::Exclusive {
            let read = |name: &str| format!("pg_catalog.pg_read_file('{name}', 0, 1048576, true)");
            let question = format!("select {}, {}", read("backup_label"), read("tablespace_map"));
            let row = self.client.query_one(&question, &[]).await.map_err(failed)?;
            let label: Option<String> = row.try_get(0).map_err(failed)?;
            let map: Option<String> = row.try_get(1).map_err(failed)?;
            let stop = self.client.query_one("select pg_catalog.pg_stop_backup()::text", &[]).await;
            let stop: String = stop.and_then(|row| row.try_get(0)).map_err(failed)?;
            let label = label.ok_or_else(|| SessionError::Answer("no backup_label".to_owned()))?;
            return Ok(BackupEnd { stop: answer(stop)?, label, tablespace_map: map.unwrap_or_default() });
        }
        let call = match self.version >= NEW_FUNCTIONS {
            true => "pg_catalog.pg_backup_stop(false)",
            false => "pg_catalog.pg_stop_backup(false, false)",
        };
        let question = format!("select lsn::text, labelfile, spcmapfile from {call}");
        let row = self.client.query_one(&question, &[]).await.map_err(failed)?;
        let stop: String = row.try_get(0).map_err(failed)?;
        let map: Option<String> = row.try_get(2).map_err(failed)?;
        Ok(BackupEnd {
            stop: answer(stop)?,
            label: row.try_get(1).map_err(failed)?,
            tablespace_map: map.unwrap_or_default(),
        })
    }

    /// Gives the backup up. For a concurrent one that is no more than closing the connection; an exclusive one
    /// has to be ended, or the server stays in backup mode.
    pub async fn abandon(self) {
        if self.announcement == Announcement::Exclusive
            && let Err(error) = self.client.simple_query("select pg_catalog.pg_stop_backup()").await
        {
            tracing::warn!(%error, "the server stays in backup mode: select pg_stop_backup()");
        }
    }
}
