//! `init`: looks at a server, and writes what it takes to back it up.
//!
//! The configuration goes into a new file of the includes directory; what is already there is never touched. What has
//! to be done at the server (a role, a line of `pg_hba.conf`, settings) is printed, for somebody who may do it.

mod plan;

use std::path::PathBuf;

use barkeep_transport::durable::{self, DurableError};
use pgwal::replication::{ConnInfo, Connection};

use crate::args::InitArgs;
use crate::context::Context;
use crate::error::{CommandError, chain};
use crate::live::Sql;
use plan::Plan;

/// How long the server is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Looks at the server, and writes its configuration.
///
/// # Errors
/// When the server is configured already, can't be reached, or the file can't be written.
pub fn run(context: &mut Context, args: &InitArgs) -> Result<(), CommandError> {
    refuse_known(context, &args.server)?;
    let conninfo = ConnInfo::parse(&args.conninfo, &|name| context.env(name))
        .map_err(|error| CommandError::because("the connection string cannot be used", &error))?;
    if args.conninfo.contains("password") {
        return Err(CommandError::new(
            "a password must not stand in a configuration file or on a command line",
        )
        .hint("put it into ~/.pgpass of the user that barkeep runs as, or name a file with passfile="));
    }
    let (sql, streams) = probe(context, &conninfo);
    let known = sql.as_ref().ok();
    let plan = Plan::new(&args.server, &args.conninfo, conninfo.get("user"), known, streams.as_ref().err());
    let output = context.output().clone();
    for line in plan.at_the_server() {
        output.info(line);
    }
    if let Err(reason) = &sql {
        for line in plan.section().lines() {
            output.info(line);
        }
        return Err(CommandError::new(format!(
            "the server cannot be asked, and nothing was written: {reason}"
        ))
        .hint("do at the server what is printed above, then run this again"));
    }
    match (args.dry_run, place(context, &args.server)) {
        (false, Some(path)) => {
            durable::write_new(&path, plan.section().as_bytes()).map_err(|error| refused(&error))?;
            output.info(format!("Written: {}", path.display()));
        }
        (_, path) => {
            let into = match &path {
                Some(path) => path.display().to_string(),
                None => {
                    format!("{} (no configuration_files_directory is set)", context.config_path().display())
                }
            };
            output.info(format!("The configuration, for {into}:"));
            for line in plan.section().lines() {
                output.info(line);
            }
        }
    }
    for line in plan.next_steps() {
        output.info(line);
    }
    Ok(())
}

/// A server that is there, in whatever file, stays as it is.
fn refuse_known(context: &Context, name: &str) -> Result<(), CommandError> {
    let odd = |c: char| c.is_control() || matches!(c, '[' | ']' | '/');
    if name.is_empty() || name.trim() != name || name.starts_with('.') || name.contains(odd) {
        return Err(CommandError::new(format!("{name:?} cannot be the name of a server")));
    }
    if matches!(name, "all" | "barman" | "DEFAULT") {
        return Err(CommandError::new(format!("\"{name}\" means something else and cannot be a server")));
    }
    let config = context.config();
    if config.servers.contains_key(name) || config.models.contains_key(name) {
        return Err(CommandError::new(format!("'{name}' is configured already and stays as it is"))
            .hint(format!("see: barkeep show-servers {name}")));
    }
    Ok(())
}

/// The new file, where there is a directory for such files.
fn place(context: &Context, name: &str) -> Option<PathBuf> {
    let directory = context.config().global.configuration_files_directory.as_ref()?;
    Some(directory.join(format!("{name}.conf")))
}

fn refused(error: &DurableError) -> CommandError {
    if error.kind() == std::io::ErrorKind::AlreadyExists {
        return CommandError::new(format!("{} is there already and is not touched", error.path.display()));
    }
    CommandError::new(chain(error)).hint("the directory has to be writable; --dry-run prints instead")
}

/// What the server says by SQL, and whether it lets the user stream.
fn probe(context: &mut Context, conninfo: &ConnInfo) -> (Result<Sql, String>, Result<(), String>) {
    let runtime = match context.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return (Err(error.to_string()), Err(error.to_string())),
    };
    runtime.block_on(async {
        let by_sql = async {
            let client = pgwal::sql::connect(conninfo).await.map_err(|error| chain(&error))?;
            crate::live::ask_by_sql(&client).await.map_err(|error| chain(&error))
        };
        let by_stream = async {
            let mut connection = Connection::connect(conninfo).await.map_err(|error| chain(&error))?;
            connection.identify_system().await.map_err(|error| chain(&error))?;
            connection.close().await;
            Ok(())
        };
        let late = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
        let sql = tokio::time::timeout(PATIENCE, by_sql).await.unwrap_or_else(late);
        let late = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
        let streams = tokio::time::timeout(PATIENCE, by_stream).await.unwrap_or_else(late);
        (sql, streams)
    })
}
