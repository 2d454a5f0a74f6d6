//! See `src/conninfo.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| barkeep_fuzz::conninfo::run(data));
