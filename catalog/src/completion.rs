//! From WAITING_FOR_WALS to DONE: whether the WAL that makes a backup consistent is in the archive.

use pgwal::{SegmentName, TimelineId, WalFile};

use crate::store::names_in;
use crate::xlogdb::is_log_directory;
use crate::{BackupInfo, Catalog, CatalogError, Layout, Status};

/// What the archive says about a backup's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalState {
    /// Every segment from the backup's first to its last is archived.
    Complete,
    /// This one is still to come, as far as anybody can tell.
    Waiting {
        /// The first segment not archived.
        next: SegmentName,
    },
    /// This one is not archived, later ones are, and it is not on its way either.
    Missing {
        /// The first segment that is missing.
        segment: SegmentName,
    },
    /// The backup began on one timeline and ended on another.
    SpansTimelines {
        /// Where it began.
        begin: TimelineId,
        /// Where it ended.
        end: TimelineId,
    },
    /// The record doesn't say which segments are needed.
    Unknown,
}

impl Catalog {
    /// Looks for the WAL that a backup needs.
    ///
    /// # Errors
    /// When the archive can't be read.
    pub fn wal_state(&self, info: &BackupInfo) -> Result<WalState, CatalogError> {
        let (Some(begin), Some(end)) = (info.begin_wal, info.end_wal) else { return Ok(WalState::Unknown) };
        if begin.timeline() != end.timeline() {
            return Ok(WalState::SpansTimelines { begin: begin.timeline(), end: end.timeline() });
        }
        let layout = self.layout();
        let mut newest = None;
        let mut segment = begin;
        while segment <= end {
            if !layout.wal(&WalFile::Segment(segment)).exists() {
                if newest.is_none() {
                    newest = newest_segment(layout, begin.timeline())?;
                }
                let overtaken = newest.is_some_and(|newest| segment < newest);
                return Ok(match overtaken && !is_on_its_way(layout, segment) {
                    true => WalState::Missing { segment },
                    false => WalState::Waiting { next: segment },
                });
            }
            match segment.next(info.segment_size) {
                Some(next) => segment = next,
                None => break,
            }
        }
        Ok(WalState::Complete)
    }

    /// Looks again for the WAL of a backup whose copy is complete, whatever was found before: it becomes DONE, waiting, or
    /// FAILED. The record is saved if that changed it. What was found.
    ///
    /// # Errors
    /// When the archive can't be read or the record can't be written.
    pub fn reconsider(&self, info: &mut BackupInfo) -> Result<WalState, CatalogError> {
        let state = self.wal_state(info)?;
        if info.status.is_usable() {
            let before = info.status;
            info.status = Status::WaitingForWals;
            Self::settle(info, state);
            if info.status != before {
                self.save(info)?;
            }
        }
        Ok(state)
    }

    /// Moves a backup on that waits for its WAL: to DONE when all of it is archived, to FAILED when some of it can't
    /// come any more. The record is saved if that changed it. Other backups are left alone.
    ///
    /// # Errors
    /// When the archive can't be read or the record can't be written.
    pub fn check_backup(&self, info: &mut BackupInfo) -> Result<Status, CatalogError> {
        if info.status != Status::WaitingForWals {
            return Ok(info.status);
        }
        let state = self.wal_state(info)?;
        Self::settle(info, state);
        if info.status != Status::WaitingForWals {
            self.save(info)?;
        }
        Ok(info.status)
    }

    /// Sets the status of a backup that waits for its WAL.
    fn settle(info: &mut BackupInfo, state: WalState) {
        match state {
            WalState::Waiting { .. } | WalState::Unknown => {}
            WalState::Complete => info.status = Status::Done,
            WalState::Missing { segment } => {
                info.status = Status::Failed;
                info.error = Some(format!(
                    "At least one WAL file is missing. The first missing WAL file is {segment}"
                ));
            }
            WalState::SpansTimelines { begin, end } => {
                info.status = Status::Failed;
                info.error = Some(format!(
                    "Backups spanning multiple timelines are not supported: this one began on timeline {begin} and \
                     ended on {end}"
                ));
            }
        }
    }
}

