//! The payload of the records that matter for recovery, as typed values.

use super::heap::Truncate;
use super::storage::{Dbase, RelMapUpdate, Smgr, Tablespace};
use super::system::{LogicalMessage, Standby, StatusPage};
use super::xact::Xact;
use super::xlog::Xlog;
use super::{Rmgr, heap};
use crate::Record;
use crate::record::Parts;

/// What a record does, where that matters beyond the blocks it changes.
///
/// Fields of the other operations are in their [`Description`](super::Description).
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// The log itself.
    Xlog(Xlog<'a>),
    /// The fate of a transaction.
    Transaction(Xact<'a>),
    /// Relation files.
    Storage(Smgr),
    /// Commit status.
    Clog(StatusPage),
    /// Databases.
    Database(Dbase<'a>),
    /// Tablespaces.
    Tablespace(Tablespace<'a>),
    /// The map of catalogue files.
    RelMap(RelMapUpdate<'a>),
    /// Hot standby.
    Standby(Standby<'a>),
    /// `TRUNCATE`.
    Truncate(Truncate<'a>),
    /// A message for logical decoding.
    LogicalMessage(LogicalMessage<'a>),
    /// Changed blocks, or a manager that isn't built in.
    Other,
}

impl<'a> Operation<'a> {
    /// Reads the operation of `record`, of which `parts` was read; `None` when its payload ends early or isn't all there, or
    /// when its manager has no such operation.
    pub fn read(record: &Record<'a>, parts: &Parts) -> Option<Self> {
        let (operation, version) = (record.header.operation(), record.version);
        let main = record.slice(&parts.main);
        Some(match record.rmgr() {
            Rmgr::Xlog => Operation::Xlog(Xlog::read(operation, main, version)?),
            Rmgr::Transaction => Operation::Transaction(Xact::read(record.header.info, main, version)?),
            Rmgr::Storage => Operation::Storage(Smgr::read(operation, main)?),
            Rmgr::Clog => Operation::Clog(StatusPage::read(operation, main, version)?),
            Rmgr::Database => Operation::Database(Dbase::read(operation, main, version)?),
            Rmgr::Tablespace => Operation::Tablespace(Tablespace::read(operation, main)?),
            Rmgr::RelMap => Operation::RelMap(RelMapUpdate::read(main)?),
            Rmgr::Standby => Operation::Standby(Standby::read(operation, main)?),
            Rmgr::Heap if operation & heap::OPERATION_MASK == heap::TRUNCATE => {
                Operation::Truncate(Truncate::read(main)?)
            }
            Rmgr::LogicalMessage => Operation::LogicalMessage(LogicalMessage::read(main)?),
            _ => Operation::Other,
        })
    }
}
