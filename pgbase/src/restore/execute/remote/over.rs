//! Restoring over what is there, at the far end: the same refusals and the same clearing away as here.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use barkeep_transport::host::{
    Access, Action, Change, Entry, FileEnd, HostError, Kind, ReadJob, ReadOptions, ReadSink,
};

use super::super::super::facts::WalPlace;
use super::super::super::running;
use super::super::super::tree::{Listing, PG_CONTROL};
use super::super::old_wal::{Fate, SHELF, SHELVES_MAX, STATUS, ShelvedWal, archived_name, fate};
use super::super::over::{expect_configuration, expected, expected_system_id, same_cluster};
use super::super::prune::{Expected, Verdict, judge_in_data, judge_in_tablespace};
use super::super::{CONTROL_IN_WAITING, Content, DeltaReport, PRIVATE_DIRECTORY, RestoreError};
use super::{Far, FarRoot, There, change};
use crate::copy;

/// Where a server keeps its WAL.
const WAL: &str = "pg_wal";

impl Far<'_> {
    /// Lists what is at a destination.
    pub(super) fn list(&self, far: &mut FarRoot) -> Result<(), RestoreError> {
        let FarRoot { root, names, there, .. } = far;
        self.host.walk(*root, &[], &mut |entry| {
            let Entry { path, kind, size, mode, links, target, .. } = entry;
            names.push(path.clone());
            let shared = kind == Kind::File && links > 1;
            there.insert(path, There { kind, size, mode: mode & 0o777, shared, target });
            Ok(())
        })?;
        Ok(())
    }

    /// Refuses to touch a directory with a server running on it, or with another cluster in it.
    pub(super) fn check(&self, content: &Content) -> Result<(), RestoreError> {
        let data = self.data()?;
        let is_file = |path: &&PathBuf| data.there.get(*path).is_some_and(|there| there.kind == Kind::File);
        let Some(any_file) = data.names.iter().find(is_file) else { return Ok(()) };
        let server = self.ask(data, any_file, Some(running::INSPECTOR))?;
        if let Some(First { findings, .. }) = server.filter(|answer| !answer.findings.is_empty()) {
            let server = String::from_utf8_lossy(&findings).chars().take(200).collect();
            return Err(RestoreError::Running { path: data.path.clone(), server });
        }
        let control = match data.there.contains_key(Path::new(PG_CONTROL)) {
            true => self.ask(data, Path::new(PG_CONTROL), None)?,
            false => None,
        };
        let first = control.and_then(|control| control.bytes.first_chunk().copied());
        let found = first.map(u64::from_le_bytes);
        same_cluster(&data.path, expected_system_id(self.plan, &content.sources), found)
    }

    /// The first eight bytes of a file, and what an inspector finds; nothing for a file that can't be read.
    fn ask(
        &self,
        far: &FarRoot,
        path: &Path,
        inspector: Option<&str>,
    ) -> Result<Option<First>, RestoreError> {
        use std::os::unix::ffi::OsStrExt;
        let job = ReadJob { root: far.root, path: path.to_owned(), offset: 0, length: 8, known: None };
        let told = far.path.as_os_str().as_bytes().to_vec();
        let options = ReadOptions { inspector: inspector.map(|name| (name.to_owned(), told)) };
        let mut sink = First::default();
        self.host.read(&[job], &options, &mut sink)?;
        Ok(sink.there.then_some(sink))
    }

    /// Takes away what a server could be started with, durably, before anything else is changed.
    pub(super) fn disarm(&mut self) -> Result<(), RestoreError> {
        let Some(data) = self.roots.first_mut() else { return Ok(()) };
        let root = data.root;
        let mut changes = Vec::new();
        for path in [PG_CONTROL, CONTROL_IN_WAITING].map(Path::new) {
            if let Some(there) = data.there.remove(path) {
                changes.push(change(root, path, removal(there.kind)));
            }
        }
        let is_directory = |there: &There| there.kind == Kind::Directory;
        if data.there.get(Path::new("global")).is_some_and(is_directory) {
            changes.push(change(root, "global", Action::Sync));
        }
        self.make(changes)
    }

    /// Clears away what the old cluster had and the backup has not.
    pub(super) fn clear_the_way(&mut self, listings: &[Listing]) -> Result<DeltaReport, RestoreError> {
        let mut report = DeltaReport { shelved_wal: self.shelve()?, ..DeltaReport::default() };
        let (plan, data) = (self.plan, self.data()?.path.clone());
        let inside = |path: &Path| path.strip_prefix(&data).map(Path::to_owned).ok();
        let apart: Vec<PathBuf> = plan.trees.iter().skip(1).filter_map(|tree| inside(&tree.to)).collect();
        report.kept.extend(self.forgotten_tablespaces()?);
        for (index, listing) in listings.iter().enumerate() {
            let mut expected = expected(listing);
            if index == 0 {
                expect_configuration(plan, &mut expected);
                self.prune(index, &expected, &|path, kind| judge_in_data(path, kind, &apart), &mut report)?;
            } else {
                let judge = |path: &Path, _| judge_in_tablespace(path, plan.backup.major);
                self.prune(index, &expected, &judge, &mut report)?;
            }
        }
        if let WalPlace::Elsewhere(path) = &plan.wal_place {
            // What an interrupted restore left there is copied again.
            let root = self.host.open(path, Access::Change)?;
            self.make(self.removals(root)?)?;
        }
        report.kept.sort();
        Ok(report)
    }

    fn prune(
        &mut self,
        index: usize,
        expected: &Expected,
        judge: &dyn Fn(&Path, copy::Kind) -> Verdict,
        report: &mut DeltaReport,
    ) -> Result<(), RestoreError> {
        let Some(far) = self.roots.get(index) else { return Ok(()) };
        let mut removals = Vec::new();
        // A directory whose content shares its fate.
        let mut decided: Option<(&Path, Verdict)> = None;
        for path in &far.names {
            let Some(there) = far.there.get(path) else { continue };
            match decided {
                Some((directory, Verdict::Remove)) if path.starts_with(directory) => {
                    removals.push((path.clone(), there.kind));
                    continue;
                }
                Some((directory, _)) if path.starts_with(directory) => continue,
                _ => {}
            }
            let kind = kind_here(there.kind);
            let wanted = expected.get(path);
            if wanted == Some(&kind) {
                continue;
            }
            let verdict = match judge(path, kind) {
                // Something else is to be at its place.
                Verdict::Keep if wanted.is_some() => Verdict::Remove,
                verdict => verdict,
            };
            match verdict {
                Verdict::LeaveAlone => {}
                Verdict::Keep => report.kept.push(far.path.join(path)),
                Verdict::Remove => {
                    report.removed += 1;
                    removals.push((path.clone(), there.kind));
                }
            }
            decided = (kind == copy::Kind::Directory).then_some((path, verdict));
        }
        let root = far.root;
        // What is in a directory goes before it.
        let changes = removals.iter().rev().map(|(path, kind)| change(root, path, removal(*kind))).collect();
        self.make(changes)?;
        if let Some(far) = self.roots.get_mut(index) {
            removals.iter().for_each(|(path, _)| _ = far.there.remove(path));
        }
        Ok(())
    }

    /// Where the old cluster had tablespaces that the backup doesn't know: their links go, their files stay.
    fn forgotten_tablespaces(&self) -> Result<Vec<PathBuf>, RestoreError> {
        let data = self.data()?;
        let known: HashSet<String> =
            self.plan.trees.iter().filter_map(|tree| Some(tree.tablespace.as_ref()?.0.to_string())).collect();
        let links = data.there.iter().filter(|(path, there)| {
            let name = path.strip_prefix("pg_tblspc").ok().and_then(|name| name.to_str());
            there.kind == Kind::Link && name.is_some_and(|name| !known.contains(name))
        });
        Ok(links.map(|(_, there)| there.target.clone()).collect())
    }

    /// Empties `pg_wal`, and keeps what exists nowhere else.
    fn shelve(&mut self) -> Result<Option<ShelvedWal>, RestoreError> {
        let data = self.data()?;
        match data.there.get(Path::new(WAL)).map(|there| there.kind) {
            None => return Ok(None),
            Some(Kind::Directory) => {}
            Some(_) => {
                let path = data.path.join(WAL);
                let what =
                    format!("'{}' is a link: it is restored over on that machine only", path.display());
                return Err(HostError::Refused(what).into());
            }
        }
        let inside = |path: &Path| path.strip_prefix(WAL).ok().map(Path::to_owned);
        let in_wal: Vec<(PathBuf, Kind)> = data
            .names
            .iter()
            .filter_map(|path| Some((inside(path)?, data.there.get(path)?.kind)))
            .filter(|(path, _)| !path.as_os_str().is_empty())
            .collect();
        let archived: HashSet<String> = in_wal
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(STATUS).ok()?.to_str())
            .filter_map(|name| Some(archived_name(name)?.to_owned()))
            .collect();
        let (mut removals, mut shelved, mut emptied) = (Vec::new(), Vec::new(), Vec::new());
        for (path, kind) in &in_wal {
            if emptied.iter().any(|directory: &&PathBuf| path.starts_with(directory)) {
                removals.push((Path::new(WAL).join(path), *kind));
                continue;
            }
            if path.components().count() > 1 {
                continue;
            }
            match fate(&path.to_string_lossy(), kind_here(*kind), &archived) {
                Fate::Stays => {}
                Fate::IsEmptied => emptied.push(path),
                Fate::IsShelved => shelved.push(path),
                Fate::Goes => removals.push((Path::new(WAL).join(path), *kind)),
            }
        }
        let root = data.root;
        let mut changes: Vec<Change> =
            removals.iter().rev().map(|(path, kind)| change(root, path, removal(*kind))).collect();
        let mut result = None;
        if !shelved.is_empty() {
            let shelf = |number: u32| Path::new(WAL).join(format!("{SHELF}{number}"));
            let free = |number: &u32| !data.there.contains_key(&shelf(*number));
            let shelf = shelf((1..=SHELVES_MAX).find(free).unwrap_or(SHELVES_MAX));
            changes.push(change(root, &shelf, Action::CreateDirectory { mode: PRIVATE_DIRECTORY }));
            changes.extend(shelved.iter().map(|name| {
                change(root, Path::new(WAL).join(name), Action::Rename { to: shelf.join(name) })
            }));
            result = Some(ShelvedWal { path: data.path.join(shelf), files: shelved.len() as u64 });
        }
        let gone: Vec<PathBuf> = removals
            .into_iter()
            .map(|(path, _)| path)
            .chain(shelved.into_iter().map(|name| Path::new(WAL).join(name)))
            .collect();
        self.make(changes)?;
        if let Some(data) = self.roots.first_mut() {
            gone.iter().for_each(|path| _ = data.there.remove(path));
        }
        Ok(result)
    }
}

const fn kind_here(kind: Kind) -> copy::Kind {
    match kind {
        Kind::File => copy::Kind::File,
        Kind::Directory => copy::Kind::Directory,
        Kind::Link => copy::Kind::Link,
        Kind::Other => copy::Kind::Other,
    }
}

pub(super) const fn removal(kind: Kind) -> Action {
    match kind {
        Kind::Directory => Action::RemoveDirectory,
        _ => Action::RemoveFile,
    }
}

/// Gathers the first bytes of a file.
#[derive(Default)]
struct First {
    bytes: Vec<u8>,
    findings: Vec<u8>,
    /// Whether the file could be read.
    there: bool,
}

impl ReadSink for First {
    fn data(&mut self, _job: usize, _offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, _job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        self.there = outcome.is_ok();
        self.findings = outcome.map(|end| end.findings).unwrap_or_default();
        Ok(())
    }
}
