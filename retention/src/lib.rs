#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod evaluate;
mod explain;
mod order;
pub mod policy;
pub mod wal;

pub use evaluate::{
    Backup, Judgement, Keep, Place, Reason, Refusal, Rules, Stage, Verdict, evaluate, may_delete,
};
pub use policy::{Calendar, Clause, ParsePolicyError, Period, Policy, Rule, WalPolicy, Window, WindowUnit};
pub use wal::{Claim, Fate, NoPlace, SegmentRange, WalPlan, claims, plan};
