//! The configuration of a restored cluster: inherited files made safe, recovery settings appended, the signal given.

use std::io::{self, Read, Write};
use std::path::Path;

use super::super::facts::{RestorePlan, WalPlace};
use super::ground::Root;
use super::{FileChange, FileNote, PRIVATE_FILE, RestoreError, RestoreReport};
use crate::copy::{Directory, Owner};
use crate::recovery::{ConfigChange, ConfigFile, RecoverySettings, has_includes, neutralise};

/// Files that are read and written anew rather than copied.
pub(super) const REWRITTEN: [(&str, ConfigFile); 2] =
    [("postgresql.conf", ConfigFile::Main), ("postgresql.auto.conf", ConfigFile::Auto)];

/// Files that a data directory has unless they are kept elsewhere (as Debian does).
const EXPECTED: [&str; 3] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];

/// Largest configuration file that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What a changed file's original is kept as.
pub(super) const ORIGIN_SUFFIX: &str = ".origin";

/// Writes the configuration of a restored cluster.
pub(super) fn configure(
    plan: &RestorePlan,
    source: &Directory,
    data: &Root,
    owner: Option<Owner>,
    report: &mut RestoreReport,
) -> Result<(), RestoreError> {
    let writer = Writer { data, owner };
    let mut files: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    let mut out_of_reach = false;
    for (name, kind) in REWRITTEN {
        let original = read(source, &plan.backup.data, name)?;
        let content = match original {
            None => {
                out_of_reach |= kind == ConfigFile::Main;
                None
            }
            Some(original) => {
                out_of_reach |= has_includes(&original);
                Some(make_safe(&writer, name, kind, original, report)?)
            }
        };
        files.push((name.to_owned(), content));
    }
    if files.iter().all(|(name, _)| *name != plan.settings_file) {
        files.push((plan.settings_file.clone(), read(source, &plan.backup.data, &plan.settings_file)?));
    }
    let settings = RecoverySettings { disable_archiving: out_of_reach, ..plan.settings.clone() };
    if out_of_reach {
        let change =
            ConfigChange { line: 0, name: "archive_command".to_owned(), value: Some("false".to_owned()) };
        report.changes.push(FileChange { file: plan.settings_file.clone(), change });
    }
    let lines = settings.render(plan.backup.major)?;
    for (name, content) in files {
        let mut content = content;
        if name == plan.settings_file && !lines.is_empty() {
            let content = content.get_or_insert_default();
            if !content.is_empty() && !content.ends_with(b"\n") {
                content.push(b'\n');
            }
            content.extend_from_slice(heading(plan).as_bytes());
            content.extend_from_slice(lines.as_bytes());
        }
        if let Some(content) = content {
            writer.write(&name, &content)?;
        }
    }
    for (name, content) in &plan.extra_files {
        writer.write(name, content)?;
    }
    if let Some(signal) = settings.mode.signal_file() {
        writer.write(signal, b"")?;
    }
    report.missing_files = missing(data)?;
    Ok(())
}

/// What a person finds above the recovery settings.
fn heading(plan: &RestorePlan) -> String {
    let mut text = format!("# Added by barkeep when it restored backup {}.\n", plan.backup.id);
    if plan.settings.restore_command.is_some() && plan.wal_place == WalPlace::PgWal {
        text.push_str(
            "# Try the 'restore_command' below as the user that runs PostgreSQL before you start the server.\n",
        );
    }
    text
}

fn make_safe(
    writer: &Writer<'_>,
    name: &str,
    kind: ConfigFile,
    original: Vec<u8>,
    report: &mut RestoreReport,
) -> Result<Vec<u8>, RestoreError> {
    let safe = neutralise(&original, kind);
    if !safe.changes.is_empty() {
        writer.write(&format!("{name}{ORIGIN_SUFFIX}"), &original)?;
    }
    let file = || name.to_owned();
    report.changes.extend(safe.changes.into_iter().map(|change| FileChange { file: file(), change }));
    report.notes.extend(safe.notes.into_iter().map(|note| FileNote { file: file(), note }));
    Ok(safe.content)
}

fn read(source: &Directory, root: &Path, name: &str) -> Result<Option<Vec<u8>>, RestoreError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        source.read(Path::new(name))?.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > CONFIG_BYTES_MAX {
            return Err(io::Error::other(format!("it is larger than {CONFIG_BYTES_MAX} bytes")));
        }
        Ok(content)
    };
    match read() {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RestoreError::read(&root.join(name), error)),
    }
}

fn missing(data: &Root) -> Result<Vec<String>, RestoreError> {
    let entries = data.directory.entries().map_err(|source| RestoreError::read(&data.path, source))?;
    let there = |name: &str| entries.iter().any(|entry| entry.name == name);
    Ok(EXPECTED.into_iter().filter(|name| !there(name)).map(str::to_owned).collect())
}

struct Writer<'a> {
    data: &'a Root,
    owner: Option<Owner>,
}

impl Writer<'_> {
    fn write(&self, name: &str, content: &[u8]) -> Result<(), RestoreError> {
        self.data
            .directory
            .replace(Path::new(name), PRIVATE_FILE, self.owner)
            .and_then(|mut file| file.write_all(content))
            .map_err(|source| RestoreError::write(&self.data.path.join(name), source))
    }
}
