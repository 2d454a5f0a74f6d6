//! `show-servers`: the configuration and the state of servers, key by key.

mod values;

use std::collections::BTreeMap;

use serde_json::Value;

use super::shown::heading;
use crate::args::ServersArgs;
use crate::context::{Context, Policy};
use crate::error::CommandError;
use crate::live::Live;
use crate::output::{Report, Style};

struct Sheet {
    heading: String,
    server: String,
    values: BTreeMap<String, Value>,
}

/// Shows the servers.
///
/// # Errors
/// When a server is unknown.
pub fn run(context: &mut Context, args: &ServersArgs) -> Result<(), CommandError> {
    for server in context.servers(&args.servers, Policy::Query)? {
        let live = Live::ask_patiently(context, &server)?;
        let mut values = BTreeMap::new();
        values::of_configuration(&mut values, &server.config);
        values::of_server(&mut values, &live);
        let sheet = Sheet { heading: heading(&server.config), server: server.name().to_owned(), values };
        context.output().report(&sheet);
    }
    Ok(())
}

impl Report for Sheet {
    fn server(&self) -> &str {
        &self.server
    }

    fn json(&self) -> Value {
        Value::Object(self.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn console(&self, _: Style) -> String {
        let lines = self.values.iter().map(|(key, value)| format!("\t{key}: {}\n", values::text(value)));
        std::iter::once(self.heading.clone()).chain(lines).collect()
    }
}
