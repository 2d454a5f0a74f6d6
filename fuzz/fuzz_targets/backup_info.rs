//! See `src/backup_info.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| barkeep_fuzz::backup_info::run(data));
