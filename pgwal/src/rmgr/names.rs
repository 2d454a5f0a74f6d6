//! Names of managers and operations, as `pg_waldump` prints them.

use std::fmt;

use super::Rmgr;
use crate::WalVersion;
use crate::WalVersion::{V13, V14, V15, V16, V17};

impl Rmgr {
    /// The name of a built-in manager; `custom` for any other (its `Display` adds the number).
    pub const fn name(self) -> &'static str {
        match self {
            Rmgr::Xlog => "XLOG",
            Rmgr::Transaction => "Transaction",
            Rmgr::Storage => "Storage",
            Rmgr::Clog => "CLOG",
            Rmgr::Database => "Database",
            Rmgr::Tablespace => "Tablespace",
            Rmgr::MultiXact => "MultiXact",
            Rmgr::RelMap => "RelMap",
            Rmgr::Standby => "Standby",
            Rmgr::Heap2 => "Heap2",
            Rmgr::Heap => "Heap",
            Rmgr::Btree => "Btree",
            Rmgr::Hash => "Hash",
            Rmgr::Gin => "Gin",
            Rmgr::Gist => "Gist",
            Rmgr::Sequence => "Sequence",
            Rmgr::SpGist => "SPGist",
            Rmgr::Brin => "BRIN",
            Rmgr::CommitTs => "CommitTs",
            Rmgr::ReplicationOrigin => "ReplicationOrigin",
            Rmgr::Generic => "Generic",
            Rmgr::LogicalMessage => "LogicalMessage",
            Rmgr::Other(_) => "custom",
        }
    }

    /// The name of the operation in `info`; `None` when this version has none.
    ///
    /// Low bits that mark a variant of the operation (a transaction record with extra information) don't matter.
    pub fn operation_name(self, info: u8, version: WalVersion) -> Option<&'static str> {
        let operation = info & 0xF0;
        match self {
            Rmgr::Xlog => xlog(operation, version),
            Rmgr::Transaction => transaction(operation, version),
            Rmgr::Storage => pick(operation, &[(0x10, "CREATE"), (0x20, "TRUNCATE")]),
            Rmgr::Clog => pick(operation, &[(0x00, "ZEROPAGE"), (0x10, "TRUNCATE")]),
            Rmgr::Database => match (operation, version) {
                (0x00, V13 | V14) => Some("CREATE"),
                (0x10, V13 | V14) | (0x20, _) => Some("DROP"),
                (0x00, _) => Some("CREATE_FILE_COPY"),
                (0x10, _) => Some("CREATE_WAL_LOG"),
                _ => None,
            },
            Rmgr::Tablespace => pick(operation, &[(0x00, "CREATE"), (0x10, "DROP")]),
            Rmgr::MultiXact => pick(
                operation,
                &[
                    (0x00, "ZERO_OFF_PAGE"),
                    (0x10, "ZERO_MEM_PAGE"),
                    (0x20, "CREATE_ID"),
                    (0x30, "TRUNCATE_ID"),
                ],
            ),
            Rmgr::RelMap => pick(operation, &[(0x00, "UPDATE")]),
            Rmgr::Standby => {
                pick(operation, &[(0x00, "LOCK"), (0x10, "RUNNING_XACTS"), (0x20, "INVALIDATIONS")])
            }
            Rmgr::Heap2 => heap2(operation, version),
            Rmgr::Heap => heap(operation),
            Rmgr::Btree => btree(operation),
            Rmgr::Hash => hash(operation),
            Rmgr::Gin => gin(operation),
            Rmgr::Gist => gist(operation),
            Rmgr::Sequence => pick(operation, &[(0x00, "LOG")]),
            Rmgr::SpGist => spgist(operation),
            Rmgr::Brin => brin(operation),
            Rmgr::CommitTs => match (operation, version) {
                (0x20, V13) => Some("SETTS"),
                _ => pick(operation, &[(0x00, "ZEROPAGE"), (0x10, "TRUNCATE")]),
            },
            Rmgr::ReplicationOrigin => pick(operation, &[(0x00, "SET"), (0x10, "DROP")]),
            Rmgr::Generic => Some("Generic"),
            Rmgr::LogicalMessage => pick(operation, &[(0x00, "MESSAGE")]),
            Rmgr::Other(_) => None,
        }
    }
}

impl fmt::Display for Rmgr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rmgr::Other(id) => f.pad(&format!("custom{id:03}")),
            known => f.pad(known.name()),
        }
    }
}

