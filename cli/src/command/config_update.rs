//! `config-update`: changes the configuration of servers and models, all changes or none.
//!
//! What is to be changed is first queued, then written into the files. A change that can't be written stays in the
//! queue, and cron tries it again.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barkeep_catalog::ServerLock;
use barkeep_transport::durable::{self, TempFile};

use super::restart;
use crate::args::ConfigUpdateArgs;
use crate::config::Config;
use crate::config::ini::MAX_CONFIG_BYTES;
use crate::config::update::{self, ChangeSet};
use crate::context::Context;
use crate::error::CommandError;

/// The lock that keeps two of these apart, in the lock directory.
const LOCK_FILE: &str = ".config-update.lock";
/// How long to wait for another process that changes the configuration.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Largest list of changes that is read, in bytes.
const MAX_CHANGES_BYTES: u64 = 4 << 20;

/// Changes the configuration, and restarts the receivers of the servers that were changed.
///
/// # Errors
/// When a change can't be made; one that is only wrong keeps all of them from being made.
pub fn run(context: &mut Context, args: &ConfigUpdateArgs) -> Result<(), CommandError> {
    let text = if args.changes == "-" { read_bounded(io::stdin())? } else { args.changes.clone() };
    let _lock = lock(context)?;
    let sets = update::parse(context.config(), &text).map_err(|error| {
        CommandError::because("nothing was changed", &error).hint("see: barkeep config-update --help")
    })?;
    let path = &context.config().global.config_changes_queue;
    let mut queue = read_queue(context, path)?;
    queue.extend(sets.into_iter().filter(|set| !set.changes_set.is_empty()));
    write_queue(path, &queue)?;
    work_off(context, queue)
}

/// Makes the changes that are still queued, if there are any.
///
/// # Errors
/// When one can't be made; it stays queued.
pub(crate) fn drain(context: &Context) -> Result<(), CommandError> {
    let path = &context.config().global.config_changes_queue;
    if !path.exists() {
        return Ok(());
    }
    let queue = read_queue(context, path)?;
    if queue.is_empty() {
        return Ok(());
    }
    let _lock = lock(context)?;
    work_off(context, read_queue(context, path)?)
}

fn lock(context: &Context) -> Result<ServerLock, CommandError> {
    let path = context.config().global.lock_directory.join(LOCK_FILE);
    Ok(ServerLock::acquire_path_within(&path, LOCK_PATIENCE)?)
}

fn work_off(context: &Context, mut queue: Vec<ChangeSet>) -> Result<(), CommandError> {
    let config = context.config();
    let mut changed = BTreeSet::new();
    while let Some(set) = queue.first() {
        let outcome = make(config, set);
        if let Err(error) = outcome {
            return Err(error.hint(format!(
                "the change stays in {}, and cron tries it again",
                config.global.config_changes_queue.display()
            )));
        }
        for change in &set.changes_set {
            let old = config.sections_value(&set.section, &change.key);
            context.output().info(format!(
                "Changing value of option '{}' for section '{}' from '{}' to '{}' through config-update.",
                change.key,
                set.section,
                old.as_deref().unwrap_or("None"),
                change.value
            ));
        }
        changed.insert(set.section.clone());
        queue.remove(0);
        write_queue(&config.global.config_changes_queue, &queue)?;
    }
    for name in changed {
        restart::receiver(context, &name)?;
    }
    Ok(())
}

/// Writes the changes of one section into their files.
fn make(config: &Config, set: &ChangeSet) -> Result<(), CommandError> {
    let files: BTreeSet<&PathBuf> = set.changes_set.iter().map(|change| &change.config_file).collect();
    let mut edits = Vec::new();
    for file in files {
        let known = config.is_own_file(file);
        if !known {
            return Err(CommandError::new(format!(
                "{} is none of the configuration files and is not changed",
                file.display()
            )));
        }
        let text = match std::fs::File::open(file) {
            Ok(open) => read_bounded(open)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(CommandError::because(format_args!("cannot read {}", file.display()), &error));
            }
        };
        let edited = update::edited(&text, set, file).map_err(|error| {
            CommandError::because(format_args!("cannot change {}", file.display()), &error)
        })?;
        edits.push((file, edited));
    }
    for (file, text) in edits {
        replace(file, &text)?;
    }
    Ok(())
}

/// Replaces a file, which keeps its mode and owner; behind a link, the file that the link leads to.
fn replace(path: &Path, text: &str) -> Result<(), CommandError> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut file = TempFile::create_mode(&path, 0o600)?;
    file.write_bytes(text.as_bytes())?;
    if let Ok(metadata) = path.metadata() {
        // Only root may give files away; others own what they write.
        let _ = std::os::unix::fs::fchown(file.file(), Some(metadata.uid()), Some(metadata.gid()));
        file.set_metadata(Some(metadata.mode() & 0o7777), None)?;
    }
    Ok(file.publish()?)
}

fn read_queue(context: &Context, path: &Path) -> Result<Vec<ChangeSet>, CommandError> {
    let text = match std::fs::File::open(path) {
        Ok(file) => read_bounded(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(CommandError::because(format_args!("cannot read {}", path.display()), &error));
        }
    };
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| {
        let path = path.display();
        context.output().warning(format!("the queue of configuration changes {path} is not heeded: {error}"));
        Vec::new()
    }))
}

fn write_queue(path: &Path, queue: &[ChangeSet]) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(queue)
        .map_err(|error| CommandError::because("cannot write down the changes", &error))?;
    Ok(durable::write(path, text.as_bytes())?)
}

fn read_bounded(source: impl io::Read) -> Result<String, CommandError> {
    const { assert!(MAX_CONFIG_BYTES <= MAX_CHANGES_BYTES) };
    let mut text = String::new();
    source.take(MAX_CHANGES_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CHANGES_BYTES {
        return Err(CommandError::new(format!("more than {MAX_CHANGES_BYTES} bytes")));
    }
    Ok(text)
}
