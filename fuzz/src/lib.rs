//! What the fuzz targets do, as functions of bytes: for libFuzzer (`fuzz_targets`), and for a short run on a stable compiler
//! (`src/bin/smoke.rs`).

pub mod agent;
pub mod auth;
pub mod backup_info;
pub mod conninfo;
pub mod image;
pub mod ini;
pub mod manifest;
pub mod records;
pub mod segment;
pub mod segment_index;
pub mod tar;
pub mod wal_text;
pub mod wire;
pub mod xlogdb;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("agent", agent::run),
    ("auth", auth::run),
    ("backup_info", backup_info::run),
    ("conninfo", conninfo::run),
    ("image", image::run),
    ("ini", ini::run),
    ("manifest", manifest::run),
    ("records", records::run),
    ("segment", segment::run),
    ("segment_index", segment_index::run),
    ("tar", tar::run),
    ("wal_text", wal_text::run),
    ("wire", wire::run),
    ("xlogdb", xlogdb::run),
];
