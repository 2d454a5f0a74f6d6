//! What belongs to a backup: by name, after the server's own base backup (`basebackup.c`) and Barman's rsync filter.

use std::path::{Path, PathBuf};

use crate::checksum::RelationFile;

/// Directories of the data directory whose contents are made anew by a server that starts, or come from the archive.
pub(super) const EMPTIED: [&str; 11] = [
    "log",
    "pg_dynshmem",
    "pg_log",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
    "pg_xlog",
];

/// Where links to tablespaces are.
pub(super) const TABLESPACE_LINKS: &str = "pg_tblspc";

/// Copied after all else.
pub(super) const PG_CONTROL: &str = "global/pg_control";

/// Files of the data directory that the backup brings itself, or that say what a running server is doing.
const LEFT_OUT_AT_TOP: [&[u8]; 8] = [
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    b"postmaster.pid",
    b"postmaster.opts",
    b"recovery.conf",
    b"standby.signal",
    b"current_logfiles.tmp",
];

/// Whether a file belongs to the backup. `path` is relative to the data directory, or to a tablespace's.
pub(super) fn belongs(path: &Path, in_tablespace: bool) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = path.as_os_str().as_bytes();
    let mut components = path.rsplit(|byte| *byte == b'/');
    let (name, directory) = (components.next().unwrap_or_default(), components.next());
    if name.starts_with(b"pgsql_tmp")
        || name.starts_with(b"pg_internal.init")
        || name == b"postgresql.auto.conf.tmp"
    {
        return false;
    }
    if path.split(|byte| *byte == b'/').any(|component| component.starts_with(b"pgsql_tmp")) {
        return false;
    }
    let in_database = directory.is_some_and(|name| name.first().is_some_and(u8::is_ascii_digit));
    if in_database && is_temporary_relation(name) {
        return false;
    }
    in_tablespace || (path != PG_CONTROL.as_bytes() && !LEFT_OUT_AT_TOP.contains(&path))
}

/// `t<backend>_<relation>` with any suffix: gone with its session.
fn is_temporary_relation(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"t") else { return false };
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let backend = digits(rest);
    backend > 0 && rest.get(backend) == Some(&b'_') && digits(&rest[backend + 1..]) > 0
}

/// Whether a directory at the top of a tablespace's location is this cluster's.
pub(super) fn is_own_directory(name: &Path, major: u32) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(&format!("PG_{major}_")))
}

/// The directories of the data directory that are listed but not entered.
pub(super) fn closed(data: &Path, tablespaces: &[PathBuf]) -> Vec<PathBuf> {
    let inside = tablespaces.iter().filter_map(|location| location.strip_prefix(data).ok());
    EMPTIED
        .iter()
        .map(PathBuf::from)
        .chain([PathBuf::from(TABLESPACE_LINKS)])
        .chain(inside.map(Path::to_owned))
        .collect()
}

/// A relation's file by its name, in a directory where relations are.
pub(super) fn relation(directory: &[u8], name: &[u8], in_tablespace: bool) -> Option<RelationFile> {
    RelationFile::parse(&[directory, b"/", name].concat(), in_tablespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_makes_anew_is_left_out() {
        for path in [
            "postmaster.pid",
            "backup_label",
            "backup_manifest",
            "base/pgsql_tmp/pgsql_tmp123.0",
            "base/5/pg_internal.init",
            "base/5/t3_16384",
            "base/5/t12_16384_fsm.1",
            "global/pg_internal.init.4711",
            "global/pg_control",
            "standby.signal",
        ] {
            assert!(!belongs(Path::new(path), false), "{path}");
        }
        for path in [
            "base/5/16384",
            "base/5/PG_VERSION",
            "postgresql.auto.conf",
            "pg_xact/0000",
            "my own file",
            "backup_label.old",
            "conf.d/t1_1",
            "base/5/t_1",
            "sub/postmaster.pid",
        ] {
            assert!(belongs(Path::new(path), false), "{path}");
        }
        assert!(belongs(Path::new("PG_15_202209061/5/16384"), true));
        assert!(!belongs(Path::new("PG_15_202209061/5/t3_16384"), true));
        assert!(!belongs(Path::new("PG_15_202209061/pgsql_tmp/x"), true));
    }

    #[test]
    fn a_tablespace_may_hold_other_clusters_files() {
        assert!(is_own_directory(Path::new("PG_15_202209061"), 15));
        assert!(!is_own_directory(Path::new("PG_14_202107181"), 15));
        assert!(!is_own_directory(Path::new("stranger"), 15));
    }

    #[test]
    fn tablespaces_within_the_data_directory_are_not_copied_twice() {
        let closed = closed(Path::new("/pg"), &[PathBuf::from("/pg/spaces/a"), PathBuf::from("/elsewhere")]);
        assert!(closed.contains(&PathBuf::from("spaces/a")));
        assert!(!closed.iter().any(|path| path.starts_with("/")));
    }
}
