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

impl Report for Line<'_> {
    fn server(&self) -> &str {
        self.server.name()
    }

    fn json(&self) -> Value {
        if self.minimal { json!({}) } else { json!({ "description": self.server.description() }) }
    }

    fn console(&self, _: Style) -> String {
        let name = self.server.name();
        if self.minimal {
            return format!("{name}\n");
        }
        let mut line = name.to_owned();
        if !self.server.active() {
            line.push_str(" (inactive)");
        }
        if self.server.disabled() {
            line.push_str(" (WARNING: disabled)");
        }
        if self.server.passive() {
            line.push_str(" (Passive)");
        }
        if let Some(description) = self.server.description() {
            line.push_str(&format!(" - {description}"));
        }
        line.push('\n');
        line
    }
}
