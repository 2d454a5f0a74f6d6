//! The commands that answer at once.

use pgwal::TimelineId;
use pgwal::replication::{ReplicationError, SqlState};
use testkit::Cluster;

use crate::authentication::connect;

#[tokio::test]
async fn identifies_the_system_and_shows_settings() {
    for major in [13, 14, 15, 16, 17, 18] {
        testkit::require_pg!(major);
        let cluster = Cluster::builder(major).segment_size_mib(1).start();
        let mut connection = connect(&cluster.conninfo()).await.unwrap();
        let identity = connection.identify_system().await.unwrap();
        assert_eq!(identity.system_id, cluster.value("select system_identifier from pg_control_system()"));
        assert_eq!(identity.timeline, TimelineId::FIRST);
        assert!(identity.flush_lsn.is_valid());
        assert_eq!(identity.database, None);
        assert_eq!(connection.show("wal_segment_size").await.unwrap(), "1MB");
        assert_eq!(connection.show("data_directory").await.unwrap(), cluster.data_dir().to_str().unwrap());

        // An error leaves the connection in order.
        let error = connection.show("no_such_setting").await.unwrap_err();
        assert_eq!(error.sqlstate(), Some(SqlState::UNDEFINED_OBJECT), "{error}");
        assert!(connection.is_idle());
        connection.identify_system().await.unwrap();
    }
}

#[tokio::test]
async fn slots_are_made_read_and_dropped() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let cluster = Cluster::builder(major).start();
        let mut connection = connect(&cluster.conninfo()).await.unwrap();
        assert!(!connection.drop_slot("keeper").await.unwrap());
        connection.create_physical_slot("keeper", true).await.unwrap();
        let again = connection.create_physical_slot("keeper", true).await.unwrap_err();
        assert_eq!(again.sqlstate(), Some(SqlState::DUPLICATE_OBJECT));
        connection.create_physical_slot("lazy", false).await.unwrap();

        if major >= 15 {
            let slot = connection.read_slot("keeper").await.unwrap().unwrap();
            assert_eq!(slot.slot_type, "physical");
            let restart =
                cluster.value("select restart_lsn from pg_replication_slots where slot_name = 'keeper'");
            assert_eq!(slot.restart_lsn.unwrap().to_string(), restart);
            assert_eq!(slot.restart_timeline, Some(TimelineId::FIRST));
            assert_eq!(connection.read_slot("lazy").await.unwrap().unwrap().restart_lsn, None);
            assert_eq!(connection.read_slot("missing").await.unwrap(), None);
        } else {
            let error = connection.read_slot("keeper").await.unwrap_err();
            assert!(matches!(error, ReplicationError::Unsupported { needed: 15, .. }), "{error}");
        }
        assert!(connection.drop_slot("keeper").await.unwrap());
        let error = connection.create_physical_slot("No Such", true).await.unwrap_err();
        assert!(matches!(error, ReplicationError::Command(_)), "{error}");
    }
}

#[tokio::test]
async fn timeline_history_is_fetched_after_a_promotion() {
    testkit::require_pg!(15);
    let primary = Cluster::start(15);
    let standby = primary.standby("s");
    let mut connection = connect(&standby.conninfo()).await.unwrap();
    assert!(connection.timeline_history(TimelineId::FIRST).await.is_err());
    standby.promote();
    standby.wait_until_writable();
    let second = TimelineId::new(2).unwrap();
    let mut connection = connect(&standby.conninfo()).await.unwrap();
    assert_eq!(connection.identify_system().await.unwrap().timeline, second);
    let history = connection.timeline_history(second).await.unwrap();
    assert_eq!(history.file_name, "00000002.history");
    let file = std::fs::read(standby.data_dir().join("pg_wal/00000002.history")).unwrap();
    assert_eq!(history.content, file);
    pgwal::History::parse(second, &history.content).unwrap();
}
