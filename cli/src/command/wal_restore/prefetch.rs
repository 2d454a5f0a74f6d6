//! The prefetcher: one process per recovery that keeps the next files ready, and ends by itself.
//!
//! Threads: one accepts calls and gives each a thread for its answer; some fetch, what was asked for before what is only
//! expected; one watches whether anybody still wants this. Where fetching takes processors from the server, one thread
//! that lets everything else go first does all of it, as long as enough lies ready. A prefetched segment is kept only
//! when it is sound: any other is left to the call that asks for it, which tells what is wrong with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pgwal::{SegmentSize, WalFile};

use self::state::State;
use super::plan::depth;
use super::recovery::Recovery;
use super::source::Source;
use super::spool::{Answer, SOCKET, Spool, short_path};

/// How far all of it steps back behind the server that replays: while that works, it has all of the processors that it can use;
/// while it waits for a segment, nobody is in the way.
const NICENESS: i32 = 5;
/// How much longer than twice the usual time a call waits for a file that the patient thread fetches.
const PATIENT_GRACE: Duration = Duration::from_millis(100);
/// How often it is looked whether the recovery goes on.
const WATCH_INTERVAL: Duration = Duration::from_millis(300);
/// After how long without a question it ends, beside a recovery that goes on: one segment may take long to replay.
const IDLE_IN_RECOVERY: Duration = Duration::from_secs(600);
/// And where there is no recovery to watch.
const IDLE_ELSEWHERE: Duration = Duration::from_secs(30);
/// How often somebody who waits is told that there is still somebody here.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long a question may take to arrive.
const QUESTION_PATIENCE: Duration = Duration::from_secs(5);
/// Longest question, in bytes.
const QUESTION_BYTES_MAX: u64 = 128;
/// How many questions are worked on at once; PostgreSQL asks one at a time.
const QUESTIONS_MAX: usize = 8;

/// How much is fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Files at once.
    pub(super) jobs: u32,
    /// Bytes kept ready and being fetched, together.
    pub(super) bytes: u64,
}

