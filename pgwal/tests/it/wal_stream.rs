//! WAL as it is streamed.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::BytesMut;
use pgwal::replication::{Connection, ReplicationError, SqlState, StandbyStatus, StartPhysical, WalEvent};
use pgwal::{Lsn, TimelineId};
use testkit::{Cluster, StopMode};

use crate::authentication::connect;

const SEGMENT_LEN: u64 = 1 << 20;

fn cluster(major: u32) -> Cluster {
    Cluster::builder(major).segment_size_mib(1).setting("wal_keep_size", "100MB").start()
}

fn from_segment_of(lsn: Lsn, timeline: TimelineId, slot: Option<&str>) -> StartPhysical {
    let start = Lsn::from_u64(lsn.as_u64() / SEGMENT_LEN * SEGMENT_LEN);
    StartPhysical { slot: slot.map(str::to_owned), start, timeline }
}

async fn start_of(connection: &mut Connection) -> StartPhysical {
    let identity = connection.identify_system().await.unwrap();
    from_segment_of(identity.flush_lsn, identity.timeline, None)
}

fn lsn(cluster: &Cluster) -> Lsn {
    cluster.value("select pg_current_wal_flush_lsn()").parse().unwrap()
}

#[tokio::test]
async fn the_stream_is_the_servers_own_wal() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let cluster = cluster(major);
        let mut connection = connect(&cluster.conninfo()).await.unwrap();
        let start = start_of(&mut connection).await;
        cluster.execute("create table t as select repeat('x', 1000) as x from generate_series(1, 5000)");
        let end = lsn(&cluster);
        let mut received = BytesMut::new();
        let mut position = start.start;
        let mut stream = connection.start_physical(start.clone()).await.unwrap();
        while position < end {
            match stream.next().await.unwrap() {
                WalEvent::Data { start, bytes, server_end, .. } => {
                    assert_eq!(start, position);
                    assert!(server_end >= start);
                    received.extend_from_slice(&bytes);
                    position = start.checked_add(bytes.len() as u64).unwrap();
                }
                WalEvent::KeepAlive { .. } => {}
                other => panic!("{other:?}"),
            }
            let status = StandbyStatus { write: position, flush: position, apply: Lsn::INVALID };
            stream.send_status(status).await.unwrap();
        }
        assert_eq!(stream.stop().await.unwrap(), None);
        // The connection is in order after the stream.
        connection.identify_system().await.unwrap();

        let size = pgwal::SegmentSize::new(SEGMENT_LEN).unwrap();
        let mut name = pgwal::SegmentName::at(start.timeline, start.start, size);
        for segment in received.chunks_exact(SEGMENT_LEN as usize) {
            let file = std::fs::read(cluster.data_dir().join("pg_wal").join(name.to_string())).unwrap();
            assert!(segment == file, "{name}");
            name = name.next(size).unwrap();
        }
    }
}

#[tokio::test]
async fn positions_reported_are_seen_by_the_server() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let mut connection = connect(&format!("{} application_name=reporter", cluster.conninfo())).await.unwrap();
    connection.create_physical_slot("keeper", true).await.unwrap();
    let start = StartPhysical { slot: Some("keeper".to_owned()), ..start_of(&mut connection).await };
    let at = start.start;
    let mut stream = connection.start_physical(start).await.unwrap();
    let flush = at.checked_add(0x100).unwrap();
    stream.send_status(StandbyStatus { write: flush, flush, apply: Lsn::INVALID }).await.unwrap();
    let question = "select flush_lsn from pg_stat_replication where application_name = 'reporter'";
    testkit::wait_for("the report", 20, || {
        (cluster.query_text(question) == [flush.to_string()]).then_some(())
    });
    assert_eq!(
        cluster.value("select restart_lsn from pg_replication_slots where slot_name = 'keeper'"),
        flush.to_string()
    );
    // A ping is answered at once.
    stream.ping(StandbyStatus { write: flush, flush, apply: Lsn::INVALID }).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), async {
        while !matches!(stream.next().await.unwrap(), WalEvent::KeepAlive { .. }) {}
    });
    answer.await.unwrap();
}

#[tokio::test]
async fn slots_missing_or_in_use_are_told_apart() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let mut first = connect(&cluster.conninfo()).await.unwrap();
    let start =
        |slot: &str, start: &StartPhysical| StartPhysical { slot: Some(slot.to_owned()), ..start.clone() };
    let at = start_of(&mut first).await;
    let missing = first.start_physical(start("missing", &at)).await.unwrap_err();
    assert_eq!(missing.sqlstate(), Some(SqlState::UNDEFINED_OBJECT), "{missing}");
    assert!(missing.to_string().contains("START_REPLICATION"), "{missing}");

    first.create_physical_slot("busy", true).await.unwrap();
    let mut second = connect(&cluster.conninfo()).await.unwrap();
    let _stream = first.start_physical(start("busy", &at)).await.unwrap();
    let active = second.start_physical(start("busy", &at)).await.unwrap_err();
    assert_eq!(active.sqlstate(), Some(SqlState::OBJECT_IN_USE), "{active}");
    let dropped = second.drop_slot("busy").await.unwrap_err();
    assert_eq!(dropped.sqlstate(), Some(SqlState::OBJECT_IN_USE), "{dropped}");
    // The second connection survived both.
    second.identify_system().await.unwrap();
}

