//! One stream of WAL on one timeline: the socket's side of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::directory::StreamingDirectory;
use super::error::ReceiveError;
use super::event::{Event, Observer};
use super::flush::WriteError;
use super::start::{StartOrigin, StartPoint};
use super::writer::{Progress, Queue, Room, Writer};
use crate::replication::{ReplicationError, StandbyStatus, TimelineEnd, WalEvent, WalStream};
use crate::{Lsn, SegmentSize};

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(500);

/// The longest time between two reports to the server.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// How long the server may be silent before the connection is given up. After half of it an answer is asked for.
/// PostgreSQL's own receiver waits as long (`wal_receiver_timeout`).
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long to wait for the server's goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As asked to; all that was received is durable.
    Stopped,
    /// The server left the timeline; all of it is durable.
    Timeline(TimelineEnd),
}

/// How the writer of a stream is started.
#[derive(Debug)]
pub(super) struct Sink {
    /// The streaming directory.
    pub(super) path: PathBuf,
    /// The server's segment size.
    pub(super) size: SegmentSize,
    /// Who is told of complete segments.
    pub(super) observer: Arc<dyn Observer>,
}

impl Sink {
    async fn start(&self, start: StartPoint) -> Result<Writer, ReceiveError> {
        let observer = self.observer.clone();
        let completed = move |segment| observer.event(&Event::SegmentCompleted { segment });
        let directory = StreamingDirectory::open(&self.path);
        let directory =
            directory.map_err(|source| ReceiveError::Directory { path: self.path.clone(), source })?;
        Ok(Writer::start(directory, start.timeline, start.lsn, self.size, completed).await?)
    }
}

/// A running stream.
#[derive(Debug)]
pub(super) struct Session<'c> {
    stream: WalStream<'c>,
    sink: Sink,
    /// Started with the first WAL, unless WAL held already was the reason to start where we did: a partial segment
    /// of a stream that never brought anything would next time look like WAL received.
    writer: Option<Writer>,
    start: StartPoint,
    slot: Option<String>,
    /// Where the next byte from the server belongs.
    expected: Lsn,
    /// WAL for which the queue has no room, and whether more of it is on its way. While there is some, the socket is not read.
    waiting: Option<(Lsn, Bytes, bool)>,
    reported: Instant,
    heard: Instant,
    asked: bool,
}

/// What woke the session up.
enum Woken {
    Stop,
    Progress(bool),
    Tick,
    Room(Room),
    Event(Result<WalEvent, ReplicationError>),
}

impl<'c> Session<'c> {
    pub(super) async fn begin(
        stream: WalStream<'c>,
        sink: Sink,
        start: StartPoint,
        slot: Option<String>,
    ) -> Result<Self, ReceiveError> {
        let held = start.origin == StartOrigin::Streaming;
        let writer = if held { Some(sink.start(start).await?) } else { None };
        let now = Instant::now();
        Ok(Session {
            stream,
            sink,
            writer,
            start,
            slot,
            expected: start.lsn,
            waiting: None,
            reported: now,
            heard: now,
            asked: false,
        })
    }

    /// Receives until the timeline ends, `stopped` becomes true, or something fails. `works` is called when it is
    /// certain that the server streams.
    pub(super) async fn run(
        mut self,
        stopped: &mut watch::Receiver<bool>,
        mut works: impl FnMut() + Send,
    ) -> Result<Ended, ReceiveError> {
        let result = self.receive(stopped, &mut works).await;
        match (result, self.writer.take()) {
            (Ok(Ended::Stopped), writer) => self.stop(writer).await,
            (Ok(ended), None) => Ok(ended),
            (Ok(ended), Some(writer)) => {
                self.drain(&writer).await;
                writer.finish_timeline().await?;
                Ok(ended)
            }
            (Err(error), None) => Err(error),
            (Err(error), Some(writer)) => {
                // What came before the failure is kept, and no second writer may meet this one. A failure to keep it
                // is the one to tell.
                writer.finish().await?;
                Err(error)
            }
        }
    }

    async fn receive(
        &mut self,
        stopped: &mut watch::Receiver<bool>,
        works: &mut (dyn FnMut() + Send),
    ) -> Result<Ended, ReceiveError> {
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.report(false).await?;
        loop {
            match self.wake(stopped, &mut tick).await {
                Woken::Stop => return Ok(Ended::Stopped),
                // The thread has ended, which without being told to means that it failed: `run` asks why.
                Woken::Progress(false) => return Err(WriteError::Poisoned.into()),
                Woken::Progress(true) => self.report(false).await?,
                Woken::Tick => {
                    // A server that has nothing to send would have refused by now.
                    works();
                    self.tick().await?;
                }
                Woken::Room(room) => {
                    if let (Some((at, bytes, more)), Some(writer)) = (self.waiting.take(), &self.writer) {
                        writer.queue.write(room, at, &bytes, more);
                        self.heard = Instant::now();
                    }
                }
                Woken::Event(event) => {
                    let event = event.map_err(|error| self.refused(error))?;
                    works();
                    self.heard = Instant::now();
                    self.asked = false;
                    if let Some(end) = self.take(event).await? {
                        return Ok(Ended::Timeline(end));
                    }
                }
            }
        }
    }

