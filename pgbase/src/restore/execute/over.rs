//! Restoring over what is there: refused where it must not be touched, and what is wrong about it cleared away.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::facts::RestorePlan;
use super::super::running;
use super::super::tree::{Listing, PG_CONTROL};
use super::configure::{ORIGIN_SUFFIX, REWRITTEN};
use super::ground::{Ground, Root};
use super::old_wal::{ShelvedWal, shelve};
use super::prune::{Expected, prune_data, prune_tablespace};
use super::{PRIVATE_DIRECTORY, RestoreError};
use crate::copy::{Directory, Kind, Owner};

/// What a delta restore did to what was there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeltaReport {
    /// Bytes of the backup's files that had to be written.
    pub written: u64,
    /// Files, links and directories that were PostgreSQL's and not the backup's: they were removed.
    pub removed: u64,
    /// What was neither, and was left where it was.
    pub kept: Vec<PathBuf>,
    /// WAL that the old server had not archived, moved out of the way.
    pub shelved_wal: Option<ShelvedWal>,
}

/// Refuses to touch a directory with a server running on it, or with another cluster in it.
pub(super) fn check(plan: &RestorePlan, ground: &Ground, sources: &[Directory]) -> Result<(), RestoreError> {
    let data = ground.data()?;
    if !data.in_use {
        return Ok(());
    }
    if let Some(server) = running::find(&data.path) {
        return Err(RestoreError::Running { path: data.path.clone(), server: server.to_string() });
    }
    // After an interrupted restore there is none, and the directory was ours already.
    same_cluster(&data.path, expected_system_id(plan, sources), system_id(&data.directory))
}

/// The system identifier that the backup's record has, or its control file where that can be read.
pub(super) fn expected_system_id(plan: &RestorePlan, sources: &[Directory]) -> Option<u64> {
    plan.backup.system_id.or_else(|| sources.first().and_then(system_id))
}

pub(super) fn same_cluster(
    path: &Path,
    expected: Option<u64>,
    found: Option<u64>,
) -> Result<(), RestoreError> {
    match (expected, found) {
        (Some(expected), Some(found)) if found != expected => {
            Err(RestoreError::OtherCluster { path: path.to_owned(), found, expected })
        }
        _ => Ok(()),
    }
}

/// The system identifier, with which the control file begins.
fn system_id(data: &Directory) -> Option<u64> {
    let mut first = [0; 8];
    data.read(Path::new(PG_CONTROL)).ok()?.read_exact(&mut first).ok()?;
    Some(u64::from_le_bytes(first))
}

/// Clears away what the old cluster had and the backup has not.
pub(super) fn clear_the_way(
    plan: &RestorePlan,
    listings: &[Listing],
    ground: &Ground,
) -> Result<DeltaReport, RestoreError> {
    let data = ground.data()?;
    let mut report = DeltaReport::default();
    if data.in_use {
        report.shelved_wal = shelve(&pg_wal(data, ground.owner())?, ground.owner())?;
    }
    let inside = |path: &Path| path.strip_prefix(&data.path).map(Path::to_owned).ok();
    let apart: Vec<PathBuf> = plan.trees.iter().skip(1).filter_map(|tree| inside(&tree.to)).collect();
    for (index, (root, listing)) in ground.roots().iter().zip(listings).enumerate() {
        let mut expected = expected(listing);
        let pruned = if index == 0 {
            report.kept.extend(forgotten_tablespaces(plan, data)?);
            expect_configuration(plan, &mut expected);
            prune_data(root, &expected, &apart)?
        } else {
            prune_tablespace(root, &expected, plan.backup.major)?
        };
        report.removed += pruned.removed;
        report.kept.extend(pruned.kept);
    }
    report.kept.sort();
    Ok(report)
}

pub(super) fn expected(listing: &Listing) -> Expected {
    let files = listing.files.iter().map(|file| (file.path.clone(), Kind::File));
    let directories = listing.directories.iter().map(|directory| (directory.path.clone(), Kind::Directory));
    files.chain(directories).collect::<HashMap<_, _>>()
}

/// Files that are written anew, and directories that are made whether the backup has them or not.
pub(super) fn expect_configuration(plan: &RestorePlan, expected: &mut Expected) {
    for (name, _) in REWRITTEN {
        expected.insert(name.into(), Kind::File);
        expected.insert(format!("{name}{ORIGIN_SUFFIX}").into(), Kind::File);
    }
    expected.insert(plan.settings_file.clone().into(), Kind::File);
    expected.extend(plan.extra_files.iter().map(|(name, _)| (name.into(), Kind::File)));
    expected.insert("global".into(), Kind::Directory);
    expected.insert("pg_tblspc".into(), Kind::Directory);
}

/// Where the old cluster had tablespaces that the backup doesn't know: their links go, their files stay.
fn forgotten_tablespaces(plan: &RestorePlan, data: &Root) -> Result<Vec<PathBuf>, RestoreError> {
    let failed = |source| RestoreError::read(&data.path.join("pg_tblspc"), source);
    let links = match data.directory.directory(Path::new("pg_tblspc")) {
        Ok(links) => links,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut forgotten = Vec::new();
    for entry in links.entries().map_err(failed)? {
        let oid = entry.name.to_str().and_then(|name| name.parse::<u32>().ok());
        let known = plan.trees.iter().filter_map(|tree| Some(tree.tablespace.as_ref()?.0));
        if entry.kind == Kind::Link && !known.into_iter().any(|known| Some(known) == oid) {
            forgotten.push(links.read_link(Path::new(&entry.name)).map_err(failed)?);
        }
    }
    Ok(forgotten)
}

/// The directory for WAL: made, or as it is; also one behind a link, as `initdb --waldir` makes it.
pub(super) fn pg_wal(data: &Root, owner: Option<Owner>) -> Result<Root, RestoreError> {
    let name = Path::new("pg_wal");
    let path = data.path.join(name);
    let failed = |source| RestoreError::write(&path, source);
    if data.in_use && data.directory.kind_at(name).map_err(failed)? == Some(Kind::Link) {
        let directory = Directory::open(&path).map_err(failed)?;
        return Ok(Root { path, directory, in_use: true });
    }
    data.make_directory(name, PRIVATE_DIRECTORY, owner)?;
    data.below(name)
}
