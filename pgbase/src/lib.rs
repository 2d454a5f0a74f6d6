#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod checksum;
mod copy;
pub mod file_backup;
pub mod generate;
pub mod manifest;
mod packed;
pub mod pipeline;
mod pool;
pub mod recovery;
pub mod restore;
mod scan;
#[cfg(feature = "stream")]
pub mod stream;
pub mod tar;
pub mod verify;

pub use scan::{BackupTrees, ScanObserver};
