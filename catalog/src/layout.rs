//! Where the parts of a server's backup home are (Barman 3.20's directories and names).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pgwal::WalFile;

use crate::BackupId;

/// The directories of one server. [`Layout::new`] fills in the usual ones; what a configuration sets otherwise is
/// assigned to the fields.
///
/// ```
/// use barkeep_catalog::Layout;
/// use std::path::Path;
/// let layout = Layout::new("pg15", Path::new("/srv/barman/pg15"), Path::new("/srv/barman"));
/// assert_eq!(layout.xlogdb(), Path::new("/srv/barman/pg15/wals/pg15-xlog.db"));
/// assert_eq!(
///     layout.wal(&"000000010000000000000007".parse()?),
///     Path::new("/srv/barman/pg15/wals/0000000100000000/000000010000000000000007"),
/// );
/// # Ok::<(), pgwal::segment::ParseWalFileError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The server's name.
    pub server: String,
    /// The root of what belongs to the server (`backup_directory`).
    pub backup_directory: PathBuf,
    /// Base backups (`basebackups_directory`).
    pub base: PathBuf,
    /// The WAL archive (`wals_directory`).
    pub wals: PathBuf,
    /// Where `archive_command` delivers (`incoming_wals_directory`).
    pub incoming: PathBuf,
    /// Where the WAL receiver writes (`streaming_wals_directory`).
    pub streaming: PathBuf,
    /// What could not be archived (`errors_directory`).
    pub errors: PathBuf,
    /// Where the list of archived files is (`xlogdb_directory`).
    pub xlogdb_directory: PathBuf,
    /// Where lock files are (`barman_lock_directory`).
    pub lock_directory: PathBuf,
}

impl Layout {
    /// The usual directories below `backup_directory`.
    pub fn new(server: &str, backup_directory: &Path, lock_directory: &Path) -> Self {
        let below = |name: &str| backup_directory.join(name);
        Layout {
            server: server.to_owned(),
            backup_directory: backup_directory.to_owned(),
            base: below("base"),
            wals: below("wals"),
            incoming: below("incoming"),
            streaming: below("streaming"),
            errors: below("errors"),
            xlogdb_directory: below("wals"),
            lock_directory: lock_directory.to_owned(),
        }
    }

    /// The server whose archive a file or directory is in or of, told without a configuration: the usual `wals`, of which barkeep has
    /// an index beside.
    pub fn around(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let wals = path.ancestors().take(3).find(|path| path.file_name() == Some("wals".as_ref()))?;
        let backup_directory = wals.parent()?;
        let server = backup_directory.file_name()?.to_string_lossy();
        let layout = Layout::new(&server, backup_directory, backup_directory);
        layout.private().join("wal-index").exists().then_some(layout)
    }

    /// The directories that a server needs before anything can be written.
    pub fn directories(&self) -> [PathBuf; 8] {
        [
            self.backup_directory.clone(),
            self.base.clone(),
            self.wals.clone(),
            self.incoming.clone(),
            self.streaming.clone(),
            self.errors.clone(),
            self.meta(),
            self.xlogdb_directory.clone(),
        ]
    }

    /// Backup metadata and annotations; always below the backup directory.
    pub fn meta(&self) -> PathBuf {
        self.backup_directory.join("meta")
    }

    /// What is barkeep's alone: derived data that can be rebuilt, journals, measurements. Barman never looks there.
    pub fn private(&self) -> PathBuf {
        self.backup_directory.join(".barkeep")
    }

    /// The server's identity: its system identifier and major version.
    pub fn identity(&self) -> PathBuf {
        self.backup_directory.join("identity.json")
    }

    /// The directory of one backup's files.
    pub fn backup(&self, id: BackupId) -> PathBuf {
        self.base.join(id.as_str())
    }

    /// A backup's data directory.
    pub fn backup_data(&self, id: BackupId) -> PathBuf {
        self.backup(id).join("data")
    }

    /// A backup's copy of the tablespace with this object id.
    pub fn backup_tablespace(&self, id: BackupId, oid: u32) -> PathBuf {
        self.backup(id).join(oid.to_string())
    }

    /// A backup's metadata.
    pub fn backup_info(&self, id: BackupId) -> PathBuf {
        self.meta().join(format!("{id}-backup.info"))
    }

    /// Where metadata was kept before Barman 3.13.2; still read.
    pub fn old_backup_info(&self, id: BackupId) -> PathBuf {
        self.backup(id).join("backup.info")
    }

    /// An annotation of a backup (`keep`, `delete_this`).
    pub fn annotation(&self, id: BackupId, key: &str) -> PathBuf {
        self.meta().join(format!("{id}-{key}"))
    }

    /// Where annotations were kept before Barman 3.13.3; still read.
    pub fn old_annotation(&self, id: BackupId, key: &str) -> PathBuf {
        self.backup(id).join("annotations").join(key)
    }

    /// The list of archived files.
    pub fn xlogdb(&self) -> PathBuf {
        self.xlogdb_directory.join(format!("{}-xlog.db", self.server))
    }

    /// Where that list was before Barman 3.13.
    pub fn old_xlogdb(&self) -> PathBuf {
        self.wals.join("xlog.db")
    }

    /// The directory of the archive that a file belongs in: one per timeline and log number, the archive itself for
    /// history files.
    pub fn wal_directory(&self, file: &WalFile) -> PathBuf {
        match file.segment() {
            Some(segment) => self.wals.join(segment.directory()),
            None => self.wals.clone(),
        }
    }

    /// A file in the archive.
    pub fn wal(&self, file: &WalFile) -> PathBuf {
        self.wal_directory(file).join(file.to_string())
    }

    /// The lock file `.<server>-<what>.lock`.
    pub fn lock(&self, what: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.server);
        name.push("-");
        name.push(what);
        name.push(".lock");
        self.lock_directory.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_barmans() {
        let layout = Layout::new("pg15", Path::new("/b/pg15"), Path::new("/b"));
        let id: BackupId = "20261122T101539".parse().unwrap();
        let check = |path: PathBuf, expected: &str| assert_eq!(path, Path::new(expected));
        check(layout.backup_data(id), "/b/pg15/base/20261122T101539/data");
        check(layout.backup_tablespace(id, 16386), "/b/pg15/base/20261122T101539/16386");
        check(layout.backup_info(id), "/b/pg15/meta/20261122T101539-backup.info");
        check(layout.old_backup_info(id), "/b/pg15/base/20261122T101539/backup.info");
        check(layout.annotation(id, "keep"), "/b/pg15/meta/20261122T101539-keep");
        check(layout.old_annotation(id, "keep"), "/b/pg15/base/20261122T101539/annotations/keep");
        check(layout.identity(), "/b/pg15/identity.json");
        check(layout.lock("backup"), "/b/.pg15-backup.lock");
        check(layout.wal(&"00000002.history".parse().unwrap()), "/b/pg15/wals/00000002.history");
        check(
            layout.wal(&"000000010000000A000000FF.00000028.backup".parse().unwrap()),
            "/b/pg15/wals/000000010000000A/000000010000000A000000FF.00000028.backup",
        );
    }
}
