//! The WAL receiver: streams WAL from a server into a directory and never says more than it has kept.
//!
//! ```text
//! server -> socket task -> queue, bounded in bytes -> writer thread -> <segment>.partial -> <segment>
//!               ^                                          |
//!               '---- durable position, at once -----------'
//! ```
//!
//! The promises:
//!
//! * A flush position is told to the server only after the sync that makes it true: a [`FlushedLsn`] can be made by
//!   nothing else. It is told at once, always, so that the receiver works as a synchronous standby without being
//!   configured as one, also when `synchronous_standby_names` comes to name it while it runs.
//! * Syncs are grouped: a lone commit is synced when it arrives, a load in pieces as large as the server sends them, and
//!   the next group gathers while the last one is being synced. A slow disk delays no answer to a keepalive.
//! * A segment gets its final name only when all of it is durable; `<segment>.partial` is always of full size, filled
//!   with zeros, as pg_receivewal leaves it, and either program can go on where the other stopped.
//! * After a failed write or sync that writer writes nothing more: a new one starts over from the beginning of the
//!   segment.
//! * Interruptions are followed by new attempts, with growing waits; what waiting can't heal ends [`Receiver::run`].
//!
//! The position of `apply` is never told, so `synchronous_commit = remote_apply` waits for ever, as with
//! pg_receivewal.
//!
//! ```no_run
//! use pgwal::replication::ConnInfo;
//! use pgwal::replication::receive::{Event, Receiver, ReceiverOptions};
//! use std::sync::Arc;
//!
//! # async fn receive() -> Result<(), Box<dyn std::error::Error>> {
//! let conninfo = ConnInfo::parse("host=/run/postgresql user=barman", &|name| std::env::var_os(name))?;
//! let mut options = ReceiverOptions::new(conninfo, "/srv/wal");
//! options.slot = Some("keeper".to_owned());
//! options.create_slot = true;
//! let observer = |event: &Event<'_>| eprintln!("{event:?}");
//! Receiver::new(options, Arc::new(observer)).run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod directory;
mod error;
mod event;
mod flush;
mod reset;
mod retry;
mod session;
mod start;
mod writer;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use error::ReceiveError;
pub use event::{Event, Observer};
pub use flush::{FlushedLsn, WriteAction, WriteError};
pub use reset::{ResetOutcome, reset};
pub use retry::RetryPolicy;
pub use start::{StartOrigin, StartPoint};

use self::directory::StreamingDirectory;
use self::error::Remedy;
use self::retry::Backoff;
use self::session::{Ended, Session, Sink};
use super::{ConnInfo, Connection, SqlState, StartPhysical, SystemIdentity};
use crate::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

/// The `application_name` that Barman's receiver has, and `synchronous_standby_names` is told of.
pub const DEFAULT_APPLICATION_NAME: &str = "barman_receive_wal";

/// How long a request to stop waits for the disk to take what was received.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How long the server may take to answer what is asked before streaming begins.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// The longest wait for a slot that somebody holds: most often it is the server's process of our own last connection,
/// and gone in a moment.
const SLOT_ACTIVE_WAIT: Duration = Duration::from_secs(2);

/// The first version with READ_REPLICATION_SLOT, as PostgreSQL numbers versions.
const READ_SLOT_SINCE: u32 = 150_000;

/// What to receive, from where, and into which directory.
#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    /// The server.
    pub conninfo: ConnInfo,
    /// The `application_name` under which `synchronous_standby_names` knows the receiver.
    pub application_name: String,
    /// Where segments are written. It has to exist, and one receiver only may write there.
    pub directory: PathBuf,
    /// The replication slot to stream through.
    pub slot: Option<String>,
    /// Create the slot if it is missing.
    pub create_slot: bool,
    /// The system identifier that the server must have.
    pub system_id: Option<String>,
    /// The newest segment that is held elsewhere: receiving starts after it if the directory holds none.
    pub newest_archived: Option<SegmentName>,
    /// The position the slot keeps WAL from: for servers before 15, which can't be asked over a replication
    /// connection (`pg_replication_slots.restart_lsn`).
    pub slot_restart: Option<Lsn>,
    /// The pace of reconnecting.
    pub retry: RetryPolicy,
}

