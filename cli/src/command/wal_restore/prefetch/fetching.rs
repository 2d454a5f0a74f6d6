//! Fetching: what is asked for, and what recovery will ask for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use pgwal::history::MAX_HISTORY_BYTES;
use pgwal::seam::LooseEnd;
use pgwal::{History, SegmentName, SegmentSize, WalFile};
use rustix::fs::FallocateFlags;

use super::Prefetcher;
use super::state::{FEW, Flight, State, Task, WAIT_MAX};
use crate::command::wal_restore::check::Verdict;
use crate::command::wal_restore::memory;
use crate::command::wal_restore::plan::depth;
use crate::command::wal_restore::seam::{self, Seam};
use crate::command::wal_restore::served::Courier;
use crate::command::wal_restore::source::{FetchError, Source};
use crate::command::wal_restore::spool::{Answer, Spool};
use crate::command::wal_restore::{Checked, Looked};

/// How much farther the thread steps back that fetches while enough lies ready.
const PATIENT_NICENESS: i32 = 14;
/// How long it takes about to let memory go.
const LETTING_GO: Duration = Duration::from_millis(1);
/// How long the server may take to give a segment that it was handed its name.
const HANDING_OVER: Duration = Duration::from_secs(1);

/// A sound file that is here.
#[derive(Debug)]
struct Fetched {
    bytes: u64,
    /// How a segment ends, if a record goes on in the next one.
    end: Option<LooseEnd>,
    records: u32,
}

impl Prefetcher {
    pub(super) fn fetch_for_ever(&self, number: u32) {
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
                    Task::Fetch(file) => break file,
                    Task::LetGo(passed) => {
                        drop(state);
                        self.let_go_of(passed);
                        state = self.state();
                    }
                    Task::KeepStill(left) => {
                        let waited = self.changed.wait_timeout(state, left);
                        state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                    Task::None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let name = file.to_string();
            let since = Instant::now();
            state.in_flight.insert(name.clone(), Flight { since, patient, held: false });
            drop(state);

            let fetched = self.fetch(file, &part, &mut courier, patient.then_some(since));
            let took = since.elapsed();
            let fetched = fetched.and_then(|fetched| match file {
                WalFile::Segment(segment) => self.join(segment, fetched, &part),
                _ => Ok(fetched.bytes),
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

    /// What a fetching thread does next.
    pub(super) fn choose(&self, state: &mut State, patient: bool) -> Task {
        if !patient && let Some(file) = state.demanded.pop_front() {
            return Task::Fetch(file);
        }
        let expected = self.expected(state, patient);
        let needed = if state.passed.is_empty() { state.pace.copying() } else { LETTING_GO };
        let has_work = expected.is_some() || !state.passed.is_empty();
        if let (true, Some(left)) = (patient && has_work, state.stillness_left(self.to_spare(state, needed)))
        {
            return Task::KeepStill(left);
        }
        if (patient || !self.is_shared())
            && let Some(passed) = state.passed.pop_front()
        {
            return Task::LetGo(passed);
        }
        expected.map_or(Task::None, Task::Fetch)
    }

    /// How long must be left until the next question for what takes as long as `needed`: with less than half of what is to lie ready,
    /// it is done between any two questions.
    fn to_spare(&self, state: &State, needed: Duration) -> Duration {
        let depth = state.plan.size.map(|size| depth(self.limits.bytes, size));
        if depth.is_some_and(|depth| state.ready.len() * 2 >= depth) { needed } else { Duration::ZERO }
    }

    /// The first segment that recovery will come to and that is not at hand, when it is to be fetched now.
    fn expected(&self, state: &State, patient: bool) -> Option<WalFile> {
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
        patient_since: Option<Instant>,
    ) -> Result<Fetched, Answer> {
        let begun = Instant::now();
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
        let Looked { sink, verdict: Verdict::Sound, end, records } = checked.finish() else {
            return Err(Answer::Direct);
        };
        if let Some(since) = patient_since {
            self.state().pace.copied(begun.elapsed());
            self.hold(file, since);
        }
        let begun = Instant::now();
        // PostgreSQL brings each segment to stable storage before it replays it: here that keeps nobody waiting. It would not hear
        // of a failure that was told here.
        sink.sync_data().map_err(|_| Answer::Direct)?;
        self.state().pace.synced(begun.elapsed());
        Ok(Fetched { bytes, end, records })
    }

    /// Waits until the server will not need the disk for as long as this will: if that can't be told, for a question since `since`,
    /// and until what it asked for is on stable storage.
    pub(super) fn hold(&self, file: WalFile, since: Instant) {
        let name = file.to_string();
        let begun = Instant::now();
        let mut state = self.state();
        while !state.ended && state.ready.len() >= FEW {
            let needed = self.to_spare(&state, state.pace.syncing());
            let is_served = state.last_question.is_some_and(|asked| asked >= since);
            let left = if is_served || state.is_time_for(needed) {
                state.stillness_left(needed)
            } else {
                // A server that asks seldom is as well served now.
                WAIT_MAX.checked_sub(begun.elapsed())
            };
            let Some(left) = left else { break };
            state.set_held(&name, true);
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.set_held(&name, false);
    }

    /// Lets the memory go that holds a segment that recovery has passed.
    pub(super) fn let_go_of(&self, passed: SegmentName) {
        if let Some(recovery) = &self.recovery {
            memory::let_go_of_path(&recovery.wal_directory().join(passed.to_string()));
        }
    }

    /// Makes sure that a segment begins with the rest of the record that the one before it ends with, and notes how it ends itself.
    fn join(&self, segment: SegmentName, fetched: Fetched, part: &Path) -> Result<u64, Answer> {
        let Fetched { bytes, mut end, records } = fetched;
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
            state.records.retain(|known, _| *known >= behind);
        }
        state.ends.insert(segment, end);
        state.records.insert(segment, records);
        Ok(bytes)
    }

    /// How the segment before `segment` ends: if it is being fetched, that is waited for; if the server got it without the
    /// prefetcher, it has it in its `pg_wal`, or is about to. When it has not in time, the call that asks for `segment` will tell.
    pub(super) fn end_of(
        &self,
        before: SegmentName,
        segment: SegmentName,
    ) -> Result<Option<LooseEnd>, Answer> {
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

fn read_history(spool: &Spool, timeline: pgwal::TimelineId) -> Option<History> {
    let file = File::open(spool.path().join(WalFile::History(timeline).to_string())).ok()?;
    let mut text = Vec::new();
    file.take(MAX_HISTORY_BYTES as u64 + 1).read_to_end(&mut text).ok()?;
    History::parse(timeline, &text).ok()
}
