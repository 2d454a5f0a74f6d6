//! Changes to the configuration, as `config-update` takes them: checked as a whole, queued, then made.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::assemble::MODEL_KEY;
use super::edit::{self, EditError};
use super::keys;
use super::value::nearest;
use super::{Config, Kind};

/// Changes to one section, in the form of Barman's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The section's name.
    pub section: String,
    /// The changes, in order.
    pub changes_set: Vec<Change>,
}

/// A change to one option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The option.
    pub key: String,
    /// Its value from now on, as it stands in the file.
    pub value: String,
    /// The file that gets it.
    pub config_file: PathBuf,
}

/// Why no change is made.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The text is not JSON.
    #[error("the changes are not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON of another shape.
    #[error("the changes are not a list of objects")]
    Shape,
    /// An element of the list is wrong; counted from 1.
    #[error("element {element}: {fault}")]
    Element {
        /// Which, counted from 1.
        element: usize,
        /// What is wrong with it.
        fault: ElementFault,
    },
}

/// What is wrong with one element of the list of changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElementFault {
    /// `scope` is neither server nor model.
    #[error("\"scope\" must be \"server\" or \"model\"")]
    Scope,
    /// The name is missing.
    #[error("\"{0}\" is missing")]
    Name(&'static str),
    /// The name can't be a section's.
    #[error("\"{0}\" cannot be the name of a server or model")]
    Reserved(String),
    /// The section is of the other kind.
    #[error("\"{name}\" is a {is}, not a {not}")]
    OtherKind {
        /// The section.
        name: String,
        /// What it is.
        is: &'static str,
        /// What it was to be.
        not: &'static str,
    },
    /// A new model without cluster.
    #[error("a new model needs a \"cluster\"")]
    NoCluster,
    /// No such key here.
    #[error("\"{key}\" is no key of a {scope}{}", guess.map(|guess| format!("; did you mean \"{guess}\"?")).unwrap_or_default())]
    Key {
        /// The key.
        key: String,
        /// Server or model.
        scope: &'static str,
        /// What was probably meant.
        guess: Option<&'static str>,
    },
    /// A value that is no text.
    #[error("the value of \"{0}\" must be a string")]
    NotText(String),
    /// A value that its key can't have.
    #[error("\"{key}\" cannot be {value:?}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads changes, and checks all of them against the configuration that is in force.
///
/// # Errors
/// At the first change that can't be made; then none is to be made.
pub fn parse(config: &Config, text: &str) -> Result<Vec<ChangeSet>, UpdateError> {
    let list: Json = serde_json::from_str(text)?;
    let elements = list.as_array().ok_or(UpdateError::Shape)?;
    let change_set = |(index, element): (usize, &Json)| {
        let element = element.as_object().ok_or(UpdateError::Shape)?;
        change_set(config, element).map_err(|fault| UpdateError::Element { element: index + 1, fault })
    };
    elements.iter().enumerate().map(change_set).collect()
}

fn change_set(config: &Config, element: &Map<String, Json>) -> Result<ChangeSet, ElementFault> {
    let (scope, name_key) = match element.get("scope").and_then(Json::as_str) {
        Some("server") => ("server", "server_name"),
        Some("model") => ("model", "model_name"),
        _ => return Err(ElementFault::Scope),
    };
    let name = element.get(name_key).and_then(Json::as_str).ok_or(ElementFault::Name(name_key))?;
    if matches!(name, "" | "all" | "barman" | "DEFAULT") || name.trim() != name {
        return Err(ElementFault::Reserved(name.to_owned()));
    }
    let (is_server, is_model) = (config.servers.contains_key(name), config.models.contains_key(name));
    let other = |is, not| Err(ElementFault::OtherKind { name: name.to_owned(), is, not });
    match scope {
        "server" if is_model => return other("model", "server"),
        "model" if is_server => return other("server", "model"),
        "model" if !is_model && !element.contains_key("cluster") => return Err(ElementFault::NoCluster),
        _ => {}
    }
    let mut changes = Vec::new();
    for (key, value) in element.iter().filter(|(key, _)| *key != "scope" && *key != name_key) {
        changes.push(change(config, scope, name, key, value)?);
    }
    if scope == "model" && !is_model && !element.contains_key(MODEL_KEY) {
        changes.push(change(config, scope, name, MODEL_KEY, &Json::from("on"))?);
    }
    Ok(ChangeSet { section: name.to_owned(), changes_set: changes })
}

fn change(
    config: &Config,
    scope: &'static str,
    section: &str,
    key: &str,
    value: &Json,
) -> Result<Change, ElementFault> {
    let allowed = |known: &&keys::Key| scope == "server" || known.scope.model;
    let known = keys::SERVER_KEYS.iter().filter(allowed);
    let kind = match known.clone().find(|known| known.name == key) {
        Some(known) => known.kind,
        None if scope == "model" && key == MODEL_KEY => Kind::Boolean,
        None => {
            let guess = nearest(key, known.map(|known| known.name));
            return Err(ElementFault::Key { key: key.to_owned(), scope, guess });
        }
    };
    let text = value.as_str().ok_or_else(|| ElementFault::NotText(key.to_owned()))?;
    let wrong = |reason: String| ElementFault::Value { key: key.to_owned(), value: text.to_owned(), reason };
    // Nothing at all is a value for the keys that may be unset.
    if !(text.is_empty() && kind.nothing() == super::value::Nothing::Unset) {
        kind.parse(text).map_err(|error| wrong(error.to_string()))?;
    }
    // A first try, so that what can't be written is found before anything is.
    edit::set_option("", section, key, text).map_err(|error| wrong(error.to_string()))?;
    let file = config.file_of_own(section, key).map(Path::to_owned);
    let config_file = file.unwrap_or_else(|| config.global.auto_file());
    Ok(Change { key: key.to_owned(), value: text.to_owned(), config_file })
}

/// The text of a file with its part of some changes made.
///
/// # Errors
/// When a change can't be made.
pub fn edited(text: &str, set: &ChangeSet, file: &Path) -> Result<String, EditError> {
    let mut changes = set.changes_set.iter().filter(|change| change.config_file == file);
    changes.try_fold(text.to_owned(), |text, change| {
        edit::set_option(&text, &set.section, &change.key, &change.value)
    })
}
