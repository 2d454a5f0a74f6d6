//! `list-servers`: the configured servers.

use serde_json::{Value, json};

use crate::args::ListServersArgs;
use crate::config::ServerConfig;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{Report, Style};

struct Line<'a> {
    server: &'a ServerConfig,
    minimal: bool,
}

/// Lists the configured servers, inactive and disabled ones too.
///
/// # Errors
/// None of its own.
pub fn run(context: &mut Context, args: &ListServersArgs) -> Result<(), CommandError> {
    for server in context.config().servers.values() {
        context.output().report(&Line { server, minimal: args.minimal });
    }
    Ok(())
}

impl Line<'_> {
    /// The description, and what is special about the server: Barman keeps both in one text.
    fn description(&self) -> String {
        let mut text = self.server.description().unwrap_or_default().to_owned();
        if !self.server.active() {
            text.push_str(" (inactive)");
        }
        if self.server.disabled() {
            text.push_str(" (WARNING: disabled)");
        }
        if self.server.passive() {
            text.push_str(" (Passive)");
        }
        text
    }
}

impl Report for Line<'_> {
    fn server(&self) -> &str {
        self.server.name()
    }

    fn json(&self) -> Value {
        json!({ "description": self.description() })
    }

    fn console(&self, _: Style) -> String {
        let (name, description) = (self.server.name(), self.description());
        if self.minimal || description.is_empty() {
            format!("{name}\n")
        } else {
            format!("{name} - {description}\n")
        }
    }
}