fn pick(operation: u8, names: &[(u8, &'static str)]) -> Option<&'static str> {
    names.iter().find(|(value, _)| *value == operation).map(|(_, name)| *name)
}

fn xlog(operation: u8, version: WalVersion) -> Option<&'static str> {
    let names = [
        "CHECKPOINT_SHUTDOWN",
        "CHECKPOINT_ONLINE",
        "NOOP",
        "NEXTOID",
        "SWITCH",
        "BACKUP_END",
        "PARAMETER_CHANGE",
        "RESTORE_POINT",
        "FPW_CHANGE",
        "END_OF_RECOVERY",
        "FPI_FOR_HINT",
        "FPI",
    ];
    match operation {
        0xD0 => Some("OVERWRITE_CONTRECORD"),
        0xE0 if version >= V17 => Some("CHECKPOINT_REDO"),
        _ => names.get(usize::from(operation >> 4)).copied(),
    }
}

fn transaction(operation: u8, version: WalVersion) -> Option<&'static str> {
    // The highest bit says that extra information follows.
    match operation & 0x70 {
        0x60 if version == V13 => None,
        masked => pick(
            masked,
            &[
                (0x00, "COMMIT"),
                (0x10, "PREPARE"),
                (0x20, "ABORT"),
                (0x30, "COMMIT_PREPARED"),
                (0x40, "ABORT_PREPARED"),
                (0x50, "ASSIGNMENT"),
                (0x60, "INVALIDATION"),
            ],
        ),
    }
}

fn heap(operation: u8) -> Option<&'static str> {
    pick(
        operation,
        &[
            (0x00, "INSERT"),
            (0x80, "INSERT+INIT"),
            (0x10, "DELETE"),
            (0x20, "UPDATE"),
            (0xA0, "UPDATE+INIT"),
            (0x30, "TRUNCATE"),
            (0x40, "HOT_UPDATE"),
            (0xC0, "HOT_UPDATE+INIT"),
            (0x50, "HEAP_CONFIRM"),
            (0x60, "LOCK"),
            (0x70, "INPLACE"),
        ],
    )
}

fn heap2(operation: u8, version: WalVersion) -> Option<&'static str> {
    match (operation, version) {
        (0x00, _) => Some("REWRITE"),
        (0x10, V13) => Some("CLEAN"),
        (0x10, V14 | V15 | V16) => Some("PRUNE"),
        (0x10, _) => Some("PRUNE_ON_ACCESS"),
        (0x20, V13) => Some("FREEZE_PAGE"),
        (0x20, V14 | V15 | V16) => Some("VACUUM"),
        (0x20, _) => Some("PRUNE_VACUUM_SCAN"),
        (0x30, V13) => Some("CLEANUP_INFO"),
        (0x30, V14 | V15 | V16) => Some("FREEZE_PAGE"),
        (0x30, _) => Some("PRUNE_VACUUM_CLEANUP"),
        (0x40, _) => Some("VISIBLE"),
        (0x50, _) => Some("MULTI_INSERT"),
        (0xD0, _) => Some("MULTI_INSERT+INIT"),
        (0x60, _) => Some("LOCK_UPDATED"),
        (0x70, _) => Some("NEW_CID"),
        _ => None,
    }
}

fn btree(operation: u8) -> Option<&'static str> {
    let names = [
        "INSERT_LEAF",
        "INSERT_UPPER",
        "INSERT_META",
        "SPLIT_L",
        "SPLIT_R",
        "INSERT_POST",
        "DEDUP",
        "DELETE",
        "UNLINK_PAGE",
        "UNLINK_PAGE_META",
        "NEWROOT",
        "MARK_PAGE_HALFDEAD",
        "VACUUM",
        "REUSE_PAGE",
        "META_CLEANUP",
    ];
    names.get(usize::from(operation >> 4)).copied()
}

fn hash(operation: u8) -> Option<&'static str> {
    let names = [
        "INIT_META_PAGE",
        "INIT_BITMAP_PAGE",
        "INSERT",
        "ADD_OVFL_PAGE",
        "SPLIT_ALLOCATE_PAGE",
        "SPLIT_PAGE",
        "SPLIT_COMPLETE",
        "MOVE_PAGE_CONTENTS",
        "SQUEEZE_PAGE",
        "DELETE",
        "SPLIT_CLEANUP",
        "UPDATE_META_PAGE",
        "VACUUM_ONE_PAGE",
    ];
    names.get(usize::from(operation >> 4)).copied()
}

fn gin(operation: u8) -> Option<&'static str> {
    pick(
        operation,
        &[
            (0x10, "CREATE_PTREE"),
            (0x20, "INSERT"),
            (0x30, "SPLIT"),
            (0x40, "VACUUM_PAGE"),
            (0x50, "DELETE_PAGE"),
            (0x60, "UPDATE_META_PAGE"),
            (0x70, "INSERT_LISTPAGE"),
            (0x80, "DELETE_LISTPAGE"),
            (0x90, "VACUUM_DATA_LEAF_PAGE"),
        ],
    )
}

fn gist(operation: u8) -> Option<&'static str> {
    pick(
        operation,
        &[
            (0x00, "PAGE_UPDATE"),
            (0x10, "DELETE"),
            (0x20, "PAGE_REUSE"),
            (0x30, "PAGE_SPLIT"),
            (0x60, "PAGE_DELETE"),
            (0x70, "ASSIGN_LSN"),
        ],
    )
}

fn spgist(operation: u8) -> Option<&'static str> {
    pick(
        operation,
        &[
            (0x10, "ADD_LEAF"),
            (0x20, "MOVE_LEAFS"),
            (0x30, "ADD_NODE"),
            (0x40, "SPLIT_TUPLE"),
            (0x50, "PICKSPLIT"),
            (0x60, "VACUUM_LEAF"),
            (0x70, "VACUUM_ROOT"),
            (0x80, "VACUUM_REDIRECT"),
        ],
    )
}

fn brin(operation: u8) -> Option<&'static str> {
    pick(
        operation,
        &[
            (0x00, "CREATE_INDEX"),
            (0x10, "INSERT"),
            (0x90, "INSERT+INIT"),
            (0x20, "UPDATE"),
            (0xA0, "UPDATE+INIT"),
            (0x30, "SAMEPAGE_UPDATE"),
            (0x40, "REVMAP_EXTEND"),
            (0x50, "DESUMMARIZE"),
        ],
    )
}
