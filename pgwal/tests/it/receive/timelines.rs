//! Promotions while receiving, and after.

use super::*;

/// Whether timeline 2 is received whole: its history and its WAL from the segment of the switch on.
fn check_second_timeline(cluster: &Cluster, directory: &Path) {
    let received = std::fs::read(directory.join("00000002.history")).unwrap();
    let theirs = std::fs::read(cluster.data_dir().join("pg_wal/00000002.history")).unwrap();
    assert!(received == theirs);
    let names = names(directory);
    let old_partial = names.iter().find(|name| name.starts_with("00000001") && name.ends_with(".partial"));
    let old_partial = old_partial.unwrap_or_else(|| panic!("no partial of timeline 1 is kept: {names:?}"));
    let first_new = names.iter().find(|name| name.len() > 16 && name.starts_with("00000002")).unwrap();
    assert_eq!(
        first_new[8..24],
        old_partial[8..24],
        "timeline 2 begins in the segment where timeline 1 ended"
    );
    let new: Vec<_> = names.iter().filter(|name| name.len() == 24 && name.starts_with("00000002")).collect();
    assert!(!new.is_empty(), "{names:?}");
    for name in new {
        let theirs = std::fs::read(cluster.data_dir().join("pg_wal").join(name)).unwrap();
        assert!(std::fs::read(directory.join(name)).unwrap() == theirs, "{name} differs");
    }
}

#[test]
fn follows_the_promotion_of_the_standby_it_streams_from() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let standby = primary.standby("standby");
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&standby, &directory));
    write(&primary, 5000);
    primary.wait_for_replay_by(&standby);
    receiving.expect("streaming 1");
    standby.promote();
    receiving.expect("switched 1 2");
    write(&standby, 10_000);
    standby.switch_wal();
    wait_until_flushed(&standby);
    check_second_timeline(&standby, directory.path());
    receiving.stop();

    // And goes on there after a restart.
    let receiving = Receiving::start(options(&standby, &directory));
    receiving.expect("streaming 2");
    write(&standby, 100);
    wait_until_flushed(&standby);
    receiving.stop();
}

#[test]
fn catches_up_over_a_promotion_that_it_slept_through() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let standby = primary.standby("standby");
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&primary, &directory));
    receiving.expect("streaming 1");
    write(&primary, 3000);
    wait_until_flushed(&primary);
    receiving.stop();
    write(&primary, 10_000);
    primary.wait_for_replay_by(&standby);
    standby.promote();
    write(&standby, 10_000);
    standby.switch_wal();
    let receiving = Receiving::start(options(&standby, &directory));
    receiving.expect("streaming 1");
    receiving.expect("switched 1 2");
    wait_until_flushed(&standby);
    check_second_timeline(&standby, directory.path());
    receiving.stop();
}

#[test]
fn leaves_a_branch_that_the_new_primary_never_had() {
    testkit::require_pg!(15);
    let mut primary = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let mut standby = primary.standby("standby");
    primary.wait_for_replay_by(&standby);
    standby.stop(testkit::StopMode::Immediate);
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&primary, &directory));
    receiving.expect("streaming 1");
    // Only the receiver gets this; then the primary is gone for good.
    write(&primary, 10_000);
    wait_until_flushed(&primary);
    receiving.stop();
    primary.kill();
    standby.start_again();
    standby.promote();
    write(&standby, 10_000);
    standby.switch_wal();
    let branch: Vec<String> = names(directory.path());
    let receiving = Receiving::start(options(&standby, &directory));
    receiving.expect("streaming 2");
    wait_until_flushed(&standby);
    receiving.stop();
    // Nothing of the lost branch is lost here.
    let names = names(directory.path());
    assert!(branch.iter().all(|name| names.contains(name)), "{branch:?} {names:?}");
    assert!(names.iter().any(|name| name.len() == 24 && name.starts_with("00000002")), "{names:?}");
}

#[test]
fn a_history_that_the_server_has_lost_is_told_and_does_not_stop_receiving() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).segment_size_mib(1).start();
    let standby = primary.standby("standby");
    primary.wait_for_replay_by(&standby);
    standby.promote();
    std::fs::remove_file(standby.data_dir().join("pg_wal/00000002.history")).unwrap();
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&standby, &directory));
    receiving.expect("HistoryMissing");
    receiving.expect("streaming 2");
    write(&standby, 100);
    wait_until_flushed(&standby);
    receiving.stop();
}

#[test]
fn another_cluster_s_history_of_the_same_timeline_is_not_replaced() {
    testkit::require_pg!(15);
    let primary = Cluster::builder(15).segment_size_mib(1).start();
    let standby = primary.standby("standby");
    primary.wait_for_replay_by(&standby);
    standby.promote();
    let directory = TestDir::new();
    directory.write("00000002.history", "1\t0/100\tanother promotion\n");
    let error = Receiving::start(options(&standby, &directory)).failure();
    assert!(matches!(error, ReceiveError::SaveHistory { .. }), "{error}");
    assert!(error.to_string().contains("00000002.history"), "{error}");
    let kept = std::fs::read_to_string(directory.join("00000002.history")).unwrap();
    assert_eq!(kept, "1\t0/100\tanother promotion\n");
}
