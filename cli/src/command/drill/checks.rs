//! What a restored server is asked: whether it has recovered, and whether its tables and indexes are sound.

use std::time::{Duration, Instant};

use barkeep_catalog::drill::LastCommit;
use barkeep_catalog::preflight::Transaction;
use pgbase::checksum::{CheckedCluster, PageGeometry};
use pgwal::replication::{ConnInfo, ConnectError};
use pgwal::sql::tokio_postgres::{Client, SimpleQueryMessage};
use pgwal::sql::{SqlError, connect};
use pgwal::wire::SqlState;

use super::scratch::PORT;
use super::server::Server;
use crate::args::{DrillArgs, DrillCheck};
use crate::error::{CommandError, chain};

/// How often it is asked whether it has recovered.
const POLL: Duration = Duration::from_millis(20);
/// Most faults that are told.
pub(super) const FAULTS_MAX: usize = 100;

/// PostgreSQL 14: amcheck looks at tables too.
const HEAP_CHECKS: u32 = 140_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// When the server could be used.
    pub(super) recovered: Option<Instant>,
    /// Where recovery ended.
    pub(super) reached: Option<String>,
    pub(super) databases: u64,
    /// Databases in which amcheck is not to be had.
    pub(super) unchecked: u64,
    pub(super) tables: u64,
    pub(super) indexes: u64,
    /// The pages that are to be looked at once the server is stopped.
    pub(super) wants_pages: Option<PageGeometry>,
    /// Checksums were asked for, and the cluster has none.
    pub(super) without_checksums: bool,
    /// What was looked at then.
    pub(super) pages: Option<CheckedCluster>,
    pub(super) last_commit: Option<LastCommit>,
    pub(super) answers: Vec<String>,
    pub(super) faults: Vec<String>,
}

/// Why a drill ends before everything has been asked.
#[derive(Debug)]
pub(super) enum Ended {
    /// The restored server is not what it should be.
    Failed(CommandError),
    /// Nothing is known of the backup.
    Unjudged(CommandError),
}

/// Waits until the server has recovered, and asks it everything.
pub(super) async fn run(
    server: &Server,
    args: &DrillArgs,
    check: DrillCheck,
    expected: Option<&Transaction>,
) -> Result<Found, Ended> {
    let client = recovered(server, args, Duration::from_secs(args.timeout.into())).await?;
    let mut found = Found { recovered: Some(Instant::now()), ..Found::default() };
    found.reached = rows(&client, "select pg_current_wal_insert_lsn()")
        .await
        .ok()
        .and_then(|rows| rows.into_iter().next());
    if let Some(expected) = expected {
        compare(&client, expected, &mut found).await;
    }
    let version: u32 = rows(&client, "show server_version_num")
        .await
        .ok()
        .and_then(|rows| rows.first()?.parse().ok())
        .unwrap_or_default();
    let has_checksums = rows(&client, "show data_checksums").await.is_ok_and(|rows| rows == ["on"]);
    found.without_checksums = check != DrillCheck::Amcheck && !has_checksums;
    let by_amcheck = check != DrillCheck::Checksums || !has_checksums;
    let databases =
        rows(&client, "select datname from pg_database where datallowconn order by 1").await.map_err(
            |error| Ended::Failed(CommandError::new(format!("the databases can't be listed: {error}"))),
        )?;
    for database in databases {
        match session(server, args, &database).await {
            Ok(client) if by_amcheck => check_database(&client, &database, version, &mut found).await,
            Ok(_) => {}
            Err(error) => found.fault(format!("database \"{database}\" can't be opened: {}", chain(&error))),
        }
        found.databases += 1;
    }
    if let Some(sql) = &args.sql {
        match session(server, args, &args.database).await {
            Ok(client) => match rows(&client, sql).await {
                Ok(answers) => found.answers = answers,
                Err(error) => found.fault(format!("the question failed: {error}")),
            },
            Err(error) => {
                found.fault(format!("database \"{}\" can't be opened: {}", args.database, chain(&error)));
            }
        }
    }
    let seen_all = found.unchecked == 0 && version >= HEAP_CHECKS;
    if has_checksums && (check != DrillCheck::Amcheck || !seen_all) {
        // What recovery has repaired has to be in the files by then.
        match rows(&client, "checkpoint").await {
            Ok(_) => found.wants_pages = Some(geometry(&client).await),
            Err(error) => found.fault(format!("what was recovered can't be written: {error}")),
        }
    }
    Ok(found)
}

/// How the server lays pages out in files.
async fn geometry(client: &Client) -> PageGeometry {
    let query = "select s.setting || ' ' || b.setting from pg_settings s, pg_settings b \
                 where s.name = 'segment_size' and b.name = 'block_size'";
    let told = rows(client, query).await.unwrap_or_default();
    let numbers = told.first().and_then(|row| row.split_once(' '));
    numbers
        .and_then(|(blocks, bytes)| PageGeometry::new(bytes.parse().ok()?, blocks.parse().ok()?))
        .unwrap_or(PageGeometry::DEFAULT)
}

