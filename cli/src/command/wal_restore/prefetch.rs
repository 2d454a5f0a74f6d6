//! The prefetcher: one process per recovery that keeps the next files ready, and ends by itself.
//!
//! Threads: one accepts calls and gives each a thread for its answer; some fetch, what was asked for before what is only
//! expected; one watches whether anybody still wants this. Where fetching takes processors from the server, one thread
//! that lets everything else go first does all of it, as long as enough lies ready. A prefetched segment is kept only
//! when it is sound: any other is left to the call that asks for it, which tells what is wrong with it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pgwal::history::MAX_HISTORY_BYTES;
use pgwal::seam::LooseEnd;
use pgwal::{History, SegmentName, SegmentSize, WalFile};
use rustix::fs::FallocateFlags;

use super::check::Verdict;
use super::memory;
use super::plan::{Plan, depth};
use super::recovery::Recovery;
use super::seam::{self, Seam};
use super::served::Courier;
use super::source::{FetchError, Source};
use super::spool::{Answer, SOCKET, Spool, short_path};
use super::{Checked, Looked};

/// How far all of it steps back behind the server that replays: while that works, it has all of the processors that it can use;
/// while it waits for a segment, nobody is in the way.
const NICENESS: i32 = 5;
/// How much farther the thread steps back that fetches while enough lies ready.
const PATIENT_NICENESS: i32 = 14;
/// As long as fewer files than these lie ready, all threads fetch ahead.
const FEW: usize = 2;
/// How much longer than twice the usual time a call waits for a file that the patient thread fetches.
const PATIENT_GRACE: Duration = Duration::from_millis(100);
/// How often it is looked whether the recovery goes on.
const WATCH_INTERVAL: Duration = Duration::from_millis(300);
/// After how long without a question it ends, beside a recovery that goes on: one segment may take long to replay.
const IDLE_IN_RECOVERY: Duration = Duration::from_secs(600);
/// And where there is no recovery to watch.
const IDLE_ELSEWHERE: Duration = Duration::from_secs(30);
/// How long the server may take to give a segment that it was handed its name.
const HANDING_OVER: Duration = Duration::from_secs(1);
/// How many segments that were asked for are remembered.
const ASKED_MAX: usize = 8;
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

/// A file being fetched.
#[derive(Debug, Clone, Copy)]
struct Flight {
    since: Instant,
    /// By the thread that lets everything else go first.
    patient: bool,
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    /// What lies ready, with its size in bytes.
    ready: BTreeMap<String, u64>,
    in_flight: BTreeMap<String, Flight>,
    /// The longest that a thread that was not patient took to bring a file here.
    usual: Duration,
    /// Asked for, not begun.
    demanded: VecDeque<WalFile>,
    /// How segments that were fetched end, those that recovery has yet to come to and the one before.
    ends: BTreeMap<SegmentName, Option<LooseEnd>>,
    /// What can't be had, until something else is asked for.
    refused: BTreeMap<String, Answer>,
    last_question: Option<Instant>,
    /// When segments were asked for, by the clock of files; the latest [`ASKED_MAX`].
    asked: VecDeque<(SegmentName, SystemTime)>,
    questions: usize,
    /// Somebody of another recovery asked, or all is over.
    ended: bool,
}

