//! `receive-wal --stop`.

use crate::command::processes;
use crate::context::ServerContext;
use crate::error::CommandError;

pub(in crate::command) fn run(server: &ServerContext) -> Result<(), CommandError> {
    let name = server.name();
    let running = server.catalog().processes()?.into_iter().find(|process| process.task == "receive-wal");
    let Some(process) = running else {
        let what = format!("Termination of receive-wal failed: no such process for server {name}");
        return Err(CommandError::new(what));
    };
    let pid = processes::stop(server, &process)?;
    server.output.info(format!("Stopped receive-wal for server {name} (process {pid})"));
    Ok(())
}
