//! Receiving while nothing goes wrong, and after what usually goes wrong.

use super::*;

/// Streams from a server of this version with segments of this size.
fn check(major: u32, segment_mib: u32, segments: u32) {
    let cluster = Cluster::builder(major)
        .segment_size_mib(segment_mib)
        .setting("wal_keep_size", "1GB")
        .setting("max_wal_size", "1GB")
        .start();
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&cluster, &directory));
    receiving.expect("streaming 1");
    for _ in 0..segments {
        write(&cluster, 2000);
        let closed = cluster.switch_wal();
        receiving.expect(&format!("completed {closed}"));
    }
    write(&cluster, 100);
    wait_until_flushed(&cluster);
    let compared = compare_segments(&cluster, directory.path());
    assert!(compared >= segments as usize, "only {compared} segments were complete");

    // The partial holds what the server holds, and zeros after that.
    let names = names(directory.path());
    let partial = names.last().unwrap();
    let ours = std::fs::read(directory.join(partial)).unwrap();
    assert_eq!(ours.len(), (segment_mib as usize) << 20);
    let theirs = cluster.data_dir().join("pg_wal").join(partial.strip_suffix(".partial").unwrap());
    let theirs = std::fs::read(theirs).unwrap();
    let end = ours.iter().rposition(|&byte| byte != 0).unwrap();
    assert!(ours[..=end] == theirs[..=end]);
    receiving.stop();
}

#[test]
fn streams_from_13_with_small_segments() {
    testkit::require_pg!(13);
    check(13, 1, 5);
}

#[test]
fn streams_from_15() {
    testkit::require_pg!(15);
    check(15, 16, 2);
}

#[test]
fn streams_from_17_with_large_segments() {
    testkit::require_pg!(17);
    check(17, 64, 2);
}

#[test]
fn streams_from_18_with_small_segments() {
    testkit::require_pg!(18);
    check(18, 1, 5);
}

#[test]
fn goes_on_when_the_server_comes_back() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&cluster, &directory));
    receiving.expect("streaming");
    write(&cluster, 5000);
    // A shutdown in good order waits until all WAL is received, so it must not wait long. Whether its goodbye is read or
    // a report to it fails first is chance.
    let began = std::time::Instant::now();
    cluster.stop(testkit::StopMode::Fast);
    assert!(began.elapsed() < Duration::from_secs(30), "the shutdown took {:?}", began.elapsed());
    receiving.expect("retrying: ");
    cluster.start_again();
    write(&cluster, 5000);
    wait_until_flushed(&cluster);
    cluster.kill();
    cluster.start_again();
    write(&cluster, 5000);
    wait_until_flushed(&cluster);
    assert!(compare_segments(&cluster, directory.path()) > 3);
    receiving.stop();
}

#[test]
fn a_new_receiver_goes_on_in_the_partial_segment_of_the_last() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let directory = TestDir::new();
    for round in 0..4 {
        let receiving = Receiving::start(options(&cluster, &directory));
        let started = receiving.expect("streaming");
        assert_eq!(started.ends_with("Streaming"), round > 0, "{started}");
        write(&cluster, 3000);
        wait_until_flushed(&cluster);
        receiving.stop();
    }
    assert!(compare_segments(&cluster, directory.path()) > 2);
}

#[test]
fn a_slot_keeps_what_comes_while_nobody_listens() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("max_wal_size", "4MB").start();
    let directory = TestDir::new();
    let mut options = options(&cluster, &directory);
    options.slot = Some("keeper".to_owned());
    options.create_slot = true;
    let receiving = Receiving::start(options.clone());
    receiving.expect("SlotCreated");
    receiving.expect("streaming");
    write(&cluster, 100);
    wait_until_flushed(&cluster);
    receiving.stop();
    for _ in 0..5 {
        write(&cluster, 5000);
        cluster.execute("checkpoint");
    }
    // All of it is still there, and the slot moves on with what is flushed.
    let receiving = Receiving::start(options);
    wait_until_flushed(&cluster);
    let flushed = cluster.value("select pg_current_wal_flush_lsn()");
    wait_for("the slot to move", 60, || {
        let question = format!("select restart_lsn >= '{flushed}'::pg_lsn from pg_replication_slots");
        (cluster.value(&question) == "t").then_some(())
    });
    receiving.stop();
    let names = names(directory.path());
    assert!(names.len() > 5, "{names:?}");
}