/// Looks whether the last commit that should be there is. What is in the archive before the target, and not in the
/// cluster, was lost on the way.
async fn compare(client: &Client, expected: &Transaction, found: &mut Found) {
    let Transaction { xid, lsn, time, .. } = *expected;
    let next =
        rows(client, "select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text").await;
    let Some(next) = next.ok().and_then(|rows| rows.first()?.parse::<u64>().ok()) else { return };
    // The newest 64-bit number with these 32 bits that is not in the future.
    let in_epoch = next & !u64::from(u32::MAX) | u64::from(xid);
    let full = if in_epoch > next { in_epoch.saturating_sub(1 << 32) } else { in_epoch };
    match rows(client, &format!("select pg_catalog.pg_xact_status('{full}')")).await {
        Ok(status) if status == ["committed"] => {
            let (lsn, time) = (lsn.to_string(), time.to_string());
            found.last_commit = Some(LastCommit { xid, lsn, time });
        }
        Ok(status) => found.fault(format!(
            "recovery ended too early: transaction {xid}, which committed at {lsn} ({time}), is the last one before the \
             target by the archive, and is {} in the restored cluster",
            status.first().filter(|status| !status.is_empty()).map_or("unknown", String::as_str)
        )),
        Err(error) => found.fault(format!("the last commit can't be asked for: {error}")),
    }
}

/// A session with the server, once it is out of recovery.
async fn recovered(server: &Server, args: &DrillArgs, patience: Duration) -> Result<Client, Ended> {
    let begun = Instant::now();
    let mut database = "postgres";
    loop {
        if server.has_ended() {
            return Err(Ended::Failed(CommandError::new("the restored server gave up")));
        }
        if begun.elapsed() > patience {
            return Err(Ended::Failed(CommandError::new(format!(
                "the restored server did not recover within {} seconds",
                patience.as_secs()
            ))));
        }
        match session(server, args, database).await {
            Ok(client) => {
                if rows(&client, "select pg_is_in_recovery()").await.is_ok_and(|rows| rows == ["f"]) {
                    return Ok(client);
                }
            }
            // A server that is up and refuses goes on doing so.
            Err(SqlError::Connect(error)) => match error.sqlstate() {
                Some(SqlState::INVALID_CATALOG_NAME) if database == "postgres" => database = "template1",
                Some(SqlState::INVALID_AUTHORIZATION | SqlState::INVALID_CATALOG_NAME) => {
                    let what = format!("The restored server can't be asked as user '{}'", args.user);
                    let refused = CommandError::because(what, &error);
                    return Err(Ended::Unjudged(refused.hint("name a superuser of it with --user")));
                }
                _ => {}
            },
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn session(server: &Server, args: &DrillArgs, database: &str) -> Result<Client, SqlError> {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let sockets = server.sockets.to_string_lossy();
    let text = format!(
        "host={} port={PORT} user={} dbname={} sslmode=disable",
        quote(&sockets),
        quote(&args.user),
        quote(database)
    );
    // Nothing of the environment: this is about one server only.
    let conninfo = ConnInfo::parse(&text, &|_| None).map_err(ConnectError::from)?;
    connect(&conninfo).await
}

async fn check_database(client: &Client, database: &str, version: u32, found: &mut Found) {
    let installable = "select 1 from pg_available_extensions where name = 'amcheck'";
    if rows(client, installable).await.map_or(true, |rows| rows.is_empty()) {
        found.unchecked += 1;
        return;
    }
    if let Err(error) = rows(client, "create extension if not exists amcheck").await {
        return found.fault(format!("database \"{database}\": amcheck can't be had: {error}"));
    }
    let query = "select quote_ident(nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace \
                 where extname = 'amcheck'";
    let schema = match rows(client, query).await {
        Ok(mut rows) if rows.len() == 1 => rows.remove(0),
        _ => return found.fault(format!("database \"{database}\": amcheck has no schema")),
    };
    let indexes = "select c.oid || ' ' || c.oid::regclass from pg_index i join pg_class c on c.oid = i.indexrelid \
                   join pg_am a on a.oid = c.relam where a.amname = 'btree' and c.relkind = 'i' \
                   and c.relpersistence <> 't' and i.indisready and i.indisvalid";
    for (oid, name) in objects(client, indexes, database, found).await {
        found.indexes += 1;
        if let Err(error) = rows(client, &format!("select {schema}.bt_index_check({oid})")).await {
            found.fault(format!("database \"{database}\", index {name}: {error}"));
        }
    }
    // PostgreSQL 13's amcheck knows indexes only.
    if version < HEAP_CHECKS {
        return;
    }
    let tables = "select c.oid || ' ' || c.oid::regclass from pg_class c join pg_am a on a.oid = c.relam \
                  where a.amname = 'heap' and c.relkind in ('r', 'm', 't') and c.relpersistence <> 't'";
    for (oid, name) in objects(client, tables, database, found).await {
        found.tables += 1;
        let query = format!(
            "select 'block ' || coalesce(blkno, 0) || ': ' || msg from {schema}.verify_heapam({oid}) limit 3"
        );
        match rows(client, &query).await {
            Ok(corrupt) => corrupt.iter().for_each(|what| {
                found.fault(format!("database \"{database}\", table {name}, {what}"));
            }),
            Err(error) => found.fault(format!("database \"{database}\", table {name}: {error}")),
        }
    }
}

/// Object ids with names.
async fn objects(client: &Client, query: &str, database: &str, found: &mut Found) -> Vec<(String, String)> {
    match rows(client, query).await {
        Ok(rows) => rows
            .iter()
            .filter_map(|row| row.split_once(' '))
            .map(|(oid, name)| (oid.to_owned(), name.to_owned()))
            .collect(),
        Err(error) => {
            found.fault(format!("database \"{database}\": the catalogue can't be read: {error}"));
            Vec::new()
        }
    }
}

impl Found {
    pub(super) fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }
}

/// The first column of each row.
async fn rows(client: &Client, query: &str) -> Result<Vec<String>, String> {
    let answer = client.simple_query(query).await.map_err(|error| chain(&error))?;
    let text = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    Ok(answer.iter().filter_map(text).collect())
}
