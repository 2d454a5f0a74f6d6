//! The side that has the files.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::frame::{Frame, FrameKind, FrameOutput, invalid, read_frame};
use super::greeting::{GreetingError, greet};
use super::message::{self, Request};
use super::wire::{Decoder, Encoder};
use super::{CREDIT_BYTES, REQUESTS_MAX, SEND_BYTES};
use crate::host::{Access, Files, HostError, Inspectors, Piece, ReadJob, ReadOptions, Root};

/// Buffer in front of the requests, in bytes.
const INPUT_BUFFER_BYTES: usize = 64 << 10;

/// What an agent may do.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    /// Directories that may be read, with all that is in them and all that links in them lead to.
    pub read: Vec<PathBuf>,
    /// Directories in which anything may be changed. No link is followed there.
    pub change: Vec<PathBuf>,
}

/// Why an agent ended, other than because its client went away.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The client did not introduce itself.
    #[error("no client: {0}")]
    Greeting(String),
    /// The connection failed, or what came is not the protocol.
    #[error("the connection failed: {0}")]
    Connection(#[source] io::Error),
    /// A thread couldn't be started.
    #[error("a thread couldn't be started: {0}")]
    Thread(#[source] io::Error),
}

/// Serves one client until it closes its stream. Then nothing is under way any more.
///
/// # Errors
/// When the client does not keep to the protocol, or the connection fails.
pub fn serve(
    mut input: impl Read,
    mut output: impl Write + Send,
    confinement: Confinement,
    inspectors: Inspectors,
) -> Result<(), AgentError> {
    let terms = greet(&mut input, &mut output).map_err(|error| match error {
        GreetingError::Io(error) => AgentError::Connection(error),
        other => AgentError::Greeting(other.to_string()),
    })?;
    let agent = Agent {
        files: Files::new(inspectors),
        confinement,
        output: FrameOutput::new(output, terms.compression),
        queue: Mutex::new(Queue::default()),
        work: Condvar::new(),
    };
    let mut input = io::BufReader::with_capacity(INPUT_BUFFER_BYTES, input);
    std::thread::scope(|scope| {
        let mut threads = 0;
        let outcome = loop {
            let frame = match read_frame(&mut input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(AgentError::Connection(error)),
            };
            match agent.take(frame) {
                Ok(idle) if idle == 0 && threads < REQUESTS_MAX => {
                    let started = std::thread::Builder::new()
                        .name("agent-worker".to_owned())
                        .spawn_scoped(scope, || agent.work());
                    match started {
                        Ok(_) => threads += 1,
                        Err(error) if threads == 0 => break Err(AgentError::Thread(error)),
                        Err(_) => {}
                    }
                }
                Ok(_) => {}
                Err(error) => break Err(AgentError::Connection(error)),
            }
        };
        agent.close();
        outcome
    })
}

struct Agent<W> {
    files: Files,
    confinement: Confinement,
    output: FrameOutput<W>,
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u32, Vec<u8>, Arc<Flow>)>,
    /// Requests that are waiting or being worked on.
    flows: HashMap<u32, Arc<Flow>>,
    /// Threads that wait for work.
    idle: usize,
    closed: bool,
}

