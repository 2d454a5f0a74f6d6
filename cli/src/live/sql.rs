//! What a server says by SQL. All values come as text, so that an unknown type is no surprise.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use pgwal::sql::tokio_postgres::{Client, Error, SimpleQueryMessage};
use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId};

/// PostgreSQL 15: `pg_start_backup` became `pg_backup_start`.
const NEW_BACKUP_FUNCTIONS: u32 = 150_000;

/// The settings that are asked for.
const SETTINGS: [&str; 19] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "checkpoint_timeout",
    "config_file",
    "data_checksums",
    "data_directory",
    "hba_file",
    "hot_standby",
    "ident_file",
    "max_replication_slots",
    "max_wal_senders",
    "synchronous_standby_names",
    "wal_compression",
    "wal_keep_size",
    "wal_level",
    "wal_segment_size",
    "summarize_wal",
];

/// What a server says by SQL.
#[derive(Debug, Clone, Default)]
pub struct Sql {
    /// `server_version_num`, like 150020.
    pub version: u32,
    /// The version in words, like `15.20`.
    pub version_text: String,
    /// Whether it is a standby, or otherwise recovering.
    pub in_recovery: bool,
    /// Whether the user is a superuser.
    pub is_superuser: bool,
    /// Whether the user may read all settings and statistics.
    pub may_monitor: bool,
    /// Whether the user may call the functions that backups need.
    pub may_back_up: bool,
    /// The settings that the user may see, as `pg_settings` has them.
    pub settings: BTreeMap<String, String>,
    /// The system identifier.
    pub system_id: Option<String>,
    /// The timeline.
    pub timeline: Option<TimelineId>,
    /// Where it writes, or what it has replayed.
    pub position: Option<Lsn>,
    /// The size of all tablespaces, in bytes.
    pub size_bytes: Option<u64>,
    /// How its own archiving goes.
    pub archiver: Option<Archiver>,
    /// The configured replication slot, when there is one.
    pub slot: Option<Slot>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody streams with it.
    pub active: bool,
    /// The oldest WAL it keeps; `None` when nobody ever streamed with it.
    pub restart_lsn: Option<Lsn>,
}

/// `pg_stat_archiver`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Archiver {
    /// How many files were archived.
    pub archived_count: u64,
    /// The newest.
    pub last_archived: Option<String>,
    /// When.
    pub last_archived_time: Option<Timestamp>,
    /// How often archiving failed.
    pub failed_count: u64,
    /// The file that failed last.
    pub last_failed: Option<String>,
    /// When.
    pub last_failed_time: Option<Timestamp>,
    /// Since when this is counted.
    pub since: Option<Timestamp>,
    /// Files a second since then.
    pub per_second: Option<f64>,
    /// Whether archiving is on, and the last thing that happened was no failure.
    pub works: bool,
}

impl Sql {
    /// A setting, as `pg_settings` has it.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// The size of WAL segments.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        SegmentSize::new(self.setting("wal_segment_size")?.parse().ok()?)
    }

    /// The segment being written; none on a standby. At its very end it is still the one that ends there, as Barman and
    /// PostgreSQL before 17 have it.
    pub fn current_segment(&self) -> Option<SegmentName> {
        if self.in_recovery {
            return None;
        }
        Some(SegmentName::ending_at(self.timeline?, self.position?, self.segment_size()?))
    }

    /// Whether an `archive_command` or `archive_library` is set.
    pub fn archives_somehow(&self) -> bool {
        let set =
            |name: &str| self.setting(name).is_some_and(|text| !text.is_empty() && text != "(disabled)");
        set("archive_command") || set("archive_library")
    }

    /// The names in `synchronous_standby_names`, plainly split at commas; an unset list is one empty name, as in Barman.
    pub fn synchronous_standby_names(&self) -> Vec<String> {
        let text = self.setting("synchronous_standby_names").unwrap_or_default();
        text.split(',').map(|name| name.trim().to_owned()).collect()
    }
}

/// Asks everything. Only a question that any user may ask is an error when it fails.
pub(super) async fn ask(client: &Client, slot: Option<&str>) -> Result<Sql, Error> {
    let basics = "select current_setting('server_version_num') as version, \
         current_setting('server_version') as version_text, pg_is_in_recovery() as in_recovery, \
         (select rolsuper from pg_roles where rolname = current_user) as superuser, \
         pg_has_role(current_user, 'pg_monitor', 'USAGE') \
         or (pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') \
         and pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')) as monitor";
    let row = Row::of(client.simple_query(basics).await?);
    let mut sql = Sql {
        version: row.parse("version").unwrap_or(0),
        version_text: row.text("version_text").map(|text| first_word(&text)).unwrap_or_default(),
        in_recovery: row.flag("in_recovery"),
        is_superuser: row.flag("superuser"),
        ..Sql::default()
    };
    sql.may_monitor = sql.is_superuser || row.flag("monitor");
    sql.may_back_up = sql.is_superuser || may_back_up(client, sql.version).await;
    sql.settings = settings(client).await;
    let row = optional(client, "select system_identifier as id from pg_control_system()").await;
    sql.system_id = row.text("id");
    let (position, timeline) = if sql.in_recovery {
        (
            "select coalesce(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) as lsn",
            "select min_recovery_end_timeline as tli from pg_control_recovery()",
        )
    } else {
        ("select pg_current_wal_lsn() as lsn", "select timeline_id as tli from pg_control_checkpoint()")
    };
    sql.position = optional(client, position).await.parse("lsn");
    sql.timeline = optional(client, timeline).await.parse("tli");
    let sizes = "select sum(pg_tablespace_size(oid))::bigint as bytes from pg_tablespace";
    sql.size_bytes = optional(client, sizes).await.parse("bytes");
    sql.archiver = archiver(client).await;
    if let Some(name) = slot {
        sql.slot = read_slot(client, name).await;
    }
    Ok(sql)
}