/// The newest whole segment of a timeline in the archive. By the files, not by the list, which may be behind.
fn newest_segment(layout: &Layout, timeline: TimelineId) -> Result<Option<SegmentName>, CatalogError> {
    let prefix = format!("{:08X}", timeline.as_u32());
    let mut directories = names_in(&layout.wals)?;
    directories.retain(|name| is_log_directory(name) && name.starts_with(&prefix));
    directories.sort_unstable();
    for directory in directories.iter().rev() {
        let names = names_in(&layout.wals.join(directory))?;
        let newest = names.iter().filter_map(|name| match name.parse() {
            Ok(WalFile::Segment(segment)) if segment.timeline() == timeline => Some(segment),
            _ => None,
        });
        if let Some(newest) = newest.max() {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

/// Whether a segment has arrived, or is arriving, without being archived yet: two ways in need not keep the order.
fn is_on_its_way(layout: &Layout, segment: SegmentName) -> bool {
    let whole = WalFile::Segment(segment).to_string();
    let partial = WalFile::Partial(segment).to_string();
    layout.incoming.join(&whole).exists()
        || layout.streaming.join(&whole).exists()
        || layout.streaming.join(&partial).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BackupId;
    use pgwal::Lsn;
    use std::path::Path;

    const MIB_16: u64 = 16 << 20;

    /// A catalogue with a backup that needs segments 2 to 4 of timeline 1.
    fn fixture(home: &Path) -> (Catalog, BackupInfo) {
        let catalog = Catalog::new(Layout::new("main", home, home));
        catalog.create_directories().unwrap();
        let id: BackupId = "20261122T101539".parse().unwrap();
        let mut info = BackupInfo::new(id, "main");
        info.set_begin(TimelineId::FIRST, Lsn::from_u64(2 * MIB_16 + 40));
        info.set_end(TimelineId::FIRST, Lsn::from_u64(4 * MIB_16 + 300));
        info.status = Status::WaitingForWals;
        (catalog, info)
    }

    fn name(number: u32) -> String {
        format!("0000000100000000{number:08X}")
    }

    fn archive(catalog: &Catalog, numbers: &[u32]) {
        for number in numbers {
            let path = catalog.layout().wal(&name(*number).parse().unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "WAL").unwrap();
        }
    }

    fn check(archived: &[u32], expected: Status) -> BackupInfo {
        let home = tempfile::tempdir().unwrap();
        let (catalog, mut info) = fixture(home.path());
        archive(&catalog, archived);
        assert_eq!(catalog.check_backup(&mut info).unwrap(), expected, "{archived:?}");
        if expected != Status::WaitingForWals {
            assert_eq!(catalog.read(info.id).unwrap().status, expected, "recorded");
        }
        info
    }

    #[test]
    fn a_backup_is_done_when_its_last_segment_is_archived() {
        check(&[], Status::WaitingForWals);
        check(&[1], Status::WaitingForWals);
        check(&[1, 2, 3], Status::WaitingForWals);
        check(&[2, 3, 4], Status::Done);
        check(&[1, 2, 3, 4, 5], Status::Done);
    }

    #[test]
    fn a_gap_that_nothing_will_fill_fails_the_backup() {
        let info = check(&[2, 4], Status::Failed);
        assert_eq!(
            info.error.unwrap(),
            "At least one WAL file is missing. The first missing WAL file is 000000010000000000000003"
        );
        check(&[3, 4], Status::Failed);
        check(&[9], Status::Failed);
    }

    #[test]
    fn a_gap_that_is_about_to_be_filled_does_not() {
        for place in ["incoming/000000010000000000000003", "streaming/000000010000000000000003"] {
            let home = tempfile::tempdir().unwrap();
            let (catalog, mut info) = fixture(home.path());
            archive(&catalog, &[2, 4]);
            std::fs::write(home.path().join(place), "WAL").unwrap();
            assert_eq!(catalog.check_backup(&mut info).unwrap(), Status::WaitingForWals, "{place}");
        }
    }

    #[test]
    fn other_timelines_do_not_count() {
        let home = tempfile::tempdir().unwrap();
        let (catalog, mut info) = fixture(home.path());
        let directory = home.path().join("wals/0000000200000000");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("000000020000000000000009"), "WAL").unwrap();
        assert_eq!(catalog.check_backup(&mut info).unwrap(), Status::WaitingForWals);
        info.set_end(TimelineId::new(2).unwrap(), Lsn::from_u64(4 * MIB_16 + 300));
        assert_eq!(catalog.check_backup(&mut info).unwrap(), Status::Failed);
    }

    /// The name of a timeline's history is as long as that of a directory.
    #[test]
    fn a_timeline_of_which_only_the_history_is_archived_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let (catalog, mut info) = fixture(home.path());
        let second = TimelineId::new(2).unwrap();
        info.set_begin(second, Lsn::from_u64(2 * MIB_16 + 40));
        info.set_end(second, Lsn::from_u64(4 * MIB_16 + 300));
        std::fs::write(home.path().join("wals/00000002.history"), "1\t0/1800000\tx\n").unwrap();
        assert_eq!(catalog.check_backup(&mut info).unwrap(), Status::WaitingForWals);
    }

    #[test]
    fn only_waiting_backups_are_touched() {
        let home = tempfile::tempdir().unwrap();
        let (catalog, mut info) = fixture(home.path());
        archive(&catalog, &[9]);
        for status in [Status::Empty, Status::Started, Status::Done, Status::Failed] {
            info.status = status;
            assert_eq!(catalog.check_backup(&mut info).unwrap(), status);
        }
        assert!(catalog.read(info.id).is_err(), "nothing was recorded");
    }
}
