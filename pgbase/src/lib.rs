#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod checksum;
pub mod manifest;
pub mod pipeline;
pub mod recovery;
pub mod tar;
