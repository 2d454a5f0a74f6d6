//! Starting afresh where the WAL that comes next can't be had any more.

use std::path::Path;

use super::directory::{SegmentDirectory, StreamingDirectory, partial_name};
use super::error::ReceiveError;
use crate::{SegmentName, WalFile};

/// What a reset did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetOutcome {
    /// Receiving will start there anyway, or nothing was received yet.
    Aligned,
    /// The directory holds newer WAL than the server: nothing was changed.
    Ahead {
        /// The newest file.
        newest: SegmentName,
    },
    /// Receiving will start at the segment asked for.
    Moved {
        /// The newest partial segment so far, if there was one.
        partial: Option<SegmentName>,
        /// Whether it held nothing and was removed. One that holds WAL is left for the archiver: it may be the only
        /// copy of commits that were acknowledged.
        removed: bool,
        /// The segment that is marked as the start by an empty partial.
        start: SegmentName,
    },
}

/// Makes a receiver that works in `directory` start at segment `start`, though that leaves a gap after what it has
/// received, where `current` is the segment the server writes now. No receiver may be running.
///
/// # Errors
/// When the directory can't be read or changed.
pub fn reset(
    directory: &Path,
    start: SegmentName,
    current: SegmentName,
) -> Result<ResetOutcome, ReceiveError> {
    let failed = |source| ReceiveError::Directory { path: directory.to_owned(), source };
    let streaming = StreamingDirectory::open(directory).map_err(failed)?;
    let segments = streaming.segments().map_err(failed)?;
    let newest = segments.into_iter().max_by_key(|file| match *file {
        WalFile::Partial(segment) => (Some(segment), true),
        WalFile::Segment(segment) => (Some(segment), false),
        WalFile::Label { .. } | WalFile::History(_) => (None, false),
    });
    let (newest, partial) = match newest {
        Some(WalFile::Partial(segment)) => (segment, Some(segment)),
        Some(WalFile::Segment(segment)) => (segment, None),
        _ => return Ok(ResetOutcome::Aligned),
    };
    if newest == start {
        return Ok(ResetOutcome::Aligned);
    }
    if newest > current {
        return Ok(ResetOutcome::Ahead { newest });
    }
    streaming.mark_start(start).map_err(failed)?;
    let mut removed = false;
    if let Some(segment) = partial
        && streaming.is_blank(&partial_name(segment)).map_err(failed)?
    {
        streaming.remove_partial(segment).and_then(|()| streaming.sync()).map_err(failed)?;
        removed = true;
    }
    Ok(ResetOutcome::Moved { partial, removed, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &[u8])], start: &str, current: &str) -> (ResetOutcome, Vec<String>) {
        let path = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(path.path().join(name), content).unwrap();
        }
        let outcome = reset(path.path(), start.parse().unwrap(), current.parse().unwrap()).unwrap();
        let entries = std::fs::read_dir(path.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        (outcome, names)
    }

    const FIVE: &str = "000000010000000000000005";
    const FIVE_PARTIAL: &str = "000000010000000000000005.partial";
    const NINE: &str = "000000010000000000000009";
    const NINE_PARTIAL: &str = "000000010000000000000009.partial";

    #[test]
    fn a_partial_with_wal_in_it_is_kept_and_a_blank_one_removed() {
        let (outcome, names) = check(&[(FIVE_PARTIAL, b"acknowledged")], NINE, NINE);
        let partial = Some(FIVE.parse().unwrap());
        let start = NINE.parse().unwrap();
        assert_eq!(outcome, ResetOutcome::Moved { partial, removed: false, start });
        assert_eq!(names, [FIVE_PARTIAL, NINE_PARTIAL]);
        let (outcome, names) = check(&[(FIVE_PARTIAL, &[0; 99])], NINE, NINE);
        assert_eq!(outcome, ResetOutcome::Moved { partial, removed: true, start });
        assert_eq!(names, [NINE_PARTIAL]);
    }

    #[test]
    fn nothing_is_done_where_nothing_is_wrong() {
        for files in [&[][..], &[(NINE_PARTIAL, &b""[..])], &[(NINE, b"")]] {
            let (outcome, names) = check(files, NINE, NINE);
            assert_eq!(outcome, ResetOutcome::Aligned);
            assert_eq!(names.len(), files.len());
        }
    }

    #[test]
    fn a_directory_ahead_of_the_server_is_left_alone() {
        let (outcome, names) = check(&[(NINE, b"x")], FIVE, FIVE);
        assert_eq!(outcome, ResetOutcome::Ahead { newest: NINE.parse().unwrap() });
        assert_eq!(names, [NINE]);
    }
}
