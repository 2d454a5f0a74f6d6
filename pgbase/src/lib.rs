#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod checksum;
mod copy;
pub mod manifest;
pub mod pipeline;
pub mod recovery;
pub mod restore;
#[cfg(feature = "stream")]
pub mod stream;
pub mod tar;
