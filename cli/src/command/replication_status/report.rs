//! The answer, as text and as JSON.

use pgwal::Lsn;
use serde_json::{Map, Value, json};

use crate::args::ClientsTarget;
use crate::command::shown::datetime;
use crate::live::replication::{Replication, StreamingClient};
use crate::output::text::size;
use crate::output::{Report, Style};

/// The clients of a server.
pub(super) struct Clients<'a> {
    pub(super) server: &'a str,
    pub(super) target: ClientsTarget,
    pub(super) minimal: bool,
    pub(super) replication: Replication,
}

impl Clients<'_> {
    const fn title(&self) -> &'static str {
        match self.target {
            ClientsTarget::All => "streaming clients",
            ClientsTarget::HotStandby => "hot standby servers",
            ClientsTarget::WalStreamer => "WAL streamers",
        }
    }

    fn lsn(&self) -> Option<String> {
        self.replication.position.map(|lsn| lsn.to_string())
    }

    /// How far a position is from the server's, in bytes.
    fn distance(&self, lsn: Option<Lsn>) -> Option<i64> {
        let (lsn, position) = (lsn?, self.replication.position?);
        let bytes = i128::from(lsn.as_u64()) - i128::from(position.as_u64());
        i64::try_from(bytes).ok()
    }

    /// How safe the client makes what was committed.
    fn stage(&self, client: &StreamingClient) -> String {
        let here = |lsn| self.distance(lsn) == Some(0);
        let standby = client.replayed.is_some();
        let most = if standby { 5 } else { 3 };
        match () {
            () if standby && here(client.replayed) => "5/5 Hot standby (max)".to_owned(),
            () if standby && here(client.flushed) => "4/5 2-safe".to_owned(),
            () if here(client.written) => format!("3/{most} Remote write"),
            () if here(client.sent) => format!("2/{most} WAL Sent (min)"),
            () => format!("1/{most} 1-safe"),
        }
    }

    /// The positions that are known: name, position, distance.
    fn positions(&self, client: &StreamingClient) -> Vec<(&'static str, Lsn, i64)> {
        let all = [
            ("sent", client.sent),
            ("write", client.written),
            ("flush", client.flushed),
            ("replay", client.replayed),
        ];
        all.into_iter()
            .filter_map(|(name, lsn)| Some((name, lsn?, self.distance(lsn).unwrap_or(0))))
            .collect()
    }

    fn minimal_line(client: &StreamingClient) -> String {
        let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| "None".to_owned(), |lsn| lsn.to_string());
        let from = format!("{}@{}", client.user, client.address.as_deref().unwrap_or("socket"));
        match client.replayed {
            None => format!(
                "W) {from} S:{} W:{} P:{} AN:{}",
                lsn(client.sent),
                lsn(client.written),
                client.priority,
                client.application
            ),
            Some(replayed) => format!(
                "{}) {from} S:{} F:{} R:{replayed} P:{} AN:{}",
                initial(client),
                lsn(client.sent),
                lsn(client.flushed),
                client.priority,
                client.application
            ),
        }
    }

    fn minimal_json(client: &StreamingClient) -> Value {
        let text = |lsn: Option<Lsn>| json!(lsn.map(|lsn| lsn.to_string()));
        let mut object = json!({
            "user_name": client.user,
            "client_addr": client.address.as_deref().unwrap_or("socket"),
            "sent_lsn": text(client.sent),
            "sync_priority": client.priority,
            "application_name": client.application,
        });
        let more = match client.replayed {
            None => vec![("write_lsn", text(client.written))],
            Some(_) => vec![
                ("flush_lsn", text(client.flushed)),
                ("replay_lsn", text(client.replayed)),
                ("sync_state", json!(initial(client))),
            ],
        };
        if let Some(object) = object.as_object_mut() {
            object.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
        object
    }

    fn lines(&self, client: &StreamingClient) -> Vec<String> {
        let mut lines = vec![
            format!("     Application name: {}", client.application),
            format!("     Sync stage      : {}", self.stage(client)),
        ];
        match &client.address {
            Some(address) => {
                lines.push("     Communication   : TCP/IP".to_owned());
                lines.push(format!(
                    "     IP Address      : {address} / Port: {} / Host: {}",
                    client.port.unwrap_or(0),
                    client.host.as_deref().unwrap_or("-")
                ));
            }
            None => lines.push("     Communication   : Unix domain socket".to_owned()),
        }
        lines.push(format!("     User name       : {}", client.user));
        lines.push(format!("     Current state   : {} ({})", client.state, client.sync_state));
        if let Some(slot) = &client.slot {
            lines.push(format!("     Replication slot: {slot}"));
        }
        lines.push(format!("     WAL sender PID  : {}", client.pid));
        let since = client.since.as_ref().map_or_else(|| "None".to_owned(), datetime);
        lines.push(format!("     Started at      : {since}"));
        if let Some(xmin) = &client.xmin {
            lines.push(format!("     Standby's xmin  : {xmin}"));
        }
        for (name, lsn, distance) in self.positions(client) {
            let name = capitalised(name) + " LSN";
            lines.push(format!("     {name:<11}: {lsn} (diff: {})", size(distance as f64)));
        }
        lines
    }

    fn full_json(&self, client: &StreamingClient) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("name", json!(kind(client)));
        put("application_name", json!(client.application));
        put("sync_stage", json!(self.stage(client)));
        match &client.address {
            Some(address) => {
                put("communication", json!("TCP/IP"));
                put("ip_address", json!(address));
                put("port", json!(client.port));
                put("host", json!(client.host));
            }
            None => {
                put("communication", json!("Unix domain socket"));
            }
        }
        put("user_name", json!(client.user));
        put("current_state", json!(client.state));
        put("current_sync_state", json!(client.sync_state));
        if let Some(slot) = &client.slot {
            put("replication_slot", json!(slot));
        }
        put("wal_sender_pid", json!(client.pid));
        put("started_at", json!(client.since.as_ref().map(datetime)));
        if let Some(xmin) = &client.xmin {
            put("standbys_xmin", json!(xmin));
        }
        for (name, lsn, distance) in self.positions(client) {
            put(&format!("{name}_lsn"), json!(lsn.to_string()));
            put(&format!("{name}_lsn_diff"), json!(size(distance as f64)));
            put(&format!("{name}_lsn_diff_bytes"), json!(distance));
        }
        Value::Object(object)
    }
}

