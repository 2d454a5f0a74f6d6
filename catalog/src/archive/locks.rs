//! What an archiver holds, and when.
//!
//! Two locks. Barkeep's own keeps its other archivers out, from the first file that is read to the last that is moved: they
//! would remove each other's temporary copies. Barman's, which Barman's archiver holds as long as it runs, is held only
//! while files of the archive, of `incoming/` and of `streaming/` change their names: nobody has to wait for a slow
//! compressor. Neither is held while hooks run. Who takes both takes Barman's last.

use std::time::Duration;

use barkeep_transport::durable;

use super::ArchiveError;
use crate::lock::LockError;
use crate::{Layout, ServerLock, Task};

/// How long a lock that was let go is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Locks<'a> {
    layout: &'a Layout,
    own: Option<ServerLock>,
    barmans: Option<ServerLock>,
}

impl<'a> Locks<'a> {
    /// Takes both; fails at once when another archiver is at work, Barman's or one of ours.
    pub(super) fn try_both(layout: &'a Layout) -> Result<Self, ArchiveError> {
        durable::create_dir_all(&layout.private())?;
        let own = ServerLock::try_acquire(layout, Task::Archiver)?;
        let barmans = ServerLock::try_acquire(layout, Task::ArchiveWal)?;
        Ok(Locks { layout, own: Some(own), barmans: Some(barmans) })
    }

    /// Lets both go.
    pub(super) fn release(&mut self) {
        self.barmans = None;
        self.own = None;
    }

    /// Lets Barman's go. The files may then change at any moment, but no other archiver of ours is at work.
    pub(super) fn only_own(&mut self) -> Result<(), LockError> {
        self.barmans = None;
        if self.own.is_none() {
            self.own = Some(ServerLock::acquire_within(self.layout, Task::Archiver, PATIENCE)?);
        }
        Ok(())
    }

    /// Has both, and waits a minute for them where they were let go.
    pub(super) fn both(&mut self) -> Result<(), LockError> {
        self.both_within(PATIENCE)
    }

    /// Like [`both`](Self::both), waiting as long as `patience`.
    pub(super) fn both_within(&mut self, patience: Duration) -> Result<(), LockError> {
        if self.own.is_none() {
            self.own = Some(ServerLock::acquire_within(self.layout, Task::Archiver, patience)?);
        }
        if self.barmans.is_none() {
            self.barmans = Some(ServerLock::acquire_within(self.layout, Task::ArchiveWal, patience)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::home;
    use super::*;

    #[test]
    fn barmans_lock_is_had_only_where_files_are_moved() {
        let (_home, layout) = home();
        let held = |task| ServerLock::holder(&layout, task).unwrap().is_some();
        let both = || (held(Task::Archiver), held(Task::ArchiveWal));
        let mut locks = Locks::try_both(&layout).unwrap();
        assert_eq!(both(), (true, true));
        assert!(Locks::try_both(&layout).is_err());
        locks.only_own().unwrap();
        assert_eq!(both(), (true, false));
        assert!(Locks::try_both(&layout).is_err());
        assert_eq!(both(), (true, false));
        // Barman has it for longer than there is patience: ours stays as it was.
        let barmans = ServerLock::try_acquire(&layout, Task::ArchiveWal).unwrap();
        assert!(matches!(locks.both_within(Duration::ZERO), Err(LockError::Held { .. })));
        drop(barmans);
        locks.both().unwrap();
        assert_eq!(both(), (true, true));
        locks.release();
        assert_eq!(both(), (false, false));
        locks.only_own().unwrap();
        assert_eq!(both(), (true, false));
        drop(locks);
        assert_eq!(both(), (false, false));
    }
}