impl ReceiverOptions {
    /// Options to receive from `conninfo` into `directory`, without a slot.
    pub fn new(conninfo: ConnInfo, directory: impl Into<PathBuf>) -> Self {
        ReceiverOptions {
            conninfo,
            application_name: DEFAULT_APPLICATION_NAME.to_owned(),
            directory: directory.into(),
            slot: None,
            create_slot: false,
            system_id: None,
            newest_archived: None,
            slot_restart: None,
            retry: RetryPolicy::default(),
        }
    }
}

/// A receiver of WAL.
#[derive(Debug)]
pub struct Receiver {
    options: ReceiverOptions,
    observer: Arc<dyn Observer>,
    backoff: Backoff,
    /// Whether WAL was ever streamed: before that, most failures are mistakes and not worth waiting for.
    worked: bool,
    slot_active_since: Option<Instant>,
    /// What the last attempt started from.
    origin: StartOrigin,
    /// The archive's end, where the server has no WAL from there on any more.
    gap: Option<Lsn>,
}

/// A connection that is ready to stream.
struct Ready {
    connection: Connection,
    identity: SystemIdentity,
    size: SegmentSize,
    history: History,
    start: StartPoint,
}

impl Receiver {
    /// A receiver that tells `observer` what it does.
    pub fn new(options: ReceiverOptions, observer: Arc<dyn Observer>) -> Self {
        Receiver {
            backoff: Backoff::new(options.retry),
            options,
            observer,
            worked: false,
            slot_active_since: None,
            origin: StartOrigin::Server,
            gap: None,
        }
    }

