//! The writer thread: takes received WAL from a queue bounded in bytes, writes it, syncs it in groups, and publishes
//! how far it is durable.
//!
//! The thread exists so that a slow disk never delays an answer to the server: the socket task goes on speaking while
//! a sync takes its time.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::directory::{SegmentDirectory, StreamingDirectory};
use super::flush::{FlushedLsn, SegmentWriter, WriteError};
use crate::{Lsn, SegmentName, SegmentSize, TimelineId};

/// How much received WAL may wait to be written, in bytes. When it is full the socket is not read, and TCP slows the
/// server down.
const QUEUE_BYTES: u32 = 8 << 20;

/// What each message counts for in the queue besides its length, in bytes: a flood of empty ones has to end too.
const JOB_BYTES: u32 = 256;

/// How much may be written before it is synced, in bytes.
///
/// What the server has sent is synced as soon as it has come to an end: each message says whether more is on its way.
/// So a lone commit is synced at once, and a load in pieces as large as the server makes them; this and
/// [`MAX_GROUP_AGE`] bound a piece that does not end.
const MAX_GROUP_BYTES: u64 = 8 << 20;

/// How long written WAL may wait for its sync while more keeps coming.
const MAX_GROUP_AGE: Duration = Duration::from_millis(30);

/// The largest message a walsender sends (`MAX_SEND_SIZE`), and the size of the buffers that are used again and
/// again, in bytes.
const POOLED_BYTES_MAX: usize = 128 << 10;

/// Smaller messages than this, in bytes, get an allocation of their own size; so all the buffers together are at most
/// twice the queue.
const POOLED_BYTES_MIN: usize = POOLED_BYTES_MAX / 2;

/// How far the writer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Written, maybe not yet durable.
    pub(super) written: Lsn,
    /// Durable.
    pub(super) flushed: FlushedLsn,
}

enum Job {
    Write { at: Lsn, bytes: Vec<u8>, more: bool, room: Room },
    EndTimeline,
}

/// The socket task's end of a running writer.
#[derive(Debug)]
pub(super) struct Writer {
    /// Where received WAL goes.
    pub(super) queue: Queue,
    /// How far the thread is: changes when the durable position has moved, and closes when the thread has ended.
    pub(super) progress: watch::Receiver<Option<Progress>>,
    result: oneshot::Receiver<Result<FlushedLsn, WriteError>>,
}

/// The way to the thread, bounded in bytes.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    pool: Arc<Pool>,
}

/// A place in the queue; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    _held: Option<OwnedSemaphorePermit>,
}

impl Writer {
    /// Starts a thread that writes from `start`, and waits until its first segment is prepared. `completed` is called
    /// on that thread for each segment that became whole.
    pub(super) async fn start(
        directory: StreamingDirectory,
        timeline: TimelineId,
        start: Lsn,
        size: SegmentSize,
        completed: impl FnMut(SegmentName) + Send + 'static,
    ) -> Result<Self, WriteError> {
        let begin = move || SegmentWriter::begin(directory, timeline, start, size);
        let end =
            |writer: SegmentWriter<StreamingDirectory>| writer.end_timeline(StreamingDirectory::is_blank);
        Self::start_with(begin, end, completed).await
    }

