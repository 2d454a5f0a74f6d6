//! The backups of the daemon: a process for each that is due.

use std::collections::BTreeMap;
use std::process::Child;

use jiff::Zoned;
use rustix::process::{Pid, Signal, kill_process};

use super::Schedule;
use crate::command::cron::Launcher;
use crate::context::ServerContext;

#[derive(Debug, Default)]
pub(super) struct Backups {
    /// When the next backup of each server is due.
    plans: BTreeMap<String, Plan>,
    running: Vec<(String, Child)>,
}

#[derive(Debug)]
struct Plan {
    schedule: Schedule,
    next: Option<Zoned>,
}

impl Backups {
    /// Goes by the schedules of these servers from now on.
    pub(super) fn plan(&mut self, servers: &[ServerContext], now: &Zoned) {
        self.plans.clear();
        for server in servers.iter().filter(|server| server.config.active() && !server.config.passive()) {
            let Some(text) = server.config.backup_schedule() else { continue };
            match text.parse::<Schedule>() {
                Ok(schedule) => {
                    let next = schedule.next_after(now);
                    self.plans.insert(server.name().to_owned(), Plan { schedule, next });
                }
                Err(error) => server
                    .output
                    .error(format!("backup_schedule of server {}: {error}: it has no effect", server.name())),
            }
        }
    }

    /// Starts what is due, and takes note of what has ended.
    pub(super) fn look(&mut self, servers: &[ServerContext], launcher: &Launcher, now: &Zoned) {
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
            let Some(plan) = self.plans.get_mut(server.name()) else { continue };
            if plan.next.as_ref().is_none_or(|next| next > now) {
                continue;
            }
            plan.next = plan.schedule.next_after(now);
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
