//! Writing around the page cache: where, and how it is switched on.

use std::fs::File;
use std::io;

use rustix::fs::OFlags;

/// `statfs` types of file systems on which writing directly is known to be sound and quick: ext4 and XFS. Network
/// file systems would wait for each write, those that compress or checksum would copy anyway.
const FILE_SYSTEMS: [i64; 2] = [0xEF53, 0x5846_5342];

/// Whether files in this directory are better written directly when they are large.
pub(crate) fn suits(directory: &File) -> bool {
    rustix::fs::fstatfs(directory)
        .is_ok_and(|statfs| FILE_SYSTEMS.iter().any(|known| *known as u64 == statfs.f_type as u64))
}

/// Switches direct writing of an open file on or off.
pub(crate) fn set(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}
