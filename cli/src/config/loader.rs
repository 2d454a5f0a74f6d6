//! From files to [`Config`]: merging, inheritance, defaults, and contradictions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::ini::{self, Entry, Ini};
use super::keys::{self, Key, Support};
use super::server::{BackupMethod, ServerConfig, Setting};
use super::value::{self, Value};
use super::{Config, ConfigError, Global, Source};

/// The section that is not a server.
const GLOBAL_SECTION: &str = "barman";
/// What `config-update` and `config-switch` write, below `barman_home`.
const AUTO_FILE: &str = ".barman.auto.conf";
/// Holds the name of the model in force, below a server's `backup_directory`.
const ACTIVE_MODEL_FILE: &str = ".active-model.auto";
/// Longest model name that is read from [`ACTIVE_MODEL_FILE`], in bytes.
const MAX_MODEL_NAME_BYTES: usize = 1024;

/// The directories of a server: key, and default name below `backup_directory`.
const DIRECTORIES: [(&str, &str); 5] = [
    ("basebackups_directory", "base"),
    ("errors_directory", "errors"),
    ("incoming_wals_directory", "incoming"),
    ("streaming_wals_directory", "streaming"),
    ("wals_directory", "wals"),
];

/// Options of one section from all files, interpolated once, with their sources.
type Merged = BTreeMap<String, (Entry, Arc<Path>)>;

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let mut sections = BTreeMap::<String, Merged>::new();
    merge(&mut sections, path, &Ini::read(path)?, true)?;
    let mut warnings = Vec::new();
    let mut global = read_global(&sections, path)?;
    for file in included_files(&mut global, &mut warnings) {
        merge(&mut sections, &file, &Ini::read(&file)?, false)?;
    }
    let mut values = BTreeMap::new();
    for (name, merged) in &sections {
        if name == "all" {
            return Err(ConfigError::ReservedName);
        }
        values.insert(name.clone(), resolve(name, merged)?);
    }
    let mut loader = Loader { sections: values, warnings, pending: BTreeSet::new(), global };
    loader.warn_of_global_keys();
    let models = loader.models();
    let mut servers = BTreeMap::new();
    let names: Vec<String> = loader.sections.keys().cloned().collect();
    for name in names.iter().filter(|name| *name != GLOBAL_SECTION && !models.contains_key(*name)) {
        servers.insert(name.clone(), loader.server(name, &models));
    }
    let conflicts = shared_directories(&servers);
    Ok(Config {
        path: path.to_owned(),
        global: loader.global,
        servers: servers.into_iter().map(|(name, server)| (name, Arc::new(server))).collect(),
        models,
        warnings: loader.warnings,
        pending: loader.pending,
        conflicts,
    })
}

/// Puts a file's options over those read before it.
fn merge(
    sections: &mut BTreeMap<String, Merged>,
    path: &Path,
    ini: &Ini,
    main: bool,
) -> Result<(), ConfigError> {
    let shared: Arc<Path> = Arc::from(path);
    for section in ini.sections() {
        if section == GLOBAL_SECTION && !main {
            return Err(ConfigError::GlobalSection { path: path.to_owned() });
        }
        let options = ini.options(section);
        let merged = sections.entry(section.to_owned()).or_default();
        for (key, entry) in &options {
            let value = ini::interpolate(&entry.value, &options)
                .and_then(|value| ini::check_syntax(&value).map(|()| value))
                .map_err(|source| interpolation_error(path, section, key, entry.line, source))?;
            merged.insert(key.clone(), (Entry { value, line: entry.line }, Arc::clone(&shared)));
        }
    }
    Ok(())
}

/// The second round of interpolation (values come through two of Barman's parsers), and what follows it: `None`
/// means nothing, and one pair of quotes goes.
fn resolve(
    section: &str,
    merged: &Merged,
) -> Result<BTreeMap<String, (Option<String>, Source)>, ConfigError> {
    let options = merged.iter().map(|(key, (entry, _))| (key.clone(), entry.clone())).collect();
    let mut resolved = BTreeMap::new();
    for (key, (entry, path)) in merged {
        let value = ini::interpolate(&entry.value, &options)
            .map_err(|source| interpolation_error(path, section, key, entry.line, source))?;
        let value = if value == "None" { "" } else { value::strip_quotes(&value) };
        let value = if value.is_empty() || value == "None" { None } else { Some(value.to_owned()) };
        let source = Source::File { path: Arc::clone(path), line: entry.line };
        resolved.insert(key.clone(), (value, source));
    }
    Ok(resolved)
}

fn interpolation_error(
    path: &Path,
    section: &str,
    key: &str,
    line: usize,
    source: ini::InterpolationError,
) -> ConfigError {
    ConfigError::Interpolation {
        path: path.to_owned(),
        line,
        section: section.to_owned(),
        key: key.to_owned(),
        source,
    }
}

