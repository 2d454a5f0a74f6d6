#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod evaluate;
mod explain;
pub mod policy;
pub mod wal;

pub use evaluate::{Backup, Judgement, Keep, Reason, Refusal, Stage, Verdict, evaluate, may_delete};
pub use policy::{ParsePolicyError, Policy, Window, WindowUnit};
pub use wal::{Claim, Fate, WalPlan, plan};
