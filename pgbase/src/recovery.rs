//! Recovery settings: what a restored cluster is told before its first start, for PostgreSQL 13 to 18.
//!
//! * [`quote_value`] is the one way a value gets into a configuration file, [`shell_word`] the one way a path gets into
//!   a command; both refuse what they cannot carry faithfully.
//! * [`RecoverySettings`] renders the lines that end `postgresql.auto.conf`, and says which signal file goes with them.
//! * [`neutralise`] takes the sting out of an inherited configuration file: a restored cluster must not archive over
//!   its original, nor follow recovery settings of an earlier restore.

mod config_file;
mod quote;
mod settings;

pub use config_file::{ConfigChange, ConfigFile, ConfigNote, Neutralised, has_includes, neutralise};
pub use quote::{QuoteError, command_word, quote_value, shell_word};
pub use settings::{
    MIN_MAJOR, RecoveryMode, RecoverySettings, SettingsError, UnsupportedMajor, copy_command, remove_command,
    supported_major,
};
