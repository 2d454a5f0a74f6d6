//! Drills by `drill_schedule`: started by cron or the daemon, whichever looks first when one is due.
//!
//! When it was looked last is kept, so that a drill that fell due while nobody looked is not left out, and none is
//! started twice.

use barkeep_transport::durable;
use jiff::{Timestamp, Zoned};
use serde_json::json;

use super::cron::Launcher;
use crate::context::ServerContext;
use crate::daemon::Schedule;
use crate::error::CommandError;

/// The version of the file's format.
const VERSION: u64 = 1;

/// Starts a drill if one is due. To be called under cron's lock.
///
/// # Errors
/// When the schedule is none, or storage fails.
pub(crate) fn start_if_due(server: &ServerContext, launcher: &Launcher) -> Result<(), CommandError> {
    let (name, config) = (server.name(), &server.config);
    let Some(text) = config.drill_schedule() else { return Ok(()) };
    let schedule: Schedule = text.parse().map_err(|error| {
        CommandError::because(format!("drill_schedule of server {name} has no effect"), &error)
    })?;
    let now = Zoned::now();
    let path = server.layout().private().join("drill-schedule.json");
    let looked = read(&std::fs::read(&path).unwrap_or_default(), text);
    let due = looked.and_then(|looked| schedule.next_after(&looked.to_zoned(now.time_zone().clone())));
    let is_due = due.as_ref().is_some_and(|due| *due <= now);
    if looked.is_some() && !is_due {
        return Ok(());
    }
    // First the note, then the deed: what can't be noted would be started every minute.
    let note = json!({"version": VERSION, "schedule": text, "looked": now.timestamp().to_string()});
    durable::create_dir_all(&server.layout().private())?;
    durable::write(&path, note.to_string().as_bytes())?;
    if is_due {
        server.output.info(format!("Starting the scheduled drill of server {name}"));
        let mut child = launcher.start(&["-q", "drill", name])?;
        let server = server.clone();
        // Somebody has to wait for it, for as long as this process lives; the drill goes on without.
        let wait = move || {
            if child.wait().is_ok_and(|status| !status.success()) {
                server.output.error(format!("The scheduled drill of server {} has failed", server.name()));
            }
        };
        let _ = std::thread::Builder::new().name("drill".to_owned()).spawn(wait);
    }
    Ok(())
}

/// When it was looked last by this schedule.
fn read(note: &[u8], schedule: &str) -> Option<Timestamp> {
    let note: serde_json::Value = serde_json::from_slice(note).ok()?;
    let known = note["version"] == VERSION && note["schedule"] == schedule;
    let looked: Timestamp = note["looked"].as_str().filter(|_| known)?.parse().ok()?;
    // A clock that was set back must not stop drills for years.
    (looked <= Timestamp::now()).then_some(looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_sound_notes_count() {
        let note = |schedule: &str, looked: &str| {
            json!({"version": 1, "schedule": schedule, "looked": looked}).to_string().into_bytes()
        };
        let looked = "2026-11-20T10:00:00Z";
        assert_eq!(read(&note("0 3 * * *", looked), "0 3 * * *"), looked.parse().ok());
        assert_eq!(read(&note("0 3 * * *", looked), "0 4 * * *"), None);
        assert_eq!(read(&note("0 3 * * *", "3026-11-20T10:00:00Z"), "0 3 * * *"), None);
        assert_eq!((read(b"", "x"), read(b"{\"version\":1", "x"), read(b"[]", "x")), (None, None, None));
    }
}
