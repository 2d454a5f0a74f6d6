//! The thread that unpacks, and the bounded queue to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use pgwal::wire::BackupEvent;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::TakeBackupError;
use crate::pipeline::{CorruptPages, UnpackError, Unpacked, Unpacker};

/// Most bytes on their way from the socket to the writer.
pub const QUEUE_BYTES: u32 = 4 << 20;

/// What an event counts for in the queue besides its data.
const EVENT_BYTES: u32 = 512;

enum Message {
    /// An event, and its share of the queue.
    Event(BackupEvent, OwnedSemaphorePermit),
    /// All events came.
    Finish,
}

enum Outcome {
    Finished(Box<Unpacked>),
    /// The events stopped; what was found until then.
    Abandoned(CorruptPages),
}

/// A thread that runs an [`Unpacker`]. Dropping it stops the thread, and waits until it has stopped.
pub(super) struct Worker {
    queue: Option<mpsc::UnboundedSender<Message>>,
    room: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
    outcome: oneshot::Receiver<Result<Outcome, UnpackError>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(unpacker: Unpacker) -> std::io::Result<Self> {
        let (queue, messages) = mpsc::unbounded_channel();
        let (tell, outcome) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("backup-writer".to_owned()).spawn(move || {
            // Nobody may be waiting for the outcome any more.
            let _ = tell.send(run(unpacker, messages, &stopped));
        })?;
        let room = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
        Ok(Worker { queue: Some(queue), room, stop, outcome, thread: Some(thread) })
    }

    /// Hands an event on, waiting for room; false when the thread has ended, which it does on an error.
    pub(super) async fn send(&self, event: BackupEvent) -> bool {
        let data_bytes = match &event {
            BackupEvent::Data(data) => u32::try_from(data.len()).unwrap_or(u32::MAX),
            _ => 0,
        };
        let share = data_bytes.saturating_add(EVENT_BYTES).min(QUEUE_BYTES);
        let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(share).await else { return false };
        self.queue.as_ref().is_some_and(|queue| queue.send(Message::Event(event, permit)).is_ok())
    }

    /// Has the backup judged and made durable.
    pub(super) async fn finish(mut self) -> Result<Unpacked, TakeBackupError> {
        if let Some(queue) = self.queue.take() {
            // A thread that ended before has left its error.
            let _ = queue.send(Message::Finish);
        }
        match self.outcome().await? {
            Outcome::Finished(unpacked) => Ok(*unpacked),
            Outcome::Abandoned(_) => Err(UnpackError::Incomplete.into()),
        }
    }

    /// Lets the thread work off its queue, and gives up; the corrupt pages it found.
    pub(super) async fn abandon(mut self) -> Result<CorruptPages, TakeBackupError> {
        drop(self.queue.take());
        match self.outcome().await? {
            Outcome::Abandoned(pages) => Ok(pages),
            Outcome::Finished(_) => Ok(CorruptPages::default()),
        }
    }

    async fn outcome(&mut self) -> Result<Outcome, TakeBackupError> {
        let gone = || std::io::Error::other("it ended without a result");
        match (&mut self.outcome).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(TakeBackupError::Thread(gone())),
        }
    }
}

impl Drop for Worker {
    /// After this nothing is written any more, whatever became of the backup.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    mut unpacker: Unpacker,
    mut messages: mpsc::UnboundedReceiver<Message>,
    stop: &AtomicBool,
) -> Result<Outcome, UnpackError> {
    while let Some(message) = messages.blocking_recv() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match message {
            Message::Event(event, permit) => {
                unpacker.event(event)?;
                drop(permit);
            }
            Message::Finish => return Ok(Outcome::Finished(Box::new(unpacker.finish()?))),
        }
    }
    Ok(Outcome::Abandoned(unpacker.corrupt_pages().clone()))
}
