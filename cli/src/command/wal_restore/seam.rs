//! A record that begins in one segment and ends in the next is proven by both only: PostgreSQL takes a damaged one for the end of
//! WAL, wherever in the two the damage is.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwal::page::{LONG_HEADER_BYTES, identify_segment};
use pgwal::seam::{Followed, LooseEnd};
use pgwal::{SegmentName, SegmentSize, WalFile};

use super::Checked;
use super::check::Verdict;
use super::recovery::Recovery;

/// What came of following a record into a segment.
#[derive(Debug)]
pub(super) enum Seam {
    /// Nothing is wrong; how the segment itself ends, when the record fills it.
    Sound(Option<LooseEnd>),
    /// Recovery would stop at the record: why.
    Broken(String),
}

/// Follows the record that `end` leaves open into `segment`.
///
/// # Errors
/// When that can't be read.
pub(super) fn follow(end: &LooseEnd, segment: SegmentName, file: &mut dyn Read) -> io::Result<Seam> {
    Ok(match end.follow(file)? {
        Followed::Whole => Seam::Sound(None),
        Followed::StillOpen(later) => Seam::Sound(Some(*later)),
        Followed::Broken(fault) => Seam::Broken(format!(
            "the record that begins at {} in the segment before and ends in {segment} is: {fault}",
            end.record()
        )),
    })
}

/// How a segment ends that the recovering server has in its `pg_wal`; `None` when that is not known.
pub(super) fn end_in_pg_wal(recovery: &Recovery, segment: SegmentName) -> Option<LooseEnd> {
    let path = recovery.wal_directory().join(segment.to_string());
    let mut checked = Checked::new(io::sink(), WalFile::Segment(segment), recovery.system_id());
    io::copy(&mut File::open(path).ok()?, &mut checked).ok()?;
    let looked = checked.finish();
    looked.end.filter(|_| looked.verdict == Verdict::Sound)
}

/// Whether a file is there that got its name after `time`: what changes a name sets the time of the last change, by a clock that
/// goes in small steps.
pub(super) fn was_renamed_since(path: &Path, time: SystemTime) -> bool {
    const CLOCK_STEP: Duration = Duration::from_millis(20);
    let Ok(metadata) = path.metadata() else { return false };
    let changed = Duration::new(metadata.ctime().unsigned_abs(), metadata.ctime_nsec() as u32);
    UNIX_EPOCH + changed + CLOCK_STEP >= time
}

/// The cluster's segment size, by the first page of a segment.
fn size_of(segment: &File) -> Option<SegmentSize> {
    let mut head = [0; LONG_HEADER_BYTES];
    segment.read_exact_at(&mut head, 0).ok()?;
    identify_segment(&head).map(|(.., size)| size)
}

/// Why a segment does not hold the rest of the record that the recovering server has the beginning of, if it does not.
pub(super) fn break_after_pg_wal(
    recovery: &Recovery,
    segment: SegmentName,
    mut file: File,
) -> Option<String> {
    let before = segment.previous(size_of(&file)?)?;
    match follow(&end_in_pg_wal(recovery, before)?, segment, &mut file) {
        Ok(Seam::Broken(why)) => Some(why),
        _ => None,
    }
}
