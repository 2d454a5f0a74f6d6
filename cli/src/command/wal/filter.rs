//! Which records are wanted.

use pgwal::rmgr::Operation;
use pgwal::rmgr::xact::Xact;
use pgwal::{BlockRef, Parts, PgTimestamp, Record};

use crate::args::FilterArgs;

/// A filter, and the time that the WAL has reached.
pub(super) struct Filter<'f> {
    args: &'f FilterArgs,
    reached: Option<PgTimestamp>,
}

impl<'f> Filter<'f> {
    pub(super) fn new(args: &'f FilterArgs) -> Self {
        Filter { args, reached: None }
    }

    /// Whether the record is wanted. Every record has to be shown, in order.
    pub(super) fn accepts(&mut self, record: &Record<'_>, parts: &Parts) -> bool {
        if (self.args.since.is_some() || self.args.until.is_some()) && !self.in_time(record, parts) {
            return false;
        }
        let args = self.args;
        let header = &record.header;
        let by_header = (args.rmgr.is_empty() || args.rmgr.contains(&record.rmgr()))
            && args.xid.is_none_or(|xid| xid == header.xid);
        by_header && (!self.by_block() || parts.blocks.iter().any(|block| self.accepts_block(block)))
    }

    fn by_block(&self) -> bool {
        let args = self.args;
        args.relation.is_some() || args.block.is_some() || args.fork.is_some() || args.fullpage
    }

    fn accepts_block(&self, block: &BlockRef) -> bool {
        let args = self.args;
        args.relation.is_none_or(|relation| relation == block.relation)
            && args.block.is_none_or(|number| number == block.block)
            && args.fork.is_none_or(|fork| fork == block.fork)
            && (!args.fullpage || block.image.is_some())
    }

    /// Only ends of transactions tell the time: the others lie between them.
    fn in_time(&mut self, record: &Record<'_>, parts: &Parts) -> bool {
        if let Some(Operation::Transaction(Xact::Commit(end) | Xact::Abort(end))) =
            Operation::read(record, parts)
        {
            self.reached = Some(end.time);
        }
        let since = self.args.since.is_none_or(|since| self.reached.is_some_and(|reached| reached >= since));
        since && self.args.until.is_none_or(|until| self.reached.is_none_or(|reached| reached <= until))
    }
}
