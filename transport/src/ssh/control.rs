//! Where control sockets live: whoever can reach one can run commands on the far host, so nobody else may.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::private::{PrivateDirectory, UnsafeDirectory};

/// Longest path of a directory for control sockets, in bytes. A socket's path may have 107; its name has 32, a slash goes
/// before, and `ssh` binds it under a name with 17 more at first.
const PATH_BYTES_MAX: usize = 107 - 32 - 1 - 17;

/// A private directory with a path that is short enough for control sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlDirectory(PrivateDirectory);

impl ControlDirectory {
    /// The user's own, as [`PrivateDirectory::find`] has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(env: impl Fn(&str) -> Option<OsString>) -> Result<Self, UnsafeDirectory> {
        PrivateDirectory::find(env, fits).map(ControlDirectory)
    }

    /// This one, made if it is missing.
    ///
    /// # Errors
    /// When its path is too long, or it is not private.
    pub fn at(path: &Path) -> Result<Self, UnsafeDirectory> {
        fits(path)?;
        PrivateDirectory::at(path).map(ControlDirectory)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn fits(path: &Path) -> Result<(), UnsafeDirectory> {
    if path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
        return Err(UnsafeDirectory::because(path, "its path is too long for sockets"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let base = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
        let error = ControlDirectory::at(&base.path().join("x".repeat(60))).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
        assert!(ControlDirectory::at(&base.path().join("x")).is_ok());
    }
}
