//! Saves what relations are called, for `wal find`: at each backup, and now and then by cron and the daemon.

use std::time::Duration;

use barkeep_catalog::Catalog;
use pgwal::replication::ConnInfo;

use crate::context::{ServerContext, new_runtime};
use crate::error::{CommandError, chain};
use crate::live;

/// How old the newest map may become. What is younger is found in the WAL, at about a gigabyte a second.
const AGE_MAX: Duration = Duration::from_secs(600);

/// Saves a map if the newest one is old. A server that can't be asked is none of cron's troubles.
///
/// # Errors
/// When storage fails.
pub(crate) fn save_if_due(server: &ServerContext, conninfo: Option<&ConnInfo>) -> Result<(), CommandError> {
    let catalog = server.catalog();
    let newest = catalog.name_maps()?.iter().filter_map(|map| map.age()).min();
    let Some(conninfo) = conninfo.filter(|_| newest.is_none_or(|age| age >= AGE_MAX)) else { return Ok(()) };
    new_runtime()?.block_on(save(server, &catalog, conninfo))
}

/// Saves a map.
///
/// # Errors
/// When storage fails; that the server doesn't answer is told only to who wants to know everything.
pub(crate) async fn save(
    server: &ServerContext,
    catalog: &Catalog,
    conninfo: &ConnInfo,
) -> Result<(), CommandError> {
    let name = server.name();
    let map = match live::ask_names(conninfo).await {
        Ok(map) => map,
        Err(reason) => {
            server.output.debug(format!("The names of server {name} can't be had: {reason}"));
            return Ok(());
        }
    };
    // Another cluster's names would be worse than none.
    let is_known = catalog.identity()?.is_none_or(|known| known.system_id == map.system_id.to_string());
    if !is_known {
        server.output.debug(format!("Server {name} is another cluster than the one in the catalogue"));
        return Ok(());
    }
    catalog.keep_name_map(&map).map_err(|error| CommandError::new(chain(&error)))
}
