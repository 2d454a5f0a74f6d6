//! What a backup's record says of the server, asked before the backup starts.

use barkeep_catalog::{BackupInfo, Tablespace};
use pgbase::checksum::PageGeometry;
use pgwal::replication::{ConnInfo, Connection, SystemIdentity};
use pgwal::sql::tokio_postgres::Client;
use pgwal::{Lsn, SegmentSize, TimelineId};

use crate::error::CommandError;

/// The oldest version that barkeep works with, as `server_version_num`.
const OLDEST_VERSION: u32 = 130_000;

/// The settings that go into a backup's record. A user without the right to see one gets no row for it.
const SETTINGS: &str = "select name, setting from pg_catalog.pg_settings where name in (\
    'config_file', 'hba_file', 'ident_file', 'data_directory', 'data_checksums', 'summarize_wal', \
    'wal_segment_size', 'block_size', 'segment_size')";

/// Files that settings come from, besides the main one. None for a user without the right to see them.
const INCLUDED_FILES: &str = "select distinct sourcefile from pg_catalog.pg_settings \
    where sourcefile is not null \
    and sourcefile not in (select setting from pg_catalog.pg_settings where name = 'config_file') \
    order by 1";

const TABLESPACES: &str = "select spcname::text, oid, pg_catalog.pg_tablespace_location(oid) \
    from pg_catalog.pg_tablespace where pg_catalog.pg_tablespace_location(oid) <> '' order by spcname";

/// The same as `IDENTIFY_SYSTEM` has.
const IDENTITY: &str = "select system_identifier::text, \
    (select timeline_id::int8 from pg_catalog.pg_control_checkpoint()), \
    case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()::text \
    else pg_catalog.pg_current_wal_flush_lsn()::text end from pg_catalog.pg_control_system()";

const CLUSTER_SIZE: &str =
    "select sum(pg_catalog.pg_tablespace_size(oid))::bigint from pg_catalog.pg_tablespace";

/// What is known of a server.
#[derive(Debug)]
pub(super) struct ServerFacts {
    pub(super) version: u32,
    pub(super) system_id: String,
    pub(super) timeline: TimelineId,
    /// Where its WAL is now.
    pub(super) position: Lsn,
    pub(super) in_recovery: bool,
    segment_size: SegmentSize,
    settings: Vec<(String, String)>,
    pub(super) included_files: Vec<String>,
    pub(super) tablespaces: Vec<Tablespace>,
    cluster_size: Option<u64>,
}

/// Asks over both connections, so that either's trouble shows before anything is stored; over SQL alone when there is no
/// other.
pub(super) async fn ask(
    conninfo: &ConnInfo,
    streaming: Option<&ConnInfo>,
) -> Result<ServerFacts, CommandError> {
    let by_stream = match streaming {
        Some(streaming) => {
            let mut replication = Connection::connect(streaming).await.map_err(|error| {
                CommandError::because("the replication connection (streaming_conninfo) failed", &error)
            })?;
            let version = replication.server_version_num();
            refuse_old(version)?;
            let identity = replication.identify_system().await?;
            replication.close().await;
            Some((version, identity))
        }
        None => None,
    };
    let client = pgwal::sql::connect(conninfo)
        .await
        .map_err(|error| CommandError::because("the SQL connection (conninfo) failed", &error))?;
    let unanswered = |error| CommandError::because("the server can't be asked about itself", &error);
    let (version, identity) = match by_stream {
        Some(known) => known,
        None => identify_by_sql(&client).await.map_err(unanswered)??,
    };
    sql_facts(&client, version, identity).await.map_err(unanswered)?
}

fn refuse_old(version: u32) -> Result<(), CommandError> {
    if version >= OLDEST_VERSION {
        return Ok(());
    }
    let major = version / 10_000;
    Err(CommandError::new(format!("the server is PostgreSQL {major}: 13 or later is needed")))
}

