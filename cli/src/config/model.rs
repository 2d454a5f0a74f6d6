//! Models: values that `config-switch` lays over a server's own.

use std::collections::{BTreeMap, BTreeSet};

use super::server::Setting;

/// A named set of values for the servers of one cluster.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    pub(super) name: String,
    pub(super) settings: BTreeMap<&'static str, Setting>,
    pub(super) pending: BTreeSet<&'static str>,
}

impl ModelConfig {
    /// Its name: its section's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster whose servers it is for.
    pub fn cluster(&self) -> &str {
        self.settings.get("cluster").and_then(|setting| setting.text.as_deref()).unwrap_or_default()
    }

    /// All keys that a model may have, in alphabetical order, whether this one has them or not.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.settings.iter().map(|(key, setting)| (*key, setting))
    }

    /// The values that it lays over a server's.
    pub fn overrides(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.settings().filter(|(key, setting)| *key != "cluster" && setting.is_set())
    }
}
