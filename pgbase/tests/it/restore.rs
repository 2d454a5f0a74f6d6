//! Restores of real backups: started, and asked for their rows.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pgbase::restore::{
    AvailableWal, BackupFacts, BackupFormat, ExecuteOptions, Foreseen, INCOMPLETE_MARKER, Phase,
    RestoreEvent, RestoreObserver, RestoreRequest, Retry, TablespaceFacts, WalSupply, execute, look_at,
    plan_restore,
};
use pgbase::stream::{BackupOptions, take_backup};
use pgwal::replication::{ConnInfo, Connection};
use pgwal::{History, PgTimestamp, RecoveryTarget, SegmentSize, TargetAction, TargetKind, WalFile};
use testkit::{Cluster, TestDir};

/// A cluster with a backup behind it and rows 10, 20, 30 committed after the backup; its WAL stays in `pg_wal`.
struct Original {
    cluster: Cluster,
    dir: TestDir,
    backup: BackupFacts,
}

impl Original {
    fn new(major: u32) -> Self {
        Self::built(Cluster::builder(major))
    }

    fn built(builder: testkit::ClusterBuilder) -> Self {
        let cluster = builder.setting("wal_keep_size", "1GB").setting("archive_mode", "off").start();
        let (fast, slow) = (cluster.new_dir("fast"), cluster.new_dir("slow"));
        cluster.execute(&format!("create tablespace fast location '{}'", fast.display()));
        cluster.execute(&format!("create tablespace slow location '{}'", slow.display()));
        cluster.execute("create table log (id int primary key)");
        cluster.execute("create table victim tablespace fast as select generate_series(1, 1000) as n");
        cluster.execute("create table bulk tablespace slow as select generate_series(1, 1000) as n");
        cluster.execute("insert into log values (1), (2)");
        let dir = TestDir::new();
        let backup = back_up(&cluster, &dir.join("backup"));
        cluster.execute("insert into log values (10)");
        Original { cluster, dir, backup }
    }

    fn lsn(&self) -> pgwal::Lsn {
        self.cluster.value("select pg_current_wal_insert_lsn()").parse().unwrap()
    }

    fn drop_the_table(&self) -> u32 {
        let mut client = self.cluster.client();
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute("drop table victim").unwrap();
        let xid: String = transaction.query_one("select txid_current()::text", &[]).unwrap().get(0);
        transaction.commit().unwrap();
        u32::try_from(xid.parse::<u64>().unwrap()).unwrap()
    }

    fn request(&self, target: RecoveryTarget) -> RestoreRequest {
        let last = self.cluster.switch_wal();
        let wal = self.cluster.data_dir().join("pg_wal");
        let available: Vec<_> = std::fs::read_dir(&wal)
            .unwrap()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let file: WalFile = path.file_name()?.to_str()?.parse().ok()?;
                // Later segments are being written, or are spare ones.
                (file.to_string() <= last || matches!(file, WalFile::History(_)))
                    .then(|| AvailableWal { file, directory: wal.as_path().into() })
            })
            .collect();
        let histories = available
            .iter()
            .filter_map(|wal| match wal.file {
                WalFile::History(timeline) => {
                    Some(History::parse(timeline, &std::fs::read(wal.path()).unwrap()).unwrap())
                }
                _ => None,
            })
            .collect();
        RestoreRequest {
            backup: self.backup.clone(),
            destination: self.dir.join("restored"),
            delta: false,
            tablespace_locations: vec![
                ("fast".into(), self.dir.join("fast")),
                ("slow".into(), self.dir.join("slow")),
            ],
            target,
            standby: false,
            wal: WalSupply::Copy { partials: false, staging: None },
            available_wal: available,
            histories,
            foreseen: Foreseen::Nothing,
            archived_until: None,
            settings_file: "postgresql.auto.conf".into(),
            extra_files: Vec::new(),
        }
    }

    fn restore(&self, target: RecoveryTarget) -> PathBuf {
        let plan = plan_restore(self.request(target), &look_at).unwrap();
        execute(&plan, ExecuteOptions { jobs: 2, owner: None, retry: Retry::NEVER }, &()).unwrap();
        self.dir.join("restored")
    }

    /// Restores, starts, and waits until the cluster is writable.
    fn recover(&self, kind: TargetKind, inclusive: bool) -> Cluster {
        let action = Some(TargetAction::Promote);
        let data = self.restore(RecoveryTarget { kind: Some(kind), inclusive, action, ..Default::default() });
        let cluster = Cluster::adopt(self.cluster.major(), &data);
        cluster.wait_until_writable();
        cluster
    }
}

