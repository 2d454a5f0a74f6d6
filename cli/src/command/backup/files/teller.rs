//! Tells people how the copy gets on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pgbase::file_backup::FileBackupObserver;

use crate::output::{Output, Progress};

/// Watches a copy from several threads, and stops it when it is told to.
pub(super) struct Teller {
    output: Output,
    progress: Progress,
    done: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Teller {
    pub(super) fn new(output: &Output, stop: Arc<AtomicBool>) -> Self {
        let progress = output.progress("Listing files", None);
        Teller { output: output.clone(), progress, done: AtomicU64::new(0), stop }
    }
}

impl FileBackupObserver for Teller {
    fn listed(&self, files: u64, bytes: u64) {
        self.output.debug(format!("{files} files are to be copied"));
        self.progress.set_label("Copying");
        self.progress.set_total(bytes);
    }

    fn copied(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.set_done(done);
    }

    fn warning(&self, message: &str) {
        self.output.warning(message);
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