#[test]
fn a_slot_that_has_kept_wal_is_where_an_empty_directory_starts() {
    testkit::require_pg!(13, 15);
    for major in [13, 15] {
        let cluster = Cluster::builder(major).segment_size_mib(1).start();
        let slot = cluster.value("select lsn from pg_create_physical_replication_slot('keeper', true)");
        write(&cluster, 10_000);
        let directory = TestDir::new();
        let mut options = options(&cluster, &directory);
        options.slot = Some("keeper".to_owned());
        if major < 15 {
            options.slot_restart = Some(slot.parse().unwrap());
        }
        let receiving = Receiving::start(options);
        let started = receiving.expect("streaming");
        assert!(started.ends_with("Slot"), "{started}");
        wait_until_flushed(&cluster);
        assert!(compare_segments(&cluster, directory.path()) > 2);
        receiving.stop();
    }
}

#[test]
fn is_a_synchronous_standby_from_the_moment_it_is_named_one() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&cluster, &directory));
    receiving.expect("streaming");
    write(&cluster, 10);
    cluster.set("synchronous_standby_names", "barman_receive_wal");
    wait_for("a synchronous standby", 60, || {
        (cluster.value("select string_agg(sync_state, '') from pg_stat_replication") == "sync").then_some(())
    });
    // With reports every ten seconds only, each of these commits would take that long.
    let began = std::time::Instant::now();
    let mut client = cluster.client();
    for number in 0..50 {
        client.execute("insert into filler values ($1, 'commit')", &[&number]).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(200), "50 commits took {:?}", began.elapsed());
    receiving.stop();
}

#[test]
fn the_archive_s_end_is_where_an_empty_directory_starts() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let archived = cluster.switch_wal();
    write(&cluster, 10_000);
    let directory = TestDir::new();
    let mut options = options(&cluster, &directory);
    options.newest_archived = Some(archived.parse().unwrap());
    let receiving = Receiving::start(options);
    assert!(receiving.expect("streaming").ends_with("Archive"));
    wait_until_flushed(&cluster);
    receiving.stop();
    let first: pgwal::SegmentName = names(directory.path()).first().unwrap()[..24].parse().unwrap();
    let expected = archived.parse::<pgwal::SegmentName>().unwrap().next(pgwal::SegmentSize::MIN).unwrap();
    assert_eq!(first, expected);
}

#[test]
fn a_gap_after_the_archive_is_told_and_does_not_stop_receiving() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("max_wal_size", "2MB").start();
    let archived = cluster.switch_wal();
    for _ in 0..4 {
        write(&cluster, 5000);
        cluster.switch_wal();
        cluster.execute("checkpoint");
    }
    let directory = TestDir::new();
    let mut options = options(&cluster, &directory);
    options.newest_archived = Some(archived.parse().unwrap());
    let receiving = Receiving::start(options);
    receiving.expect("retrying: the server has removed WAL");
    receiving.expect("Gap");
    write(&cluster, 10);
    wait_until_flushed(&cluster);
    receiving.stop();
}

#[test]
fn goes_on_where_pg_receivewal_stopped_and_the_other_way_round() {
    testkit::require_pg!(18);
    let Some(program) = testkit::client_tool("pg_receivewal", 18) else {
        testkit::notice_skipped("pg_receivewal");
        return;
    };
    let cluster = Cluster::builder(18).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let directory = TestDir::new();
    for _ in 0..3 {
        let mut command = std::process::Command::new(&program);
        command.arg("--directory").arg(directory.path()).arg("--dbname").arg(cluster.conninfo());
        write(&cluster, 3000);
        let end = cluster.value("select pg_current_wal_flush_lsn()");
        write(&cluster, 10);
        // It stops after that position, and leaves a partial segment.
        let output = command.args(["--no-loop", "--endpos", &end]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let receiving = Receiving::start(options(&cluster, &directory));
        assert!(receiving.expect("streaming").ends_with("Streaming"));
        write(&cluster, 3000);
        wait_until_flushed(&cluster);
        receiving.stop();
    }
    assert!(compare_segments(&cluster, directory.path()) > 5);
}
