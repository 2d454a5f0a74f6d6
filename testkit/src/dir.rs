//! Temporary directories that both the tests and the servers' user can work in.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::user::unprivileged_user;

/// A temporary directory, removed when dropped.
///
/// It belongs to the servers' user (root, if it runs the tests, can write to it all the same), everybody may pass
/// through it, and its path is short enough for a Unix socket.
#[derive(Debug)]
pub struct TestDir {
    dir: tempfile::TempDir,
}

impl TestDir {
    /// Makes an empty directory.
    #[must_use]
    pub fn new() -> Self {
        let base = std::env::temp_dir();
        let base = if base.as_os_str().len() > BASE_LEN_MAX { PathBuf::from("/tmp") } else { base };
        let dir =
            tempfile::Builder::new().prefix("bk-").tempdir_in(&base).expect("make a temporary directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .expect("open a directory");
        unprivileged_user().take_over(dir.path());
        Self { dir }
    }

    /// The directory's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of `name` in this directory; nothing is made.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a directory below this one, mode 0700, for the servers' user.
    #[must_use]
    pub fn subdir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("make '{}': {error}", path.display()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("close a directory");
        unprivileged_user().take_over(&path);
        path
    }

    /// Writes a file below this directory, for the servers' user.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("write '{}': {error}", path.display()));
        unprivileged_user().take_over(&path);
        path
    }
}

impl Default for TestDir {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRef<Path> for TestDir {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

/// Socket paths are limited to 107 bytes, in which ours need about 40: the longest base directory that leaves room.
const BASE_LEN_MAX: usize = 60;
