//! What ends receiving, each with an error that says why.

use super::*;

fn cluster() -> Cluster {
    Cluster::builder(15).segment_size_mib(1).setting("max_wal_size", "2MB").start()
}

#[test]
fn a_missing_slot_is_named() {
    testkit::require_pg!(13, 15);
    for major in [13, 15] {
        let cluster = Cluster::start(major);
        let directory = TestDir::new();
        let mut options = options(&cluster, &directory);
        options.slot = Some("nobody_made_this".to_owned());
        let error = Receiving::start(options).failure();
        assert!(
            matches!(&error, ReceiveError::SlotMissing { slot } if slot == "nobody_made_this"),
            "{error}"
        );
        assert_eq!(names(directory.path()), [""; 0], "nothing was left behind");
    }
}

#[test]
fn a_slot_in_use_is_waited_for_and_then_an_error() {
    testkit::require_pg!(15);
    let cluster = cluster();
    let (first, second) = (TestDir::new(), TestDir::new());
    let with_slot = |directory| {
        let mut options = options(&cluster, directory);
        options.slot = Some("shared".to_owned());
        options.create_slot = true;
        options
    };
    let one = Receiving::start(with_slot(&first));
    one.expect("streaming");
    let two = Receiving::start(with_slot(&second));
    two.expect("retrying: replication slot \"shared\" is in use");
    let error = two.failure();
    assert!(matches!(error, ReceiveError::SlotActive { .. }), "{error}");
    // Freed in time, it is taken over.
    let three = Receiving::start(with_slot(&second));
    three.expect("retrying: replication slot \"shared\" is in use");
    one.stop();
    three.expect("streaming");
    three.stop();
}

#[test]
fn another_cluster_s_wal_is_not_mixed_in() {
    testkit::require_pg!(15);
    let cluster = cluster();
    let directory = TestDir::new();
    let mut options = options(&cluster, &directory);
    options.system_id = Some("7000000000000000001".to_owned());
    let error = Receiving::start(options).failure();
    assert!(matches!(error, ReceiveError::SystemIdentifier { .. }), "{error}");
    assert!(error.to_string().contains("7000000000000000001"));
}

#[test]
fn wal_that_the_server_has_removed_is_an_error() {
    testkit::require_pg!(15);
    let cluster = cluster();
    let directory = TestDir::new();
    let receiving = Receiving::start(options(&cluster, &directory));
    receiving.expect("streaming");
    write(&cluster, 100);
    wait_until_flushed(&cluster);
    receiving.stop();
    for _ in 0..4 {
        write(&cluster, 5000);
        cluster.switch_wal();
        cluster.execute("checkpoint");
    }
    let before = names(directory.path());
    let error = Receiving::start(options(&cluster, &directory)).failure();
    assert!(matches!(error, ReceiveError::WalRemoved { .. }), "{error}");
    assert_eq!(names(directory.path()), before);
}

#[test]
fn a_wrong_password_is_not_tried_twice() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).hba("local replication locked scram-sha-256").start();
    cluster.execute("create role locked replication login password 'right'");
    let directory = TestDir::new();
    let mut options = options(&cluster, &directory);
    options.conninfo.set("user", "locked").unwrap();
    options.conninfo.set("password", "wrong").unwrap();
    let receiving = Receiving::start(options);
    let error = receiving.failure();
    assert!(error.to_string().contains("password authentication failed"), "{error}");
}

#[test]
fn a_server_that_was_never_reached_is_an_error_at_once() {
    testkit::require_pg!(15);
    let mut cluster = cluster();
    cluster.stop(testkit::StopMode::Fast);
    let directory = TestDir::new();
    let error = Receiving::start(options(&cluster, &directory)).failure();
    assert!(matches!(error, ReceiveError::Connect(_)), "{error}");
}

#[test]
fn a_directory_of_unknown_timelines_is_refused() {
    testkit::require_pg!(15);
    let cluster = cluster();
    let directory = TestDir::new();
    directory.write("000000070000000000000003.partial", "");
    let error = Receiving::start(options(&cluster, &directory)).failure();
    assert!(matches!(error, ReceiveError::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("000000070000000000000003"), "{error}");
}

#[test]
fn a_missing_directory_is_named() {
    testkit::require_pg!(15);
    let cluster = cluster();
    let directory = TestDir::new();
    let mut options = options(&cluster, &directory);
    options.directory = directory.join("nowhere");
    let error = Receiving::start(options).failure();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
