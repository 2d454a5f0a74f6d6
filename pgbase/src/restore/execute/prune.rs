//! What a delta restore removes from a directory that was in use: what PostgreSQL would take for its own.
//!
//! PostgreSQL's directories become what the backup has, to the file: a relation too many is dead weight, a commit log,
//! a slot or a signal file too many is wrong. Anything else that somebody put into the data directory (certificates,
//! scripts, server logs) is theirs and stays, and so do files in a tablespace's location outside of the directory that
//! this major version has there.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::destination::INCOMPLETE_MARKER;
use super::super::facts::STAGED_WAL;
use super::RestoreError;
use super::ground::Root;
use super::space::PROBE;
use crate::copy::{Directory, Kind};

/// Directories that belong to PostgreSQL alone, WAL apart, and the WAL that an earlier restore put there for it.
const OWN_DIRECTORIES: [&str; 17] = [
    STAGED_WAL,
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_xact",
];

/// Files at the top of a data directory that mean something to a server, or to who restored before.
const OWN_FILES: [&str; 16] = [
    PROBE,
    ".barman-recover.info",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "PG_VERSION",
    "postgresql.auto.conf",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.conf",
    "recovery.done",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

/// WAL and server logs: looked after elsewhere, or not at all.
const LEFT_ALONE: [&str; 5] = ["pg_wal", "pg_xlog", "log", "pg_log", INCOMPLETE_MARKER];

/// What is to be in a tree, by path.
pub(super) type Expected = HashMap<PathBuf, Kind>;

/// What was done to a tree.
#[derive(Debug, Default)]
pub(super) struct Pruned {
    /// How many files, links and directories were removed.
    pub(super) removed: u64,
    /// What was found and left, because it is nobody's business here.
    pub(super) kept: Vec<PathBuf>,
}

/// Removes what is in the way or PostgreSQL's own from the data directory, but for `apart`: places of tablespaces in it,
/// and of WAL.
pub(super) fn prune_data(
    root: &Root,
    expected: &Expected,
    apart: &[PathBuf],
) -> Result<Pruned, RestoreError> {
    prune(root, expected, &|path, kind| judge_in_data(path, kind, apart))
}

/// What becomes of something in the data directory that the backup doesn't have.
pub(super) fn judge_in_data(path: &Path, kind: Kind, apart: &[PathBuf]) -> Verdict {
    let mut parts = path.components();
    let top = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let top = top.unwrap_or_default();
    if LEFT_ALONE.contains(&&top[..]) || apart.iter().any(|apart| path.starts_with(apart)) {
        return Verdict::LeaveAlone;
    }
    let at_top = parts.next().is_none();
    let is_own = OWN_DIRECTORIES.contains(&&top[..])
        || (at_top && kind != Kind::Directory && (OWN_FILES.contains(&&top[..]) || is_old_manifest(&top)));
    // A link to a directory that only PostgreSQL should have is followed nowhere: it goes.
    if is_own { Verdict::Remove } else { Verdict::Keep }
}

/// Removes what is in the way or PostgreSQL's own from a tablespace's location.
pub(super) fn prune_tablespace(root: &Root, expected: &Expected, major: u32) -> Result<Pruned, RestoreError> {
    prune(root, expected, &|path, _| judge_in_tablespace(path, major))
}

/// What becomes of something in a tablespace's location that the backup doesn't have.
pub(super) fn judge_in_tablespace(path: &Path, major: u32) -> Verdict {
    // Such as `PG_15_202209061`; there is one for each major version that uses the location.
    let version = format!("PG_{major}_");
    let top = path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    if top.is_some_and(|top| top.starts_with(&version)) { Verdict::Remove } else { Verdict::Keep }
}

/// What becomes of something that the backup doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Remove,
    Keep,
    LeaveAlone,
}

/// A manifest that an earlier restore put aside.
fn is_old_manifest(name: &str) -> bool {
    name.strip_prefix("backup_manifest.").is_some_and(|id| !id.is_empty())
}

fn prune(
    root: &Root,
    expected: &Expected,
    judge: &dyn Fn(&Path, Kind) -> Verdict,
) -> Result<Pruned, RestoreError> {
    let mut pruned = Pruned::default();
    let mut pending = vec![PathBuf::new()];
    while let Some(parent) = pending.pop() {
        let failed = |path: &Path, source| RestoreError::write(&root.path.join(path), source);
        let read = |directory: &Directory| directory.entries();
        let entries = if parent.as_os_str().is_empty() {
            read(&root.directory)
        } else {
            root.directory.directory(&parent).and_then(|directory| read(&directory))
        };
        for entry in entries.map_err(|error| failed(&parent, error))? {
            let path = parent.join(&entry.name);
            let wanted = expected.get(&path);
            if wanted == Some(&entry.kind) {
                if entry.kind == Kind::Directory {
                    pending.push(path);
                }
                continue;
            }
            match judge(&path, entry.kind) {
                Verdict::LeaveAlone => continue,
                // Something else is to be at its place.
                Verdict::Keep if wanted.is_some() => {}
                Verdict::Keep => {
                    pruned.kept.push(root.path.join(path));
                    continue;
                }
                Verdict::Remove => {}
            }
            remove(&root.directory, &path, entry.kind).map_err(|error| failed(&path, error))?;
            pruned.removed += 1;
        }
    }
    Ok(pruned)
}

fn remove(directory: &Directory, path: &Path, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::Directory => directory.remove_directory(path),
        Kind::File | Kind::Link | Kind::Other => directory.remove(path),
    }
}
