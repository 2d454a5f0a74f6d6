//! Jobs done by several threads from one queue, in order, until one fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does all jobs with at most `threads` threads, each with a state of its own (a buffer, say); the first failure stops
/// everyone. Work that takes long asks the flag it is given whether to stop.
pub(crate) fn run<J: Sync, S, E: Send>(
    jobs: &[J],
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &J, &AtomicBool) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    let run = || {
        let mut state = state();
        while !stop.load(Ordering::Relaxed) {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = work(&mut state, job, &stop) {
                stop.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(jobs.len()) {
            scope.spawn(run);
        }
        run();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 3, 100] {
            let done = Mutex::new(Vec::new());
            let jobs: Vec<u32> = (0..50).collect();
            run(
                &jobs,
                threads,
                || (),
                |(), job, _| {
                    done.lock().unwrap().push(*job);
                    Ok::<_, ()>(())
                },
            )
            .unwrap();
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            assert_eq!(done, jobs, "{threads}");
        }
    }

    #[test]
    fn the_first_failure_stops_everyone() {
        let done = AtomicUsize::new(0);
        let failed = run(
            &[1; 10_000],
            3,
            || (),
            |(), _, _| {
                if done.fetch_add(1, Ordering::Relaxed) == 5 { Err("five") } else { Ok(()) }
            },
        );
        assert_eq!(failed, Err("five"));
        assert!(done.into_inner() < 10_000);
    }
}