impl State {
    fn is_asked_for(&mut self, segment: SegmentName, at: SystemTime) {
        self.plan.cursor = Some(segment);
        self.asked.push_back((segment, at));
        if self.asked.len() > ASKED_MAX {
            self.asked.pop_front();
        }
    }
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
        let told = stream.write_all(format!("{}\n", answer.word()).as_bytes());
        // Also where nobody waited for the answer.
        if let (WalFile::Segment(segment), true) = (file, is_ours) {
            self.let_go_behind(segment);
        }
        told
    }

    /// Lets the memory go that holds a segment that recovery has passed. The one directly before `segment` may still be needed:
    /// for a record that ends in this, and for standbys that are fed from here.
    fn let_go_behind(&self, segment: SegmentName) {
        let Some((recovery, size)) = self.recovery.as_ref().zip(self.state().plan.size) else { return };
        if let Some(passed) = segment.previous(size).and_then(|before| before.previous(size)) {
            memory::let_go_of_path(&recovery.wal_directory().join(passed.to_string()));
        }
    }

    /// Waits until a file is ready or known not to come.
    fn demand(&self, file: WalFile, stream: &mut UnixStream) -> io::Result<Answer> {
        let name = file.to_string();
        let mut state = self.state();
        state.last_question = Some(Instant::now());
        state.refused.clear();
        if let WalFile::Segment(segment) = file {
            state.is_asked_for(segment, SystemTime::now());
            self.drop_what_is_behind(&mut state, &name);
        }
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
            if let Some(flight) = state.in_flight.get(&name).filter(|flight| flight.patient) {
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

    fn fetch_for_ever(&self, number: u32) {
        let part = self.spool.path().join(format!("part-{number}"));
        let mut courier = Courier::new(&self.source);
        // A far end is waited for more than a processor.
        let patient = number == 0 && self.is_shared();
        if patient {
            let _ = rustix::process::nice(PATIENT_NICENESS);
        }
        loop {
            let mut state = self.state();
            let file = loop {
                if state.ended {
                    return;
                }
                match self.choose(&mut state, patient) {
                    Some(file) => break file,
                    None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let name = file.to_string();
            let since = Instant::now();
            state.in_flight.insert(name.clone(), Flight { since, patient });
            drop(state);

            let fetched = self.fetch(file, &part, &mut courier);
            let took = since.elapsed();
            let fetched = fetched.and_then(|(bytes, end)| match file {
                WalFile::Segment(segment) => self.join(segment, bytes, end, &part).map(|()| bytes),
                _ => Ok(bytes),
            });

            let mut state = self.state();
            state.in_flight.remove(&name);
            if state.ended {
                return;
            }
            if !patient && fetched.is_ok() {
                state.usual = state.usual.max(took);
            }
            match fetched {
                Ok(bytes) if fs::rename(&part, self.spool.path().join(&name)).is_ok() => {
                    if let (WalFile::Segment(_), None) = (file, state.plan.size) {
                        state.plan.size = SegmentSize::new(bytes);
                    }
                    if let WalFile::History(timeline) = file {
                        state.plan.history = read_history(&self.spool, timeline);
                    }
                    state.ready.insert(name, bytes);
                }
                Ok(_) => {
                    state.refused.insert(name, Answer::Direct);
                }
                Err(answer) => {
                    let _ = fs::remove_file(&part);
                    state.refused.insert(name, answer);
                }
            }
            self.changed.notify_all();
        }
    }

    /// Whether fetching takes processors from the server more than it waits for a far end.
    const fn is_shared(&self) -> bool {
        matches!(self.source, Source::Local(_))
    }

    /// What to fetch next: what is asked for, else the first segment that recovery will come to and that is not at hand.
    fn choose(&self, state: &mut State, patient: bool) -> Option<WalFile> {
        if !patient && let Some(file) = state.demanded.pop_front() {
            return Some(file);
        }
        let size = state.plan.size?;
        let depth = depth(self.limits.bytes, size);
        let at_hand = state.ready.len() + state.in_flight.len();
        let is_enough = !patient && self.is_shared() && state.ready.len() >= FEW;
        if at_hand >= depth || is_enough {
            return None;
        }
        for names in state.plan.next(depth) {
            let has = |name: &String| state.ready.contains_key(name) || state.in_flight.contains_key(name);
            let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
            if texts.iter().any(has) {
                continue;
            }
            let next = names.iter().zip(&texts).find(|(_, text)| !state.refused.contains_key(*text));
            // Where one is missing, recovery stops; there is no use in what comes behind.
            return next.map(|(segment, _)| WalFile::Segment(*segment));
        }
        None
    }

    /// Fetches a file: its size in bytes.
    fn fetch(
        &self,
        file: WalFile,
        part: &Path,
        courier: &mut Courier<'_>,
    ) -> Result<(u64, Option<LooseEnd>), Answer> {
        let create = || {
            // Locked: nothing appears in a directory that has been tidied up.
            let state = self.state();
            if state.ended {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let sink = OpenOptions::new().write(true).create(true).truncate(true).open(part)?;
            let size = state.plan.size;
            drop(state);
            if let (WalFile::Segment(_), Some(size)) = (file, size) {
                // With room set aside, others' fsyncs have less of this file to wait for. Where that can't be had, it goes without.
                let _ = rustix::fs::fallocate(&sink, FallocateFlags::KEEP_SIZE, 0, size.bytes());
            }
            Ok(Checked::new(sink, file, self.system_id))
        };
        let checked = courier.fetch(file, create).map_err(|error| match error {
            FetchError::Missing(_) => Answer::Missing,
            _ => Answer::Direct,
        })?;
        let bytes = checked.bytes;
        let Looked { sink: file, verdict: Verdict::Sound, end } = checked.finish() else {
            return Err(Answer::Direct);
        };
        // PostgreSQL brings each segment to stable storage before it replays it: here that keeps nobody waiting.
        let _ = file.sync_data();
        Ok((bytes, end))
    }

    /// Makes sure that a segment begins with the rest of the record that the one before it ends with, and notes how it ends itself.
    fn join(
        &self,
        segment: SegmentName,
        bytes: u64,
        mut end: Option<LooseEnd>,
        part: &Path,
    ) -> Result<(), Answer> {
        if let Some(before) = SegmentSize::new(bytes).and_then(|size| segment.previous(size))
            && let Some(open) = self.end_of(before, segment)?
        {
            let followed = File::open(part).and_then(|mut file| seam::follow(&open, segment, &mut file));
            match followed {
                Ok(Seam::Sound(filled)) => end = end.or(filled),
                _ => return Err(Answer::Direct),
            }
        }
        let mut state = self.state();
        let (cursor, size) = (state.plan.cursor, state.plan.size);
        if let Some(behind) = cursor.zip(size).and_then(|(cursor, size)| cursor.previous(size)) {
            state.ends.retain(|known, _| *known >= behind);
        }
        state.ends.insert(segment, end);
        Ok(())
    }

    /// How the segment before `segment` ends: if it is being fetched, that is waited for; if the server got it without the
    /// prefetcher, it has it in its `pg_wal`, or is about to. When it has not in time, the call that asks for `segment` will tell.
    fn end_of(&self, before: SegmentName, segment: SegmentName) -> Result<Option<LooseEnd>, Answer> {
        let name = before.to_string();
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(end) = state.ends.get(&before) {
                return Ok(end.clone());
            }
            let asked = state.asked.iter().rfind(|(asked, _)| *asked == before).map(|(_, at)| *at);
            if let Some(recovery) = &self.recovery {
                // Who asks for the next one has this one, whether this process has heard of it or not. Another one of that name may
                // be there from an earlier recovery until then.
                let is_used = state.plan.cursor == Some(segment);
                let path = recovery.wal_directory().join(&name);
                if is_used || asked.is_some_and(|asked| seam::was_renamed_since(&path, asked)) {
                    drop(state);
                    return Ok(seam::end_in_pg_wal(recovery, before));
                }
            }
            let is_to_come = asked.is_some() && self.recovery.is_some();
            if state.ended || is_to_come && begun.elapsed() >= HANDING_OVER {
                return Err(Answer::Direct);
            }
            if !is_to_come && !state.in_flight.contains_key(&name) {
                return Ok(None);
            }
            let waited = self.changed.wait_timeout(state, HANDING_OVER / 100);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
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

fn read_history(spool: &Spool, timeline: pgwal::TimelineId) -> Option<History> {
    let file = File::open(spool.path().join(WalFile::History(timeline).to_string())).ok()?;
    let mut text = Vec::new();
    file.take(MAX_HISTORY_BYTES as u64 + 1).read_to_end(&mut text).ok()?;
    History::parse(timeline, &text).ok()
}

/// Removes everything but the lock.
fn empty(spool: &Spool) {
    let Ok(entries) = fs::read_dir(spool.path()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name() != "lock") {
        let _ = fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests;
