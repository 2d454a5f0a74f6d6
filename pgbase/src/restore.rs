//! Restores: from a base backup and archived WAL to a data directory that starts, and stops where it was told to.
//!
//! [`plan_restore`] decides everything from facts, touching nothing; [`execute`] does it. The plan is plain data, to be
//! printed or tested. An unfinished restore can't be started: `global/pg_control`, without which no server starts, gets
//! its name last, after one barrier has made everything else durable.

mod destination;
mod execute;
mod facts;
mod plan;
mod refusal;
mod running;
#[cfg(test)]
mod tests_support;
mod tree;
mod wal;
mod wal_copy;
mod warning;

pub use destination::{DestinationState, INCOMPLETE_MARKER, look_at, owner_for};
pub use execute::{
    DeltaReport, ExecuteOptions, FileChange, FileNote, Phase, RestoreError, RestoreEvent, RestoreObserver,
    RestoreReport, Retry, ShelvedWal, execute, execute_remote, look_at_remote,
};
pub use facts::{
    BackupFacts, BackupFormat, Foreseen, RestorePlan, RestoreRequest, STAGED_WAL, TablespaceFacts, TreeCopy,
    WalPlace, WalSupply,
};
pub use plan::plan_restore;
pub use refusal::PlanError;
pub use running::ServerInspector;
pub use wal::{
    AvailableWal, ResolvedTimeline, TimelineError, WalCopy, WalKind, WalSelection, resolve_timeline,
    select_wal,
};
pub use warning::PlanWarning;

pub use crate::copy::Owner;
