//! Directories that belong to one user alone.
//!
//! What lies in one can't be read, planted or exchanged by others, also when it is below a directory that everybody may
//! write to, like `/tmp`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Mode bits that let others in.
const OTHERS: u32 = 0o077;
/// Mode bits that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// The mode bit of a directory in which one can only remove one's own files.
const STICKY: u32 = 0o1000;

/// A directory of this user's, closed to others, and not to be exchanged by others either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateDirectory(PathBuf);

/// Why a directory is not private.
#[derive(Debug, thiserror::Error)]
pub enum UnsafeDirectory {
    /// It can't be made or looked at.
    #[error("cannot use the directory '{}': {source}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others have a say in it.
    #[error("cannot use the directory '{}': {reason}", path.display())]
    Unsafe {
        /// The directory, or one above it.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl UnsafeDirectory {
    pub(crate) fn because(path: &Path, reason: &'static str) -> Self {
        UnsafeDirectory::Unsafe { path: path.to_owned(), reason }
    }
}

impl PrivateDirectory {
    /// This one, made if it is missing; what is above it has to be there.
    ///
    /// # Errors
    /// When the path is relative, or somebody else could reach or exchange the directory.
    pub fn at(path: &Path) -> Result<Self, UnsafeDirectory> {
        let refused = UnsafeDirectory::because;
        if !path.is_absolute() {
            return Err(refused(path, "its path is not absolute"));
        }
        let unusable = |source| UnsafeDirectory::Unusable { path: path.to_owned(), source };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
            _ => {}
        }
        let uid = rustix::process::geteuid().as_raw();
        let own = fs::symlink_metadata(path).map_err(unusable)?;
        if !own.is_dir() {
            return Err(refused(path, "it is not a directory"));
        }
        if own.uid() != uid {
            return Err(refused(path, "it belongs to somebody else"));
        }
        if own.mode() & OTHERS != 0 {
            return Err(refused(path, "others may enter it"));
        }
        // Who can write above it could put another in its place, and who can write above a link, behind it.
        let above = path.parent().unwrap_or(path);
        let real = above.canonicalize().map_err(unusable)?;
        for ancestor in above.ancestors().chain(real.ancestors()) {
            let metadata = fs::symlink_metadata(ancestor).map_err(unusable)?;
            if metadata.is_symlink() {
                continue;
            }
            if metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0 {
                return Err(refused(ancestor, "others may rename what is in it"));
            }
            if metadata.uid() != uid && metadata.uid() != 0 {
                return Err(refused(ancestor, "it belongs to somebody else"));
            }
        }
        Ok(PrivateDirectory(path.to_owned()))
    }

    /// The user's own: below `XDG_RUNTIME_DIR`, or else in the directory for temporary files. Made if it is missing.
    /// `env` reads the environment; `fits` may refuse a path.
    ///
    /// # Errors
    /// When none of the places will do; tells about the last one.
    pub fn find(
        env: impl Fn(&str) -> Option<OsString>,
        fits: impl Fn(&Path) -> Result<(), UnsafeDirectory>,
    ) -> Result<Self, UnsafeDirectory> {
        let uid = rustix::process::geteuid().as_raw();
        let runtime = env("XDG_RUNTIME_DIR").map(|base| PathBuf::from(base).join("barkeep"));
        let temporary = env("TMPDIR").map(|base| PathBuf::from(base).join(format!("barkeep-{uid}")));
        let at = |path: &Path| fits(path).and_then(|()| Self::at(path));
        for path in [runtime, temporary].into_iter().flatten() {
            if let Ok(directory) = at(&path) {
                return Ok(directory);
            }
        }
        at(Path::new(&format!("/tmp/barkeep-{uid}")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn base() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap()
    }

    fn reason(path: &Path) -> String {
        PrivateDirectory::at(path).unwrap_err().to_string()
    }

    #[test]
    fn is_made_closed_and_found_again() {
        let base = base();
        let path = base.path().join("d");
        for _ in 0..2 {
            assert_eq!(PrivateDirectory::at(&path).unwrap().path(), path);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn what_others_could_reach_or_exchange_is_refused() {
        let base = base();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(reason(&open).contains("others may enter"));
        let link = base.path().join("link");
        std::os::unix::fs::symlink("/root", &link).unwrap();
        assert!(reason(&link).contains("not a directory"));
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(reason(&file).contains("not a directory"));
        let writable = base.path().join("w");
        fs::create_dir(&writable).unwrap();
        fs::set_permissions(&writable, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(reason(&writable.join("d")).contains("others may rename"));
        assert!(reason(Path::new("relative")).contains("not absolute"));
        assert!(reason(&base.path().join("missing/d")).contains("No such file"));
    }

    #[test]
    fn somebody_elses_is_refused() {
        if rustix::process::geteuid().is_root() {
            let base = base();
            let path = base.path().join("d");
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(reason(&path).contains("somebody else"));
        }
    }

    #[test]
    fn the_first_place_that_will_do_is_taken() {
        let base = base();
        let at = |name: &str| base.path().join(name);
        fs::create_dir(at("run")).unwrap();
        let find = |runtime: &str| {
            let (runtime, temporary) = (at(runtime), base.path().to_owned());
            PrivateDirectory::find(
                move |name| match name {
                    "XDG_RUNTIME_DIR" => Some(runtime.clone().into()),
                    "TMPDIR" => Some(temporary.clone().into()),
                    _ => None,
                },
                |_| Ok(()),
            )
        };
        assert_eq!(find("run").unwrap().path(), at("run/barkeep"));
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(find("gone").unwrap().path(), at(&format!("barkeep-{uid}")));
    }
}