async fn may_back_up(client: &Client, version: u32) -> bool {
    let functions: &[&str] = if version >= NEW_BACKUP_FUNCTIONS {
        &["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
    } else {
        &["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
    };
    let functions = functions.iter().chain(&["pg_switch_wal()", "pg_create_restore_point(text)"]);
    let terms: Vec<String> =
        functions.map(|name| format!("has_function_privilege(current_user, '{name}', 'EXECUTE')")).collect();
    optional(client, &format!("select {} as allowed", terms.join(" and "))).await.flag("allowed")
}

async fn settings(client: &Client) -> BTreeMap<String, String> {
    let names = SETTINGS.map(|name| format!("'{name}'")).join(", ");
    let question = format!("select name, setting from pg_settings where name in ({names})");
    let mut settings = BTreeMap::new();
    for message in client.simple_query(&question).await.unwrap_or_default() {
        if let SimpleQueryMessage::Row(row) = message
            && let (Some(name), Some(setting)) = (row.get("name"), row.get("setting"))
        {
            settings.insert(name.to_owned(), setting.to_owned());
        }
    }
    settings
}

async fn archiver(client: &Client) -> Option<Archiver> {
    let micros = |column: &str| format!("(extract(epoch from {column}) * 1000000)::bigint as {column}");
    let question = format!(
        "select archived_count, last_archived_wal, {}, failed_count, last_failed_wal, {}, {}, \
         (archived_count / nullif(extract(epoch from age(now(), stats_reset)), 0))::float8 as per_second, \
         current_setting('archive_mode') in ('on', 'always') and (last_failed_wal is null \
         or last_failed_time <= last_archived_time or last_failed_wal like '%.history' \
         and substr(last_failed_wal, 1, 8) <= substr(last_archived_wal, 1, 8)) as works \
         from pg_stat_archiver",
        micros("last_archived_time"),
        micros("last_failed_time"),
        micros("stats_reset")
    );
    let row = optional(client, &question).await;
    Some(Archiver {
        archived_count: row.parse("archived_count")?,
        last_archived: row.text("last_archived_wal"),
        last_archived_time: row.time("last_archived_time"),
        failed_count: row.parse("failed_count")?,
        last_failed: row.text("last_failed_wal"),
        last_failed_time: row.time("last_failed_time"),
        since: row.time("stats_reset"),
        per_second: row.parse("per_second"),
        works: row.flag("works"),
    })
}

/// `15.18` of `15.18 (Debian 15.18-0+deb12u1)`.
fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The name is known to be of letters, digits and underscores, and quoted all the same.
async fn read_slot(client: &Client, name: &str) -> Option<Slot> {
    let question = format!(
        "select slot_name, active, restart_lsn from pg_replication_slots \
         where slot_type = 'physical' and slot_name = '{}'",
        name.replace('\'', "''")
    );
    let row = optional(client, &question).await;
    Some(Slot {
        name: row.text("slot_name")?,
        active: row.flag("active"),
        restart_lsn: row.parse("restart_lsn"),
    })
}

/// The answer to a question that the user may not be allowed to ask.
async fn optional(client: &Client, question: &str) -> Row {
    match client.simple_query(question).await {
        Ok(messages) => Row::of(messages),
        Err(error) => {
            tracing::debug!("not known: {question}: {}", crate::error::chain(&error));
            Row(None)
        }
    }
}

/// The first row of an answer, if there is one.
struct Row(Option<pgwal::sql::tokio_postgres::SimpleQueryRow>);

impl Row {
    fn of(messages: Vec<SimpleQueryMessage>) -> Self {
        Row(messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        }))
    }

    fn text(&self, column: &str) -> Option<String> {
        self.0.as_ref()?.try_get(column).ok().flatten().map(str::to_owned)
    }

    fn parse<T: FromStr>(&self, column: &str) -> Option<T> {
        self.text(column)?.parse().ok()
    }

    fn flag(&self, column: &str) -> bool {
        self.text(column).as_deref() == Some("t")
    }

    /// A moment from its microseconds since 1970.
    fn time(&self, column: &str) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.parse(column)?).ok()
    }
}
