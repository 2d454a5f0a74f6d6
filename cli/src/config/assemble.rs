//! From sections to servers and models: inheritance, defaults, models in force.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use super::faults::{self, DIRECTORIES};
use super::keys::{self, Key, Support};
use super::loader::{GLOBAL_SECTION, Section};
use super::model::ModelConfig;
use super::server::{BackupMethod, ServerConfig, Setting};
use super::value::{Kind, Nothing, Value, nearest};
use super::{Global, Source};

/// Holds the name of the model in force, below a server's `backup_directory`.
pub(super) const ACTIVE_MODEL_FILE: &str = ".active-model.auto";
/// Longest model name that is read from [`ACTIVE_MODEL_FILE`], in bytes.
const MAX_MODEL_NAME_BYTES: u64 = 1024;
/// The key that makes a section a model's.
pub(super) const MODEL_KEY: &str = "model";

/// Builds servers and models, and collects what there is to say about it.
pub(super) struct Assembler<'a> {
    sections: &'a BTreeMap<String, Section>,
    global: &'a Global,
    /// What was ignored, and why.
    pub(super) warnings: Vec<String>,
    /// The keys that the section being read sets, and that are not acted on.
    pending: BTreeSet<&'static str>,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(
        sections: &'a BTreeMap<String, Section>,
        global: &'a Global,
        warnings: Vec<String>,
    ) -> Self {
        Assembler { sections, global, warnings, pending: BTreeSet::new() }
    }

    /// Keys of `[barman]` that mean nothing there.
    pub(super) fn warn_of_global_keys(&mut self) {
        let known: Vec<&str> = keys::GLOBAL_KEYS
            .iter()
            .copied()
            .chain(keys::SERVER_KEYS.iter().filter(|key| key.scope.global).map(|key| key.name))
            .collect();
        self.warn_of_keys(GLOBAL_SECTION, &known);
    }

    fn warn_of_keys(&mut self, section: &str, known: &[&str]) {
        let names = self.sections.get(section).into_iter().flat_map(BTreeMap::keys);
        for key in names.filter(|key| !known.contains(&key.as_str())) {
            let mut warning = format!("Invalid configuration option \"{key}\" in [{section}] section.");
            if let Some(meant) = nearest(key, known.iter().copied()) {
                warning.push_str(&format!(" Did you mean \"{meant}\"?"));
            } else if keys::find(key).is_some() {
                warning.push_str(" It belongs into the sections of servers.");
            }
            self.warnings.push(warning);
        }
    }

    /// The sections with `model = on`, and those that want to be servers, in name order.
    pub(super) fn sort_sections(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut models, mut servers) = (Vec::new(), Vec::new());
        for (name, section) in self.sections.iter().filter(|(name, _)| *name != GLOBAL_SECTION) {
            let text = |key: &str| section.get(key).and_then(|(value, _)| value.as_deref());
            match text(MODEL_KEY).map(|text| Kind::Boolean.parse(text)) {
                None | Some(Ok(Value::Boolean(false))) => servers.push(name.clone()),
                Some(Ok(_)) if text("cluster").is_some() => models.push(name.clone()),
                Some(Ok(_)) => {
                    self.warnings.push(format!("model [{name}] names no cluster and is not used"));
                }
                Some(Err(error)) => {
                    let warning = format!("section [{name}] is not used: its key model is wrong: {error}");
                    self.warnings.push(warning);
                }
            }
        }
        (models, servers)
    }

    pub(super) fn model(&mut self, name: &str) -> ModelConfig {
        let allowed: Vec<&'static Key> = keys::SERVER_KEYS.iter().filter(|key| key.scope.model).collect();
        let known: Vec<&str> = allowed.iter().map(|key| key.name).chain([MODEL_KEY]).collect();
        self.warn_of_keys(name, &known);
        self.pending.clear();
        let unset = || Setting { text: None, value: Value::Unset, source: Source::Default };
        let settings =
            allowed.iter().map(|key| (key.name, self.read(name, key).unwrap_or_else(unset))).collect();
        ModelConfig { name: name.to_owned(), settings, pending: std::mem::take(&mut self.pending) }
    }

    pub(super) fn server(&mut self, name: &str, models: &BTreeMap<String, ModelConfig>) -> ServerConfig {
        let known: Vec<&str> = keys::SERVER_KEYS.iter().map(|key| key.name).collect();
        self.warn_of_keys(name, &known);
        self.pending.clear();
        let mut settings = BTreeMap::new();
        for key in keys::SERVER_KEYS {
            settings.insert(key.name, self.setting(name, key));
        }
        let mut server = ServerConfig {
            name: name.to_owned(),
            settings,
            barman_home: self.global.barman_home.clone(),
            lock_directory: self.global.lock_directory.clone(),
            active_model: None,
            faults: Vec::new(),
            pending: std::mem::take(&mut self.pending),
        };
        fill_defaults(&mut server);
        apply_model_in_force(&mut server, models);
        self.settle(&mut server);
        server
    }

    /// A key's value from the server's section, else `[barman]`, else its default.
    fn setting(&mut self, section: &str, key: &'static Key) -> Setting {
        let places: &[&str] = if key.scope.global { &[section, GLOBAL_SECTION] } else { &[section] };
        places.iter().find_map(|place| self.read(place, key)).unwrap_or_else(|| default_of(key))
    }

    /// A key's value from one section, if it is there and can be read. An explicit `None` may be a value.
    fn read(&mut self, section: &str, key: &'static Key) -> Option<Setting> {
        let (text, source) = self.sections.get(section)?.get(key.name)?.clone();
        let text = match (text, key.kind.nothing()) {
            (Some(text), _) => text,
            // No other place is asked.
            (None, Nothing::Unset) => return Some(Setting { text: None, value: Value::Unset, source }),
            (None, Nothing::Absent) => return None,
            (None, Nothing::Wrong) => String::new(),
        };
        match key.kind.parse(&text) {
            Ok(value) => {
                if key.support != Support::Acted && !is_default(key, &text, &value) {
                    self.pending.insert(key.name);
                }
                if let (Kind::Natural, Value::Integer(number @ ..0)) = (key.kind, &value) {
                    let fallback = if key.default.is_empty() { "unset" } else { key.default };
                    self.warn(format!(
                        "{key} = {number} in [{section}] counts as {fallback}: it is negative",
                        key = key.name
                    ));
                }
                // Words are compared by their canonical form.
                let text = if let Value::Text(canonical) = &value { canonical.clone() } else { text };
                Some(Setting { text: Some(text), value, source })
            }
            Err(error) => {
                self.warn(format!(
                    "Ignoring invalid configuration value '{text}' for key {} in [{section}] section: {error}",
                    key.name
                ));
                None
            }
        }
    }

    /// A warning that may come up for every server is told once.
    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// What follows from values that were read: forced ones, and contradictions.
    fn settle(&mut self, server: &mut ServerConfig) {
        if !server.archiver() && !server.streaming_archiver() && !server.passive() && server.active() {
            self.warnings.push(format!(
                "server '{}' has neither archiver nor streaming_archiver on: archiver is switched on",
                server.name
            ));
            let setting =
                Setting { text: Some("on".into()), value: Value::Boolean(true), source: Source::Default };
            server.settings.insert("archiver", setting);
        }
        if let (true, false, Some(words)) = (server.active(), server.passive(), backup_options(server)) {
            let source =
                server.settings.get("backup_options").map_or(Source::Default, |old| old.source.clone());
            let setting = Setting { text: Some(words.join(",")), value: Value::List(words), source };
            server.settings.insert("backup_options", setting);
        }
        let faults = faults::of_server(server);
        server.faults.extend(faults);
    }
}

