//! Checks of the running server.

use super::Lines;
use crate::config::ServerConfig;
use crate::context::ServerContext;
use crate::live::{Answer, Live, Sql, Streaming};

/// The oldest server that can be backed up: PostgreSQL 13.
const OLDEST_VERSION: u32 = 130_000;

/// What is added to the names of lines about the host that WAL comes from.
const WAL_HOST: &str = " (WAL streaming)";

/// Whether the server answers, to a user who may do what has to be done.
pub(super) fn connections(lines: &mut Lines, server: &ServerContext, live: &Live) {
    match &live.sql {
        Answer::Known(sql) if sql.version < OLDEST_VERSION => {
            lines.failed("PostgreSQL", format!("version {} is older than 13", sql.version_text));
        }
        Answer::Known(_) => lines.ok("PostgreSQL"),
        unanswered => lines.failed("PostgreSQL", unanswered.failure().unwrap_or_default()),
    }
    if let Some(sql) = live.sql.known() {
        privileges(lines, sql);
    }
    if let Some(streaming) = &live.streaming {
        answers(lines, "PostgreSQL streaming", streaming);
    }
    if let Some(sql) = live.sql.known() {
        wal_level(lines, "wal_level", sql);
    }
    standby(lines, live);
    if let Some(host) = &live.wal_host {
        if let Some(sql) = host.sql.known() {
            let name = format!("has monitoring privileges{WAL_HOST}");
            lines.put(
                name,
                sql.may_monitor,
                if sql.may_monitor { "" } else { "grant pg_monitor to the user" },
            );
        }
        answers(lines, &format!("PostgreSQL streaming{WAL_HOST}"), &host.streaming);
        if let Some(sql) = host.sql.known() {
            wal_level(lines, &format!("wal_level{WAL_HOST}"), sql);
        }
        let name = format!("systemid coherence{WAL_HOST}");
        let ids =
            (system_id(&live.sql, live.streaming.as_ref()), system_id(&host.sql, Some(&host.streaming)));
        match ids {
            (Some(backed_up), Some(wal)) if backed_up != wal => lines.failed(
                name,
                format!("conninfo leads to cluster {backed_up}, and its WAL comes from cluster {wal}"),
            ),
            _ => coherence(lines, &name, server, &host.sql, Some(&host.streaming)),
        }
    }
}

fn privileges(lines: &mut Lines, sql: &Sql) {
    if sql.may_monitor && sql.may_back_up {
        lines.ok("superuser or standard user with backup privileges");
    } else if sql.may_back_up {
        lines.failed(
            "no access to monitoring functions",
            "grant pg_monitor, or pg_read_all_settings and pg_read_all_stats, to the user",
        );
    } else {
        lines.failed(
            "no access to backup functions",
            "grant EXECUTE on the functions that start and stop backups, on pg_switch_wal() and on \
             pg_create_restore_point(text) to the user",
        );
    }
}

fn answers(lines: &mut Lines, name: &str, streaming: &Answer<Streaming>) {
    lines.put(name, streaming.known().is_some(), streaming.failure().unwrap_or_default());
}

fn wal_level(lines: &mut Lines, name: &str, sql: &Sql) {
    match sql.setting("wal_level") {
        Some("minimal") => lines.failed(name, "set wal_level to replica or logical, and restart the server"),
        _ => lines.ok(name),
    }
}

/// A standby that is backed up, and its primary.
fn standby(lines: &mut Lines, live: &Live) {
    let Some(primary) = &live.primary else { return };
    if let Some(sql) = live.sql.known() {
        let hint =
            if sql.in_recovery { "" } else { "primary_conninfo is set, and conninfo leads to a primary" };
        lines.put("PostgreSQL server is standby", sql.in_recovery, hint);
    }
    match primary.known() {
        Some(sql) => {
            let hint = if sql.in_recovery { "primary_conninfo leads to a standby" } else { "" };
            lines.put("Primary server is not a standby", !sql.in_recovery, hint);
            let ids = (sql.system_id.as_deref(), live.sql.known().and_then(|sql| sql.system_id.as_deref()));
            if let (Some(primary), Some(standby)) = ids {
                let hint = format!("primary {primary}, standby {standby}");
                let same = primary == standby;
                lines.put(
                    "Primary and standby have same system ID",
                    same,
                    if same { String::new() } else { hint },
                );
            }
        }
        None => lines.failed("Primary server is not a standby", primary.failure().unwrap_or_default()),
    }
}

