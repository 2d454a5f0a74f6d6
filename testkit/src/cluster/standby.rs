//! Standbys: made by PostgreSQL's own `pg_basebackup`, of which the newest serves every older server.

use std::process::Command;

use super::{Cluster, builder};
use crate::programs::client_tool;
use crate::user::unprivileged_user;
use crate::{TestDir, wait_for};

impl Cluster {
    /// Makes a streaming standby of this cluster and starts it. It calls itself `name` at the primary.
    #[must_use]
    #[track_caller]
    pub fn standby(&self, name: &str) -> Cluster {
        let program = client_tool("pg_basebackup", self.major).expect("a pg_basebackup for this server");
        let root = TestDir::new();
        let data_dir = root.join("data");
        let mut command = Command::new(program);
        command
            .arg("--pgdata")
            .arg(&data_dir)
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--dbname"])
            .arg(self.conninfo())
            .current_dir("/");
        let output = unprivileged_user().run_as(&mut command).output().expect("run pg_basebackup");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        let primary = format!("{} application_name={name}", self.conninfo());
        builder::append_settings(&data_dir, &[("primary_conninfo".to_owned(), primary)]);
        std::fs::write(data_dir.join("standby.signal"), "").expect("write standby.signal");
        unprivileged_user().take_over(&data_dir);
        let mut standby = Cluster::unstarted(self.major, data_dir, root);
        standby.start_again();
        standby
    }

    /// Waits until `standby` has replayed all that this cluster has written.
    #[track_caller]
    pub fn wait_for_replay_by(&self, standby: &Cluster) {
        let target = self.value("select pg_current_wal_lsn()");
        let question = format!("select pg_last_wal_replay_lsn() >= '{target}'::pg_lsn");
        wait_for("the standby to catch up", 60, || (standby.value(&question) == "t").then_some(()));
    }
}
