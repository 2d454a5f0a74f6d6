//! The WAL receiver against real servers.

mod disk;
mod hostile;
mod proxy;
mod refused;
mod streams;
mod timelines;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pgwal::replication::ConnInfo;
use pgwal::replication::receive::{Event, ReceiveError, Receiver, ReceiverOptions, RetryPolicy};
use testkit::{Cluster, TestDir, wait_for};
use tokio::sync::oneshot;

/// A receiver at work on a thread of its own.
struct Receiving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ReceiveError>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl Receiving {
    fn start(options: ReceiverOptions) -> Self {
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&events);
        let observer = move |event: &Event<'_>| told.lock().unwrap().push(describe(event));
        let receiver = Receiver::new(options, Arc::new(observer));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(receiver.run(async {
                let _ = stopped.await;
            }))
        });
        Receiving { stop: Some(stop), thread: Some(thread), events }
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    /// Waits for an event that begins like this, and returns it.
    #[track_caller]
    fn expect(&self, beginning: &str) -> String {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            let events = self.events();
            if let Some(event) = events.iter().find(|event| event.starts_with(beginning)) {
                return event.clone();
            }
            assert!(!ended, "the receiver has ended after {events:#?}");
            let late = std::time::Instant::now() > deadline;
            assert!(!late, "waited in vain for {beginning:?} among {events:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to stop, as SIGTERM would.
    fn stop(mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// Waits until it gives up.
    fn failure(mut self) -> ReceiveError {
        self.thread.take().unwrap().join().unwrap().unwrap_err()
    }
}

fn describe(event: &Event<'_>) -> String {
    match event {
        Event::Streaming { start, .. } => {
            format!("streaming {} {} {:?}", start.timeline, start.lsn, start.origin)
        }
        Event::SegmentCompleted { segment } => format!("completed {segment}"),
        Event::TimelineEnded { timeline, next, .. } => format!("switched {timeline} {next}"),
        Event::Retrying { error, .. } => format!("retrying: {error}"),
        other => format!("{other:?}"),
    }
}

/// Options for a test: as in production, with shorter waits.
fn options(cluster: &Cluster, directory: &TestDir) -> ReceiverOptions {
    let conninfo = ConnInfo::parse(&cluster.conninfo(), &|_| None).unwrap();
    let mut options = ReceiverOptions::new(conninfo, directory.path());
    options.retry = RetryPolicy {
        first: Duration::from_millis(50),
        longest: Duration::from_millis(500),
        slot_active: Duration::from_secs(2),
    };
    options
}

/// Some WAL.
fn write(cluster: &Cluster, rows: u32) {
    cluster.execute(&format!(
        "create table if not exists filler (n int, t text); \
         insert into filler select n, repeat(md5(n::text), 10) from generate_series(1, {rows}) n"
    ));
}

/// Waits until the server knows all its WAL to be safe with the receiver.
fn wait_until_flushed(cluster: &Cluster) {
    let target = cluster.value("select pg_current_wal_flush_lsn()");
    let question = format!(
        "select count(*) from pg_stat_replication \
         where application_name = 'barman_receive_wal' and flush_lsn >= '{target}'::pg_lsn"
    );
    wait_for("the receiver to have flushed", 60, || (cluster.value(&question) != "0").then_some(()));
}

/// Compares every complete segment with the server's own copy, and says how many there were.
fn compare_segments(cluster: &Cluster, directory: &Path) -> usize {
    let mut compared = 0;
    for name in names(directory).iter().filter(|name| name.len() == 24) {
        let ours = std::fs::read(directory.join(name)).unwrap();
        let theirs = std::fs::read(cluster.data_dir().join("pg_wal").join(name)).unwrap();
        assert!(ours == theirs, "{name} differs from the server's");
        compared += 1;
    }
    compared
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
