//! The agent: the files of another machine over a pair of byte streams, such as an SSH connection's.
//!
//! [`serve`] runs where the files are, confined to the directories and the access that it was started for; [`AgentHost`]
//! is the [`Host`](crate::host::Host) at the other end. The protocol (`docs/formats.md`, "Agent"): a greeting each,
//! then frames of bounded size, each of which belongs to a numbered request. Many requests are under way at a time; what
//! an agent sends for one of them is bounded by the credit that its client gives.
//!
//! Neither side believes the other: a client decides every path that it writes, and checks that what comes is what it
//! asked for; an agent decides what may be opened.

mod client;
mod frame;
mod greeting;
mod message;
mod order;
mod server;
mod wire;

use std::time::Duration;

pub use client::{AgentHost, AgentOptions};
pub(crate) use greeting::AGENT_MAGIC;
pub use greeting::{FrameCompression, NEWEST_VERSION, OLDEST_VERSION};
pub use server::{AgentError, Confinement, serve};

/// Largest frame, in bytes, without its header: a piece of a file, and what belongs to it.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Most requests under way on one connection.
pub const REQUESTS_MAX: usize = 32;
/// How much an agent may send for one request before the client has taken it, in bytes.
pub const CREDIT_BYTES: u32 = 2 << 20;
/// What a part counts for at least, in bytes: many small ones must not take more memory than they are given credit for.
const PART_BYTES_MIN: u64 = 16 << 10;
/// Most characters of what an agent says of an error.
const TEXT_CHARS_MAX: usize = 500;
/// How much of a file is sent in one frame, in bytes.
const SEND_BYTES: usize = 256 << 10;
/// After how long without a word from the agent it is asked for one.
pub const PING_AFTER: Duration = Duration::from_secs(15);
/// After how long without a word from the agent the connection is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(90);

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
