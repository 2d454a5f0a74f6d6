//! Checks of the running server.

use super::Lines;
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
            let hint =
                format!("unsupported version: PostgreSQL server is too old ({} < 13)", sql.version_text);
            lines.failed("PostgreSQL", hint, "only PostgreSQL 13 and later can be backed up");
        }
        Answer::Known(_) => lines.ok("PostgreSQL"),
        unanswered => lines.failed(
            "PostgreSQL",
            unanswered.failure().unwrap_or_default(),
            "see that the server runs, and that conninfo, its password file and pg_hba.conf let the user in",
        ),
    }
    if let Some(sql) = live.sql.known() {
        privileges(lines, sql);
    }
    if let Some(sql) = live.sql.known() {
        if let Some(streaming) = &live.streaming {
            answers(lines, "PostgreSQL streaming", streaming);
        }
        wal_level(lines, "wal_level", sql);
    }
    standby(lines, live);
    if let Some(host) = &live.wal_host {
        if let Some(sql) = host.sql.known() {
            if sql.may_monitor {
                lines.ok(format!("has monitoring privileges{WAL_HOST}"));
            } else {
                lines.failed(
                    "no access to monitoring functions",
                    "privileges for PostgreSQL monitoring functions are required (see documentation)",
                    "grant pg_monitor to the user of wal_conninfo",
                );
            }
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
                "correct wal_conninfo and wal_streaming_conninfo: WAL of another cluster is worth nothing",
            ),
            _ => coherence(lines, &name, server, &host.sql, Some(&host.streaming)),
        }
    }
}

fn privileges(lines: &mut Lines, sql: &Sql) {
    if sql.may_monitor && sql.may_back_up {
        return lines.ok("superuser or standard user with backup privileges");
    }
    let mut missing = Vec::new();
    if !sql.may_monitor {
        missing.push("pg_monitor (or pg_read_all_settings and pg_read_all_stats)");
    }
    if !sql.may_back_up {
        missing.push(
            "EXECUTE on the functions that start and stop backups, on pg_switch_wal() and on \
             pg_create_restore_point(text)",
        );
    }
    lines.failed(
        "no access to backup functions",
        "privileges for PostgreSQL backup functions are required (see documentation)",
        format!("grant the user of conninfo {}", missing.join(", and ")),
    );
}

fn answers(lines: &mut Lines, name: &str, streaming: &Answer<Streaming>) {
    lines.judge(
        name,
        streaming.known().is_some(),
        streaming.failure().unwrap_or_default(),
        "see that streaming_conninfo leads to the server, that its role has REPLICATION, that pg_hba.conf has a line for \
         replication, and that max_wal_senders is not used up",
    );
}

fn wal_level(lines: &mut Lines, name: &str, sql: &Sql) {
    match sql.setting("wal_level") {
        Some("minimal") => lines.failed(
            name,
            "please set it to a higher level than 'minimal'",
            "set wal_level = replica, and restart the server",
        ),
        _ => lines.ok(name),
    }
}

/// A standby that is backed up, and its primary.
fn standby(lines: &mut Lines, live: &Live) {
    let Some(primary) = &live.primary else { return };
    if let Some(sql) = live.sql.known() {
        let hint = if sql.in_recovery {
            ""
        } else {
            "conninfo should point to a standby server if primary_conninfo is set"
        };
        lines.judge(
            "PostgreSQL server is standby",
            sql.in_recovery,
            hint,
            "correct conninfo, or remove primary_conninfo",
        );
    }
    const NOT_STANDBY: &str = "Primary server is not a standby";
    const CURE: &str = "correct primary_conninfo: it has to lead to the server that writes";
    match primary.known() {
        Some(sql) => {
            let hint = if sql.in_recovery { "primary_conninfo leads to a standby" } else { "" };
            lines.judge(NOT_STANDBY, !sql.in_recovery, hint, CURE);
            let ids = (sql.system_id.as_deref(), live.sql.known().and_then(|sql| sql.system_id.as_deref()));
            if let (Some(primary), Some(standby)) = ids {
                let same = primary == standby;
                let hint = if same { String::new() } else { format!("primary {primary}, standby {standby}") };
                lines.judge("Primary and standby have same system ID", same, hint, CURE);
            }
        }
        None => lines.failed(NOT_STANDBY, primary.failure().unwrap_or_default(), CURE),
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
            lines.failed(name, "not known while PostgreSQL does not answer", "see the line about PostgreSQL");
        }
        return;
    };
    let running = format!("start it: 'barkeep cron', or 'barkeep receive-wal {}'", config.name());
    match (&sql.slot, config.streaming_archiver()) {
        (None, false) => {}
        (Some(slot), false) if slot.restart_lsn.is_none() => {}
        (Some(slot), false) => {
            let state = if slot.active { "active" } else { "initialised" };
            lines.put(
                name,
                true,
                format!("WARNING: slot '{slot_name}' is {state} but not required by the current config"),
            );
        }
        (None, true) => {
            let create = format!("barkeep receive-wal --create-slot {}", config.name());
            let cure = if config.create_slot_auto() {
                "'barkeep receive-wal' creates it when it starts".to_owned()
            } else {
                format!("run '{create}', or set create_slot = auto")
            };
            let hint = format!("replication slot '{slot_name}' doesn't exist. Please execute '{create}'");
            lines.failed(name, hint, cure);
        }
        (Some(slot), true) if slot.restart_lsn.is_none() => {
            let hint = format!("slot '{slot_name}' not initialised: is 'receive-wal' running?");
            lines.failed(name, hint, running);
        }
        (Some(slot), true) if !slot.active => {
            lines.failed(name, format!("slot '{slot_name}' not active: is 'receive-wal' running?"), running);
        }
        (Some(_), true) => lines.ok(name),
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
        let cure =
            format!("conninfo leads to cluster {one}, streaming_conninfo to cluster {other}: correct one");
        let hint = "is the streaming DSN targeting the same server of the PostgreSQL connection string?";
        return lines.failed(name, hint, cure);
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
                "the system Id of the connected PostgreSQL server changed, stored in \"{}\"",
                server.layout().identity().display()
            ),
            format!(
                "the server is cluster {live}, and was {}: backups of two clusters must not be mixed, give the new \
                 one a section and a directory of its own",
                identity.system_id
            ),
        ),
        Err(error) => lines.failed(name, error.to_string(), "mend the file, or move it away"),
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
        _ => lines.failed(
            "archive_mode",
            "please set it to 'on' or 'always'",
            "set archive_mode = on, and restart the server",
        ),
    }
    if !sql.archives_somehow() {
        let incoming = server.layout().incoming;
        return lines.failed(
            "archive_command",
            "please set it accordingly to documentation",
            format!(
                "set archive_command = 'barman-wal-archive BACKUP_HOST {} %p' at the server, or deliver into {}",
                server.name(),
                incoming.display()
            ),
        );
    }
    lines.ok("archive_command");
    if let Some(archiver) = &sql.archiver {
        let failed = archiver.last_failed.as_deref().unwrap_or("WAL");
        let cure =
            format!("the server could not archive {failed} and has archived nothing since: see its log");
        lines.judge("continuous archiving", archiver.works, "", cure);
    }
}