/// What `IDENTIFY_SYSTEM` tells, by SQL.
async fn identify_by_sql(
    client: &Client,
) -> Result<Result<(u32, SystemIdentity), CommandError>, pgwal::sql::tokio_postgres::Error> {
    let version = client.query_one("select pg_catalog.current_setting('server_version_num')", &[]).await?;
    let version: String = version.try_get(0)?;
    let version: u32 = version.parse().unwrap_or(0);
    if let Err(refusal) = refuse_old(version) {
        return Ok(Err(refusal));
    }
    let row = client.query_one(IDENTITY, &[]).await?;
    let (system_id, timeline): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    let position: Option<String> = row.try_get(2)?;
    let timeline = u32::try_from(timeline).ok().and_then(TimelineId::new).unwrap_or(TimelineId::FIRST);
    let flush_lsn = position.and_then(|lsn| lsn.parse().ok()).unwrap_or(Lsn::INVALID);
    Ok(Ok((version, SystemIdentity { system_id, timeline, flush_lsn, database: None })))
}

async fn sql_facts(
    client: &Client,
    version: u32,
    identity: pgwal::replication::SystemIdentity,
) -> Result<Result<ServerFacts, CommandError>, pgwal::sql::tokio_postgres::Error> {
    let mut settings = Vec::new();
    for row in client.query(SETTINGS, &[]).await? {
        settings.push((row.try_get(0)?, row.try_get(1)?));
    }
    let find =
        |name: &str| settings.iter().find(|(key, _): &&(String, String)| key == name).map(|(_, v)| v.clone());
    let segment_bytes = find("wal_segment_size").and_then(|bytes| bytes.parse::<u64>().ok());
    let Some(segment_size) = segment_bytes.and_then(SegmentSize::new) else {
        return Ok(Err(CommandError::new(format!(
            "the server's wal_segment_size is odd: {segment_bytes:?}"
        ))));
    };
    let mut included_files = Vec::new();
    for row in client.query(INCLUDED_FILES, &[]).await? {
        included_files.push(row.try_get(0)?);
    }
    let mut tablespaces = Vec::new();
    for row in client.query(TABLESPACES, &[]).await? {
        tablespaces.push(Tablespace {
            name: row.try_get(0)?,
            oid: row.try_get(1)?,
            location: row.try_get(2)?,
        });
    }
    let in_recovery = client.query_one("select pg_catalog.pg_is_in_recovery()", &[]).await?.try_get(0)?;
    // Needs pg_monitor or the like; a backup is none the worse without.
    let cluster_size = match client.query_one(CLUSTER_SIZE, &[]).await {
        Ok(row) => row.try_get::<_, Option<i64>>(0)?.and_then(|bytes| bytes.try_into().ok()),
        Err(error) => {
            tracing::debug!(%error, "the cluster's size is not known");
            None
        }
    };
    Ok(Ok(ServerFacts {
        version,
        system_id: identity.system_id,
        timeline: identity.timeline,
        position: identity.flush_lsn,
        in_recovery,
        segment_size,
        settings,
        included_files,
        tablespaces,
        cluster_size,
    }))
}

impl ServerFacts {
    /// `15`.
    pub(super) fn major_version(&self) -> String {
        (self.version / 10_000).to_string()
    }

    pub(super) fn setting(&self, name: &str) -> Option<String> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// How the cluster's pages lie in its files; `None` when it has no data checksums.
    ///
    /// # Errors
    /// When the server's settings make no sense.
    pub(super) fn pages(&self) -> Result<Option<PageGeometry>, CommandError> {
        if self.setting("data_checksums").as_deref() != Some("on") {
            return Ok(None);
        }
        let number = |name: &str| self.setting(name)?.parse::<u32>().ok();
        let geometry = match (number("block_size"), number("segment_size")) {
            (Some(block), Some(blocks)) => {
                usize::try_from(block).ok().and_then(|block| PageGeometry::new(block, blocks))
            }
            _ => None,
        };
        let odd = || CommandError::new("the server's block_size or segment_size is odd");
        geometry.map(Some).ok_or_else(odd)
    }

    /// Writes the facts into a backup's record.
    pub(super) fn record(&self, info: &mut BackupInfo) {
        info.mode = Some("postgres".to_owned());
        info.version = Some(self.version);
        info.system_id = Some(self.system_id.clone());
        info.segment_size = self.segment_size;
        info.pgdata = self.setting("data_directory");
        info.config_file = self.setting("config_file");
        info.hba_file = self.setting("hba_file");
        info.ident_file = self.setting("ident_file");
        info.included_files.clone_from(&self.included_files);
        info.data_checksums = self.setting("data_checksums");
        info.summarize_wal = self.setting("summarize_wal");
        info.tablespaces.clone_from(&self.tablespaces);
        info.cluster_size = self.cluster_size;
    }
}
