//! `receive-wal --create-slot` and `--drop-slot`.

use pgwal::replication::{Connection, ReplicationError, SqlState};

use super::connect;
use crate::context::{Context, ServerContext};
use crate::error::CommandError;

pub(super) fn create(
    context: &mut Context,
    server: &ServerContext,
    if_not_exists: bool,
) -> Result<(), CommandError> {
    let (name, slot) = (server.config.name(), slot_name(server)?);
    let conninfo = connect::wal_streaming(context, server)?;
    server.output.info(format!("Creating physical replication slot '{slot}' on server '{name}'"));
    let result = context.runtime()?.block_on(async {
        let mut connection = Connection::connect(&conninfo).await?;
        let created = connection.create_physical_slot(slot, true).await;
        connection.close().await;
        Ok::<_, CommandError>(created)
    })?;
    match result {
        Ok(()) => {
            server.output.info(format!("Replication slot '{slot}' created"));
            Ok(())
        }
        Err(error) => match error.sqlstate() {
            Some(SqlState::DUPLICATE_OBJECT) if if_not_exists => {
                server.output.info(format!("Replication slot '{slot}' already exists"));
                Ok(())
            }
            Some(SqlState::DUPLICATE_OBJECT) => {
                Err(CommandError::new(format!("Replication slot '{slot}' already exists"))
                    .hint("with --if-not-exists that is no error"))
            }
            Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED) => {
                Err(CommandError::new(format!("All replication slots for server '{name}' are in use"))
                    .hint("free one or increase max_replication_slots"))
            }
            _ => Err(failed("create", slot, name, &error)),
        },
    }
}

pub(super) fn drop(context: &mut Context, server: &ServerContext) -> Result<(), CommandError> {
    let (name, slot) = (server.config.name(), slot_name(server)?);
    let conninfo = connect::wal_streaming(context, server)?;
    server.output.info(format!("Dropping physical replication slot '{slot}' on server '{name}'"));
    let result = context.runtime()?.block_on(async {
        let mut connection = Connection::connect(&conninfo).await?;
        let dropped = connection.drop_slot(slot).await;
        connection.close().await;
        Ok::<_, CommandError>(dropped)
    })?;
    match result {
        Ok(true) => {
            server.output.info(format!("Replication slot '{slot}' dropped"));
            Ok(())
        }
        Ok(false) => Err(CommandError::new(format!("Replication slot '{slot}' does not exist"))),
        Err(error) if error.sqlstate() == Some(SqlState::OBJECT_IN_USE) => {
            let what =
                format!("Cannot drop replication slot '{slot}' on server '{name}' because it is in use");
            Err(CommandError::new(what).hint(format!("stop the receiver: barkeep receive-wal --stop {name}")))
        }
        Err(error) => Err(failed("drop", slot, name, &error)),
    }
}

fn slot_name(server: &ServerContext) -> Result<&str, CommandError> {
    server.config.slot_name().ok_or_else(|| {
        CommandError::new(format!("server '{}' has no slot_name", server.config.name()))
            .hint("add slot_name to its section of the configuration")
    })
}

fn failed(what: &str, slot: &str, name: &str, error: &ReplicationError) -> CommandError {
    CommandError::because(format_args!("cannot {what} replication slot '{slot}' on server '{name}'"), error)
}
