//! See `src/wal_text.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| barkeep_fuzz::wal_text::run(data));
