//! Resource managers: who wrote a record, what it does, and its fields.
//!
//! [`Rmgr`] names managers and operations. [`Operation`] is a record's payload as a typed value; its `Display` prints
//! what `pg_waldump` of the same major version prints as the record's description. Records of custom managers, and
//! operations of later versions, are carried as they are.

mod brin;
mod describe;
mod gin;
mod gist;
mod hash;
pub mod heap;
mod heap2;
pub mod inval;
mod names;
mod nbtree;
mod operation;
pub(crate) mod payload;
mod spgist;
pub mod storage;
pub mod system;
pub mod xact;
pub mod xlog;

pub use describe::{Description, Value};
pub use operation::Operation;

use crate::WalVersion;

/// The first number that extensions may use (PostgreSQL 15 and later).
pub const CUSTOM_FIRST: u8 = 128;

/// A resource manager, by its number in records (`access/rmgrlist.h`; the same in PostgreSQL 13 to 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rmgr {
    /// Checkpoints, switches, restore points, page images.
    Xlog,
    /// Commit, abort, prepare.
    Transaction,
    /// Relation files created and truncated.
    Storage,
    /// Commit status.
    Clog,
    /// Databases created and dropped.
    Database,
    /// Tablespaces created and dropped.
    Tablespace,
    /// Row lock groups.
    MultiXact,
    /// The map of catalogue files.
    RelMap,
    /// What hot standby has to know.
    Standby,
    /// More heap operations.
    Heap2,
    /// Tables.
    Heap,
    /// B-tree indexes.
    Btree,
    /// Hash indexes.
    Hash,
    /// GIN indexes.
    Gin,
    /// GiST indexes.
    Gist,
    /// Sequences.
    Sequence,
    /// SP-GiST indexes.
    SpGist,
    /// BRIN indexes.
    Brin,
    /// Commit timestamps.
    CommitTs,
    /// Replication progress.
    ReplicationOrigin,
    /// Page differences of extensions.
    Generic,
    /// Messages for logical decoding.
    LogicalMessage,
    /// An extension's own, or a number unknown to PostgreSQL 18.
    Other(u8),
}

/// The built-in managers by number.
const BUILT_IN: [Rmgr; 22] = [
    Rmgr::Xlog,
    Rmgr::Transaction,
    Rmgr::Storage,
    Rmgr::Clog,
    Rmgr::Database,
    Rmgr::Tablespace,
    Rmgr::MultiXact,
    Rmgr::RelMap,
    Rmgr::Standby,
    Rmgr::Heap2,
    Rmgr::Heap,
    Rmgr::Btree,
    Rmgr::Hash,
    Rmgr::Gin,
    Rmgr::Gist,
    Rmgr::Sequence,
    Rmgr::SpGist,
    Rmgr::Brin,
    Rmgr::CommitTs,
    Rmgr::ReplicationOrigin,
    Rmgr::Generic,
    Rmgr::LogicalMessage,
];

impl Rmgr {
    /// The manager with this number.
    pub fn from_id(id: u8) -> Self {
        BUILT_IN.get(usize::from(id)).copied().unwrap_or(Rmgr::Other(id))
    }

    /// The manager's number.
    pub fn id(self) -> u8 {
        match self {
            Rmgr::Other(id) => id,
            // There are 22.
            known => BUILT_IN.iter().position(|candidate| *candidate == known).unwrap_or_default() as u8,
        }
    }

    /// Whether a record of this version may carry the number: built in, or custom from PostgreSQL 15 on.
    #[inline]
    pub const fn is_valid_id(id: u8, version: WalVersion) -> bool {
        (id as usize) < BUILT_IN.len()
            || (id >= CUSTOM_FIRST && !matches!(version, WalVersion::V13 | WalVersion::V14))
    }

    /// Every built-in manager, by number.
    pub fn built_in() -> impl Iterator<Item = Rmgr> {
        BUILT_IN.into_iter()
    }

    /// The manager with this name, in any case; `custom###` gives the custom manager with that number.
    pub fn from_name(name: &str) -> Option<Self> {
        let custom = || {
            let digits = name.strip_prefix("custom")?;
            digits.parse().ok().filter(|id| *id >= CUSTOM_FIRST).map(Rmgr::Other)
        };
        Rmgr::built_in().find(|rmgr| rmgr.name().eq_ignore_ascii_case(name)).or_else(custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_round_trip() {
        for rmgr in Rmgr::built_in() {
            assert_eq!(Rmgr::from_id(rmgr.id()), rmgr);
            assert_eq!(Rmgr::from_name(&rmgr.name().to_lowercase()), Some(rmgr));
        }
        assert_eq!(Rmgr::from_name("custom128"), Some(Rmgr::Other(128)));
        assert_eq!(Rmgr::from_name("custom127"), None);
        assert_eq!(Rmgr::Other(200).to_string(), "custom200");
    }

    #[test]
    fn custom_managers_came_with_postgresql_15() {
        assert!(!Rmgr::is_valid_id(128, WalVersion::V14));
        assert!(Rmgr::is_valid_id(128, WalVersion::V15));
        assert!(!Rmgr::is_valid_id(22, WalVersion::V18));
    }
}
