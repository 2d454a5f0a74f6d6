//! Notifications: people and programs that want to hear of backups, and of checks that turn bad or good again.
//!
//! `notify` of a server's configuration names the destinations. What can't be delivered within [`PATIENCE`] is logged and
//! forgotten: no backup fails for want of a mail server.

mod destination;
mod exec;
mod mail;
mod watch;
mod web;

use std::time::Duration;

use serde_json::{Map, Value};

use destination::Destination;
pub(crate) use watch::{CheckState, check_state, note_check};

use crate::context::ServerContext;
use crate::output::redact;

/// How long the delivery to one destination may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Something worth telling.
#[derive(Debug, Clone)]
pub(crate) struct Notification {
    /// `backup` or `check`.
    pub(crate) event: &'static str,
    /// Whether it is good news.
    pub(crate) good: bool,
    /// One line.
    pub(crate) subject: String,
    /// A few lines for people.
    pub(crate) text: String,
    /// The facts for programs, besides those that every notification has.
    pub(crate) facts: Map<String, Value>,
}

impl Notification {
    /// The body for programs.
    fn json(&self, server: &str) -> Value {
        let mut object = self.facts.clone();
        let mut set = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
        set("event", Value::from(self.event));
        set("ok", Value::from(self.good));
        set("server", Value::from(server));
        set("subject", Value::from(redact(&self.subject)));
        set("text", Value::from(redact(&self.text)));
        set("time", Value::from(jiff::Timestamp::now().to_string()));
        set("program", Value::from(concat!("barkeep ", env!("CARGO_PKG_VERSION"))));
        Value::Object(object)
    }
}

/// Tells all the destinations of a server.
pub(crate) fn tell(server: &ServerContext, notification: &Notification) {
    let Some(text) = server.config.notify() else { return };
    let destinations = match destination::parse_all(text) {
        Ok(destinations) => destinations,
        Err(error) => {
            server
                .output
                .warning(format!("notify of server {}: {error}: nobody was notified", server.name()));
            return;
        }
    };
    // Each has its own time, so that a mail server that hangs keeps nothing from a webhook.
    std::thread::scope(|scope| {
        for destination in &destinations {
            scope.spawn(move || tell_one(server, destination, notification));
        }
    });
}

fn tell_one(server: &ServerContext, destination: &Destination, notification: &Notification) {
    let body = notification.json(server.name());
    let outcome = match destination {
        Destination::Mail(mail) => mail::send(mail, notification),
        Destination::Web(url) => web::post(url, &body),
        Destination::Exec(command) => exec::run(server, command, notification, &body),
    };
    match outcome {
        Ok(()) => tracing::info!("notified {destination} of: {}", redact(&notification.subject)),
        Err(why) => server.output.warning(format!("{destination} could not be notified: {why}")),
    }
}