/// Serves a spool until nobody wants it any more; `first` is what the call that started this was asked for.
///
/// # Errors
/// When it can't begin. That another one serves the spool already is none.
pub(super) fn serve(
    spool: Spool,
    source: Source,
    first: WalFile,
    recovery: Option<Recovery>,
    limits: Limits,
) -> io::Result<()> {
    leave_group();
    let _ = rustix::process::nice(NICENESS);
    spool.make()?;
    let lock = OpenOptions::new().create(true).append(true).open(spool.path().join("lock"))?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    // Nothing that lies there is trusted: it may be of another time.
    empty(&spool);
    spool.own(recovery.as_ref().map_or(0, Recovery::postmaster))?;
    let directory = File::open(spool.path())?;
    let listener = UnixListener::bind(short_path(&directory, SOCKET))?;
    let mut state = State { last_question: Some(Instant::now()), ..State::default() };
    state.plan.size = SegmentSize::new(spool.segment_bytes());
    match first {
        WalFile::Segment(segment) => state.is_asked_for(segment, spool.called()),
        WalFile::History(_) => state.demanded.push_back(first),
        _ => {}
    }
    let system_id = recovery.as_ref().and_then(Recovery::system_id);
    let prefetcher = Arc::new(Prefetcher {
        spool,
        source,
        recovery,
        system_id,
        limits,
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    for number in 0..limits.jobs {
        let prefetcher = Arc::clone(&prefetcher);
        thread::Builder::new().name("fetch".to_owned()).spawn(move || prefetcher.fetch_for_ever(number))?;
    }
    let accepting = Arc::clone(&prefetcher);
    thread::Builder::new().name("answer".to_owned()).spawn(move || accepting.accept(&listener))?;
    prefetcher.watch();
    // The other threads end with the process.
    drop(lock);
    Ok(())
}

#[derive(Debug)]
struct Prefetcher {
    spool: Spool,
    source: Source,
    recovery: Option<Recovery>,
    system_id: Option<u64>,
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
}

impl Prefetcher {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nobody wants this any more, with everything tidied up.
    fn watch(&self) {
        let idle_max = if self.recovery.is_some() { IDLE_IN_RECOVERY } else { IDLE_ELSEWHERE };
        loop {
            thread::sleep(WATCH_INTERVAL);
            let goes_on = self.recovery.as_ref().is_none_or(Recovery::goes_on);
            let mut state = self.state();
            let idle = state.last_question.is_none_or(|at| at.elapsed() > idle_max) && state.questions == 0;
            if idle || !goes_on || state.ended || !self.spool.path().exists() {
                state.ended = true;
                // With the state locked, no fetch begins or ends now and no question is answered.
                empty(&self.spool);
                let _ = fs::remove_file(self.spool.path().join("lock"));
                let _ = fs::remove_dir(self.spool.path());
                return;
            }
        }
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let mut state = self.state();
            if state.ended || state.questions >= QUESTIONS_MAX {
                continue;
            }
            state.questions += 1;
            drop(state);
            let prefetcher = Arc::clone(self);
            let answering = thread::Builder::new().name("answer".to_owned()).spawn(move || {
                // Who has gone away gets no answer.
                let _ = prefetcher.answer(stream);
                prefetcher.state().questions -= 1;
            });
            if answering.is_err() {
                self.state().questions -= 1;
            }
        }
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(QUESTION_PATIENCE))?;
        stream.set_write_timeout(Some(QUESTION_PATIENCE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(QUESTION_BYTES_MAX)).read_line(&mut line)?;
        let mut words = line.trim_end().split(' ');
        let question = (words.next(), words.next().and_then(|name| name.parse::<WalFile>().ok()));
        let (Some("get"), Some(file)) = question else { return Ok(()) };
        let (postmaster, source) = (words.next(), words.next());
        let ours = self.recovery.as_ref().map_or(0, Recovery::postmaster);
        let is_ours = postmaster.is_some_and(|postmaster| postmaster.parse() == Ok(ours));
        let answer = if is_ours && source.is_none_or(|source| source == self.spool.source()) {
            self.demand(file, &mut stream)?
        } else {
            // The server was started again meanwhile, perhaps from another backup, or the configuration names another home now.
            self.state().ended = true;
            Answer::Direct
        };
        stream.write_all(format!("{}\n", answer.word()).as_bytes())
    }

    /// Waits until a file is ready or known not to come.
    fn demand(&self, file: WalFile, stream: &mut UnixStream) -> io::Result<Answer> {
        let name = file.to_string();
        let mut state = self.state();
        state.refused.clear();
        if let WalFile::Segment(segment) = file {
            state.is_asked_for(segment, SystemTime::now());
            self.drop_what_is_behind(&mut state, &name);
        }
        state.last_question = Some(Instant::now());
        if !state.ready.contains_key(&name) && !state.in_flight.contains_key(&name) {
            state.demanded.push_front(file);
        }
        self.changed.notify_all();
        let mut told = Instant::now();
        loop {
            if state.ended {
                return Ok(Answer::Direct);
            }
            if state.ready.remove(&name).is_some() {
                // Room for another.
                self.changed.notify_all();
                return Ok(Answer::Ready);
            }
            if let Some(answer) = state.refused.get(&name) {
                return Ok(*answer);
            }
            if !state.in_flight.contains_key(&name) && !state.demanded.contains(&file) {
                return Ok(Answer::Direct);
            }
            let mut patience = SIGN_OF_LIFE;
            if let Some(flight) = state.in_flight.get(&name).filter(|flight| flight.patient && !flight.held) {
                let enough = state.usual * 2 + PATIENT_GRACE;
                match enough.checked_sub(flight.since.elapsed()) {
                    // Others leave it no processor: who asks has a better claim to one.
                    None => return Ok(Answer::Direct),
                    Some(left) => patience = patience.min(left),
                }
            }
            let waited = self.changed.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if told.elapsed() >= SIGN_OF_LIFE {
                drop(state);
                stream.write_all(b"wait\n")?;
                told = Instant::now();
                state = self.state();
            }
        }
    }

    /// Forgets files that recovery has passed, or will not come to.
    fn drop_what_is_behind(&self, state: &mut State, asked_for: &str) {
        let Some(size) = state.plan.size else { return };
        let depth = depth(self.limits.bytes, size);
        let behind: Vec<String> = state
            .ready
            .keys()
            .filter(|name| name.as_str() != asked_for)
            .filter(|name| match name.parse() {
                Ok(WalFile::Segment(segment)) => !state.plan.has(segment, depth),
                _ => true,
            })
            .cloned()
            .collect();
        for name in behind {
            state.ready.remove(&name);
            let _ = fs::remove_file(self.spool.path().join(name));
        }
    }
}

/// Leaves the process group of the call that started this: its signals are not for the prefetcher. The session stays the server's:
/// where the system shares processors between sessions first (`sched_autogroup_enabled`), being nice has no effect across them.
fn leave_group() {
    // At a terminal that is given up too: a question for a password would wait there for ever.
    if File::open("/dev/tty").is_ok() {
        let _ = rustix::process::setsid();
    } else {
        let _ = rustix::process::setpgid(None, None);
    }
}

/// Removes everything but the lock.
fn empty(spool: &Spool) {
    let Ok(entries) = fs::read_dir(spool.path()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name() != "lock") {
        let _ = fs::remove_file(entry.path());
    }
}

mod fetching;
mod pace;
mod state;
#[cfg(test)]
mod tests;
