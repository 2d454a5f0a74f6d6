//! The backups of the daemon: a process for each that is due.

use std::collections::BTreeMap;
use std::process::Child;

use jiff::Zoned;
use rustix::process::{Pid, Signal, kill_process};

use super::Schedule;
use crate::command::cron::Launcher;
use crate::context::ServerContext;
use crate::output::Output;

#[derive(Debug, Default)]
pub(super) struct Backups {
    /// When the next backup of each server is due.
    plans: BTreeMap<String, Plan>,
    running: Vec<(String, Child)>,
}

#[derive(Debug)]
struct Plan {
    /// As it is configured.
    text: String,
    /// `None` for a text that is no schedule, which has been told.
    schedule: Option<Schedule>,
    /// When `next` was worked out, by the clock of then.
    planned: Zoned,
    next: Option<Zoned>,
}

impl Plan {
    fn new(server: &str, text: &str, output: &Output, now: &Zoned) -> Self {
        let schedule = match text.parse::<Schedule>() {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                output.error(format!("backup_schedule of server {server}: {error}: it has no effect"));
                None
            }
        };
        let mut plan = Plan { text: text.to_owned(), schedule, planned: now.clone(), next: None };
        plan.plan_from(now);
        plan
    }

    fn plan_from(&mut self, now: &Zoned) {
        self.planned = now.clone();
        self.next = self.schedule.as_ref().and_then(|schedule| schedule.next_after(now));
    }

    /// Whether it is time; the next time is planned then.
    fn is_due(&mut self, now: &Zoned) -> bool {
        let due = self.next.as_ref().is_some_and(|next| next <= now);
        if due {
            self.plan_from(now);
        }
        due
    }
}

impl Backups {
    /// Goes by the schedules of these servers from now on. One that says the same as before stays as it is planned: a
    /// backup that has just fallen due is still due.
    pub(super) fn plan(&mut self, servers: &[ServerContext], now: &Zoned) {
        let active = |server: &&ServerContext| server.config.active() && !server.config.passive();
        let schedules = servers
            .iter()
            .filter(active)
            .filter_map(|server| Some((server, server.config.backup_schedule()?)))
            .map(|(server, text)| (server.name(), text, &server.output));
        self.plan_schedules(schedules, now);
    }

    fn plan_schedules<'a>(
        &mut self,
        schedules: impl Iterator<Item = (&'a str, &'a str, &'a Output)>,
        now: &Zoned,
    ) {
        let mut before = std::mem::take(&mut self.plans);
        for (name, text, output) in schedules {
            let same = before.remove(name).filter(|plan| plan.text == text);
            let mut plan = same.unwrap_or_else(|| Plan::new(name, text, output, now));
            // The clock was set back: what was next may be far away.
            if plan.planned > *now {
                plan.plan_from(now);
            }
            self.plans.insert(name.to_owned(), plan);
        }
    }

    /// Starts what is due and not `held` back for now, and takes note of what has ended.
    pub(super) fn look(
        &mut self,
        servers: &[ServerContext],
        launcher: &Launcher,
        now: &Zoned,
        held: impl Fn(&str) -> bool,
    ) {
        self.running.retain_mut(|(name, child)| match child.try_wait() {
            Ok(Some(status)) => {
                let told = servers.iter().find(|server| server.name() == name);
                if let (Some(server), false) = (told, status.success()) {
                    server
                        .output
                        .error(format!("The scheduled backup of server {name} has failed ({status})"));
                }
                false
            }
            _ => true,
        });
        for server in servers {
            let plan = self.plans.get_mut(server.name());
            if held(server.name()) || !plan.is_some_and(|plan| plan.is_due(now)) {
                continue;
            }
            server.output.info(format!("Starting the scheduled backup of server {}", server.name()));
            match launcher.start(&["backup", server.name()]) {
                Ok(child) => self.running.push((server.name().to_owned(), child)),
                Err(error) => server.output.error(error.to_string()),
            }
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn ask_to_stop(&mut self) {
        for (_, child) in &self.running {
            interrupt(child);
        }
    }

    pub(super) fn all_ended(&mut self) -> bool {
        self.running.retain_mut(|(_, child)| !child.try_wait().is_ok_and(|status| status.is_some()));
        self.running.is_empty()
    }
}

/// Asks a child to end. It has not been waited for, so the number is still its own.
pub(super) fn interrupt(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // One that has ended already needs no asking.
        let _ = kill_process(pid, Signal::INT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    fn at(time: &str) -> Zoned {
        format!("2026-11-26T{time}Z[UTC]").parse().unwrap()
    }

    /// Plans for the schedules of server `main` that are read at these times; whether a backup is due after the last.
    #[track_caller]
    fn check(read: &[(&str, &str)], now: &str, due: bool) {
        let (mut backups, output) = (Backups::default(), Output::new(Style::default()));
        for (time, schedule) in read {
            backups.plan_schedules([("main", *schedule, &output)].into_iter(), &at(time));
        }
        let plan = backups.plans.get_mut("main").unwrap();
        assert_eq!(plan.is_due(&at(now)), due, "{read:?} at {now}");
        assert!(!plan.is_due(&at(now)), "once it has begun, the next is due later");
    }

    #[test]
    fn a_backup_that_falls_due_as_the_configuration_is_read_again_is_taken() {
        let nightly = "30 23 * * * UTC";
        check(&[("23:29:59.2", nightly), ("23:30:00.2", nightly)], "23:30:00.2", true);
        check(&[("23:29:59.2", nightly)], "23:29:59.9", false);
        // Another schedule is gone by from when it is read.
        check(&[("23:29:59.2", nightly), ("23:30:00.2", "* * * * * UTC")], "23:30:00.2", false);
        check(&[("23:29:59.2", "tomorrow"), ("23:30:00.2", "tomorrow")], "23:31:00", false);
        // A clock that was ahead, and was set right.
        check(&[("23:45:00", nightly), ("20:00:00", nightly)], "23:30:00", true);
    }
}