fn read_global(sections: &BTreeMap<String, Merged>, path: &Path) -> Result<Global, ConfigError> {
    let resolved = match sections.get(GLOBAL_SECTION) {
        Some(merged) => resolve(GLOBAL_SECTION, merged)?,
        None => BTreeMap::new(),
    };
    let text = |key: &str| resolved.get(key).and_then(|(value, _)| value.clone());
    let home = text("barman_home").ok_or_else(|| ConfigError::NoHome { path: path.to_owned() })?;
    let barman_home = PathBuf::from(home);
    Ok(Global {
        barman_user: text("barman_user").unwrap_or_else(|| "barman".to_owned()),
        log_file: text("log_file").map(PathBuf::from),
        log_level: text("log_level").unwrap_or_else(|| "INFO".to_owned()),
        log_format: text("log_format"),
        lock_directory: text("barman_lock_directory").map_or_else(|| barman_home.clone(), PathBuf::from),
        lock_directory_cleanup: text("lock_directory_cleanup")
            .and_then(|text| value::Kind::Boolean.parse(&text).ok())
            .is_none_or(|value| value == Value::Boolean(true)),
        configuration_files_directory: text("configuration_files_directory").map(PathBuf::from),
        barman_home,
    })
}

/// The includes directory's `*.conf` in name order, then the file that `config-update` writes.
fn included_files(global: &mut Global, warnings: &mut Vec<String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(directory) = &global.configuration_files_directory {
        match std::fs::read_dir(directory) {
            Ok(entries) => {
                let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
                files.extend(
                    paths.filter(|path| path.extension().is_some_and(|end| end == "conf") && path.is_file()),
                );
                files.sort();
            }
            Err(error) => warnings
                .push(format!("configuration_files_directory {} is not read: {error}", directory.display())),
        }
    }
    let auto = global.barman_home.join(AUTO_FILE);
    if auto.is_file() {
        files.push(auto);
    }
    files
}

struct Loader {
    sections: BTreeMap<String, BTreeMap<String, (Option<String>, Source)>>,
    warnings: Vec<String>,
    pending: BTreeSet<&'static str>,
    global: Global,
}

impl Loader {
    fn warn_of_global_keys(&mut self) {
        for key in self.sections.get(GLOBAL_SECTION).into_iter().flat_map(BTreeMap::keys) {
            let inherited = keys::find(key).is_some_and(|key| key.scope.global);
            if !inherited && !keys::GLOBAL_KEYS.contains(&key.as_str()) {
                self.warnings
                    .push(format!("Invalid configuration option \"{key}\" in [{GLOBAL_SECTION}] section."));
            }
        }
    }

    /// The sections with `model = on`, and the cluster each is for.
    fn models(&mut self) -> BTreeMap<String, String> {
        let mut models = BTreeMap::new();
        for (name, options) in &self.sections {
            let text = |key: &str| options.get(key).and_then(|(value, _)| value.as_deref());
            let is_model = text("model").and_then(|text| value::Kind::Boolean.parse(text).ok());
            if is_model != Some(Value::Boolean(true)) {
                continue;
            }
            match text("cluster") {
                Some(cluster) => {
                    models.insert(name.clone(), cluster.to_owned());
                }
                None => {
                    models.insert(name.clone(), String::new());
                    self.warnings.push(format!("model [{name}] names no cluster and is not used"));
                }
            }
        }
        models
    }

