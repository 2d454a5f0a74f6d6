//! By a command.

use serde_json::Value;

use super::Notification;
use crate::context::ServerContext;
use crate::hooks;

/// Runs a command for the shell, with the facts on its standard input and the most important in its environment.
pub(super) fn run(
    server: &ServerContext,
    command: &str,
    notification: &Notification,
    body: &Value,
) -> Result<(), String> {
    let variables = [
        ("BARKEEP_EVENT", notification.event.to_owned()),
        ("BARKEEP_OK", if notification.good { "1" } else { "0" }.to_owned()),
        ("BARKEEP_SERVER", server.name().to_owned()),
        ("BARKEEP_SUBJECT", notification.subject.clone()),
    ];
    hooks::run_notifier(server, command, &variables, body.to_string().into_bytes())
}
