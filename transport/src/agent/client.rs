//! The side that wants the files.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::{Frame, FrameKind, FrameOutput, read_frame};
use super::greeting::{FrameCompression, answer};
use super::message::{self, ReadPart, Request};
use super::order::TreeOrder;
use super::wire::{Decoder, Encoder, Malformed};
use super::{CREDIT_BYTES, FRAME_BYTES_MAX, PART_BYTES_MIN, PING_AFTER, REQUESTS_MAX, SILENCE_MAX};
use crate::host::{
    Access, Change, Entry, HashJob, Hashed, Host, HostError, ReadJob, ReadOptions, ReadSink, Root,
};

/// Requests are split so that each stays below this, in bytes.
const REQUEST_BYTES: usize = 512 << 10;

/// How to speak with an agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct AgentOptions {
    /// How what is sent is compressed, both ways.
    pub compression: FrameCompression,
}

/// The files of the machine at the other end of a pair of streams.
///
/// Dropped, it closes its stream, upon which the agent ends.
pub struct AgentHost {
    connection: Arc<Connection>,
}

type Output = Box<dyn Write + Send>;

/// A stream that can be closed while others still know of it.
struct Closable(Option<Output>);

struct Connection {
    output: FrameOutput<Closable>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: HashMap<u32, Waiting>,
    next: u32,
    /// Why nothing works any more.
    broken: Option<Broken>,
    heard: Instant,
    pinged: bool,
    /// Pings that were not answered yet.
    pongs_due: u32,
    closed: bool,
}

/// A request that waits for its answer.
struct Waiting {
    frames: Sender<Frame>,
    /// How much the agent may still send for it, in bytes.
    credit: u64,
}

#[derive(Debug, Clone)]
struct Broken {
    reason: String,
    protocol: bool,
}

impl Broken {
    fn error(&self) -> HostError {
        match self.protocol {
            true => HostError::Protocol(self.reason.clone()),
            false => HostError::Lost(self.reason.clone()),
        }
    }
}

impl fmt::Debug for AgentHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentHost").finish_non_exhaustive()
    }
}

impl AgentHost {
    /// Greets the agent at the other end of `input` and `output`.
    ///
    /// # Errors
    /// When no agent answers, or none that speaks a version known here.
    pub fn connect(
        mut input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        options: AgentOptions,
    ) -> Result<Self, HostError> {
        let mut output: Output = Box::new(output);
        let compression = options.compression;
        answer(&mut input, &mut output, compression).map_err(|error| HostError::Lost(error.to_string()))?;
        let connection = Arc::new(Connection {
            output: FrameOutput::new(Closable(Some(output)), compression),
            state: Mutex::new(State {
                waiting: HashMap::new(),
                next: 0,
                broken: None,
                heard: Instant::now(),
                pinged: false,
                pongs_due: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            spawned.map_err(|error| HostError::Lost(format!("no thread for it: {error}")))
        };
        let reader = Arc::clone(&connection);
        spawn(
            "agent-reader",
            Box::new(move || reader.read_all(io::BufReader::with_capacity(1 << 18, input))),
        )?;
        let watcher = Arc::clone(&connection);
        spawn("agent-watcher", Box::new(move || watcher.watch(PING_AFTER, SILENCE_MAX)))?;
        Ok(AgentHost { connection })
    }

    /// One request with an answer that fits into a frame, made of what `decode` takes and nothing else.
    fn ask<T>(
        &self,
        request: &Request<'_>,
        decode: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
    ) -> Result<T, HostError> {
        let mut call = self.connection.call(request)?;
        let mut answer = Vec::new();
        while let Some(part) = call.next()? {
            if answer.len() + part.len() > FRAME_BYTES_MAX {
                return Err(call.malformed());
            }
            answer.extend_from_slice(&part);
        }
        let mut input = Decoder::new(&answer);
        let decoded = decode(&mut input).and_then(|decoded| input.end().map(|()| decoded));
        decoded.map_err(|_| call.malformed())
    }
}

impl Drop for AgentHost {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.closed = true;
        self.connection.changed.notify_all();
        drop(state);
        self.connection.output.with(|output| drop(output.0.take()));
    }
}

impl Write for Closable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.flush()
    }
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands frames to those who wait for them, until the stream ends.
    fn read_all(&self, mut input: impl Read) {
        let broken = loop {
            match read_frame(&mut input) {
                Ok(Some(frame)) => {
                    if let Err(reason) = self.hand_on(frame) {
                        break Broken { reason: reason.to_owned(), protocol: true };
                    }
                }
                Ok(None) => break Broken { reason: "the agent has ended".to_owned(), protocol: false },
                Err(error) => {
                    let protocol = error.kind() == io::ErrorKind::InvalidData;
                    break Broken { reason: error.to_string(), protocol };
                }
            }
        };
        self.fail(broken);
    }

