//! The first WAL of a server.

use std::fs::File;

use pgwal::FaultKind;

use super::Received;
use crate::archive::known_cluster;
use crate::inspect::Soundness;
use crate::{IndexStore, Layout};

/// Whose WAL a server's first is. As long as nothing was known of that when a stream began, its files
/// are accepted while no other stream's are: of two clusters that send at once, only one was first.
pub(super) struct First {
    system_id: Option<u64>,
    /// The lock on `incoming/`. Where a directory can't be locked, two may be first in the same moment.
    _lock: Option<File>,
}

impl First {
    /// Waits until no other stream is at this, and asks what is known now.
    pub(super) fn of(layout: &Layout, store: &IndexStore) -> Self {
        let lock = File::open(&layout.incoming).and_then(|directory| directory.lock().map(|()| directory));
        let system_id = known_cluster(layout, store).map(|cluster| cluster.system_id);
        First { system_id, _lock: lock.ok() }
    }

    /// Judges what was received when nothing was known yet.
    pub(super) fn hold_against(&mut self, received: &mut Received) {
        let Some(found) = received.system_id else { return };
        match self.system_id {
            Some(expected) if expected != found => {
                received.soundness = Soundness::Foreign;
                received.note = FaultKind::SystemId { found, expected }.to_string();
            }
            _ => self.system_id = Some(found),
        }
    }
}