    async fn start_with<D: SegmentDirectory>(
        begin: impl FnOnce() -> Result<SegmentWriter<D>, WriteError> + Send + 'static,
        end_timeline: fn(SegmentWriter<D>) -> Result<FlushedLsn, WriteError>,
        mut completed: impl FnMut(SegmentName) + Send + 'static,
    ) -> Result<Self, WriteError> {
        let (jobs, inbox) = mpsc::channel();
        let (publish, progress) = watch::channel(None);
        let (report, result) = oneshot::channel();
        let pool = Arc::new(Pool::default());
        let empties = Arc::clone(&pool);
        let work = move || {
            let outcome = begin()
                .and_then(|writer| run(writer, inbox, &publish, &empties, end_timeline, &mut completed));
            // The result first: whoever sees `publish` closed will ask for it.
            let _ = report.send(outcome);
            drop(publish);
        };
        let spawned = thread::Builder::new().name("wal-writer".to_owned()).spawn(work);
        spawned.map_err(WriteError::NoThread)?;
        let queue = Queue { jobs, room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)), pool };
        let mut writer = Writer { queue, progress, result };
        if writer.progress.wait_for(Option::is_some).await.is_err() {
            writer.finish().await?;
            return Err(WriteError::Poisoned);
        }
        Ok(writer)
    }

    /// Lets the thread write and sync all it was given, and end.
    pub(super) async fn finish(self) -> Result<FlushedLsn, WriteError> {
        drop(self.queue);
        self.result.await.unwrap_or(Err(WriteError::Poisoned))
    }

    /// As [`finish`](Self::finish), where nothing more will come on this timeline.
    pub(super) async fn finish_timeline(self) -> Result<FlushedLsn, WriteError> {
        let _ = self.queue.jobs.send(Job::EndTimeline);
        self.finish().await
    }
}

impl Queue {
    /// Waits for room. Cancel-safe.
    pub(super) async fn room_for(&self, bytes: usize) -> Room {
        // The semaphore is never closed; were it, the queue would only lose its bound.
        Room { _held: self.room.clone().acquire_many_owned(Self::permits(bytes)).await.ok() }
    }

    /// Room if there is some now.
    pub(super) fn room_now(&self, bytes: usize) -> Option<Room> {
        self.room
            .clone()
            .try_acquire_many_owned(Self::permits(bytes))
            .ok()
            .map(|held| Room { _held: Some(held) })
    }

    /// Hands received WAL to the thread; `more` says that what follows is on its way already. Should that have ended, its progress tells.
    ///
    /// The bytes are copied: kept as they are, they would keep the socket's buffer from being used again, and the
    /// page faults of ever new buffers cost several times what the copy does.
    pub(super) fn write(&self, room: Room, at: Lsn, bytes: &[u8], more: bool) {
        let bytes = self.pool.filled_with(bytes);
        let _ = self.jobs.send(Job::Write { at, bytes, more, room });
    }

    /// One message may be larger than the whole queue; it then takes all of it.
    fn permits(bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(JOB_BYTES).min(QUEUE_BYTES)
    }
}

