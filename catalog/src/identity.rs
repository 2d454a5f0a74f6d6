//! `identity.json`: which cluster a server's backups are of.

use std::fmt;

use barkeep_transport::durable;
use serde_json::Value;

use crate::store::{CatalogError, read_bounded};
use crate::{Catalog, Layout};

/// Largest `identity.json` accepted, in bytes.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// A cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The system identifier, a decimal number.
    pub system_id: String,
    /// The major version, like `15`.
    pub version: String,
}

impl fmt::Display for Identity {
    /// The file's text, as Python's `json.dump` indents it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (system_id, version) = (Value::from(self.system_id.as_str()), Value::from(self.version.as_str()));
        writeln!(f, "{{\n    \"systemid\": {system_id},\n    \"version\": {version}\n}}")
    }
}

impl Catalog {
    /// The recorded identity; `None` when there is no record yet, or none that makes sense.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn identity(&self) -> Result<Option<Identity>, CatalogError> {
        read(self.layout())
    }

    /// Records the identity at the first backup. An existing record stays.
    ///
    /// # Errors
    /// When storage fails.
    pub fn record_identity(&self, identity: &Identity) -> Result<(), CatalogError> {
        let path = self.layout().identity();
        match durable::write_new(&path, identity.to_string().as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

pub(crate) fn read(layout: &Layout) -> Result<Option<Identity>, CatalogError> {
    let Some(text) = read_bounded(&layout.identity(), IDENTITY_BYTES_MAX)? else { return Ok(None) };
    let Ok(value) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
    let field = |key: &str| match value.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Ok(field("systemid")
        .map(|system_id| Identity { system_id, version: field("version").unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_barmans_and_written_once() {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        assert_eq!(catalog.identity().unwrap(), None);
        let identity = |id: &str| Identity { system_id: id.to_owned(), version: "15".to_owned() };
        catalog.record_identity(&identity("7710937153959999515")).unwrap();
        catalog.record_identity(&identity("1")).unwrap();
        assert_eq!(
            std::fs::read_to_string(catalog.layout().identity()).unwrap(),
            "{\n    \"systemid\": \"7710937153959999515\",\n    \"version\": \"15\"\n}\n"
        );
        assert_eq!(catalog.identity().unwrap(), Some(identity("7710937153959999515")));
        std::fs::write(catalog.layout().identity(), "[]").unwrap();
        assert_eq!(catalog.identity().unwrap(), None);
    }
}
