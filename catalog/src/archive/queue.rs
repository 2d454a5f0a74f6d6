//! Which files of `incoming/` and `streaming/` are to be archived now.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use pgwal::WalFile;

use super::Origin;

/// What to do with the files of one directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// To be archived, in name order.
    pub(super) files: Vec<QueuedFile>,
    /// No WAL files; they block the directory.
    pub(super) unknown: Vec<OsString>,
}

/// A file to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuedFile {
    pub(super) file: WalFile,
    /// Archive a copy and leave the file: a receiver finds its place by it.
    pub(super) stays: bool,
}

/// Reads a directory. At most `limit` entries are taken, the first by name; 0 takes all.
pub(super) fn read(directory: &Path, origin: Origin, limit: usize) -> io::Result<Queue> {
    let mut entries = Vec::new();
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Queue::default()),
        Err(error) => return Err(error),
    };
    for entry in listing {
        let entry = entry?;
        entries.push((entry.file_name(), entry.file_type()?.is_file()));
    }
    entries.sort_unstable();
    Ok(sort_out(entries, origin, limit))
}

/// The decision itself: names in order, and whether each is a regular file.
fn sort_out(entries: Vec<(OsString, bool)>, origin: Origin, limit: usize) -> Queue {
    let mut queue = Queue::default();
    for (name, is_file) in entries {
        let bytes = name.as_encoded_bytes();
        // Hidden and temporary files are somebody's work in progress.
        if bytes.starts_with(b".") || bytes.ends_with(b".tmp") {
            continue;
        }
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(file) if is_file => queue.files.push(QueuedFile { file, stays: false }),
            _ => queue.unknown.push(name),
        }
    }
    if origin == Origin::Streaming {
        keep_the_receivers_place(&mut queue.files);
    }
    if limit > 0 {
        queue.files.truncate(limit);
        queue.unknown.truncate(limit);
    }
    queue
}

/// Whether a file is still none that could be archived.
pub(super) fn is_unknown(path: &Path) -> bool {
    let is_wal = path.file_name().and_then(|name| name.to_str()?.parse::<WalFile>().ok()).is_some();
    !is_wal || path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
}

/// A receiver resumes where the newest partial segment is, or else after the newest whole one: the first is not touched
/// (it is being written), the second is archived and left where it is.
fn keep_the_receivers_place(files: &mut Vec<QueuedFile>) {
    match files.iter().rposition(|queued| matches!(queued.file, WalFile::Partial(_))) {
        Some(newest) => {
            files.remove(newest);
        }
        None => {
            if let Some(newest) = files.iter_mut().rfind(|queued| matches!(queued.file, WalFile::Segment(_)))
            {
                newest.stays = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(origin: Origin, limit: usize, names: &[&str], files: &[&str], unknown: &[&str]) {
        let entries =
            names.iter().map(|name| (OsString::from(name.trim_end_matches('/')), !name.ends_with('/')));
        let queue = sort_out(entries.collect(), origin, limit);
        let shown: Vec<String> = queue
            .files
            .iter()
            .map(|queued| format!("{}{}", queued.file, if queued.stays { " stays" } else { "" }))
            .collect();
        assert_eq!(shown, files);
        assert_eq!(queue.unknown, unknown);
    }

    const ONE: &str = "000000010000000000000001";
    const TWO: &str = "000000010000000000000002";
    const TWO_PARTIAL: &str = "000000010000000000000002.partial";
    const THREE_PARTIAL: &str = "000000020000000000000003.partial";
    const LABEL: &str = "000000010000000000000001.00000028.backup";
    const HISTORY: &str = "00000002.history";

    #[test]
    fn incoming_takes_all_wal_files_and_refuses_the_rest() {
        check(
            Origin::Incoming,
            0,
            &[
                ".hidden",
                ONE,
                LABEL,
                TWO_PARTIAL,
                "0000000100000000000000FF/",
                HISTORY,
                "cp.tmp",
                "notes.txt",
            ],
            &[ONE, LABEL, TWO_PARTIAL, HISTORY],
            &["0000000100000000000000FF", "notes.txt"],
        );
    }

    #[test]
    fn the_newest_partial_segment_is_the_receivers() {
        check(Origin::Streaming, 0, &[ONE, TWO_PARTIAL, HISTORY], &[ONE, HISTORY], &[]);
        check(Origin::Streaming, 0, &[ONE, TWO_PARTIAL, THREE_PARTIAL], &[ONE, TWO_PARTIAL], &[]);
    }

    #[test]
    fn without_a_partial_segment_the_newest_whole_one_marks_the_place() {
        let stays = format!("{TWO} stays");
        check(Origin::Streaming, 0, &[ONE, TWO, HISTORY], &[ONE, &stays, HISTORY], &[]);
        check(Origin::Streaming, 1, &[ONE, TWO], &[ONE], &[]);
        check(Origin::Streaming, 0, &[HISTORY], &[HISTORY], &[]);
    }

    #[test]
    fn a_limit_takes_the_first_by_name() {
        check(Origin::Incoming, 2, &[ONE, LABEL, TWO], &[ONE, LABEL], &[]);
        check(Origin::Streaming, 1, &[ONE, TWO_PARTIAL], &[ONE], &[]);
    }
}
