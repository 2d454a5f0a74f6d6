//! Contradictions: values of one server that exclude each other, and directories that are used twice.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::server::{BackupMethod, ServerConfig};
use super::value::Value;

/// The directories of a server: key, and default name below `backup_directory`.
pub(super) const DIRECTORIES: [(&str, &str); 5] = [
    ("basebackups_directory", "base"),
    ("errors_directory", "errors"),
    ("incoming_wals_directory", "incoming"),
    ("streaming_wals_directory", "streaming"),
    ("wals_directory", "wals"),
];

/// Everything that makes a server's section unusable.
pub(super) fn of_server(server: &ServerConfig) -> Vec<String> {
    let mut faults = contradictions(server);
    faults.extend(same_directories(server));
    faults
}

/// Values of one server that exclude each other. What a server that isn't operated says doesn't matter.
fn contradictions(server: &ServerConfig) -> Vec<String> {
    if server.passive() || !server.active() {
        return Vec::new();
    }
    let name = server.name();
    let mut faults = Vec::new();
    let mut fault = |applies: bool, text: String| {
        if applies {
            faults.push(text);
        }
    };
    let set = |key: &str| server.text(key).is_some();
    let on =
        |key: &str| matches!(server.setting(key), Some(setting) if setting.value == Value::Boolean(true));
    let reuse = matches!(server.text("reuse_backup"), Some("copy" | "link"));
    let refuse = |key: &str| format!("server '{name}': {key} cannot be used with its backup_method");
    fault(!set("conninfo"), format!("server '{name}' has no conninfo"));
    match server.backup_method() {
        BackupMethod::Rsync => {
            fault(
                !set("ssh_command"),
                format!("server '{name}' has backup_method = rsync and no ssh_command"),
            );
        }
        BackupMethod::LocalRsync => fault(set("ssh_command"), refuse("ssh_command")),
        BackupMethod::Postgres => {
            fault(set("tablespace_bandwidth_limit"), refuse("tablespace_bandwidth_limit"));
            fault(reuse, refuse("reuse_backup"));
            fault(on("network_compression"), refuse("network_compression"));
            let missing = format!("server '{name}' has backup_method = postgres and no streaming_conninfo");
            fault(!set("streaming_conninfo"), missing);
        }
        BackupMethod::Snapshot => {
            for key in ["snapshot_disks", "snapshot_instance", "snapshot_provider"] {
                fault(!set(key), format!("server '{name}' has backup_method = snapshot and no {key}"));
            }
            for key in ["backup_compression", "bandwidth_limit", "tablespace_bandwidth_limit"] {
                fault(set(key), refuse(key));
            }
            fault(reuse, refuse("reuse_backup"));
            fault(on("network_compression"), refuse("network_compression"));
        }
        BackupMethod::LocalToCloud => {}
    }
    for (key, place) in DIRECTORIES.iter().filter_map(|(key, _)| Some((key, server.text(key)?))) {
        let remote =
            format!("server '{name}' has {key} = {place}: barkeep keeps nothing in object stores yet");
        fault(place.contains("://"), remote);
    }
    if server.streaming_archiver() {
        let missing = format!("server '{name}' has streaming_archiver on and no streaming_conninfo");
        fault(!set("streaming_conninfo"), missing);
        let lone = format!("server '{name}' gets WAL by streaming alone, which needs a slot_name");
        fault(!server.archiver() && !set("slot_name"), lone);
    }
    faults
}

/// Directories of one server that are the same.
fn same_directories(server: &ServerConfig) -> Vec<String> {
    let mut seen = BTreeMap::<PathBuf, &str>::new();
    let mut faults = Vec::new();
    for (key, path) in directories(server) {
        if let Some(other) = seen.insert(path.clone(), key) {
            let path = path.display();
            faults.push(format!("server '{}': {other} and {key} are both {path}", server.name()));
        }
    }
    faults
}

/// Directories that two servers share.
pub(super) fn shared_directories(servers: &BTreeMap<String, ServerConfig>) -> Vec<String> {
    let mut seen = BTreeMap::<PathBuf, (&str, &str)>::new();
    let mut conflicts = Vec::new();
    for server in servers.values() {
        for (key, path) in directories(server) {
            match seen.get(&path) {
                Some((other, other_key)) if *other != server.name() => conflicts.push(format!(
                    "{key} of server '{}' and {other_key} of server '{other}' are both {}",
                    server.name(),
                    path.display()
                )),
                _ => {
                    seen.insert(path, (server.name(), key));
                }
            }
        }
    }
    conflicts
}

/// A server's directories, with links resolved; places in object stores are left out.
fn directories(server: &ServerConfig) -> Vec<(&'static str, PathBuf)> {
    let keys = ["backup_directory"].into_iter().chain(DIRECTORIES.map(|(key, _)| key));
    let local =
        keys.filter_map(|key| Some((key, server.text(key)?))).filter(|(_, path)| !path.contains("://"));
    local.map(|(key, path)| (key, real_path(Path::new(path)))).collect()
}

/// The path with links resolved as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return rest.iter().rev().fold(real, |path, part: &PathBuf| path.join(part));
        }
        match (existing.parent(), existing.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) => {
                rest.push(PathBuf::from(name));
                existing = parent;
            }
            _ => return absolute,
        }
    }
}
