//! Configuration files: no panic, however references nest.
#![no_main]

use barkeep::config::ini::Ini;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(ini) = Ini::parse(text) else { return };
    for section in ini.sections() {
        assert!(!section.is_empty() || text.contains("[]"));
    }
});
