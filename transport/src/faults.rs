//! Making storage fail on purpose, for tests of what a crash or a broken disk leaves behind.
//!
//! Only in this crate's own tests and under the feature `faults`. Every step that [`durable`](crate::durable) is
//! about to take below a watched directory is counted and noted; from the chosen one on, each fails. "From that one
//! on" is what makes it a crash: a process that died does not tidy up either.
//!
//! ```no_run
//! # #[cfg(feature = "faults")] fn example(root: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! use barkeep_transport::{durable, faults::Faults};
//! for step in 0.. {
//!     let faults = Faults::crash_at(root, step);
//!     let outcome = durable::write(&root.join("state"), b"new");
//!     if faults.finish().len() <= step {
//!         outcome?;
//!         break; // Every step has failed once by now.
//!     }
//! }
//! # Ok(()) }
//! ```

mod host;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::durable::Step;

pub use host::FaultyHost;

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Watched {
    root: PathBuf,
    fail_from: usize,
    once: bool,
    steps: Vec<(Step, PathBuf)>,
}

/// A watch over a directory; it ends with [`finish`](Faults::finish) or when dropped.
#[derive(Debug)]
pub struct Faults {
    root: PathBuf,
}

impl Faults {
    /// Lets every step below `root` pass and only notes them.
    pub fn trace(root: &Path) -> Self {
        Self::watch(root, usize::MAX, false)
    }

    /// Fails the step numbered `step` (from 0) and every one after it, below `root`.
    pub fn crash_at(root: &Path, step: usize) -> Self {
        Self::watch(root, step, false)
    }

    /// Fails only the step numbered `step` (from 0) below `root`; what comes after it works again.
    pub fn fail_once_at(root: &Path, step: usize) -> Self {
        Self::watch(root, step, true)
    }

    fn watch(root: &Path, fail_from: usize, once: bool) -> Self {
        let watched = Watched { root: root.to_owned(), fail_from, once, steps: Vec::new() };
        WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        Faults { root: root.to_owned() }
    }

    /// Ends the watch: the steps that were tried, in order, failed ones included.
    pub fn finish(self) -> Vec<(Step, PathBuf)> {
        self.end()
    }

    fn end(&self) -> Vec<(Step, PathBuf)> {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        match watched.iter().position(|one| one.root == self.root) {
            Some(index) => watched.remove(index).steps,
            None => Vec::new(),
        }
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn check(step: Step, path: &Path) -> io::Result<()> {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    for one in watched.iter_mut().filter(|one| path.starts_with(&one.root)) {
        let number = one.steps.len();
        one.steps.push((step, path.to_owned()));
        let fails = if one.once { number == one.fail_from } else { number >= one.fail_from };
        if fails {
            return Err(io::Error::other(format!("injected fault at step {number} ({step})")));
        }
    }
    Ok(())
}