    /// Receives until `stop` is ready; all that was received is then durable. Interruptions are tried again. Needs a
    /// tokio runtime with timers and I/O.
    ///
    /// # Errors
    /// What waiting won't heal: a server with another system identifier, a missing slot, a slot that somebody else
    /// holds for long, WAL that the server has removed, refused authentication, a failing disk. Before WAL was streamed for the first
    /// time also a server that can't be reached and a full disk.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ReceiveError> {
        let observer = self.observer.clone();
        let (tell, mut stopped) = watch::channel(false);
        let mut work = pin!(self.work(&mut stopped));
        let mut stop = pin!(stop);
        let result = tokio::select! {
            result = &mut work => result,
            () = &mut stop => {
                tell.send_replace(true);
                let limited = tokio::time::timeout(STOP_LIMIT, work).await;
                limited.unwrap_or(Err(ReceiveError::StuckAtStop(STOP_LIMIT)))
            }
        };
        if result.is_ok() {
            observer.event(&Event::Stopped);
        }
        result
    }

    async fn work(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<(), ReceiveError> {
        loop {
            let ready = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                ready = within(PREPARE_LIMIT, self.prepare()) => ready,
            };
            let result = match ready {
                Ok(ready) => self.stream(ready, stopped).await,
                Err(error) => Err(error),
            };
            let Err(error) = result else { return Ok(()) };
            let Some(after) = self.wait_after(&error) else { return Err(error) };
            self.observer.event(&Event::Retrying { error: &error, after });
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                () = tokio::time::sleep(after) => {}
            }
        }
    }

    /// How long to wait before the next attempt; `None` to give up.
    fn wait_after(&mut self, error: &ReceiveError) -> Option<Duration> {
        if matches!(error, ReceiveError::SlotActive { .. }) {
            let since = *self.slot_active_since.get_or_insert_with(Instant::now);
            let more = since.elapsed() < self.options.retry.slot_active;
            return more.then(|| self.backoff.wait().min(SLOT_ACTIVE_WAIT));
        }
        if let (ReceiveError::WalRemoved { start, .. }, StartOrigin::Archive) = (error, self.origin) {
            // The next best start then, and the gap is told.
            self.gap = Some(*start);
            return Some(Duration::ZERO);
        }
        match (error.remedy(), self.worked) {
            (Remedy::Wait, _) | (Remedy::WaitIfItWorked, true) => Some(self.backoff.wait()),
            _ => None,
        }
    }

    /// Connects and finds out where to start.
    async fn prepare(&mut self) -> Result<Ready, ReceiveError> {
        let mut conninfo = self.options.conninfo.clone();
        conninfo.set("application_name", &self.options.application_name)?;
        let mut connection = Connection::connect(&conninfo).await?;
        let identity = connection.identify_system().await?;
        if let Some(expected) = self.options.system_id.clone()
            && expected != identity.system_id
        {
            return Err(ReceiveError::SystemIdentifier { expected, found: identity.system_id });
        }
        let size: SegmentSize = connection.show("wal_segment_size").await?.parse()?;
        let slot_restart = self.slot_position(&mut connection).await?;
        let history = self.history(&mut connection, identity.timeline).await?;
        let start = self.start_point(&identity, size, &history, slot_restart).await?;
        if start.timeline == identity.timeline && start.lsn > identity.flush_lsn {
            return Err(ReceiveError::AheadOfServer {
                timeline: start.timeline,
                held: start.lsn,
                server: identity.flush_lsn,
            });
        }
        Ok(Ready { connection, identity, size, history, start })
    }

    /// Where the slot keeps WAL from, if there is a slot and that can be known. Creates it where that is wanted.
    async fn slot_position(
        &self,
        connection: &mut Connection,
    ) -> Result<Option<(Option<TimelineId>, Lsn)>, ReceiveError> {
        let Some(slot) = &self.options.slot else { return Ok(None) };
        let readable = connection.server_version_num() >= READ_SLOT_SINCE;
        if readable {
            if let Some(found) = connection.read_slot(slot).await? {
                return Ok(found.restart_lsn.map(|lsn| (found.restart_timeline, lsn)));
            }
            if !self.options.create_slot {
                return Err(ReceiveError::SlotMissing { slot: slot.clone() });
            }
        }
        if self.options.create_slot {
            match connection.create_physical_slot(slot, true).await {
                Ok(_) => self.observer.event(&Event::SlotCreated { slot }),
                Err(error) if !readable && error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => {
                    return Ok(self.options.slot_restart.map(|lsn| (None, lsn)));
                }
                Err(error) => return Err(error.into()),
            }
            return Ok(None);
        }
        Ok(self.options.slot_restart.map(|lsn| (None, lsn)))
    }

    /// The history of a timeline, which is saved as well: recovery along that timeline asks for it.
    async fn history(
        &self,
        connection: &mut Connection,
        timeline: TimelineId,
    ) -> Result<History, ReceiveError> {
        if timeline == TimelineId::FIRST {
            return Ok(History::root(timeline));
        }
        let file = match connection.timeline_history(timeline).await {
            Ok(file) => file,
            Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_FILE) => {
                self.observer.event(&Event::HistoryMissing { timeline });
                return Ok(History::root(timeline));
            }
            Err(error) => return Err(error.into()),
        };
        let history = History::parse(timeline, &file.content)?;
        let path = self.options.directory.join(WalFile::History(timeline).to_string());
        let new = self
            .with_directory(move |directory| Ok(directory.write_history(timeline, &file.content)))
            .await?;
        if new.map_err(|source| ReceiveError::SaveHistory { path, source })? {
            self.observer.event(&Event::HistorySaved { timeline });
        }
        Ok(history)
    }

    async fn start_point(
        &self,
        identity: &SystemIdentity,
        size: SegmentSize,
        history: &History,
        slot_restart: Option<(Option<TimelineId>, Lsn)>,
    ) -> Result<StartPoint, ReceiveError> {
        let ours = history.clone();
        let held =
            self.with_directory(move |directory| start::from_streaming(directory, &ours, size)).await?;
        match held {
            Ok(Some(start)) => return Ok(start),
            Ok(None) => {}
            Err(stranger) => {
                let (newest, timeline) = (stranger.newest, identity.timeline);
                return Err(ReceiveError::Diverged { newest, timeline });
            }
        }
        let newest = self.options.newest_archived.filter(|_| self.gap.is_none());
        let archive = newest.and_then(|segment| Some((segment.timeline(), segment.end_lsn(size)?)));
        let slot =
            slot_restart.map(|(timeline, lsn)| (timeline.unwrap_or_else(|| history.timeline_at(lsn)), lsn));
        for (origin, position) in [(StartOrigin::Archive, archive), (StartOrigin::Slot, slot)] {
            let found = position.and_then(|(timeline, lsn)| start::continue_at(history, size, timeline, lsn));
            if let Some((timeline, lsn)) = found {
                return Ok(StartPoint { timeline, lsn, origin });
            }
        }
        let lsn = size.start_of(identity.flush_lsn);
        Ok(StartPoint { timeline: identity.timeline, lsn, origin: StartOrigin::Server })
    }

    /// Streams timeline after timeline.
    async fn stream(
        &mut self,
        ready: Ready,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), ReceiveError> {
        let Ready { mut connection, identity, size, history, mut start } = ready;
        let server_version = connection.server_version_num();
        loop {
            // The current timeline's history is there already.
            if start.timeline != history.timeline() {
                self.history(&mut connection, start.timeline).await?;
            }
            let slot = self.options.slot.clone();
            let command = StartPhysical { slot: slot.clone(), start: start.lsn, timeline: start.timeline };
            let refused =
                |error| ReceiveError::from_stream(error, slot.as_deref(), start.timeline, start.lsn);
            let begun = async { connection.start_physical(command).await.map_err(refused) };
            let stream = within(PREPARE_LIMIT, begun).await?;
            self.slot_active_since = None;
            self.origin = start.origin;
            let held = matches!(start.origin, StartOrigin::Streaming | StartOrigin::Archive);
            if let Some(from) = self.gap.filter(|from| !held && *from < start.lsn) {
                self.observer.event(&Event::Gap { from, to: start.lsn });
            }
            let sink = Sink { path: self.options.directory.clone(), size, observer: self.observer.clone() };
            let session = Session::begin(stream, sink, start, slot).await?;
            let system_id = identity.system_id.as_str();
            self.observer.event(&Event::Streaming { start, system_id, server_version });
            let (worked, backoff) = (&mut self.worked, &mut self.backoff);
            let works = || {
                *worked = true;
                backoff.reset();
            };
            match session.run(stopped, works).await? {
                Ended::Stopped => return Ok(()),
                Ended::Timeline(end) => {
                    let (timeline, switch, next) = (start.timeline, end.switch, end.next);
                    self.observer.event(&Event::TimelineEnded { timeline, switch, next });
                    start = StartPoint {
                        timeline: next,
                        lsn: size.start_of(switch),
                        origin: StartOrigin::Streaming,
                    };
                }
            }
        }
    }

    /// Works on the streaming directory off the runtime's thread.
    async fn with_directory<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StreamingDirectory) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ReceiveError> {
        let path = self.options.directory.clone();
        let task =
            tokio::task::spawn_blocking(move || StreamingDirectory::open(&path).and_then(|d| work(&d)));
        let result = task.await.unwrap_or_else(|gone| Err(io::Error::other(gone)));
        result.map_err(|source| ReceiveError::Directory { path: self.options.directory.clone(), source })
    }
}

/// Gives up waiting for the server after a time.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ReceiveError>>,
) -> Result<T, ReceiveError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(ReceiveError::Silent(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that a runtime with several threads can run it.
    #[test]
    fn a_receiver_can_move_between_threads() {
        fn check<T: Send>(_: T) {}
        let conninfo = ConnInfo::parse("", &|_| None).unwrap();
        let observer = |_: &Event<'_>| {};
        let receiver = Receiver::new(ReceiverOptions::new(conninfo, "."), Arc::new(observer));
        check(receiver.run(std::future::pending()));
    }
}
