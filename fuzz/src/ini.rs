//! Configuration files: no panic, however references nest.

use barkeep::config::ini::Ini;

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(ini) = Ini::parse(text) else { return };
    for section in ini.sections() {
        assert!(!section.is_empty() || text.contains("[]"));
    }
}