#[tokio::test]
async fn wal_that_is_gone_is_told_by_its_code() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("min_wal_size", "2MB").start();
    let mut connection = connect(&cluster.conninfo()).await.unwrap();
    let start = start_of(&mut connection).await;
    for _ in 0..8 {
        cluster.switch_wal();
        cluster.execute("checkpoint");
    }
    let error = match connection.start_physical(start).await {
        Err(error) => error,
        Ok(mut stream) => loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        },
    };
    assert_eq!(error.sqlstate(), Some(SqlState::UNDEFINED_FILE), "{error}");
    assert!(error.to_string().contains("has already been removed"), "{error}");
}

#[tokio::test]
async fn waiting_for_wal_can_be_given_up_and_taken_up_again() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let mut connection = connect(&cluster.conninfo()).await.unwrap();
    let start = start_of(&mut connection).await;
    let mut position = start.start;
    let mut stream = connection.start_physical(start).await.unwrap();
    cluster.execute("create table t as select repeat('x', 1000) as x from generate_series(1, 20000)");
    let end = lsn(&cluster);
    let mut given_up = 0;
    // Behind the end there is nothing to come: at least there, a wait is given up.
    while position < end || given_up == 0 {
        // Cut off every wait after a moment: no byte may be lost by it.
        match tokio::time::timeout(Duration::from_micros(20), stream.next()).await {
            Ok(Ok(WalEvent::Data { start, bytes, .. })) => {
                assert_eq!(start, position);
                position = start.checked_add(bytes.len() as u64).unwrap();
            }
            Ok(Ok(WalEvent::KeepAlive { .. })) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => given_up += 1,
        }
    }
    stream.stop().await.unwrap();
    assert!(connection.is_idle());
}

#[tokio::test]
async fn the_end_of_a_timeline_names_the_next_one() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let primary = cluster(major);
        let standby = primary.standby("s");
        primary.execute("create table t as select generate_series(1, 1000) as x");
        primary.wait_for_replay_by(&standby);
        standby.promote();
        standby.wait_until_writable();
        let mut connection = connect(&standby.conninfo()).await.unwrap();
        let second = TimelineId::new(2).unwrap();
        let history = connection.timeline_history(second).await.unwrap();
        let history = pgwal::History::parse(second, &history.content).unwrap();
        let switch = history.end_of(TimelineId::FIRST).unwrap();
        let start = from_segment_of(switch, TimelineId::FIRST, None);
        let mut stream = connection.start_physical(start).await.unwrap();
        let mut position = Lsn::INVALID;
        let end = loop {
            match stream.next().await.unwrap() {
                WalEvent::Data { start, bytes, .. } => {
                    position = start.checked_add(bytes.len() as u64).unwrap();
                }
                WalEvent::KeepAlive { .. } => {}
                WalEvent::TimelineEnd { next, switch } => break (next, switch),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(end, (second, switch));
        assert_eq!(position, switch);
        // Asked again, the last event comes again.
        assert!(matches!(stream.next().await.unwrap(), WalEvent::TimelineEnd { .. }));

        // From the very end there is nothing to stream, and the same answer.
        let start = StartPhysical { slot: None, start: switch, timeline: TimelineId::FIRST };
        let mut stream = connection.start_physical(start).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), WalEvent::TimelineEnd { next, .. } if next == second));

        // The same connection goes on with the next timeline.
        let start = from_segment_of(switch, second, None);
        let mut stream = connection.start_physical(start).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), WalEvent::Data { .. } | WalEvent::KeepAlive { .. }));
        stream.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_says_so() {
    testkit::require_pg!(15);
    let mut cluster = cluster(15);
    let mut connection = connect(&cluster.conninfo()).await.unwrap();
    let start = start_of(&mut connection).await;
    let mut stream = connection.start_physical(start).await.unwrap();
    let stopping = std::thread::spawn(move || {
        cluster.stop(StopMode::Fast);
        cluster
    });
    let mut position = Lsn::INVALID;
    loop {
        match stream.next().await.unwrap() {
            WalEvent::Data { start, bytes, .. } => {
                position = start.checked_add(bytes.len() as u64).unwrap();
            }
            WalEvent::KeepAlive { .. } => {}
            WalEvent::ServerShutdown => break,
            other => panic!("{other:?}"),
        }
        // The server waits until all of its WAL is flushed here. It may have gone by now: what it said last is still to be read.
        let status = StandbyStatus { write: position, flush: position, apply: Lsn::INVALID };
        match stream.send_status(status).await {
            Err(ReplicationError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => {}
            told => told.unwrap(),
        }
    }
    drop(stream);
    assert!(!connection.is_idle());
    stopping.join().unwrap();
}
