//! `keep`: protects a backup from retention and deletion, or lets it go again.

use barkeep_catalog::keep::NOTE_BYTES_MAX;
use barkeep_catalog::lock::LockError;
use barkeep_catalog::{BackupId, Keep, Kept, ServerLock, Status, Task};
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::args::{KeepArgs, KeepTarget};
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::moment::read_moment;
use crate::output::{Report, Style};

/// Keeps a backup, releases it, or tells whether it is kept.
///
/// # Errors
/// When there is no such backup, it can't be kept, or its marks can't be read or written.
pub fn run(context: &mut Context, args: &KeepArgs) -> Result<(), CommandError> {
    if !args.release && !args.status && args.target.is_none() {
        let hint =
            if args.until.is_some() || args.note.is_some() { "--target full or standalone" } else { "one" };
        return Err(CommandError::new("one of the arguments -r/--release -s/--status --target is required")
            .hint(format!("add {hint}")));
    }
    let server = context.server(&args.server, Policy::Query)?;
    let backups = server.catalog().current()?;
    let id = server.catalog().resolve(&backups, &args.backup).map_err(|error| {
        CommandError::from(error).hint(format!("list them with: barkeep list-backups {}", server.name()))
    })?;
    if args.status {
        let kept = server.catalog().kept(id)?;
        context.output().report(&KeepStatus { server: server.name(), kept });
        return Ok(());
    }
    let _lock = lock(&server, id)?;
    let Some(target) = args.target else {
        return Ok(server.catalog().release(id)?);
    };
    let info = server.catalog().read(id)?;
    if info.status != Status::Done {
        return Err(CommandError::new(format!(
            "Cannot add keep to backup {id} because it has status {}. Only backups with status DONE can be kept.",
            info.status
        )));
    }
    if !info.is_root() {
        return Err(CommandError::new(format!(
            "Unable to execute the keep command on backup {id}: is an incremental backup.\nOnly full backups are \
             eligible for the use of the keep command."
        ))
        .hint("keep the full backup that it builds on"));
    }
    if server.catalog().marked()?.contains(&id) {
        return Err(CommandError::new(format!("Cannot add keep to backup {id}: its deletion has begun"))
            .hint(format!("finish it with: barkeep delete {} {id}", server.name())));
    }
    server.catalog().keep(id, &kept(context, target, args)?)?;
    Ok(())
}

fn kept(context: &Context, target: KeepTarget, args: &KeepArgs) -> Result<Kept, CommandError> {
    let now = context.now();
    let until = match &args.until {
        None => None,
        Some(text) => {
            let until = read_moment(text, now, &TimeZone::system())
                .map_err(|error| CommandError::because("--until", &error))?;
            if until <= now {
                return Err(CommandError::new(format!("--until {text}: that is past"))
                    .hint("to keep it no longer, use --release"));
            }
            Some(until)
        }
    };
    if args.note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        return Err(CommandError::new(format!("--note is longer than {NOTE_BYTES_MAX} bytes")));
    }
    let keep = match target {
        KeepTarget::Full => Keep::Full,
        KeepTarget::Standalone => Keep::Standalone,
    };
    Ok(Kept { keep, until, note: args.note.clone() })
}

/// Nobody may delete the backup meanwhile.
fn lock(server: &ServerContext, id: BackupId) -> Result<ServerLock, CommandError> {
    match ServerLock::try_acquire(&server.layout(), Task::OneBackup(id)) {
        Err(LockError::Held { .. }) => Err(CommandError::new(format!(
            "Another process is at work on backup {id} of server {}",
            server.name()
        ))
        .hint("perhaps it is being deleted; try again")),
        outcome => Ok(outcome?),
    }
}

struct KeepStatus<'a> {
    server: &'a str,
    kept: Option<Kept>,
}

impl KeepStatus<'_> {
    /// Code, description and text of each line.
    fn lines(&self) -> Vec<(&'static str, &'static str, String)> {
        let word = self.kept.as_ref().map_or("nokeep", |kept| kept.keep.as_str());
        let mut lines = vec![("keep_status", "Keep", word.to_owned())];
        if let Some(kept) = &self.kept {
            lines.extend(kept.until.map(|until| ("keep_until", "Until", until.to_string())));
            lines.extend(kept.note.clone().map(|note| ("keep_note", "Note", note)));
        }
        lines
    }
}

impl Report for KeepStatus<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let line = |(code, description, message)| {
            (String::from(code), json!({ "description": description, "message": message }))
        };
        Value::Object(self.lines().into_iter().map(line).collect::<Map<_, _>>())
    }

    fn console(&self, _: Style) -> String {
        let lines =
            self.lines().into_iter().map(|(_, description, text)| format!("\t{description}: {text}\n"));
        format!("Server {}:\n{}", self.server, lines.collect::<String>())
    }
}
