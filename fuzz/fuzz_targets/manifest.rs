//! A hostile backup manifest: no panic, bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|manifest: &[u8]| {
    let mut files = 0_u64;
    let read = pgbase::manifest::read(manifest, |_| files += 1);
    if let Ok(facts) = read {
        assert_eq!(facts.files, files);
    }
});