/// The first letter of how synchronous a client is.
fn initial(client: &StreamingClient) -> String {
    client.sync_state.chars().take(1).flat_map(char::to_uppercase).collect()
}

/// What kind of client it is, in words.
fn kind(client: &StreamingClient) -> String {
    let what = if client.replayed.is_some() { "standby" } else { "WAL streamer" };
    let how = capitalised(&client.sync_state);
    if client.priority > 0 { format!("#{} {how} {what}", client.priority) } else { format!("{how} {what}") }
}

/// Python's `capitalize`: the first letter large, the others small.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters.flat_map(char::to_lowercase)).collect()
    })
}

impl Report for Clients<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let clients = &self.replication.clients;
        let list: Vec<Value> = clients
            .iter()
            .map(|client| if self.minimal { Self::minimal_json(client) } else { self.full_json(client) })
            .collect();
        let mut object = Map::new();
        if list.is_empty() {
            object.insert("standby_info".to_owned(), json!(format!("No {} attached", self.title())));
        }
        object.insert(self.title().to_lowercase().replace(' ', "_"), json!(list));
        object.insert("server_lsn".to_owned(), json!(self.lsn()));
        Value::Object(object)
    }

    fn console(&self, _: Style) -> String {
        let title = self.title();
        let mut lines = match (self.minimal, self.lsn()) {
            (true, Some(lsn)) => {
                vec![format!("{} for master '{}' (LSN @ {lsn}):", capitalised(title), self.server)]
            }
            (true, None) => vec![format!("{} for slave '{}':", capitalised(title), self.server)],
            (false, lsn) => {
                let heading = format!("Status of {title} for server '{}':", self.server);
                let position = lsn.map(|lsn| format!("  Current LSN on master: {lsn}"));
                std::iter::once(heading).chain(position).collect()
            }
        };
        let clients = &self.replication.clients;
        if clients.is_empty() {
            lines.push(format!("  No {title} attached"));
        } else if self.minimal {
            let line = |(at, client): (usize, &StreamingClient)| {
                format!("  {}. {}", at + 1, Self::minimal_line(client))
            };
            lines.extend(clients.iter().enumerate().map(line));
        } else {
            lines.push(format!("  Number of {title}: {}", clients.len()));
            for (at, client) in clients.iter().enumerate() {
                lines.push(String::new());
                lines.push(format!("  {}. {}", at + 1, kind(client)));
                lines.extend(self.lines(client));
            }
        }
        lines.join("\n") + "\n"
    }
}
