//! Work on the files of a batch, by several threads.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use pgwal::WalFile;

use super::ArchiveOptions;
use super::chain::Chain;
use super::found::Found;
use super::look::Scratch;
use super::place::{self, Job, PrepareError, Prepared, Work};
use crate::inspect::Cluster;
use crate::{IndexStore, Layout};

/// Most threads that compress at once.
const WORKERS_MAX: usize = 16;
/// How many threads wait for fsyncs at once: the disk takes several at a time.
const SYNCERS: usize = 4;

/// A file that is prepared, or why it can't be, and what that rests on.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) found: Found,
    pub(super) outcome: Result<Prepared, PrepareError>,
}

impl Ready {
    fn synced(mut self) -> Self {
        if let Ok(prepared) = &mut self.outcome
            && let Err(error) = prepared.sync()
        {
            self.outcome = Err(error.into());
        }
        self
    }
}

/// Prepares all files at once, with as many threads as are worth it; the results are in the order of the jobs.
pub(super) fn prepare_all(
    jobs: &[Job],
    layout: &Layout,
    options: &ArchiveOptions,
    cluster: Option<Cluster>,
    store: &IndexStore,
) -> Vec<Ready> {
    let segments = jobs.iter().map(|job| match job.file {
        WalFile::Segment(segment) => Some(segment),
        _ => None,
    });
    let work = Work { layout, options, cluster, chain: Chain::new(layout, store, segments.collect()) };
    let prepare = |place: usize, scratch: &mut Scratch| {
        let found = Found::of(&jobs[place], layout);
        let outcome = place::prepare(&jobs[place], place, &work, scratch);
        work.chain.post(place, None);
        Ready { found, outcome }
    };
    if jobs.len() == 1 {
        return vec![prepare(0, &mut Scratch::default()).synced()];
    }
    // Threads that compress hand on to threads that wait for the disk.
    let (to_sync, syncing) = mpsc::channel();
    let syncing = Mutex::new(syncing);
    let synced = Mutex::new(Vec::with_capacity(jobs.len()));
    std::thread::scope(|scope| {
        for _ in 0..SYNCERS.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let next = syncing.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((place, ready)): Result<(usize, Ready), _> = next else { return };
                    let ready = (place, ready.synced());
                    synced.lock().unwrap_or_else(PoisonError::into_inner).push(ready);
                }
            });
        }
        let handed_on = each_of(jobs.len(), options.workers, |place, scratch| {
            // The receiver lives as long as this scope.
            let _ = to_sync.send((place, prepare(place, scratch)));
        });
        drop((to_sync, handed_on));
    });
    let mut synced: Vec<(usize, _)> = synced.into_inner().unwrap_or_else(PoisonError::into_inner);
    synced.sort_by_key(|(place, _)| *place);
    synced.into_iter().map(|(_, ready)| ready).collect()
}

/// Does `work` for each place from 0 to `count`, with as many threads as are worth it, which take the places in order; the
/// results are in that order too.
pub(super) fn each_of<T: Send>(
    count: usize,
    workers: Option<NonZeroUsize>,
    work: impl Fn(usize, &mut Scratch) -> T + Sync,
) -> Vec<T> {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = workers.unwrap_or_else(processors).get().min(WORKERS_MAX).min(count);
    if workers <= 1 {
        let mut scratch = Scratch::default();
        return (0..count).map(|place| work(place, &mut scratch)).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut scratch = Scratch::default();
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return;
                    }
                    let result = work(place, &mut scratch);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((place, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}
