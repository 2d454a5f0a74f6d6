//! Whether somebody has written a list meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::Layout;

/// Stands for a list as it was at one moment. Two of them are equal when nobody has appended to it or replaced it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// The list as it is now; `None` when there is none.
pub fn version(layout: &Layout) -> Option<Version> {
    let metadata = fs::metadata(layout.xlogdb()).ok()?;
    Some(Version {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}