/// Whether the slot that keeps WAL for the receiver is there and in use.
pub(super) fn replication_slot(lines: &mut Lines, server: &ServerContext, live: &Live) {
    let config = &server.config;
    let Some(slot_name) = config.slot_name() else { return };
    let (name, sql) = match &live.wal_host {
        Some(host) => (format!("replication slot{WAL_HOST}"), &host.sql),
        None => ("replication slot".to_owned(), &live.sql),
    };
    let Some(sql) = sql.known() else {
        if config.streaming_archiver() {
            lines.failed(name, "not known while PostgreSQL does not answer");
        }
        return;
    };
    match (&sql.slot, config.streaming_archiver()) {
        (None, false) => {}
        (Some(_), false) => {
            lines.put(
                name,
                true,
                format!("WARNING: slot '{slot_name}' exists, and streaming_archiver is off: it keeps WAL for nobody"),
            );
        }
        (None, true) => lines.failed(name, missing_slot(config, slot_name)),
        (Some(slot), true) if slot.restart_lsn.is_none() => {
            lines.failed(name, format!("slot '{slot_name}' not initialised: is 'receive-wal' running?"));
        }
        (Some(slot), true) if !slot.active => {
            lines.failed(name, format!("slot '{slot_name}' not active: is 'receive-wal' running?"));
        }
        (Some(_), true) => lines.ok(name),
    }
}

fn missing_slot(config: &ServerConfig, slot_name: &str) -> String {
    if config.create_slot_auto() {
        format!(
            "replication slot '{slot_name}' doesn't exist. 'barkeep receive-wal' creates it when it starts"
        )
    } else {
        format!(
            "replication slot '{slot_name}' doesn't exist. Please execute 'barkeep receive-wal --create-slot {}'",
            config.name()
        )
    }
}

/// Whether this is the cluster it always was.
pub(super) fn identity(lines: &mut Lines, server: &ServerContext, live: &Live) {
    coherence(lines, "systemid coherence", server, &live.sql, live.streaming.as_ref());
}

fn coherence(
    lines: &mut Lines,
    name: &str,
    server: &ServerContext,
    sql: &Answer<Sql>,
    streaming: Option<&Answer<Streaming>>,
) {
    let by_sql = sql.known().and_then(|sql| sql.system_id.as_deref());
    let by_stream = streaming.and_then(Answer::known).map(|streaming| streaming.system_id.as_str());
    if let (Some(one), Some(other)) = (by_sql, by_stream)
        && one != other
    {
        let hint = format!("conninfo leads to cluster {one}, streaming_conninfo to cluster {other}");
        return lines.failed(name, hint);
    }
    let Some(live) = system_id(sql, streaming) else {
        return lines.put(name, true, "no system Id available");
    };
    match server.catalog().identity() {
        Ok(None) => lines.put(name, true, "no system Id stored on disk"),
        Ok(Some(identity)) if identity.system_id == live => lines.ok(name),
        Ok(Some(identity)) => lines.failed(
            name,
            format!(
                "the server is cluster {live}, and {} says {}: backups of two clusters must not be mixed",
                server.layout().identity().display(),
                identity.system_id
            ),
        ),
        Err(error) => lines.failed(name, error.to_string()),
    }
}

/// The cluster that answered, by whichever way.
fn system_id<'a>(sql: &'a Answer<Sql>, streaming: Option<&'a Answer<Streaming>>) -> Option<&'a str> {
    let by_sql = sql.known().and_then(|sql| sql.system_id.as_deref());
    by_sql.or_else(|| Some(streaming?.known()?.system_id.as_str()))
}

/// Whether the server archives, for a server that delivers WAL by `archive_command`.
pub(super) fn archiving(lines: &mut Lines, server: &ServerContext, live: &Live) {
    let Some(sql) = live.sql.known().filter(|_| server.config.archiver()) else { return };
    match sql.setting("archive_mode") {
        Some("on" | "always") => lines.ok("archive_mode"),
        _ => lines.failed("archive_mode", "set archive_mode to on or always, and restart the server"),
    }
    if sql.archives_somehow() {
        lines.ok("archive_command");
    } else {
        let incoming = server.layout().incoming;
        lines.failed("archive_command", format!("set it to deliver WAL files into {}", incoming.display()));
    }
    if let Some((works, archiver)) =
        sql.archiver.as_ref().and_then(|archiver| Some((archiver.works()?, archiver)))
    {
        let failed = archiver.last_failed.as_deref().unwrap_or("WAL");
        let hint =
            format!("the server could not archive {failed} and has archived nothing since: see its log");
        lines.put("continuous archiving", works, if works { String::new() } else { hint });
    }
}