fn back_up(cluster: &Cluster, directory: &Path) -> BackupFacts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = BackupOptions { immediate_checkpoint: true, ..BackupOptions::default() };
    let unpacked = runtime.block_on(async {
        let conninfo = ConnInfo::parse(&cluster.conninfo(), &|_| None).unwrap();
        let connection = Connection::connect(&conninfo).await.unwrap();
        take_backup(connection, directory, &options, &()).await.unwrap()
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    BackupFacts {
        id: "20261122T101539".into(),
        major: cluster.major(),
        timeline: unpacked.start_timeline,
        begin: unpacked.start,
        end: unpacked.end,
        end_time: PgTimestamp::from_unix_micros(now.as_micros().try_into().unwrap()),
        system_id: None,
        segment_size: cluster.value("show wal_segment_size").parse::<SegmentSize>().unwrap(),
        format: BackupFormat::Plain,
        data: directory.join("data"),
        tablespaces: unpacked
            .tablespaces
            .iter()
            .map(|tablespace| TablespaceFacts {
                oid: tablespace.oid,
                name: cluster
                    .value(&format!("select spcname from pg_tablespace where oid = {}", tablespace.oid)),
                location: tablespace.location.clone(),
                data: directory.join(tablespace.oid.to_string()),
            })
            .collect(),
    }
}

/// The timeline that a cluster writes on.
fn timeline(cluster: &Cluster) -> u32 {
    let segment = cluster.value("select pg_walfile_name(pg_current_wal_insert_lsn())");
    u32::from_str_radix(&segment[..8], 16).unwrap()
}

fn ids(cluster: &Cluster) -> Vec<String> {
    cluster.query_text("select id from log order by id")
}

fn restores_to_the_commit_before_the_drop(major: u32) {
    let original = Original::built(Cluster::builder(major).segment_size_mib(1).checksums(true));
    let xid = original.drop_the_table();
    original.cluster.execute("insert into log values (20)");
    let restored = original.recover(TargetKind::Xid(xid), false);
    assert_eq!(ids(&restored), ["1", "2", "10"]);
    assert_eq!(restored.value("select count(*) from victim"), "1000");
    assert_eq!(restored.value("select count(*) from bulk"), "1000");
    // The new cluster writes to its own tablespaces and leaves the archive of the original alone.
    restored.execute("insert into bulk values (0)");
    assert_eq!(original.cluster.value("select count(*) from bulk"), "1000");
    assert_eq!(restored.value("show archive_command"), "(disabled)");
    assert_eq!(timeline(&restored), 2);
    assert!(!original.dir.join("restored/barman_wal").exists());
}

#[test]
fn restores_to_the_commit_before_the_drop_on_13() {
    testkit::require_pg!(13);
    restores_to_the_commit_before_the_drop(13);
}

#[test]
fn restores_to_the_commit_before_the_drop_on_15() {
    testkit::require_pg!(15);
    restores_to_the_commit_before_the_drop(15);
}

#[test]
fn restores_to_the_commit_before_the_drop_on_18() {
    testkit::require_pg!(18);
    restores_to_the_commit_before_the_drop(18);
}

#[test]
fn stops_at_positions_and_names() {
    testkit::require_pg!(15);
    let original = Original::new(15);
    let lsn = original.lsn();
    original.cluster.execute("insert into log values (20)");
    original.cluster.execute("select pg_create_restore_point('it''s noon')");
    original.cluster.execute("insert into log values (30)");
    let restored = original.recover(TargetKind::Lsn(lsn), false);
    assert_eq!(ids(&restored), ["1", "2", "10"]);
    drop(restored);
    for name in ["restored", "fast", "slow"] {
        std::fs::remove_dir_all(original.dir.join(name)).unwrap();
    }
    let restored = original.recover(TargetKind::Name("it's noon".into()), true);
    assert_eq!(ids(&restored), ["1", "2", "10", "20"]);
}

#[test]
fn a_plain_restore_has_all_there_is_and_stays_on_its_timeline() {
    testkit::require_pg!(17);
    let original = Original::new(17);
    original.cluster.execute("insert into log values (20)");
    let restored = Cluster::adopt(17, &original.restore(RecoveryTarget::default()));
    assert!(!restored.is_in_recovery());
    assert_eq!(ids(&restored), ["1", "2", "10", "20"]);
    assert_eq!(timeline(&restored), 1);
}

#[test]
fn a_plain_restore_follows_a_promotion() {
    testkit::require_pg!(15);
    let mut original = Original::new(15);
    // A restart as a standby of nobody, promoted at once: the cluster goes on on timeline 2.
    original.cluster.stop(testkit::StopMode::Fast);
    let signal = original.cluster.data_dir().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    testkit::unprivileged_user().take_over(&signal);
    original.cluster.start_again();
    original.cluster.promote();
    original.cluster.execute("insert into log values (20)");
    let restored = Cluster::adopt(15, &original.restore(RecoveryTarget::default()));
    restored.wait_until_writable();
    assert_eq!(ids(&restored), ["1", "2", "10", "20"]);
    assert_eq!(timeline(&restored), 3);
}

#[test]
fn an_unfinished_restore_cannot_be_started() {
    /// Takes a picture of the destination just before its end, as a power cut would leave it.
    struct Photographer {
        from: PathBuf,
        to: PathBuf,
        taken: Mutex<bool>,
    }
    impl RestoreObserver for Photographer {
        fn event(&self, event: RestoreEvent) {
            if event == RestoreEvent::Phase(Phase::Syncing) {
                let copied =
                    std::process::Command::new("cp").arg("-a").arg(&self.from).arg(&self.to).status();
                *self.taken.lock().unwrap() = copied.unwrap().success();
            }
        }
    }
    testkit::require_pg!(15);
    let original = Original::new(15);
    let plan = plan_restore(original.request(RecoveryTarget::default()), &look_at).unwrap();
    let photographer = Photographer {
        from: original.dir.join("restored"),
        to: original.dir.join("cut"),
        taken: Mutex::new(false),
    };
    execute(&plan, ExecuteOptions { jobs: 2, owner: None, retry: Retry::NEVER }, &photographer).unwrap();
    assert!(photographer.taken.into_inner().unwrap());
    let cut = original.dir.join("cut");
    assert!(cut.join(INCOMPLETE_MARKER).exists());
    let failure = Cluster::try_adopt(15, &cut).unwrap_err();
    assert!(failure.log.contains("global/pg_control"), "{}", failure.log);
}
