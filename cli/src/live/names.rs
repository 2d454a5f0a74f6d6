//! What relations, schemas and databases are called, by SQL, with where their rows are.

use std::str::FromStr;
use std::time::Duration;

use barkeep_catalog::name_map::{DatabaseNames, NameMap};
use jiff::Timestamp;
use pgwal::WalVersion;
use pgwal::names::{Catalog, ClassRow, DatabaseRow, Name, NamespaceRow, RowPlace};
use pgwal::replication::ConnInfo;
use pgwal::sql::connect;
use pgwal::sql::tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::ask_by_sql;
use crate::error::chain;

/// Most databases that are asked.
const DATABASES_MAX: usize = 1000;
/// Most relations that are asked for in one database.
const RELATIONS_MAX: usize = 1_000_000;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks a server for all names. Databases that can't be entered are left empty.
///
/// # Errors
/// Why there is no map.
pub(crate) async fn ask(conninfo: &ConnInfo) -> Result<NameMap, String> {
    let asked = tokio::time::timeout(PATIENCE, ask_all(conninfo)).await;
    asked.map_err(|_| "no answer in time".to_owned())?
}

async fn ask_all(conninfo: &ConnInfo) -> Result<NameMap, String> {
    let client = connect(conninfo).await.map_err(|error| chain(&error))?;
    // The position first: what is written from then on will be followed in the WAL.
    let facts = ask_by_sql(&client).await.map_err(|error| chain(&error))?;
    let missing = |what: &str| format!("the server does not tell its {what}");
    let mut map = NameMap {
        at: Timestamp::now(),
        lsn: facts.position.ok_or_else(|| missing("position"))?,
        timeline: facts.timeline.ok_or_else(|| missing("timeline"))?,
        version: WalVersion::from_major(facts.version / 10_000).ok_or_else(|| missing("version"))?,
        system_id: facts
            .system_id
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| missing("system identifier"))?,
        database_file: number(&rows(&client, FILE_OF_DATABASES).await?, 0, 0)
            .ok_or_else(|| missing("files"))?,
        databases: Vec::new(),
    };
    for row in rows(&client, DATABASES).await?.iter().take(DATABASES_MAX) {
        let read = || {
            let oid = cell(row, 1)?;
            let named = DatabaseRow { oid, name: name(row.get(2)?)?, encoding: cell(row, 3)? };
            Some((place(row.get(0)?)?, named, row.get(4)? == "t"))
        };
        let Some((place, database, may_enter)) = read() else { continue };
        let files = (Catalog::Class.oid(), Catalog::Namespace.oid());
        let mut names =
            DatabaseNames { place, row: database, files, schemas: Vec::new(), relations: Vec::new() };
        if may_enter {
            // One that can't be entered keeps nobody from the others.
            let _ = enter(conninfo, &mut names).await;
        }
        map.databases.push(names);
    }
    Ok(map)
}

const FILE_OF_DATABASES: &str =
    "select pg_catalog.pg_relation_filenode('pg_catalog.pg_database'::pg_catalog.regclass)";
/// Names as bytes in the database's encoding, as they are stored.
const DATABASES: &str = "select ctid, oid, pg_catalog.convert_to(datname::text, pg_catalog.getdatabaseencoding()), \
                         encoding, datallowconn from pg_catalog.pg_database";
const FILES: &str = "select pg_catalog.pg_relation_filenode('pg_catalog.pg_class'::pg_catalog.regclass), \
                     pg_catalog.pg_relation_filenode('pg_catalog.pg_namespace'::pg_catalog.regclass)";
const SCHEMAS: &str = "select ctid, oid, pg_catalog.convert_to(nspname::text, pg_catalog.getdatabaseencoding()) \
                       from pg_catalog.pg_namespace limit 1000000";
const RELATIONS: &str = "select ctid, oid, pg_catalog.convert_to(relname::text, pg_catalog.getdatabaseencoding()), \
                         relnamespace, relfilenode, reltablespace, relkind, relpersistence \
                         from pg_catalog.pg_class where relpersistence <> 't' limit 1000000";

async fn enter(conninfo: &ConnInfo, names: &mut DatabaseNames) -> Result<(), String> {
    let mut conninfo = conninfo.clone();
    let database = std::str::from_utf8(names.row.name.as_bytes()).map_err(|error| error.to_string())?;
    conninfo.set("dbname", database).map_err(|error| chain(&error))?;
    let client = connect(&conninfo).await.map_err(|error| chain(&error))?;
    let files = rows(&client, FILES).await?;
    names.files =
        (number(&files, 0, 0).unwrap_or(names.files.0), number(&files, 0, 1).unwrap_or(names.files.1));
    names.schemas = rows(&client, SCHEMAS)
        .await?
        .iter()
        .filter_map(|row| {
            Some((place(row.get(0)?)?, NamespaceRow { oid: cell(row, 1)?, name: name(row.get(2)?)? }))
        })
        .collect();
    let relations = rows(&client, RELATIONS).await?;
    names.relations = relations.iter().take(RELATIONS_MAX).filter_map(relation).collect();
    Ok(())
}

fn relation(row: &SimpleQueryRow) -> Option<(RowPlace, ClassRow)> {
    let letter = |column: usize| row.get(column)?.bytes().next();
    let class = ClassRow {
        oid: cell(row, 1)?,
        name: name(row.get(2)?)?,
        namespace: cell(row, 3)?,
        file: cell(row, 4)?,
        tablespace: cell(row, 5)?,
        kind: letter(6)?,
        persistence: letter(7)?,
    };
    Some((place(row.get(0)?)?, class))
}

async fn rows(client: &Client, query: &str) -> Result<Vec<SimpleQueryRow>, String> {
    let messages = client.simple_query(query).await.map_err(|error| chain(&error))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

fn cell<T: FromStr>(row: &SimpleQueryRow, column: usize) -> Option<T> {
    row.get(column)?.parse().ok()
}

fn number(rows: &[SimpleQueryRow], row: usize, column: usize) -> Option<u32> {
    cell(rows.get(row)?, column)
}

/// `(0,12)`.
fn place(text: &str) -> Option<RowPlace> {
    let (block, offset) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some(RowPlace { block: block.parse().ok()?, offset: offset.parse().ok()? })
}

/// A name from its bytes as `\x6e616d65`.
fn name(text: &str) -> Option<Name> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let bytes: Option<Vec<u8>> =
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    Name::new(&bytes?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_names_are_read() {
        assert_eq!(place("(7,12)"), Some(RowPlace { block: 7, offset: 12 }));
        assert_eq!((place("7,12"), place("(7,70000)")), (None, None));
        assert_eq!(name("\\x74c3a4"), Name::new("t\u{e4}".as_bytes()));
        assert_eq!((name("t"), name("\\x7"), name("\\xzz")), (None, Name::new(&[7]), None));
    }
}