    /// Gives a frame to who waits for it; no more than was given credit for, so that nobody's memory fills up.
    fn hand_on(&self, frame: Frame) -> Result<(), &'static str> {
        let mut state = self.lock();
        state.heard = Instant::now();
        state.pinged = false;
        match frame.kind {
            FrameKind::Pong => {
                state.pongs_due = state.pongs_due.checked_sub(1).ok_or("an answer to no question")?;
                Ok(())
            }
            FrameKind::Part => {
                let waiting = state.waiting.get_mut(&frame.request).ok_or("an answer to nothing")?;
                let counted = PART_BYTES_MIN.max(frame.payload.len() as u64);
                let left = waiting.credit.checked_sub(counted);
                waiting.credit = left.ok_or("more than there was credit for")?;
                // One that waits no more is about to cancel its request.
                let _ = waiting.frames.send(frame);
                Ok(())
            }
            FrameKind::Done | FrameKind::Failed => {
                let waiting = state.waiting.remove(&frame.request).ok_or("an answer to nothing")?;
                let _ = waiting.frames.send(frame);
                self.changed.notify_all();
                Ok(())
            }
            _ => Err("a frame that only clients send"),
        }
    }

    fn give_credit(&self, number: u32, bytes: u32) -> io::Result<()> {
        if let Some(waiting) = self.lock().waiting.get_mut(&number) {
            waiting.credit = waiting.credit.saturating_add(bytes.into());
        }
        let mut credit = Encoder::default();
        credit.u32(bytes);
        self.output.send(FrameKind::Credit, number, &credit.0)
    }

    fn fail(&self, broken: Broken) -> HostError {
        let mut state = self.lock();
        let first = state.broken.get_or_insert(broken).clone();
        // Without senders the waiting ends.
        state.waiting.clear();
        self.changed.notify_all();
        drop(state);
        first.error()
    }

    /// Asks for a sign of life when nothing was heard for a while, and gives up when none comes.
    fn watch(&self, ping_after: Duration, silence_max: Duration) {
        let mut state = self.lock();
        while !state.closed && state.broken.is_none() {
            let silence = state.heard.elapsed();
            if silence >= silence_max {
                drop(state);
                let reason = format!("nothing came for {} seconds", silence.as_secs());
                self.fail(Broken { reason, protocol: false });
                return;
            }
            if silence >= ping_after && !state.pinged {
                state.pinged = true;
                state.pongs_due += 1;
                drop(state);
                // A connection that can't be written to fails by its silence.
                let _ = self.output.send(FrameKind::Ping, u32::MAX, &[]);
                state = self.lock();
                continue;
            }
            let pause = if silence < ping_after { ping_after - silence } else { Duration::from_secs(1) };
            state = match self.changed.wait_timeout(state, pause) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Sends a request, once there is room for one.
    fn call(&self, request: &Request<'_>) -> Result<Call<'_>, HostError> {
        let payload = request.encode();
        if payload.len() > FRAME_BYTES_MAX {
            return Err(HostError::Refused("a request that is too long".to_owned()));
        }
        let (sender, frames) = channel();
        let mut state = self.lock();
        let number = loop {
            if let Some(broken) = &state.broken {
                return Err(broken.error());
            }
            if state.waiting.len() < REQUESTS_MAX {
                state.next = (state.next + 1) % (u32::MAX - 1);
                let number = state.next;
                let credit = CREDIT_BYTES.into();
                state.waiting.insert(number, Waiting { frames: sender, credit });
                break number;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let call = Call { connection: self, number, frames, ended: false, taken: 0 };
        match self.output.send(FrameKind::Request, number, &payload) {
            Ok(()) => Ok(call),
            Err(error) => Err(self.fail(Broken { reason: error.to_string(), protocol: false })),
        }
    }
}

/// A request under way. Dropped before its end, it is cancelled.
struct Call<'a> {
    connection: &'a Connection,
    number: u32,
    frames: Receiver<Frame>,
    ended: bool,
    /// Bytes taken for which no credit was given yet.
    taken: u32,
}

impl Call<'_> {
    /// The next part of the answer, `None` after the last.
    fn next(&mut self) -> Result<Option<Vec<u8>>, HostError> {
        if self.ended {
            return Ok(None);
        }
        if self.taken >= CREDIT_BYTES / 4 {
            let taken = std::mem::take(&mut self.taken);
            if let Err(error) = self.connection.give_credit(self.number, taken) {
                return Err(self.connection.fail(Broken { reason: error.to_string(), protocol: false }));
            }
        }
        let Ok(frame) = self.frames.recv() else {
            self.ended = true;
            let lost = Broken { reason: "the connection has ended".to_owned(), protocol: false };
            return Err(self.connection.lock().broken.clone().unwrap_or(lost).error());
        };
        match frame.kind {
            FrameKind::Part => {
                self.taken = self.taken.saturating_add(frame.payload.len() as u32);
                Ok(Some(frame.payload))
            }
            FrameKind::Done => {
                self.ended = true;
                Ok(Some(frame.payload))
            }
            FrameKind::Failed => {
                self.ended = true;
                Err(decode_failure(&frame.payload).unwrap_or_else(|_| self.malformed()))
            }
            _ => Err(self.malformed()),
        }
    }

    /// What came makes no sense: nothing that follows can be trusted.
    fn malformed(&self) -> HostError {
        let broken = Broken { reason: "a malformed answer".to_owned(), protocol: true };
        // The agent may have ended meanwhile: that is not what was wrong.
        self.connection.fail(broken.clone());
        broken.error()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The agent answers a cancelled request too, and its number is taken until then.
        let _ = self.connection.output.send(FrameKind::Cancel, self.number, &[]);
    }
}

fn decode_failure(payload: &[u8]) -> Result<HostError, Malformed> {
    let mut input = Decoder::new(payload);
    Ok(match input.u8()? {
        0 => HostError::Refused(input.words()?),
        1 => HostError::Protocol(input.words()?),
        2 => {
            let code = i32::try_from(input.u32()?).map_err(|_| Malformed)?;
            let path = input.path()?;
            let action = match input.text()?.as_str() {
                "list the directory" => "list the directory",
                "sync the file system of" => "sync the file system of",
                "look at" => "look at",
                _ => "open the directory",
            };
            HostError::Directory { action, path, source: io::Error::from_raw_os_error(code) }
        }
        _ => return Err(Malformed),
    })
}

impl Host for AgentHost {
    fn open(&self, path: &Path, access: Access) -> Result<Root, HostError> {
        self.ask(&Request::Open { path: path.to_owned(), access }, |input| input.u32().map(Root))
    }

    fn walk(
        &self,
        root: Root,
        closed: &[PathBuf],
        found: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), HostError> {
        let mut call = self.connection.call(&Request::Walk { root, closed: closed.to_vec() })?;
        // Names decide what is written where: they are judged here as well.
        let mut order = TreeOrder::new(closed);
        while let Some(part) = call.next()? {
            let mut input = Decoder::new(&part);
            while !input.is_empty() {
                let entry = message::decode_entry(&mut input).map_err(|_| call.malformed())?;
                order.take(&entry).map_err(|_| call.malformed())?;
                found(entry).map_err(HostError::Sink)?;
            }
        }
        Ok(())
    }

    fn read(
        &self,
        jobs: &[ReadJob],
        options: &ReadOptions,
        sink: &mut dyn ReadSink,
    ) -> Result<(), HostError> {
        let cost = |job: &ReadJob| {
            64 + job.path.as_os_str().len() + job.known.as_ref().map_or(0, |known| known.digests.len() * 16)
        };
        for range in split(jobs, cost) {
            let (first, jobs) = (range.start, &jobs[range]);
            let request = Request::Read { options: options.clone(), jobs: jobs.to_vec() };
            let mut call = self.connection.call(&request)?;
            let mut progress = Progress { jobs, first, index: 0, at: 0 };
            while let Some(part) = call.next()? {
                let mut input = Decoder::new(&part);
                while !input.is_empty() {
                    let part = message::decode_read_part(&mut input).map_err(|_| call.malformed())?;
                    progress.take(part, sink).map_err(|error| error.unwrap_or_else(|| call.malformed()))?;
                }
            }
            if progress.index < jobs.len() {
                return Err(call.malformed());
            }
        }
        Ok(())
    }

    fn hash(&self, jobs: &[HashJob]) -> Result<Vec<io::Result<Hashed>>, HostError> {
        let mut hashed = Vec::with_capacity(jobs.len());
        for range in split(jobs, |job| 64 + job.path.as_os_str().len()) {
            let jobs = &jobs[range];
            let mut call = self.connection.call(&Request::Hash { jobs: jobs.to_vec() })?;
            let mut left = jobs.iter();
            while let Some(part) = call.next()? {
                let mut input = Decoder::new(&part);
                while !input.is_empty() {
                    let outcome = message::decode_hashed(&mut input).map_err(|_| call.malformed())?;
                    let job = left.next().ok_or_else(|| call.malformed())?;
                    if outcome.as_ref().is_ok_and(|outcome| !fits(job, outcome)) {
                        return Err(call.malformed());
                    }
                    hashed.push(outcome);
                }
            }
            if left.next().is_some() {
                return Err(call.malformed());
            }
        }
        Ok(hashed)
    }

    fn change(&self, changes: &[Change]) -> Result<Vec<io::Result<()>>, HostError> {
        let cost = |change: &Change| match &change.action {
            crate::host::Action::Write { data, .. } => 4200 + data.len(),
            _ => 2 * change.path.as_os_str().len() + 4200,
        };
        let mut outcomes = Vec::with_capacity(changes.len());
        for range in split(changes, cost) {
            let changes = &changes[range];
            let request = Request::Change { changes: changes.into() };
            outcomes.extend(self.ask(&request, |input| {
                changes
                    .iter()
                    .map(|_| message::decode_outcome(input, |_| Ok(())))
                    .collect::<Result<Vec<_>, _>>()
            })?);
        }
        Ok(outcomes)
    }

    fn sync(&self, root: Root) -> Result<(), HostError> {
        self.ask(&Request::Sync { root }, |_| Ok(()))
    }

    fn free_bytes(&self, root: Root) -> Result<u64, HostError> {
        self.ask(&Request::FreeBytes { root }, |input| input.u64())
    }
}

/// Cuts a list so that each part makes a request of a decent size.
fn split<T>(items: &[T], cost: impl Fn(&T) -> usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0_usize);
    for (index, item) in items.iter().enumerate() {
        let cost = cost(item);
        if index > start && bytes.saturating_add(cost) > REQUEST_BYTES {
            ranges.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(cost);
    }
    if start < items.len() {
        ranges.push(start..items.len());
    }
    ranges
}

/// Whether digests can be those of the range that was asked for.
fn fits(job: &HashJob, hashed: &Hashed) -> bool {
    hashed.bytes <= job.length
        && hashed.digests.len() as u64 == hashed.bytes.div_ceil(u64::from(job.block_bytes.max(1)))
}

/// Checks that what comes is what was asked for: one job after the other, each range from its beginning, no gaps.
struct Progress<'a> {
    jobs: &'a [ReadJob],
    first: usize,
    index: usize,
    /// How much of the current range has come.
    at: u64,
}

impl Progress<'_> {
    /// `Err(None)` for what was not asked for.
    fn take(&mut self, part: ReadPart<'_>, sink: &mut dyn ReadSink) -> Result<(), Option<HostError>> {
        let job = self.jobs.get(self.index).ok_or(None)?;
        let number = match &part {
            ReadPart::Data { job, .. } | ReadPart::Same { job, .. } | ReadPart::End { job, .. } => *job,
        };
        if number as usize != self.index {
            return Err(None);
        }
        let start = self.at;
        let end_of = |offset: u64, length: u64| {
            let end = start.checked_add(length).filter(|end| *end <= job.length);
            end.filter(|_| job.offset.checked_add(start) == Some(offset)).ok_or(None)
        };
        let index = self.first + self.index;
        match part {
            ReadPart::Data { offset, bytes, .. } => {
                self.at = end_of(offset, bytes.len() as u64)?;
                sink.data(index, offset, bytes)
            }
            ReadPart::Same { offset, length, .. } => {
                self.at = end_of(offset, length)?;
                let known = job.known.as_ref().ok_or(None)?;
                let block = u64::from(known.block_bytes);
                if !start.is_multiple_of(block) || self.at.div_ceil(block) > known.digests.len() as u64 {
                    return Err(None);
                }
                sink.same(index, offset, length)
            }
            ReadPart::End { outcome, .. } => {
                if outcome.as_ref().is_ok_and(|end| end.bytes != self.at) {
                    return Err(None);
                }
                self.index += 1;
                self.at = 0;
                sink.end(index, outcome)
            }
        }
        .map_err(|error| Some(HostError::Sink(error)))
    }
}
