//! Barman's configuration, read unchanged from its files into typed values.
//!
//! Lookup of a server's key: its own section, then (for keys that may be inherited) `[barman]`, then the default. A
//! value that can't be read never stops the program: it is named in a warning and the next place is asked. Keys nobody
//! knows are named in a warning too. Each value remembers the file and line it came from.

mod assemble;
pub mod edit;
mod faults;
pub mod ini;
pub mod keys;
mod loader;
mod model;
mod server;
pub mod update;
pub mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use ini::{IniError, InterpolationError};
pub use model::ModelConfig;
pub use server::{BackupMethod, ServerConfig, Setting};
pub use value::{Interval, IntervalUnit, Kind, Value};

/// The files looked for when none is named, in this order; `~` is the home directory.
pub const DEFAULT_FILES: [&str; 3] = ["~/.barman.conf", "/etc/barman.conf", "/etc/barman/barman.conf"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file and a line in it, counted from 1.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line.
        line: usize,
    },
    /// The key's default.
    Default,
}

/// The whole configuration.
#[derive(Debug)]
pub struct Config {
    /// The main file.
    pub path: PathBuf,
    /// What `[barman]` says about the program itself.
    pub global: Global,
    /// The servers by name.
    pub servers: BTreeMap<String, Arc<ServerConfig>>,
    /// The models by name.
    pub models: BTreeMap<String, ModelConfig>,
    /// What was ignored, and why: one sentence each.
    pub warnings: Vec<String>,
    /// Keys that are set and that barkeep does not act on yet.
    pub pending: BTreeSet<&'static str>,
    /// Contradictions between servers (two sharing a directory): every command that touches a server stops on them.
    pub conflicts: Vec<String>,
    sources: BTreeMap<String, BTreeMap<String, Arc<Path>>>,
    values: BTreeMap<String, BTreeMap<String, Option<String>>>,
}

/// What `[barman]` says about the program itself.
#[derive(Debug, Clone)]
pub struct Global {
    /// Where servers' directories are, unless they say otherwise.
    pub barman_home: PathBuf,
    /// The user to run as.
    pub barman_user: String,
    /// Where to log; `None` logs nowhere.
    pub log_file: Option<PathBuf>,
    /// The least severe level that is logged, by Python's name or number.
    pub log_level: String,
    /// The form of a log line, by Python's `logging` conventions.
    pub log_format: Option<String>,
    /// Where lock files are.
    pub lock_directory: PathBuf,
    /// The changes that `config-update` has still to make.
    pub config_changes_queue: PathBuf,
    /// Whether `cron` removes lock files that nobody holds.
    pub lock_directory_cleanup: bool,
    /// The directory whose `*.conf` files are read after the main file.
    pub configuration_files_directory: Option<PathBuf>,
    /// All that the section says, keys of servers included, as text.
    pub options: BTreeMap<String, String>,
}

impl Global {
    /// The file that `config-update` writes what no other file says into.
    pub fn auto_file(&self) -> PathBuf {
        PathBuf::from(format!("{}/{}", self.barman_home.display(), loader::AUTO_FILE))
    }
}

/// Why there is no configuration to work with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// None of the usual files exists.
    #[error("no configuration file found: looked for {}", DEFAULT_FILES.join(", "))]
    NotFound,
    /// The named file does not exist.
    #[error("configuration file {} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be read or parsed.
    #[error(transparent)]
    Ini(#[from] IniError),
    /// A value's `%` can't be resolved.
    #[error("{}, line {line}: value of {key:?} in [{section}]: {source}", path.display())]
    Interpolation {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The section.
        section: String,
        /// The key.
        key: String,
        /// What is wrong.
        source: InterpolationError,
    },
    /// `[barman]` has no `barman_home`.
    #[error("{}: [barman] has no barman_home", path.display())]
    NoHome {
        /// The main file.
        path: PathBuf,
    },
    /// A file of the includes directory has a `[barman]` section.
    #[error("{}: only the main configuration file may have a [barman] section", path.display())]
    GlobalSection {
        /// The file.
        path: PathBuf,
    },
    /// A server is called `all`.
    #[error("a server cannot be called \"all\": the word stands for all servers")]
    ReservedName,
}

impl Config {
    /// The configuration file to use: the named one, else the first that exists of [`DEFAULT_FILES`].
    ///
    /// # Errors
    /// When there is none.
    pub fn locate(named: Option<&Path>, home: Option<&Path>) -> Result<PathBuf, ConfigError> {
        let expand = |path: &Path| expand_home(path, home);
        // An empty BARMAN_CONFIG_FILE names nothing.
        if let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) {
            let path = expand(path);
            return if path.is_file() { Ok(path) } else { Err(ConfigError::Missing { path }) };
        }
        let candidates = DEFAULT_FILES.iter().map(|path| expand(Path::new(path)));
        candidates.into_iter().find(|path| path.is_file()).ok_or(ConfigError::NotFound)
    }

    /// Reads `path`, the files it includes, and `.barman.auto.conf`. A `~` stands for `home`.
    ///
    /// # Errors
    /// When a file can't be read or parsed, or the program can't know its home.
    pub fn load(path: &Path, home: Option<&Path>) -> Result<Self, ConfigError> {
        loader::load(path, home)
    }

    /// The file that an option comes from: the last that has it in this section, else the last that has it in
    /// `[barman]`. `None` when none has it, whether it has a default or not.
    pub fn file_of(&self, section: &str, key: &str) -> Option<&Path> {
        let file = |section: &str| self.sources.get(section)?.get(key).map(AsRef::as_ref);
        file(section).or_else(|| file(loader::GLOBAL_SECTION))
    }

    /// Whether a file is one that the configuration is read from, or would be if it existed.
    pub fn is_own_file(&self, path: &Path) -> bool {
        let read = self.sources.values().flat_map(BTreeMap::values);
        path == self.global.auto_file() || path == self.path || read.into_iter().any(|file| **file == *path)
    }

    /// An option of a section as it is written, whatever section it is.
    pub fn sections_value(&self, section: &str, key: &str) -> Option<String> {
        self.values.get(section)?.get(key)?.clone()
    }

    /// Like [`file_of`](Self::file_of), without asking `[barman]`.
    pub fn file_of_own(&self, section: &str, key: &str) -> Option<&Path> {
        self.sources.get(section)?.get(key).map(AsRef::as_ref)
    }
}

/// A path with a leading `~` replaced.
fn expand_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}
