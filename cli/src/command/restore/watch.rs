//! Carrying out a plan with somebody watching: progress, a speed limit, and an ear for signals.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pgbase::restore::{
    ExecuteOptions, Phase, RestoreError, RestoreEvent, RestoreObserver, RestorePlan, RestoreReport,
    execute as carry_out, execute_remote,
};

use super::remote::Remote;
use crate::command::signals;
use crate::context::Context;
use crate::error::CommandError;
use crate::output::{Output, Progress};

/// The longest nap between two looks at the signals.
const NAP: Duration = Duration::from_millis(200);

/// Carries out a plan. SIGINT, SIGTERM and SIGHUP make it stop and clean up, unless they
/// are ignored.
pub(super) fn execute(
    context: &mut Context,
    output: &Output,
    plan: &RestorePlan,
    options: ExecuteOptions,
    limit_kib: Option<u32>,
    remote: Option<Remote>,
) -> Result<Result<RestoreReport, RestoreError>, CommandError> {
    let watcher = Arc::new(Watcher::new(output.clone(), plan, limit_kib));
    let stop = Arc::clone(&watcher);
    let plan = plan.clone();
    let work = move || match remote {
        Some(remote) => {
            execute_remote(remote.host.host(), &plan, options.jobs, remote.staging.path(), &*watcher)
        }
        None => carry_out(&plan, options, &*watcher),
    };
    context.runtime()?.block_on(async {
        let ended = |result: Result<_, tokio::task::JoinError>| {
            result.map_err(|error| CommandError::because("the restore ended unexpectedly", &error))
        };
        let mut work = tokio::task::spawn_blocking(work);
        tokio::select! {
            result = &mut work => return ended(result),
            signal = signals::stop() => {
                signal.map_err(|error| CommandError::because("signals can't be awaited", &error))?;
                stop.cancel();
            }
        }
        ended(work.await)
    })
}

struct Watcher {
    output: Output,
    tablespaces: Vec<String>,
    copies_wal: bool,
    recovers: bool,
    progress: OnceLock<Progress>,
    cancelled: AtomicBool,
    limit: Option<f64>,
    copied: AtomicU64,
    started: OnceLock<Instant>,
}

impl Watcher {
    fn new(output: Output, plan: &RestorePlan, limit_kib: Option<u32>) -> Self {
        let tablespaces = plan.trees.iter().filter_map(|tree| {
            let (oid, name) = tree.tablespace.as_ref()?;
            Some(format!("\t{oid}, {name}, {}", tree.to.display()))
        });
        Watcher {
            output,
            tablespaces: tablespaces.collect(),
            copies_wal: !plan.wal.is_empty(),
            recovers: plan.settings.mode.signal_file().is_some(),
            progress: OnceLock::new(),
            cancelled: AtomicBool::new(false),
            limit: limit_kib.filter(|limit| *limit > 0).map(|limit| f64::from(limit) * 1024.0),
            copied: AtomicU64::new(0),
            started: OnceLock::new(),
        }
    }

    fn cancel(&self) {
        if !self.cancelled.swap(true, Ordering::Relaxed) {
            self.output.warning("Interrupted: ending the restore");
        }
    }

    fn phase(&self, phase: Phase) {
        match phase {
            Phase::Listing => {}
            Phase::Copying => {
                self.output.info("Copying the base backup.");
                for tablespace in &self.tablespaces {
                    self.output.info(tablespace);
                }
                if self.copies_wal {
                    self.output.info("Copying required WAL segments.");
                }
            }
            Phase::Configuring => {
                if let Some(progress) = self.progress.get() {
                    progress.finish();
                }
                if self.recovers {
                    self.output.info("Generating recovery configuration");
                }
                self.output.info("Identify dangerous settings in destination directory.");
            }
            Phase::Syncing => self.output.debug("Waiting until everything is on stable storage"),
        }
    }

    /// Waits while the copy is ahead of its allowance.
    fn hold_back(&self, bytes: u64) {
        let copied = self.copied.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (Some(limit), Some(started)) = (self.limit, self.started.get()) else { return };
        let due = Duration::try_from_secs_f64(copied as f64 / limit).unwrap_or_default();
        while !self.cancelled() {
            let early = due.saturating_sub(started.elapsed());
            if early.is_zero() {
                return;
            }
            std::thread::sleep(early.min(NAP));
        }
    }
}

impl RestoreObserver for Watcher {
    fn event(&self, event: RestoreEvent) {
        match event {
            RestoreEvent::Phase(phase) => self.phase(phase),
            RestoreEvent::Total { bytes, .. } => {
                self.started.get_or_init(Instant::now);
                self.progress.get_or_init(|| self.output.progress("Copying", Some(bytes)));
            }
            RestoreEvent::Copied { bytes } => {
                if let Some(progress) = self.progress.get() {
                    progress.advance(bytes);
                }
                self.hold_back(bytes);
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
