//! Base backups as they are sent, in both wire formats.

use std::collections::BTreeMap;

use pgwal::replication::{BackupEvent, BaseBackupOptions, ManifestChecksum, SqlState, Tablespace};
use pgwal::{Lsn, TimelineId};
use testkit::Cluster;

use crate::authentication::connect;

/// A whole backup, taken apart by archive.
#[derive(Default)]
struct Taken {
    begun: Option<(Lsn, TimelineId)>,
    ended: Option<(Lsn, TimelineId)>,
    tablespaces: Vec<Tablespace>,
    archives: BTreeMap<Option<u32>, Vec<u8>>,
    order: Vec<Option<u32>>,
    manifest: Option<Vec<u8>>,
    progress: u64,
}

async fn take(cluster: &Cluster, options: &BaseBackupOptions) -> Taken {
    let mut connection = connect(&cluster.conninfo()).await.unwrap();
    let mut stream = connection.base_backup(options).await.unwrap();
    let mut taken = Taken::default();
    let mut current = None;
    while let Some(event) = stream.next().await.unwrap() {
        assert!(taken.ended.is_none(), "nothing comes after the end");
        match event {
            BackupEvent::Start { start, timeline, tablespaces } => {
                taken.begun = Some((start, timeline));
                taken.tablespaces = tablespaces;
            }
            BackupEvent::Archive { tablespace } => {
                taken.order.push(tablespace);
                taken.archives.insert(tablespace, Vec::new());
                current = Some(tablespace);
            }
            BackupEvent::Manifest => taken.manifest = Some(Vec::new()),
            BackupEvent::Data(bytes) => match (&mut taken.manifest, current) {
                (Some(manifest), _) => manifest.extend_from_slice(&bytes),
                (None, Some(archive)) => taken.archives.get_mut(&archive).unwrap().extend_from_slice(&bytes),
                (None, None) => panic!("data before any archive"),
            },
            BackupEvent::Progress { .. } => taken.progress += 1,
            BackupEvent::End { end, timeline } => taken.ended = Some((end, timeline)),
            other => panic!("{other:?}"),
        }
    }
    assert!(connection.is_idle());
    connection.identify_system().await.unwrap();
    taken
}

fn quick() -> BaseBackupOptions {
    BaseBackupOptions {
        label: "it's a test".to_owned(),
        fast_checkpoint: true,
        ..BaseBackupOptions::default()
    }
}

/// The names and sizes in a tar archive; everything PostgreSQL sends is plain ustar.
fn members(tar: &[u8]) -> BTreeMap<String, usize> {
    let mut members = BTreeMap::new();
    let mut rest = tar;
    while let Some((header, after)) = rest.split_at_checked(512) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim_end_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(text(124..136).trim(), 8).unwrap();
        members.insert(text(0..100), size);
        rest = &after[size.next_multiple_of(512)..];
    }
    members
}

#[tokio::test]
async fn both_dialects_give_the_same_events() {
    for major in [13, 14, 15, 16, 17, 18] {
        testkit::require_pg!(major);
        let cluster = Cluster::start(major);
        let dir = cluster.new_dir("space");
        cluster.execute(&format!("create tablespace space location '{}'", dir.display()));
        cluster.execute("create table t tablespace space as select generate_series(1, 1000) as x");
        let oid = cluster.value("select oid from pg_tablespace where spcname = 'space'").parse().unwrap();

        let taken = take(&cluster, &quick()).await;
        let ((start, timeline), (end, _)) = (taken.begun.unwrap(), taken.ended.unwrap());
        assert!(start < end && timeline == TimelineId::FIRST);
        assert_eq!(taken.order, [Some(oid), None], "the data directory comes last");
        let space = &taken.tablespaces[0];
        assert_eq!(space.oid, Some(oid));
        assert_eq!(space.location.as_deref(), dir.to_str().map(str::as_bytes));
        assert!(taken.tablespaces.iter().all(|tablespace| tablespace.size_bytes > Some(0)));
        assert_eq!(taken.progress > 0, major >= 15);

        let base = members(&taken.archives[&None]);
        for name in ["backup_label", "global/pg_control", "PG_VERSION"] {
            assert!(base.contains_key(name), "{major}: {name} is not in {base:?}");
        }
        // Without a tablespace map the link is in the archive.
        assert!(
            base.contains_key(&format!("pg_tblspc/{oid}/")) && !base.contains_key("tablespace_map"),
            "{base:?}"
        );
        assert!(members(&taken.archives[&Some(oid)]).keys().any(|name| name.starts_with("PG_")));

        let manifest = String::from_utf8(taken.manifest.unwrap()).unwrap();
        assert!(manifest.contains("\"Checksum-Algorithm\": \"CRC32C\""), "{manifest}");
        assert!(manifest.contains("pg_control"));
        let label = String::from_utf8_lossy(&taken.archives[&None]).contains("LABEL: it's a test");
        assert!(label);
    }
}