    async fn wake(&mut self, stopped: &mut watch::Receiver<bool>, tick: &mut Interval) -> Woken {
        let (progress, queue) = match &mut self.writer {
            Some(Writer { progress, queue, .. }) => (Some(progress), Some(&*queue)),
            None => (None, None),
        };
        let waiting = self.waiting.as_ref().zip(queue).map(|((_, bytes, _), queue)| (bytes.len(), queue));
        tokio::select! {
            biased;
            // An error means that nobody is left who could ask to stop, as good as being asked.
            _ = stopped.wait_for(|stopped| *stopped) => Woken::Stop,
            moved = moved(progress) => Woken::Progress(moved),
            _ = tick.tick() => Woken::Tick,
            room = room_in(waiting) => Woken::Room(room),
            event = self.stream.next(), if waiting.is_none() => Woken::Event(event),
        }
    }

    async fn take(&mut self, event: WalEvent) -> Result<Option<TimelineEnd>, ReceiveError> {
        match event {
            WalEvent::Data { start, bytes, server_end, .. } => {
                if start != self.expected {
                    return Err(WriteError::OutOfSequence { expected: self.expected, found: start }.into());
                }
                let past = || WriteError::PastTheEnd { start, bytes: bytes.len() };
                self.expected = start.checked_add(bytes.len() as u64).ok_or_else(past)?;
                // What the server has set out to send goes further than this message.
                let more = self.expected < server_end;
                let writer = match &mut self.writer {
                    Some(writer) => writer,
                    none => none.insert(self.sink.start(self.start).await?),
                };
                match writer.queue.room_now(bytes.len()) {
                    Some(room) => writer.queue.write(room, start, &bytes, more),
                    None => self.waiting = Some((start, bytes, more)),
                }
                Ok(None)
            }
            WalEvent::KeepAlive { reply_requested, .. } => {
                if reply_requested {
                    self.report(false).await?;
                }
                Ok(None)
            }
            WalEvent::TimelineEnd { next, switch } => {
                let (timeline, received) = (self.start.timeline, self.expected);
                if next <= timeline || switch > received {
                    return Err(ReceiveError::ImpossibleSwitch { timeline, received, next, switch });
                }
                Ok(Some(TimelineEnd { next, switch }))
            }
            WalEvent::ServerShutdown | WalEvent::Stopped => Err(ReceiveError::EndedByServer(self.expected)),
        }
    }

    async fn tick(&mut self) -> Result<(), ReceiveError> {
        if self.waiting.is_some() {
            // Not read now, so a keepalive that wants an answer would not be seen: give it unasked.
            return self.report(false).await;
        }
        let silence = self.heard.elapsed();
        if silence >= SILENCE_LIMIT {
            return Err(ReceiveError::Silent(SILENCE_LIMIT));
        }
        if silence >= SILENCE_LIMIT / 2 && !self.asked {
            self.asked = true;
            return self.report(true).await;
        }
        if self.reported.elapsed() >= STATUS_INTERVAL {
            return self.report(false).await;
        }
        Ok(())
    }

    /// Tells the server how far things are.
    async fn report(&mut self, reply_requested: bool) -> Result<(), ReceiveError> {
        let progress = self.writer.as_mut().and_then(|writer| *writer.progress.borrow_and_update());
        self.reported = Instant::now();
        let status = status(self.start, progress);
        let sent = match reply_requested {
            true => self.stream.ping(status).await,
            false => self.stream.send_status(status).await,
        };
        sent.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: ReplicationError) -> ReceiveError {
        ReceiveError::from_stream(error, self.slot.as_deref(), self.start.timeline, self.expected)
    }

    /// Hands over what waits for room.
    async fn drain(&mut self, writer: &Writer) {
        if let Some((at, bytes, more)) = self.waiting.take() {
            let room = writer.queue.room_for(bytes.len()).await;
            writer.queue.write(room, at, &bytes, more);
        }
    }

    /// Makes all that was received durable, tells the server, and says goodbye.
    async fn stop(mut self, writer: Option<Writer>) -> Result<Ended, ReceiveError> {
        let mut progress = None;
        if let Some(writer) = writer {
            self.drain(&writer).await;
            let flushed = writer.finish().await?;
            progress = Some(Progress { written: flushed.get(), flushed });
        }
        let last = status(self.start, progress);
        let goodbye = async {
            self.stream.send_status(last).await?;
            self.stream.stop().await
        };
        // All is durable: that the server can't be told changes nothing.
        if !matches!(tokio::time::timeout(GOODBYE, goodbye).await, Ok(Ok(_))) {
            tracing::debug!("the server did not take the receiver's goodbye");
        }
        Ok(Ended::Stopped)
    }
}

/// Waits until the durable position has moved; false when the writer has ended. Without a writer, for ever.
async fn moved(progress: Option<&mut watch::Receiver<Option<Progress>>>) -> bool {
    match progress {
        Some(progress) => progress.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Waits for room for what waits for it; if nothing does, for ever.
async fn room_in(waiting: Option<(usize, &Queue)>) -> Room {
    match waiting {
        Some((bytes, queue)) => queue.room_for(bytes).await,
        None => std::future::pending().await,
    }
}

/// What may be said to the server. A flush position is left out as long as none of the WAL below it was seen here:
/// someone may be waiting for a commit that is there and not here.
fn status(start: StartPoint, progress: Option<Progress>) -> StandbyStatus {
    let flushed = progress.map(|progress| progress.flushed.get());
    let proved = |flushed: &Lsn| start.origin == StartOrigin::Streaming || *flushed > start.lsn;
    StandbyStatus {
        write: progress.map_or(start.lsn, |progress| progress.written),
        flush: flushed.filter(proved).unwrap_or(Lsn::INVALID),
        // Nothing is applied here.
        apply: Lsn::INVALID,
    }
}
