//! The newest segment of an archive.

use std::io;
use std::path::Path;

use pgwal::{SegmentName, WalFile};

/// The newest complete segment under `wals`, by name; `None` for an empty archive.
pub(in crate::command) fn newest_archived(wals: &Path) -> io::Result<Option<SegmentName>> {
    let mut directories = names(wals)?;
    directories.retain(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    directories.sort_unstable();
    for directory in directories.iter().rev() {
        let names = names(&wals.join(directory))?;
        let segments = names.iter().filter_map(|name| match name.parse() {
            Ok(WalFile::Segment(segment)) => Some(segment),
            _ => None,
        });
        if let Some(newest) = segments.max() {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is no UTF-8 is no segment's.
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partials_labels_and_histories_are_not_segments() {
        let wals = tempfile::tempdir().unwrap();
        let newest = || newest_archived(wals.path()).unwrap().map(|segment| segment.to_string());
        assert_eq!(newest(), None);
        assert_eq!(newest_archived(&wals.path().join("nowhere")).unwrap(), None);
        for name in [
            "00000002.history",
            "0000000100000000/0000000100000000000000FE",
            "0000000100000000/0000000100000000000000FF.partial",
            "0000000200000001/000000020000000100000003.00000028.backup",
            "lost+found/x",
        ] {
            let path = wals.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(newest().as_deref(), Some("0000000100000000000000FE"));
    }
}