fn default_of(key: &Key) -> Setting {
    if key.default.is_empty() {
        return Setting { text: None, value: Value::Unset, source: Source::Default };
    }
    let value = key.kind.parse(key.default).unwrap_or(Value::Unset);
    Setting { text: Some(key.default.to_owned()), value, source: Source::Default }
}

/// Whether a value says no more than the default does: `off` and `none` are what keys without a default mean too.
fn is_default(key: &Key, text: &str, value: &Value) -> bool {
    let default = key.kind.parse(key.default);
    matches!(text.to_lowercase().as_str(), "off" | "none" if key.default.is_empty())
        || default.is_ok_and(|default| default == *value)
}

/// Lays the model that `config-switch` chose over the server's own values.
fn apply_model_in_force(server: &mut ServerConfig, models: &BTreeMap<String, ModelConfig>) {
    let path = server.active_model_file();
    let Some(name) = read_model_name(&path) else { return };
    match models.get(&name) {
        Some(model) if model.cluster() == server.cluster() => server.apply(model),
        _ => server.faults.push(format!(
            "{} names model \"{name}\", which is no model of cluster \"{}\"",
            path.display(),
            server.cluster()
        )),
    }
}

/// The model in force; `None` when there is none, or the file says nothing that makes sense.
fn read_model_name(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_MODEL_NAME_BYTES).read_to_string(&mut text).ok()?;
    let name = text.trim();
    if name.is_empty() { None } else { Some(name.to_owned()) }
}

/// Defaults that are other keys' values.
fn fill_defaults(server: &mut ServerConfig) {
    let set = |server: &mut ServerConfig, key: &'static str, text: String| {
        if server.text(key).is_none() {
            let value = Value::Text(text.clone());
            server.settings.insert(key, Setting { text: Some(text), value, source: Source::Default });
        }
    };
    let below = |directory: &Path, name: &str| format!("{}/{name}", directory.display());
    let name = server.name.clone();
    let home = below(&server.barman_home, &name);
    set(server, "backup_directory", home);
    for (key, child) in DIRECTORIES {
        let path = below(&server.backup_directory(), child);
        set(server, key, path);
    }
    let wals = server.text("wals_directory").unwrap_or_default().to_owned();
    set(server, "xlogdb_directory", wals);
    set(server, "cluster", name);
    let explicit = server
        .setting("streaming_conninfo")
        .is_some_and(|setting| matches!(setting.source, Source::File { .. }));
    if let (Some(conninfo), false) = (server.conninfo().map(str::to_owned), explicit) {
        set(server, "streaming_conninfo", conninfo);
    }
}

/// What `backup_options` comes to by the way backups are taken: over the replication protocol they are concurrent
/// always, otherwise unless they are said to be exclusive.
fn backup_options(server: &ServerConfig) -> Option<Vec<String>> {
    let setting = server.setting("backup_options")?;
    let mut words = if let Value::List(words) = &setting.value { words.clone() } else { Vec::new() };
    let has = |words: &[String], word: &str| words.iter().any(|one| one == word);
    let ssh = server.ssh_command().is_some();
    match server.backup_method() {
        BackupMethod::Postgres => words.retain(|word| word != "exclusive_backup"),
        BackupMethod::Rsync | BackupMethod::Snapshot if !ssh => return None,
        BackupMethod::LocalRsync if ssh => return None,
        BackupMethod::LocalToCloud => return None,
        BackupMethod::Rsync | BackupMethod::LocalRsync | BackupMethod::Snapshot => {}
    }
    if !has(&words, "concurrent_backup") && !has(&words, "exclusive_backup") {
        words.insert(0, "concurrent_backup".to_owned());
    }
    Some(words)
}
