//! A server with a backup and a story after it, told in WAL: what the restore tests go back to.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use testkit::{Cluster, ClusterBuilder, StopMode, TestDir, wait_for};

use crate::support::{Home, Run};

/// How long a segment may take from the server to the home, in seconds.
const ARCHIVE_SECONDS: u64 = 60;

/// A server named `main`, its home, and a receiver of its WAL.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) home: Home,
    pub(crate) dir: TestDir,
    pub(crate) backup_id: String,
    /// Where the tablespaces `fast` and `slow` are on the original.
    pub(crate) spaces: [PathBuf; 2],
    receiver: Receiver,
}

/// Killed when the test ends, however it ends.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a cluster holds, in one line: rows of `log` as id:value, rows of `victim`, whether `late` is there.
pub(crate) fn state(cluster: &Cluster) -> String {
    let log = cluster.value("select coalesce(string_agg(id || ':' || v, ' ' order by id), '') from log");
    let count = |table: &str| match cluster.try_query_text(&format!("select count(*) from {table}")) {
        Ok(rows) => rows[0].clone(),
        Err(_) => "gone".to_owned(),
    };
    format!("log {log}; victim {}; late {}; bulk {}", count("victim"), count("late"), count("bulk"))
}

/// The timeline that a cluster writes on.
pub(crate) fn timeline(cluster: &Cluster) -> u32 {
    let segment = cluster.value("select pg_walfile_name(pg_current_wal_insert_lsn())");
    u32::from_str_radix(&segment[..8], 16).unwrap()
}

/// Settings that leave the WAL to the test: nothing else writes at a bad moment.
fn quiet(builder: ClusterBuilder) -> ClusterBuilder {
    builder
        .setting("autovacuum", "off")
        .setting("checkpoint_timeout", "1h")
        .setting("track_commit_timestamp", "on")
        .setting("max_prepared_transactions", "5")
        .setting("wal_level", "replica")
}

impl Scene {
    /// Starts the server, fills it, receives its WAL and takes a backup.
    pub(crate) fn new(builder: ClusterBuilder) -> Self {
        Self::with(builder, |home| home)
    }

    pub(crate) fn with(builder: ClusterBuilder, configure: impl FnOnce(Home) -> Home) -> Self {
        let cluster = quiet(builder).start();
        let spaces = ["fast", "slow"].map(|name| {
            let location = cluster.new_dir(name);
            cluster.execute(&format!("create tablespace {name} location '{}'", location.display()));
            location
        });
        cluster.execute(
            "create table log (id int primary key, v int not null default 1); insert into log values (1), (2), (3)",
        );
        cluster.execute("create table victim tablespace fast as select generate_series(1, 1000) as n");
        cluster.execute("create table bulk tablespace slow as select generate_series(1, 500) as n");
        let home = configure(Home::new().server("main", &cluster.conninfo()));
        home.run(["receive-wal", "--create-slot", "main"]).success();
        let receiver = home.command().args(["receive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
        let receiver = Receiver(receiver);
        wait_for("the receiver to stream", 30, || {
            (cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
        });
        let run = home.run(["backup", "--wait", "--wait-timeout", "60", "main"]).success();
        let backup_id = std::fs::read_dir(home.join("main/base"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .find(|name| name.len() == 15)
            .unwrap_or_else(|| panic!("no backup: {run:#?}"));
        Scene { cluster, home, dir: TestDir::new(), backup_id, spaces, receiver }
    }

    /// Completes the current segment and waits until the home has it.
    pub(crate) fn archive(&self) {
        let segment = self.cluster.switch_wal();
        let streamed = self.home.join("main/streaming").join(&segment);
        let archived = self.home.join("main/wals").join(&segment[..16]).join(&segment);
        wait_for("the last segment to arrive", ARCHIVE_SECONDS, || {
            (streamed.exists() || archived.exists()).then_some(())
        });
    }

    /// Where a restore called `name` goes.
    pub(crate) fn destination(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `restore` with both tablespaces moved next to the destination.
    pub(crate) fn restore(&self, name: &str, options: &[&str]) -> Run {
        let destination = self.destination(name);
        let mut words = vec!["restore".to_owned()];
        words.extend(options.iter().map(|&option| option.to_owned()));
        for space in ["fast", "slow"] {
            words.push("--tablespace".to_owned());
            words.push(format!("{space}:{}", beside(&destination, space).display()));
        }
        words.extend(["main".to_owned(), self.backup_id.clone(), destination.to_str().unwrap().to_owned()]);
        self.home.run(words)
    }

    /// Restores, starts, and waits for the end of recovery.
    pub(crate) fn recover(&self, name: &str, options: &[&str]) -> Cluster {
        self.restore(name, options).success();
        let cluster = Cluster::adopt(self.cluster.major(), &self.destination(name));
        cluster.wait_until_writable();
        cluster
    }

    /// Removes what a restore called `name` made.
    pub(crate) fn remove(&self, name: &str) {
        let destination = self.destination(name);
        for path in [&destination, &beside(&destination, "fast"), &beside(&destination, "slow")] {
            std::fs::remove_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Ends the original, as one does before restoring in its place.
    pub(crate) fn stop_original(&mut self) {
        let _ = self.receiver.0.kill();
        self.cluster.stop(StopMode::Fast);
    }

    /// Makes the original go on on a new timeline, received like the one before.
    pub(crate) fn promote_original(&mut self) {
        self.cluster.stop(StopMode::Fast);
        let signal = self.cluster.data_dir().join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        testkit::unprivileged_user().take_over(&signal);
        self.cluster.start_again();
        self.cluster.promote();
    }
}

/// `/x/restored` and `fast`: `/x/restored.fast`.
pub(crate) fn beside(destination: &Path, space: &str) -> PathBuf {
    PathBuf::from(format!("{}.{space}", destination.display()))
}