    fn server(&mut self, name: &str, models: &BTreeMap<String, String>) -> ServerConfig {
        self.warn_of_unknown_keys(name);
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
        };
        fill_defaults(&mut server);
        self.apply_model(&mut server, models);
        self.settle(&mut server);
        server
    }

    fn warn_of_unknown_keys(&mut self, section: &str) {
        let names = self.sections.get(section).into_iter().flat_map(BTreeMap::keys);
        let unknown = names.filter(|key| keys::find(key).is_none() && *key != "model");
        let warnings =
            unknown.map(|key| format!("Invalid configuration option \"{key}\" in [{section}] section."));
        self.warnings.extend(warnings.collect::<Vec<_>>());
    }

    /// A key's value from the server's section, else `[barman]`, else its default.
    fn setting(&mut self, section: &str, key: &'static Key) -> Setting {
        let places: &[&str] = if key.scope.global { &[section, GLOBAL_SECTION] } else { &[section] };
        for place in places {
            if let Some(setting) = self.read(place, key) {
                return setting;
            }
        }
        let value = if key.default.is_empty() {
            Value::Unset
        } else {
            key.kind.parse(key.default).unwrap_or(Value::Unset)
        };
        let text = if key.default.is_empty() { None } else { Some(key.default.to_owned()) };
        Setting { text, value, source: Source::Default }
    }

    /// A key's value from one section, if it is there and can be read. An explicit `None` is a value.
    fn read(&mut self, section: &str, key: &'static Key) -> Option<Setting> {
        let (text, source) = self.sections.get(section)?.get(key.name)?.clone();
        let Some(text) = text.or_else(|| key.kind.empty_is_wrong().then(String::new)) else {
            // An explicit nothing: no other place is asked.
            return Some(Setting { text: None, value: Value::Unset, source });
        };
        match key.kind.parse(&text) {
            Ok(value) => {
                if key.support == Support::Pending && !is_default(key, &text, &value) {
                    self.pending.insert(key.name);
                }
                // Words are compared by their canonical form.
                let text = if let Value::Text(canonical) = &value { canonical.clone() } else { text };
                Some(Setting { text: Some(text), value, source })
            }
            Err(error) => {
                let warning = format!(
                    "Ignoring invalid configuration value '{text}' for key {} in [{section}] section: {error}",
                    key.name
                );
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
                None
            }
        }
    }

    /// Lays the model that `config-switch` chose over the server's own values.
    fn apply_model(&mut self, server: &mut ServerConfig, models: &BTreeMap<String, String>) {
        let path = server.backup_directory().join(ACTIVE_MODEL_FILE);
        let Ok(text) = std::fs::read_to_string(&path) else { return };
        let model = text.trim().to_owned();
        if model.is_empty() || model.len() > MAX_MODEL_NAME_BYTES {
            return;
        }
        if models.get(&model).is_none_or(|cluster| cluster != server.cluster()) {
            let fault = format!(
                "{} names model \"{model}\", which is no model of cluster \"{}\"",
                path.display(),
                server.cluster()
            );
            server.faults.push(fault);
            return;
        }
        let allowed = |key: &&Key| key.scope.model && key.name != "cluster";
        for key in keys::SERVER_KEYS.iter().filter(allowed) {
            if let Some(setting) = self.read(&model, key).filter(|setting| setting.text.is_some()) {
                server.settings.insert(key.name, setting);
            }
        }
        server.active_model = Some(model);
    }

    /// What follows from values that were read: forced ones, and contradictions.
    fn settle(&mut self, server: &mut ServerConfig) {
        if !server.archiver() && !server.streaming_archiver() && !server.passive() {
            self.warnings.push(format!(
                "server '{}' has neither archiver nor streaming_archiver on: archiver is switched on",
                server.name
            ));
            let setting =
                Setting { text: Some("on".into()), value: Value::Boolean(true), source: Source::Default };
            server.settings.insert("archiver", setting);
        }
        let mut faults = contradictions(server);
        faults.extend(same_directories(server));
        server.faults.extend(faults);
    }
}

/// Whether a value says no more than the default does: `off` and `none` are what keys without a default mean too.
fn is_default(key: &Key, text: &str, value: &Value) -> bool {
    let default = key.kind.parse(key.default);
    matches!(text.to_lowercase().as_str(), "off" | "none" if key.default.is_empty())
        || default.is_ok_and(|default| default == *value)
}

/// Defaults that are other keys' values.
fn fill_defaults(server: &mut ServerConfig) {
    let set = |server: &mut ServerConfig, key: &'static str, text: String| {
        if server.text(key).is_none() {
            let value = Value::Text(text.clone());
            server.settings.insert(key, Setting { text: Some(text), value, source: Source::Default });
        }
    };
    let below = |directory: &Path, name: &str| directory.join(name).to_string_lossy().into_owned();
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
    let explicit =
        matches!(server.setting("streaming_conninfo"), Some(Setting { source: Source::File { .. }, .. }));
    if let (Some(conninfo), false) = (server.conninfo().map(str::to_owned), explicit) {
        set(server, "streaming_conninfo", conninfo);
    }
}

/// Values of one server that exclude each other.
fn contradictions(server: &ServerConfig) -> Vec<String> {
    if server.passive() {
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
    let on = |key: &str| matches!(server.setting(key), Some(Setting { value: Value::Boolean(true), .. }));
    let reuse = matches!(server.text("reuse_backup"), Some("copy" | "link"));
    let refuse = |key: &str| format!("server '{name}': {key} cannot be used with its backup_method");
    fault(!set("conninfo"), format!("server '{name}' has no conninfo"));
    match server.backup_method() {
        BackupMethod::Rsync => {
            fault(
                !set("ssh_command"),
                format!("server '{name}' has backup_method = rsync and no ssh_command"),
            );
            fault(set("backup_compression"), refuse("backup_compression"));
        }
        BackupMethod::LocalRsync => {
            fault(set("ssh_command"), refuse("ssh_command"));
            fault(set("backup_compression"), refuse("backup_compression"));
        }
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
            for key in ["backup_compression", "bandwidth_limit"] {
                fault(set(key), refuse(key));
            }
            fault(reuse, refuse("reuse_backup"));
            fault(on("network_compression"), refuse("network_compression"));
        }
        BackupMethod::LocalToCloud => {}
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
            faults.push(format!("server '{}': {other} and {key} are both {path}", server.name));
        }
    }
    faults
}

/// Directories that two servers share.
fn shared_directories(servers: &BTreeMap<String, ServerConfig>) -> Vec<String> {
    let mut seen = BTreeMap::<PathBuf, (&str, &str)>::new();
    let mut conflicts = Vec::new();
    for server in servers.values() {
        for (key, path) in directories(server) {
            match seen.get(&path) {
                Some((other, other_key)) if *other != server.name => conflicts.push(format!(
                    "{key} of server '{}' and {other_key} of server '{other}' are both {}",
                    server.name,
                    path.display()
                )),
                _ => {
                    seen.insert(path, (&server.name, key));
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
