//! Whether backups are tried out, and pass: for servers with a `drill_schedule`.

use barkeep_catalog::drill::Drill;
use barkeep_catalog::seal::Sealed;
use jiff::{Timestamp, Zoned};

use super::Lines;
use crate::context::ServerContext;
use crate::daemon::Schedule;

/// The last drill with any backup: its result, its seal, and whether the one after it is overdue.
pub(super) fn lines(lines: &mut Lines, server: &ServerContext, now: Timestamp) {
    const NAME: &str = "drill";
    let Some(text) = server.config.drill_schedule() else { return };
    let name = server.name();
    let cure = format!("try a backup out, and see what it says: barkeep drill {name}");
    let catalog = server.catalog();
    let drills = catalog.backups().map(|backups| {
        let found = backups.iter().filter_map(|info| catalog.sealed_drill(info.id).ok().flatten());
        found.max_by_key(|(drill, _)| drill.at)
    });
    match (drills, text.parse::<Schedule>()) {
        (_, Err(error)) => lines.failed(NAME, error.to_string(), "correct drill_schedule"),
        (Err(error), _) => lines.failed(NAME, error.to_string(), cure),
        (Ok(None), _) => lines.failed(NAME, "no backup was ever tried out", cure),
        (Ok(Some((drill, sealed))), Ok(schedule)) => {
            let told = told(&drill);
            if sealed == Sealed::Broken {
                let cure = format!("somebody has changed the record: {cure}");
                lines.failed(NAME, format!("{told}, {}", sealed.words()), cure);
            } else {
                let overdue = is_overdue(&drill, &schedule, now);
                let hint = if overdue { format!("{told}, and none since") } else { told };
                lines.judge(NAME, drill.passed() && !overdue, hint, cure);
            }
        }
    }
}

fn told(drill: &Drill) -> String {
    let result = if drill.passed() { "passed" } else { "failed" };
    format!("backup {} {result} at {}", drill.id, drill.at.strftime("%Y-%m-%d %H:%M:%SZ"))
}

/// Whether even the second one after the last should have been by now.
fn is_overdue(drill: &Drill, schedule: &Schedule, now: Timestamp) -> bool {
    let zone = jiff::tz::TimeZone::system();
    let last: Zoned = drill.at.to_zoned(zone);
    let second = schedule.next_after(&last).and_then(|next| schedule.next_after(&next));
    second.is_some_and(|second| second.timestamp() < now)
}
