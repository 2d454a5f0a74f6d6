//! `replication-status`: who streams WAL from servers, and how far each client has come.

mod report;

use pgwal::sql::tokio_postgres::Client;

use super::connect;
use crate::args::{ClientsSource, ClientsTarget, ReplicationStatusArgs};
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use crate::live::replication::{self, Replication};
use report::Clients;

/// How long a server is waited for where `check_timeout` has no limit, in seconds.
const DEFAULT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Shows the clients of the servers.
///
/// # Errors
/// When a server is unknown; one that does not answer is told, and the next gets its turn.
pub fn run(context: &mut Context, args: &ReplicationStatusArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Operate)? {
        if server.config.passive() {
            server.output.info(format!("Skipping passive server '{}'", server.name()));
            continue;
        }
        match ask(context, &server, args.source) {
            Ok(mut replication) => {
                replication.clients.retain(|client| match args.target {
                    ClientsTarget::All => true,
                    ClientsTarget::HotStandby => client.replayed.is_some(),
                    ClientsTarget::WalStreamer => client.replayed.is_none(),
                });
                let name = server.name();
                server.output.report(&Clients {
                    server: name,
                    target: args.target,
                    minimal: args.minimal,
                    replication,
                });
            }
            Err(error) => server.output.error(error.to_string()),
        }
    }
    Ok(())
}

fn ask(
    context: &mut Context,
    server: &ServerContext,
    source: ClientsSource,
) -> Result<Replication, CommandError> {
    let conninfo = match source {
        ClientsSource::BackupHost => connect::sql(context, server)?,
        ClientsSource::WalHost => connect::wal_sql(context, server)?,
    };
    let limit = server.config.check_timeout().unwrap_or(DEFAULT_PATIENCE);
    let unable = format!("Unable to connect to server {}", server.name());
    let answer = context.runtime()?.block_on(async {
        let question = async {
            let client: Client = pgwal::sql::connect(&conninfo).await.map_err(|error| chain(&error))?;
            replication::ask(&client).await.map_err(|error| chain(&error))
        };
        tokio::time::timeout(limit, question).await
    });
    match answer {
        Ok(Ok(replication)) if !replication.may_monitor => {
            Err(CommandError::new(format!("the user of server '{}' may not see its clients", server.name()))
                .hint("grant it pg_monitor"))
        }
        Ok(Ok(replication)) => Ok(replication),
        Ok(Err(reason)) => Err(CommandError::new(unable).hint(reason)),
        Err(_) => Err(CommandError::new(unable).hint(format!("no answer within {} s", limit.as_secs()))),
    }
}
