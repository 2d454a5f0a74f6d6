//! The durability barrier: after it, every byte written beneath a directory survives a crash.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::UnpackError;

/// Deepest directory that is synced: a data directory has four levels, names in an archive fifty at most.
const MAX_DEPTH: usize = 64;

/// Makes everything beneath `root` durable.
///
/// One `syncfs` does it where the kernel reports write errors through it (Linux 5.8 and later); `root` must have been
/// opened before the first write. Elsewhere each file and directory is synced by itself.
pub(crate) fn barrier(root: &File, path: &Path) -> Result<(), UnpackError> {
    if syncfs_reports_errors() {
        match rustix::fs::syncfs(root) {
            Ok(()) => return sync_parent(path),
            Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(UnpackError::io("sync the file system of", path, errno)),
        }
    }
    sync_tree(root.as_fd(), path, MAX_DEPTH)?;
    sync_parent(path)
}

/// The directory's own name has to last as well.
fn sync_parent(path: &Path) -> Result<(), UnpackError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let handle = File::open(parent).map_err(|source| UnpackError::io("open", parent, source))?;
    sync(&handle, parent)
}

fn sync(handle: impl AsFd, path: &Path) -> Result<(), UnpackError> {
    rustix::fs::fsync(handle).map_err(|errno| UnpackError::io("sync", path, errno))
}

/// Before Linux 5.8 `syncfs` returned success even if writing back had failed.
fn syncfs_reports_errors() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    kernel_version(&release).is_some_and(|version| version >= (5, 8))
}

/// The first two numbers of a kernel release.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Files first, then the directory that names them.
fn sync_tree(directory: impl AsFd, path: &Path, depth_left: usize) -> Result<(), UnpackError> {
    let failed = |errno| UnpackError::io("sync", path, errno);
    if depth_left == 0 {
        return Err(failed(Errno::LOOP));
    }
    let entries = Dir::read_from(&directory).map_err(failed)?;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child_path = path.join(name.to_string_lossy().as_ref());
        let file_type = match entry.file_type() {
            FileType::Unknown => file_type(&directory, name).map_err(failed)?,
            known => known,
        };
        // A link's target lies in its directory entry: syncing the directory does it.
        if file_type == FileType::Symlink {
            continue;
        }
        let child = rustix::fs::openat(&directory, name, flags, Mode::empty())
            .map_err(|errno| UnpackError::io("sync", &child_path, errno))?;
        if file_type == FileType::Directory {
            sync_tree(child, &child_path, depth_left - 1)?;
        } else {
            sync(child, &child_path)?;
        }
    }
    sync(directory, path)
}

fn file_type(directory: impl AsFd, name: &std::ffi::CStr) -> Result<FileType, Errno> {
    let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(kernel_version("4.18.0-553.el8.x86_64"), Some((4, 18)));
        assert_eq!(kernel_version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.8"), Some((5, 8)));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn both_ways_accept_a_tree_with_links() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.path().join("a/link")).unwrap();
        let root = File::open(directory.path()).unwrap();
        barrier(&root, directory.path()).unwrap();
        sync_tree(&root, directory.path(), MAX_DEPTH).unwrap();
        assert!(sync_tree(&root, directory.path(), 2).is_err(), "depth is bounded");
    }
}