#[tokio::test]
async fn options_are_understood_by_both_dialects() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let cluster = Cluster::builder(major).checksums(true).start();
        let options = BaseBackupOptions {
            progress: false,
            manifest: Some(ManifestChecksum::Sha256),
            tablespace_map: true,
            include_wal: true,
            verify_checksums: false,
            max_rate_kib: Some(1_000_000),
            ..quick()
        };
        let taken = take(&cluster, &options).await;
        assert!(taken.tablespaces.iter().all(|tablespace| tablespace.size_bytes.is_none()));
        let manifest = String::from_utf8(taken.manifest.unwrap()).unwrap();
        assert!(manifest.contains("SHA256"));
        let base = members(&taken.archives[&None]);
        assert!(base.keys().any(|name| name.starts_with("pg_wal/0000")), "{base:?}");

        let none = take(&cluster, &BaseBackupOptions { manifest: None, ..quick() }).await;
        assert!(none.manifest.is_none());
    }
}

#[tokio::test]
async fn a_transfer_can_be_slowed_down() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let begun = std::time::Instant::now();
    let taken = take(&cluster, &BaseBackupOptions { max_rate_kib: Some(10 * 1024), ..quick() }).await;
    let bytes = taken.archives[&None].len();
    let floor = bytes as f64 / (10.0 * 1024.0 * 1024.0) * 0.5;
    assert!(begun.elapsed().as_secs_f64() > floor, "{bytes} bytes in {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_page_that_fails_its_checksum_voids_the_backup() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let mut cluster = Cluster::builder(major).checksums(true).start();
        cluster.execute("create table t as select generate_series(1, 10000) as x; checkpoint");
        let file = cluster.data_dir().join(cluster.value("select pg_relation_filepath('t')"));
        cluster.stop(testkit::StopMode::Fast);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[8192 + 4000] ^= 0xFF;
        std::fs::write(&file, bytes).unwrap();
        cluster.start_again();

        let mut connection = connect(&cluster.conninfo()).await.unwrap();
        let mut stream = connection.base_backup(&quick()).await.unwrap();
        let mut warned = false;
        let error = loop {
            match stream.next().await {
                Ok(Some(BackupEvent::Notice(notice))) => {
                    assert!(notice.message.contains("checksum verification failed"), "{notice}");
                    warned = true;
                }
                Ok(Some(BackupEvent::End { .. }) | None) => panic!("{major}: the backup passed"),
                Ok(Some(_)) => {}
                Err(error) => break error,
            }
        };
        assert!(warned, "{error}");
        assert_eq!(error.sqlstate().map(|code| code.to_string()).as_deref(), Some("XX001"), "{error}");
        assert!(connection.is_idle());
    }
}

#[tokio::test]
async fn a_backup_given_up_leaves_the_server_in_peace() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let mut connection = connect(&cluster.conninfo()).await.unwrap();
    let mut stream = connection.base_backup(&quick()).await.unwrap();
    while !matches!(stream.next().await.unwrap(), Some(BackupEvent::Data(_))) {}
    drop(stream);
    assert!(!connection.is_idle());
    assert!(connection.identify_system().await.is_err(), "the stream's messages are still on their way");
    drop(connection);
    let busy = "select count(*) from pg_stat_progress_basebackup";
    testkit::wait_for("the server to notice", 20, || (cluster.value(busy) == "0").then_some(()));
}

#[tokio::test]
async fn the_servers_refusals_come_through() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).setting("max_wal_senders", "1").start();
    let mut first = connect(&cluster.conninfo()).await.unwrap();
    first.identify_system().await.unwrap();
    let error = connect(&cluster.conninfo()).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::TOO_MANY_CONNECTIONS), "{error}");
}
