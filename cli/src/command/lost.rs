//! Telling of records whose files are gone: once, with what to do.

use std::fmt::Display;

use barkeep_transport::durable;
use pgwal::WalFile;
use serde_json::{Value, json};

use crate::context::ServerContext;
use crate::error::CommandError;

/// The version of the file's format.
const VERSION: u64 = 1;
/// Most names that are remembered as told, so that the file stays small.
const NAMES_MAX: usize = 1000;
/// Most names that one warning has.
const NAMES_SHOWN: usize = 3;

/// Warns of what is recorded and gone, unless it was told before. To be called under cron's lock.
///
/// # Errors
/// When the home can't be read, or it can't be noted what was told.
pub(super) fn tell_once(server: &ServerContext) -> Result<(), CommandError> {
    let (name, layout) = (server.name(), server.layout());
    let lost = server.catalog().lost()?;
    let backups = lost.backups.iter().map(ToString::to_string);
    let wal = lost.wal.iter().map(ToString::to_string);
    let mut names: Vec<String> = backups.chain(wal).collect();
    names.truncate(NAMES_MAX);
    let path = layout.private().join("lost.json");
    let told = read(&std::fs::read(&path).unwrap_or_default());
    if names == told {
        return Ok(());
    }
    let is_new = |name: &dyn Display| !told.contains(&name.to_string());
    for id in lost.backups.iter().filter(|id| is_new(id)) {
        let data = layout.backup_data(*id);
        server.output.warning(format!(
            "Backup {id} of server {name} is recorded, and its files are gone: '{}' is not there. It can't be restored: put \
             them back, or take it off with: barkeep delete {name} {id}",
            data.display()
        ));
    }
    let wal: Vec<&WalFile> = lost.wal.iter().filter(|file| is_new(file)).collect();
    if let [first, ..] = &wal[..] {
        let more = if wal.len() > NAMES_SHOWN { ", ..." } else { "" };
        let shown = wal.iter().take(NAMES_SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        server.output.warning(format!(
            "WAL files of server {name} are listed and not in the archive: {} ({shown}{more}). Put them back, as '{}'; or \
             take them off the list with: barkeep rebuild-xlogdb {name}. Whether backups need them tells: barkeep check {name}",
            wal.len(),
            layout.wal(first).display()
        ));
    }
    durable::create_dir_all(&layout.private())?;
    let note = json!({ "version": VERSION, "told": names });
    Ok(durable::write(&path, note.to_string().as_bytes())?)
}

/// What was told. A note that can't be read is none.
fn read(note: &[u8]) -> Vec<String> {
    let note: Value = serde_json::from_slice(note).unwrap_or_default();
    let told = note["told"].as_array().filter(|_| note["version"] == VERSION);
    told.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
