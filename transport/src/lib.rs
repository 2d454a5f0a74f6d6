#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod agent;
pub mod codec;
#[cfg(any(test, feature = "faults"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
pub mod conformance;
pub mod direct;
pub mod durable;
#[cfg(any(test, feature = "faults"))]
pub mod faults;
pub mod host;
pub mod private;
pub mod remote;
mod removal;
pub mod ssh;

/// Stands in for the `faults` module in ordinary builds: nothing is ever made to fail.
#[cfg(not(any(test, feature = "faults")))]
mod faults {
    use crate::durable::Step;

    pub(crate) fn check(_step: Step, _path: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
}
