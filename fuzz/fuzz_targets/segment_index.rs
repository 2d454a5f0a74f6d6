//! See `src/segment_index.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| barkeep_fuzz::segment_index::run(data));
