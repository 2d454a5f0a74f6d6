//! From files to [`Config`]: reading, merging, interpolating.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assemble::Assembler;
use super::faults::shared_directories;
use super::ini::{self, Entry, Ini};
use super::value::{self, Kind, Value};
use super::{Config, ConfigError, Global, Source};

/// The section that is not a server.
pub(super) const GLOBAL_SECTION: &str = "barman";
/// What `config-update` writes, below `barman_home`.
pub(super) const AUTO_FILE: &str = ".barman.auto.conf";
/// Where `config-update` keeps what it has to do, below `barman_home`.
const CHANGES_QUEUE_FILE: &str = "cfg_changes.queue";

/// Options of one section from all files, interpolated once, with their sources.
type Merged = BTreeMap<String, (Entry, Arc<Path>)>;
/// Options of one section, as they are meant: `None` is an explicit nothing.
pub(super) type Section = BTreeMap<String, (Option<String>, Source)>;

pub(super) fn load(path: &Path, user_home: Option<&Path>) -> Result<Config, ConfigError> {
    let mut sections = BTreeMap::<String, Merged>::new();
    merge(&mut sections, path, &Ini::read(path)?)?;
    let mut warnings = Vec::new();
    let global = read_global(&sections, path)?;
    let main_section = sections.get(GLOBAL_SECTION).cloned();
    for file in included_files(&global, user_home, &mut warnings) {
        merge(&mut sections, &file, &Ini::read(&file)?)?;
        if !same_values(sections.get(GLOBAL_SECTION), main_section.as_ref()) {
            return Err(ConfigError::GlobalSection { path: file });
        }
    }
    let mut resolved = BTreeMap::new();
    for (name, merged) in &sections {
        if name == "all" {
            return Err(ConfigError::ReservedName);
        }
        resolved.insert(name.clone(), resolve(name, merged)?);
    }
    let mut assembler = Assembler::new(&resolved, &global, warnings);
    assembler.warn_of_global_keys();
    let (model_names, server_names) = assembler.sort_sections();
    let models = model_names.into_iter().map(|name| (name.clone(), assembler.model(&name))).collect();
    let servers: BTreeMap<_, _> =
        server_names.into_iter().map(|name| (name.clone(), assembler.server(&name, &models))).collect();
    let warnings = assembler.warnings;
    let conflicts = shared_directories(&servers);
    Ok(Config {
        path: path.to_owned(),
        pending: servers.values().flat_map(|server| server.pending()).collect(),
        servers: servers.into_iter().map(|(name, server)| (name, Arc::new(server))).collect(),
        models,
        warnings,
        conflicts,
        global,
        sources: sources(&sections),
        values: values(resolved),
    })
}

/// Puts a file's options over those read before it.
fn merge(sections: &mut BTreeMap<String, Merged>, path: &Path, ini: &Ini) -> Result<(), ConfigError> {
    let shared: Arc<Path> = Arc::from(path);
    for section in ini.sections() {
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

/// Whether a section says the same twice, wherever it says it.
fn same_values(one: Option<&Merged>, other: Option<&Merged>) -> bool {
    let values = |merged: Option<&Merged>| -> Vec<(String, String)> {
        let options = merged.into_iter().flatten();
        options.map(|(key, (entry, _))| (key.clone(), entry.value.clone())).collect()
    };
    values(one) == values(other)
}

/// The second round of interpolation (values come through two of Barman's parsers), and what follows it: `None`
/// means nothing, and one pair of quotes goes.
fn resolve(section: &str, merged: &Merged) -> Result<Section, ConfigError> {
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
    let below = |name: &str| PathBuf::from(format!("{home}/{name}"));
    Ok(Global {
        barman_user: text("barman_user").unwrap_or_else(|| "barman".to_owned()),
        log_file: text("log_file").map(PathBuf::from),
        log_level: text("log_level").unwrap_or_else(|| "INFO".to_owned()),
        log_format: text("log_format"),
        lock_directory: text("barman_lock_directory").map_or_else(|| PathBuf::from(&home), PathBuf::from),
        lock_directory_cleanup: text("lock_directory_cleanup")
            .and_then(|text| Kind::Boolean.parse(&text).ok())
            .is_none_or(|value| value == Value::Boolean(true)),
        config_changes_queue: text("config_changes_queue")
            .map_or_else(|| below(CHANGES_QUEUE_FILE), PathBuf::from),
        configuration_files_directory: text("configuration_files_directory").map(PathBuf::from),
        options: raw_options(sections.get(GLOBAL_SECTION)),
        barman_home: PathBuf::from(home),
    })
}

/// The options of a section as they stand, references resolved.
fn raw_options(merged: Option<&Merged>) -> BTreeMap<String, String> {
    let entries = || merged.into_iter().flatten();
    let options = entries().map(|(key, (entry, _))| (key.clone(), entry.clone())).collect();
    let raw = |(key, (entry, _)): (&String, &(Entry, Arc<Path>))| {
        Some((key.clone(), ini::interpolate(&entry.value, &options).ok()?))
    };
    entries().filter_map(raw).collect()
}

/// The includes directory's `*.conf` in name order, then the file that `config-update` writes.
fn included_files(global: &Global, user_home: Option<&Path>, warnings: &mut Vec<String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(directory) = &global.configuration_files_directory {
        let directory = super::expand_home(directory, user_home);
        match std::fs::read_dir(&directory) {
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
    let auto = global.auto_file();
    if auto.is_file() {
        files.push(auto);
    }
    files
}

fn values(sections: BTreeMap<String, Section>) -> BTreeMap<String, BTreeMap<String, Option<String>>> {
    let of_section = |section: Section| section.into_iter().map(|(key, (value, _))| (key, value)).collect();
    sections.into_iter().map(|(name, section)| (name, of_section(section))).collect()
}

fn sources(sections: &BTreeMap<String, Merged>) -> BTreeMap<String, BTreeMap<String, Arc<Path>>> {
    let of_section = |merged: &Merged| {
        merged.iter().map(|(key, (_, path))| (key.clone(), Arc::clone(path))).collect::<BTreeMap<_, _>>()
    };
    sections.iter().map(|(name, merged)| (name.clone(), of_section(merged))).collect()
}
