//! What a receiver tells while it works.

use std::fmt;
use std::time::Duration;

use super::error::ReceiveError;
use super::start::StartPoint;
use crate::{Lsn, SegmentName, TimelineId};

/// Something worth telling. The library prints nothing: an observer may.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Streaming begins.
    Streaming {
        /// From where, and why there.
        start: StartPoint,
        /// The server's identity.
        system_id: &'a str,
        /// The server's version as PostgreSQL numbers it, like 150004.
        server_version: u32,
    },
    /// The replication slot was missing and has been created.
    SlotCreated {
        /// Its name.
        slot: &'a str,
    },
    /// A timeline's history was fetched and is durable.
    HistorySaved {
        /// Whose history.
        timeline: TimelineId,
    },
    /// The server has no history of this timeline, as after `pg_resetwal`: receiving goes on, and recovery can't go
    /// from an earlier timeline to this one.
    HistoryMissing {
        /// Whose history.
        timeline: TimelineId,
    },
    /// A segment is whole, durable, and has its final name. Told from the writer's thread.
    SegmentCompleted {
        /// Which one.
        segment: SegmentName,
    },
    /// The server left the timeline that was being streamed; receiving goes on with the next one.
    TimelineEnded {
        /// The timeline that ended.
        timeline: TimelineId,
        /// Where.
        switch: Lsn,
        /// The one that follows.
        next: TimelineId,
    },
    /// WAL between the archive's end and the start was removed by the server, and can't be received any more.
    Gap {
        /// Where the archive ends.
        from: Lsn,
        /// Where receiving starts instead.
        to: Lsn,
    },
    /// Receiving was interrupted and will be tried again.
    Retrying {
        /// What happened.
        error: &'a ReceiveError,
        /// How long until the next attempt.
        after: Duration,
    },
    /// Receiving was asked to stop, and all that was received is durable.
    Stopped,
}

/// Gets every [`Event`], in order, from the receiver's task and from its writer thread.
pub trait Observer: Send + Sync {
    /// Called for each event; must not block for long.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