/// Buffers on their way back from the thread.
#[derive(Debug, Default)]
struct Pool {
    empty: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    fn filled_with(&self, bytes: &[u8]) -> Vec<u8> {
        if bytes.len() < POOLED_BYTES_MIN || bytes.len() > POOLED_BYTES_MAX {
            return bytes.to_vec();
        }
        let empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = empty.unwrap_or_else(|| Vec::with_capacity(POOLED_BYTES_MAX));
        buffer.extend_from_slice(bytes);
        buffer
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == POOLED_BYTES_MAX {
            buffer.clear();
            self.empty.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

fn run<D: SegmentDirectory>(
    mut writer: SegmentWriter<D>,
    inbox: mpsc::Receiver<Job>,
    publish: &watch::Sender<Option<Progress>>,
    pool: &Pool,
    end_timeline: fn(SegmentWriter<D>) -> Result<FlushedLsn, WriteError>,
    completed: &mut dyn FnMut(SegmentName),
) -> Result<FlushedLsn, WriteError> {
    let mut last = writer.flush()?;
    publish.send_replace(Some(Progress { written: writer.written(), flushed: last }));
    while let Ok(first) = inbox.recv() {
        let began = Instant::now();
        let mut next = Some(first);
        while let Some(job) = next {
            let Job::Write { at, bytes, more, room } = job else { return end_timeline(writer) };
            writer.write(at, &bytes, completed)?;
            pool.give_back(bytes);
            drop(room);
            let left = MAX_GROUP_AGE.saturating_sub(began.elapsed());
            next = if writer.unflushed() >= MAX_GROUP_BYTES || left.is_zero() {
                None
            } else if more {
                inbox.recv_timeout(left).ok()
            } else {
                inbox.try_recv().ok()
            };
        }
        let flushed = writer.flush()?;
        if flushed != last {
            last = flushed;
            publish.send_replace(Some(Progress { written: writer.written(), flushed }));
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    async fn writer(path: &std::path::Path) -> Result<Writer, WriteError> {
        let directory = StreamingDirectory::open(path).unwrap();
        Writer::start(directory, TimelineId::FIRST, Lsn::from_u64(SEGMENT), SegmentSize::MIN, |_| {}).await
    }

    async fn send(writer: &Writer, at: u64, bytes: &[u8]) {
        let room = writer.queue.room_for(bytes.len()).await;
        writer.queue.write(room, Lsn::from_u64(at), bytes, false);
    }

    fn flushed(writer: &mut Writer) -> Lsn {
        writer.progress.borrow_and_update().unwrap().flushed.get()
    }

    #[tokio::test]
    async fn one_small_message_is_synced_without_waiting_for_more() {
        let path = tempfile::tempdir().unwrap();
        let mut writer = writer(path.path()).await.unwrap();
        assert_eq!(flushed(&mut writer), Lsn::from_u64(SEGMENT));
        send(&writer, SEGMENT, b"commit").await;
        writer.progress.changed().await.unwrap();
        assert_eq!(flushed(&mut writer), Lsn::from_u64(SEGMENT + 6));
    }

    #[tokio::test]
    async fn a_message_that_others_were_to_follow_does_not_wait_for_ever() {
        let path = tempfile::tempdir().unwrap();
        let mut writer = writer(path.path()).await.unwrap();
        let _ = flushed(&mut writer);
        let room = writer.queue.room_for(6).await;
        writer.queue.write(room, Lsn::from_u64(SEGMENT), b"commit", true);
        writer.progress.changed().await.unwrap();
        assert_eq!(flushed(&mut writer), Lsn::from_u64(SEGMENT + 6));
    }

    #[tokio::test]
    async fn finishing_syncs_all_that_was_queued() {
        let path = tempfile::tempdir().unwrap();
        let writer = writer(path.path()).await.unwrap();
        let message = vec![7; 300_000];
        for number in 0..40 {
            send(&writer, SEGMENT + number * 300_000, &message).await;
        }
        let flushed = writer.finish().await.unwrap();
        assert_eq!(flushed.get(), Lsn::from_u64(SEGMENT + 12_000_000));
    }

    #[tokio::test]
    async fn a_message_larger_than_the_queue_still_passes() {
        let path = tempfile::tempdir().unwrap();
        let writer = writer(path.path()).await.unwrap();
        let bytes = vec![1; QUEUE_BYTES as usize + 1];
        send(&writer, SEGMENT, &bytes).await;
        assert_eq!(writer.finish().await.unwrap().get(), Lsn::from_u64(SEGMENT + u64::from(QUEUE_BYTES) + 1));
    }

    #[tokio::test]
    async fn empty_messages_fill_the_queue_too() {
        let permits = Queue::permits(0);
        assert!(permits > 0 && QUEUE_BYTES / permits < 100_000);
    }

    #[tokio::test]
    async fn a_failed_write_ends_the_thread_and_is_told() {
        let path = tempfile::tempdir().unwrap();
        let mut writer = writer(path.path()).await.unwrap();
        send(&writer, SEGMENT + 1, b"a gap").await;
        assert!(writer.progress.changed().await.is_err());
        let error = writer.finish().await.unwrap_err();
        assert!(matches!(error, WriteError::OutOfSequence { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_segment_that_cant_be_prepared_is_told_before_anything_is_asked_for() {
        let path = tempfile::tempdir().unwrap();
        std::fs::create_dir(path.path().join("000000010000000000000001.partial")).unwrap();
        let error = writer(path.path()).await.unwrap_err();
        assert!(error.to_string().contains("000000010000000000000001.partial"), "{error}");
    }
}
