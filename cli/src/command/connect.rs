//! Connection strings of a server, for the commands that connect to it.

use pgwal::replication::ConnInfo;

use crate::context::{Context, ServerContext};
use crate::error::CommandError;

/// Where WAL is streamed from: `wal_streaming_conninfo` where there is one, else `streaming_conninfo`.
///
/// # Errors
/// When neither is set, or the one that counts can't be read.
pub(crate) fn wal_streaming(context: &Context, server: &ServerContext) -> Result<ConnInfo, CommandError> {
    let config = &server.config;
    match config.wal_streaming_conninfo() {
        Some(text) => parse(context, server, "wal_streaming_conninfo", text),
        None => {
            let text = config.streaming_conninfo();
            let text = text.ok_or_else(|| missing(server, "streaming_conninfo"))?;
            parse(context, server, "streaming_conninfo", text)
        }
    }
}

/// Where to ask by SQL about WAL and replication slots: `wal_conninfo` where there is one, else `conninfo`.
///
/// # Errors
/// When neither is set, or the one that counts can't be read.
pub(crate) fn wal_sql(context: &Context, server: &ServerContext) -> Result<ConnInfo, CommandError> {
    match server.config.wal_conninfo() {
        Some(text) => parse(context, server, "wal_conninfo", text),
        None => sql(context, server),
    }
}

/// Where to ask by SQL: `conninfo`.
///
/// # Errors
/// When it is not set, or can't be read.
pub(crate) fn sql(context: &Context, server: &ServerContext) -> Result<ConnInfo, CommandError> {
    let text = server.config.conninfo().ok_or_else(|| missing(server, "conninfo"))?;
    parse(context, server, "conninfo", text)
}

/// Where base backups are taken from: `streaming_conninfo`.
///
/// # Errors
/// When neither it nor `conninfo` is set, or it can't be read.
pub(crate) fn backup_streaming(context: &Context, server: &ServerContext) -> Result<ConnInfo, CommandError> {
    let text = server.config.streaming_conninfo().ok_or_else(|| missing(server, "streaming_conninfo"))?;
    parse(context, server, "streaming_conninfo", text)
}

/// The primary of a standby that is backed up: `primary_conninfo`, if it is set.
///
/// # Errors
/// When it can't be read.
pub(crate) fn primary(context: &Context, server: &ServerContext) -> Result<Option<ConnInfo>, CommandError> {
    let text = server.config.text("primary_conninfo");
    text.map(|text| parse(context, server, "primary_conninfo", text)).transpose()
}

fn parse(context: &Context, server: &ServerContext, key: &str, text: &str) -> Result<ConnInfo, CommandError> {
    ConnInfo::parse(text, &|name| context.env(name)).map_err(|error| {
        let name = server.config.name();
        CommandError::because(format_args!("{key} of server '{name}' cannot be used"), &error)
            .hint(format!("correct it in {}", context.config_path().display()))
    })
}

fn missing(server: &ServerContext, key: &str) -> CommandError {
    CommandError::new(format!("server '{}' has no {key}", server.config.name()))
        .hint(format!("add {key} to its section of the configuration"))
}
