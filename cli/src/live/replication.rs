//! The clients that stream WAL from a server: `pg_stat_replication`.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use pgwal::Lsn;
use pgwal::sql::tokio_postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

/// The clients of a server.
#[derive(Debug, Clone, Default)]
pub struct Replication {
    /// Whether the user may see them.
    pub may_monitor: bool,
    /// Where the server writes, or what it has received.
    pub position: Option<Lsn>,
    /// Whether the server is itself a standby.
    pub in_recovery: bool,
    /// The clients, synchronous ones first.
    pub clients: Vec<StreamingClient>,
}

/// One client.
#[derive(Debug, Clone)]
pub struct StreamingClient {
    /// The process that serves it.
    pub pid: i64,
    /// Its user.
    pub user: String,
    /// What it calls itself.
    pub application: String,
    /// Its address; none when it came by a socket.
    pub address: Option<String>,
    /// Its host's name, when the server looks it up.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<i64>,
    /// When it came, on the server's clock.
    pub since: Option<Zoned>,
    /// The oldest transaction that a standby tells it still needs.
    pub xmin: Option<String>,
    /// `streaming`, `catchup`, ...
    pub state: String,
    /// What was sent.
    pub sent: Option<Lsn>,
    /// What it has written.
    pub written: Option<Lsn>,
    /// What it has made durable.
    pub flushed: Option<Lsn>,
    /// What it has replayed; programs that only receive have nothing here.
    pub replayed: Option<Lsn>,
    /// Its place among the synchronous ones; 0 for the others.
    pub priority: i64,
    /// `async`, `sync`, `potential` or `quorum`.
    pub sync_state: String,
    /// Its replication slot.
    pub slot: Option<String>,
}

/// Asks for the clients.
///
/// # Errors
/// When the server refuses.
pub async fn ask(client: &Client) -> Result<Replication, Error> {
    let basics = "select pg_is_in_recovery() as recovery, \
         (pg_has_role(current_user, 'pg_monitor', 'USAGE') \
         or pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')) as monitor, \
         case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end as lsn";
    let mut replication = Replication::default();
    for row in rows(client.simple_query(basics).await?) {
        replication.may_monitor = flag(&row, "monitor");
        replication.in_recovery = flag(&row, "recovery");
        replication.position = text(&row, "lsn").and_then(|text| text.parse().ok());
    }
    let clients = "select r.pid, usename, application_name, host(client_addr) as address, client_hostname, client_port, \
         (extract(epoch from backend_start) * 1000000)::bigint as since, \
         extract(timezone from backend_start)::int as zone, backend_xmin, state, sent_lsn, write_lsn, flush_lsn, \
         replay_lsn, sync_priority, sync_state, rs.slot_name \
         from pg_stat_replication r left join pg_replication_slots rs on r.pid = rs.active_pid \
         where rs.slot_type is null or rs.slot_type = 'physical' \
         order by sync_state desc, sync_priority";
    replication.clients =
        rows(client.simple_query(clients).await?).filter_map(|row| client_of(&row)).collect();
    Ok(replication)
}

fn client_of(row: &SimpleQueryRow) -> Option<StreamingClient> {
    let number = |column: &str| text(row, column).and_then(|text| text.parse::<i64>().ok());
    let lsn = |column: &str| text(row, column).and_then(|text| text.parse().ok());
    let moment = || {
        let zone = Offset::from_seconds(number("zone")?.try_into().ok()?).ok()?;
        Some(Timestamp::from_microsecond(number("since")?).ok()?.to_zoned(TimeZone::fixed(zone)))
    };
    Some(StreamingClient {
        pid: number("pid")?,
        user: text(row, "usename").unwrap_or_default(),
        application: text(row, "application_name").unwrap_or_default(),
        address: text(row, "address"),
        host: text(row, "client_hostname"),
        port: number("client_port"),
        since: moment(),
        xmin: text(row, "backend_xmin"),
        state: text(row, "state").unwrap_or_default(),
        sent: lsn("sent_lsn"),
        written: lsn("write_lsn"),
        flushed: lsn("flush_lsn"),
        replayed: lsn("replay_lsn"),
        priority: number("sync_priority").unwrap_or(0),
        sync_state: text(row, "sync_state").unwrap_or_default(),
        slot: text(row, "slot_name"),
    })
}

fn rows(messages: Vec<SimpleQueryMessage>) -> impl Iterator<Item = SimpleQueryRow> {
    messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn text(row: &SimpleQueryRow, column: &str) -> Option<String> {
    row.try_get(column).ok().flatten().map(str::to_owned)
}

fn flag(row: &SimpleQueryRow, column: &str) -> bool {
    text(row, column).as_deref() == Some("t")
}
