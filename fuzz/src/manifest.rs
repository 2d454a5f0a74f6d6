//! A hostile backup manifest: no panic, bounded memory.

/// Runs it on these bytes.
pub fn run(manifest: &[u8]) {
    let mut files = 0_u64;
    let read = pgbase::manifest::read(manifest, |_| files += 1);
    if let Ok(facts) = read {
        assert_eq!(facts.files, files);
    }
}