/// How much may be sent for a request, and whether anything is still wanted.
#[derive(Debug)]
struct Flow {
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Flow {
    fn new() -> Self {
        Flow { state: Mutex::new((CREDIT_BYTES.into(), false)), changed: Condvar::new() }
    }

    fn add(&self, credit: u32) {
        let mut state = lock(&self.state);
        state.0 = state.0.saturating_add(credit.into()).min(CREDIT_BYTES.into());
        self.changed.notify_all();
    }

    fn cancel(&self) {
        lock(&self.state).1 = true;
        self.changed.notify_all();
    }

    fn cancelled(&self) -> bool {
        lock(&self.state).1
    }

    /// Waits until this much may be sent; false when nothing is wanted any more.
    fn wait(&self, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.1 {
                return false;
            }
            // A part may be larger than what is left of the credit, never larger than all of it.
            if let Some(left) = state.0.checked_sub(bytes as u64) {
                state.0 = left;
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why the answer to a request ends early.
enum Stop {
    /// Nothing more is wanted, or nobody is there to send it to.
    Unwanted,
    Failed(HostError),
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Self {
        Stop::Failed(error)
    }
}

impl<W: Write + Send> Agent<W> {
    /// Takes a frame; how many threads are idle for the work there is.
    fn take(&self, frame: Frame) -> io::Result<usize> {
        match frame.kind {
            FrameKind::Request => {
                let mut queue = lock(&self.queue);
                if queue.flows.len() >= REQUESTS_MAX || queue.flows.contains_key(&frame.request) {
                    return Err(invalid("too many requests, or one of the same number twice"));
                }
                let flow = Arc::new(Flow::new());
                queue.flows.insert(frame.request, Arc::clone(&flow));
                queue.waiting.push_back((frame.request, frame.payload, flow));
                self.work.notify_one();
                Ok(queue.idle.saturating_sub(queue.waiting.len() - 1))
            }
            FrameKind::Credit => {
                let credit = Decoder::new(&frame.payload).u32().map_err(|_| invalid("a malformed credit"))?;
                if let Some(flow) = lock(&self.queue).flows.get(&frame.request) {
                    flow.add(credit);
                }
                Ok(1)
            }
            FrameKind::Cancel => {
                if let Some(flow) = lock(&self.queue).flows.get(&frame.request) {
                    flow.cancel();
                }
                Ok(1)
            }
            FrameKind::Ping => self.output.send(FrameKind::Pong, frame.request, &[]).map(|()| 1),
            _ => Err(invalid("a frame that only agents send")),
        }
    }

    fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.waiting.clear();
        queue.flows.values().for_each(|flow| flow.cancel());
        self.work.notify_all();
    }

    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let (request, payload, flow) = loop {
                if let Some(next) = queue.waiting.pop_front() {
                    break next;
                }
                if queue.closed {
                    return;
                }
                queue.idle += 1;
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            let answer = self.answer(request, &payload, &flow);
            drop(payload);
            // Before the last word: the client may use the number again as soon as it has that.
            lock(&self.queue).flows.remove(&request);
            // When nobody listens any more the reader finds out as well.
            let _ = match answer {
                Ok(last) => self.output.send(FrameKind::Done, request, &last),
                Err(Stop::Unwanted) => self.output.send(FrameKind::Done, request, &[]),
                Err(Stop::Failed(error)) => self.output.send(FrameKind::Failed, request, &failure(&error)),
            };
        }
    }

    /// Does what was asked for; the last part of the answer.
    fn answer(&self, request: u32, payload: &[u8], flow: &Flow) -> Result<Vec<u8>, Stop> {
        let asked = Request::decode(payload).map_err(|error| HostError::Protocol(error.to_string()))?;
        let mut out = Encoder::default();
        match asked {
            Request::Open { path, access } => {
                let root = self.files.open(&self.allowed(&path, access)?, access)?;
                out.u32(root.0);
            }
            Request::Walk { root, closed } => return self.walk(request, flow, root, &closed),
            Request::Read { options, jobs } => return self.read(request, flow, &options, &jobs),
            Request::Hash { jobs } => {
                for job in &jobs {
                    if flow.cancelled() {
                        return Err(Stop::Unwanted);
                    }
                    message::encode_hashed(&mut out, &self.files.hash(job));
                    self.send_if_full(request, flow, &mut out)?;
                }
            }
            Request::Change { changes } => {
                for change in changes.iter() {
                    let outcome = self.files.change(change);
                    message::encode_outcome(&mut out, outcome.as_ref(), |_, ()| {});
                }
            }
            Request::Sync { root } => self.files.sync(root)?,
            Request::FreeBytes { root } => out.u64(self.files.free_bytes(root)?),
        }
        Ok(out.0)
    }

    /// The path as it is without links, if it is within what this agent was started for.
    fn allowed(&self, path: &Path, access: Access) -> Result<PathBuf, HostError> {
        let resolve = |path: &Path| {
            path.canonicalize().map_err(|source| HostError::Directory {
                action: "open the directory",
                path: path.to_owned(),
                source,
            })
        };
        let directories = match access {
            Access::Read => &self.confinement.read,
            Access::Change => &self.confinement.change,
        };
        let real = resolve(path)?;
        for directory in directories {
            // One that does not exist allows nothing.
            if resolve(directory).is_ok_and(|directory| real.starts_with(directory)) {
                return Ok(real);
            }
        }
        let what = match access {
            Access::Read => "reading",
            Access::Change => "changing",
        };
        Err(HostError::Refused(format!("this agent was not started for {what} '{}'", path.display())))
    }

    fn walk(&self, request: u32, flow: &Flow, root: Root, closed: &[PathBuf]) -> Result<Vec<u8>, Stop> {
        let mut out = Encoder::default();
        let mut unwanted = false;
        let outcome = self.files.walk(root, closed, &mut |entry| {
            message::encode_entry(&mut out, &entry);
            self.send_if_full(request, flow, &mut out).map_err(|_| {
                unwanted = true;
                HostError::Refused(String::new())
            })
        });
        match outcome {
            Ok(()) => Ok(out.0),
            Err(_) if unwanted => Err(Stop::Unwanted),
            Err(error) => Err(error.into()),
        }
    }

    fn read(
        &self,
        request: u32,
        flow: &Flow,
        options: &ReadOptions,
        jobs: &[ReadJob],
    ) -> Result<Vec<u8>, Stop> {
        let mut out = Encoder::default();
        let mut unwanted = false;
        for (index, job) in (0_u32..).zip(jobs) {
            let outcome = self.files.read(job, options, &mut |piece| {
                let sent = match piece {
                    Piece::Same { offset, length } => {
                        message::encode_same(&mut out, index, offset, length);
                        self.send_if_full(request, flow, &mut out)
                    }
                    Piece::Data { offset, bytes } => {
                        (0_u64..).zip(bytes.chunks(SEND_BYTES)).try_for_each(|(number, chunk)| {
                            let offset = offset + number * SEND_BYTES as u64;
                            message::encode_data(&mut out, index, offset, chunk);
                            self.send_if_full(request, flow, &mut out)
                        })
                    }
                };
                sent.map_err(|_| {
                    unwanted = true;
                    HostError::Refused(String::new())
                })
            });
            match outcome {
                Ok(outcome) => message::encode_end(&mut out, index, &outcome),
                Err(_) if unwanted => return Err(Stop::Unwanted),
                Err(error) => return Err(error.into()),
            }
            self.send_if_full(request, flow, &mut out)?;
        }
        Ok(out.0)
    }

    /// Sends what was gathered, once it is enough for a frame.
    fn send_if_full(&self, request: u32, flow: &Flow, out: &mut Encoder) -> Result<(), Stop> {
        if out.0.len() < SEND_BYTES {
            return Ok(());
        }
        if !flow.wait(out.0.len()) || self.output.send(FrameKind::Part, request, &out.0).is_err() {
            return Err(Stop::Unwanted);
        }
        out.0.clear();
        Ok(())
    }
}

/// A failure as a payload: its kind, the system's number, a path, words.
fn failure(error: &HostError) -> Vec<u8> {
    let mut out = Encoder::default();
    match error {
        HostError::Directory { action, path, source } => {
            out.u8(2);
            out.u32(source.raw_os_error().and_then(|code| u32::try_from(code).ok()).unwrap_or(0));
            out.path(path);
            out.bytes(action.as_bytes());
        }
        HostError::Protocol(text) => {
            out.u8(1);
            out.bytes(text.as_bytes());
        }
        other => {
            out.u8(0);
            out.bytes(
                match other {
                    HostError::Refused(text) => text.clone(),
                    other => other.to_string(),
                }
                .as_bytes(),
            );
        }
    }
    out.0
}
