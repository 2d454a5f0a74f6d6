//! WAL of everything that a server writes: made by real servers, for the tests of the record reader.

use std::path::{Path, PathBuf};

use pgwal::{SegmentName, WalFile};
use testkit::{Cluster, StopMode};

/// A stopped cluster whose WAL is all there, from initdb to the end.
pub(crate) struct Workload {
    pub(crate) cluster: Cluster,
    pub(crate) segment_bytes: u64,
    /// Where the server said that its restore point ends.
    pub(crate) restore_point: String,
}

impl Workload {
    /// Runs every kind of operation on a new cluster.
    pub(crate) fn run(major: u32, segment_size_mib: u32) -> Self {
        let builder = Cluster::builder(major)
            .segment_size_mib(segment_size_mib)
            .setting("wal_level", "logical")
            .setting("wal_keep_size", "4GB")
            .setting("max_prepared_transactions", "10")
            .setting("track_commit_timestamp", "on")
            .setting("synchronous_commit", "off")
            .setting("autovacuum", "off")
            .setting("wal_log_hints", "on");
        let mut cluster = builder.start();
        run_all(&cluster);
        let restore_point = cluster.value("SELECT at FROM restore_point");
        cluster.stop(StopMode::Fast);
        Workload { cluster, segment_bytes: u64::from(segment_size_mib) << 20, restore_point }
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.cluster.data_dir().join("pg_wal")
    }

    /// The segments, in order.
    pub(crate) fn segments(&self) -> Vec<SegmentName> {
        segments_in(&self.wal_dir())
    }
}

/// The segments in a directory, in order.
pub(crate) fn segments_in(dir: &Path) -> Vec<SegmentName> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut segments: Vec<SegmentName> = names
        .filter_map(|name| match name.parse() {
            Ok(WalFile::Segment(segment)) => Some(segment),
            _ => None,
        })
        .collect();
    segments.sort();
    segments
}

/// Every kind of operation.
pub(crate) fn run_all(cluster: &Cluster) {
    tables(cluster);
    indexes(cluster);
    transactions(cluster);
    two_sessions(cluster);
    databases_and_tablespaces(cluster);
    compressed_images(cluster);
    messages_and_restore_points(cluster);
}

fn statements(cluster: &Cluster, sql: &[&str]) {
    let mut client = cluster.client();
    for statement in sql {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// Runs what not every build can do.
fn attempt(cluster: &Cluster, sql: &[&str]) {
    let mut client = cluster.client();
    for statement in sql {
        if client.batch_execute(statement).is_err() {
            return;
        }
    }
}

fn tables(cluster: &Cluster) {
    statements(
        cluster,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, a text, b int)",
            "INSERT INTO t SELECT g, repeat('x', g % 90), g FROM generate_series(1, 4000) g",
            "UPDATE t SET b = b + 1 WHERE id % 3 = 0",
            "UPDATE t SET a = a || 'y', id = id + 100000 WHERE id % 7 = 0",
            "DELETE FROM t WHERE id % 5 = 0",
            "VACUUM (FREEZE, ANALYZE) t",
            "VACUUM FULL t",
            "CREATE TABLE toasted (id int, big text)",
            "ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL",
            "INSERT INTO toasted SELECT g, repeat(md5(g::text), 700) FROM generate_series(1, 20) g",
            "UPDATE toasted SET id = id + 1",
            "DELETE FROM toasted WHERE id < 10",
            "VACUUM toasted",
            "CREATE UNLOGGED TABLE u (id int PRIMARY KEY)",
            "INSERT INTO u SELECT generate_series(1, 100)",
            "CREATE SEQUENCE s",
            "SELECT count(nextval('s')) FROM generate_series(1, 100)",
            "CREATE TABLE doomed AS SELECT g FROM generate_series(1, 100) g",
            "TRUNCATE doomed RESTART IDENTITY CASCADE",
            "DROP TABLE doomed",
            "CREATE TABLE k (id int UNIQUE)",
            "INSERT INTO k VALUES (1), (2) ON CONFLICT DO NOTHING",
            "INSERT INTO k VALUES (2), (3) ON CONFLICT DO NOTHING",
            "CREATE TABLE shrinking AS SELECT g, repeat('z', 500) AS filler FROM generate_series(1, 500) g",
            "DELETE FROM shrinking WHERE g > 10",
            "VACUUM shrinking",
            "CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t",
            "REFRESH MATERIALIZED VIEW m",
            "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id)",
            "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)",
            "INSERT INTO p SELECT g, 'v' FROM generate_series(0, 19) g",
            "UPDATE p SET id = 15 WHERE id = 3",
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "UPDATE t SET b = 0 WHERE id < 40",
            "CLUSTER t USING t_pkey",
            "CHECKPOINT",
        ],
    );
}

fn indexes(cluster: &Cluster) {
    statements(
        cluster,
        &[
            "CREATE TABLE i (n int, h int, words text[], place point, label text, area box, many int)",
            "INSERT INTO i SELECT g, g % 50, ARRAY['w' || g % 100, 'v' || g % 10], point(g % 40, g / 40),
                 'label' || md5(g::text), box(point(g, g), point(g + 1, g + 1)), g % 3 FROM generate_series(1, 3000) g",
            "CREATE INDEX ON i (n)",
            "CREATE INDEX ON i (many)",
            "CREATE INDEX hash_index ON i USING hash (h)",
            "CREATE INDEX gin_index ON i USING gin (words)",
            "CREATE INDEX gin_slow ON i USING gin (words) WITH (fastupdate = off)",
            "CREATE INDEX gist_place ON i USING gist (place)",
            "CREATE INDEX gist_area ON i USING gist (area)",
            "CREATE INDEX spgist_label ON i USING spgist (label)",
            "CREATE INDEX spgist_place ON i USING spgist (place)",
            "CREATE INDEX brin_index ON i USING brin (n) WITH (pages_per_range = 2, autosummarize = off)",
            "INSERT INTO i SELECT g, g % 70, ARRAY['w' || g % 100, 'u' || g], point(g % 90, g / 90), 'l' || g,
                 box(point(g, 0), point(g, 9)), g % 3 FROM generate_series(3001, 9000) g",
            "INSERT INTO i (n, label, place) VALUES (NULL, NULL, NULL)",
            "SELECT brin_summarize_new_values('brin_index')",
            "SELECT brin_desummarize_range('brin_index', 0)",
            "SELECT brin_summarize_range('brin_index', 0)",
            "SELECT gin_clean_pending_list('gin_index')",
            "DELETE FROM i WHERE n % 2 = 0 OR n BETWEEN 1000 AND 5000",
            "SET enable_seqscan = off; SELECT count(*) FROM i WHERE n BETWEEN 1000 AND 5000; SELECT count(*) FROM i WHERE h = 7",
            "VACUUM i",
            "INSERT INTO i SELECT g, g % 70, ARRAY['w' || g % 100, 'u' || g], point(g % 90, g / 90), 'l' || g,
                 box(point(g, 0), point(g, 9)), g % 3 FROM generate_series(9001, 12000) g",
            "DELETE FROM i",
            "VACUUM i",
            "VACUUM i",
            "REINDEX TABLE i",
            "CREATE TABLE posting (many int)",
            "CREATE INDEX gin_posting ON i USING gin ((ARRAY[many]))",
            "INSERT INTO i (n, many, words) SELECT g, 1, ARRAY['same'] FROM generate_series(1, 9000) g",
            "SELECT gin_clean_pending_list('gin_index')",
            "DELETE FROM i WHERE n % 3 = 0",
            "VACUUM i",
            "UPDATE i SET n = n + 1 WHERE n < 500",
        ],
    );
    attempt(
        cluster,
        &[
            "CREATE EXTENSION bloom",
            "CREATE TABLE b AS SELECT g FROM generate_series(1, 1000) g",
            "CREATE INDEX ON b USING bloom (g)",
            "INSERT INTO b SELECT generate_series(1, 1000)",
        ],
    );
}

fn transactions(cluster: &Cluster) {
    let subtransactions = "DO $$ BEGIN FOR g IN 1..150 LOOP BEGIN INSERT INTO k VALUES (g + 1000);
        EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$";
    statements(
        cluster,
        &[
            subtransactions,
            "BEGIN; INSERT INTO t VALUES (-1, 'gone', 0); CREATE TABLE never (a int); ROLLBACK",
            "BEGIN; INSERT INTO t VALUES (-2, 'kept', 0); SAVEPOINT a; DELETE FROM t WHERE id = -2; ROLLBACK TO a; COMMIT",
            "BEGIN; CREATE TABLE prepared (a int); INSERT INTO prepared VALUES (1); SAVEPOINT x; INSERT INTO prepared VALUES (2);
                 PREPARE TRANSACTION 'first one'",
            "COMMIT PREPARED 'first one'",
            "BEGIN; DROP TABLE prepared; CREATE TABLE unborn (a int); PREPARE TRANSACTION 'second'",
            "ROLLBACK PREPARED 'second'",
            "BEGIN; DROP TABLE prepared; PREPARE TRANSACTION 'third'",
            "COMMIT PREPARED 'third'",
            "SELECT pg_replication_origin_create('here')",
            "SELECT pg_replication_origin_session_setup('here');
                 BEGIN; SELECT pg_replication_origin_xact_setup('0/AABBCC', now()); INSERT INTO k VALUES (-10); COMMIT",
            "SELECT pg_replication_origin_create('there'); SELECT pg_replication_origin_advance('there', '1/2')",
            "SELECT pg_replication_origin_drop('there')",
            "SET synchronous_commit = on; INSERT INTO k VALUES (-11)",
            "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; INSERT INTO k VALUES (-12); COMMIT",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f()",
            "ANALYZE",
        ],
    );
}

/// Row locks shared by two sessions make multixacts; a checkpoint with transactions running lists them.
fn two_sessions(cluster: &Cluster) {
    let (mut first, mut second) = (cluster.client(), cluster.client());
    first.batch_execute("BEGIN; SELECT * FROM t WHERE id < 60 FOR KEY SHARE").unwrap();
    second
        .batch_execute(
            "BEGIN; SELECT * FROM t WHERE id < 60 FOR SHARE; SAVEPOINT a; INSERT INTO k VALUES (-20)",
        )
        .unwrap();
    first.batch_execute("SAVEPOINT b; INSERT INTO k VALUES (-21); CREATE TABLE locked (a int)").unwrap();
    statements(cluster, &["CHECKPOINT", "SELECT pg_log_standby_snapshot()"][..1]);
    attempt(cluster, &["SELECT pg_log_standby_snapshot()"]);
    first.batch_execute("COMMIT").unwrap();
    second.batch_execute("COMMIT").unwrap();
    first.batch_execute("BEGIN; UPDATE t SET b = 5 WHERE id = 1").unwrap();
    second.batch_execute("BEGIN; SELECT * FROM t WHERE id = 2 FOR UPDATE; COMMIT").unwrap();
    // A lock that follows a row to its new version.
    second.batch_execute("BEGIN; SELECT * FROM t WHERE id = 1 FOR KEY SHARE; COMMIT").unwrap();
    first.batch_execute("COMMIT").unwrap();
    let backup = if cluster.major() >= 15 {
        ["SELECT pg_backup_start('a backup', true)", "SELECT pg_backup_stop(false)"]
    } else {
        ["SELECT pg_start_backup('a backup', true, false)", "SELECT pg_stop_backup(false, false)"]
    };
    statements(cluster, &backup);
    statements(cluster, &["VACUUM (FREEZE) t"]);
}

fn databases_and_tablespaces(cluster: &Cluster) {
    let place = cluster.new_dir("tablespace");
    statements(
        cluster,
        &[
            &format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display()),
            "CREATE TABLE far (a int) TABLESPACE elsewhere",
            "INSERT INTO far SELECT generate_series(1, 100)",
            "CREATE DATABASE plain",
            "ALTER DATABASE plain SET TABLESPACE elsewhere",
            "DROP DATABASE plain",
            "DROP TABLE far",
        ],
    );
    if cluster.major() >= 15 {
        statements(
            cluster,
            &[
                "CREATE DATABASE copied STRATEGY file_copy",
                "CREATE DATABASE logged STRATEGY wal_log",
                "DROP DATABASE copied",
            ],
        );
    }
    statements(cluster, &["DROP TABLESPACE elsewhere"]);
}

fn compressed_images(cluster: &Cluster) {
    for method in ["on", "lz4", "zstd", "off"] {
        attempt(
            cluster,
            &[
                &format!("SET wal_compression = {method}"),
                "CHECKPOINT",
                "UPDATE t SET b = b + 1",
                "UPDATE toasted SET id = id + 1",
            ],
        );
    }
    statements(
        cluster,
        &[
            "SET wal_consistency_checking = 'all'; UPDATE t SET b = b + 1 WHERE id < 200; INSERT INTO k VALUES (-30)",
        ],
    );
}

fn messages_and_restore_points(cluster: &Cluster) {
    statements(
        cluster,
        &[
            "SELECT pg_logical_emit_message(true, 'prefix', 'a message')",
            "SELECT pg_logical_emit_message(false, 'other', repeat('long ', 5000))",
            "CREATE TABLE restore_point AS SELECT pg_create_restore_point('before the end') AS at",
            "SELECT pg_switch_wal()",
            "CREATE TABLE after_switch (a int)",
            "ALTER SYSTEM SET full_page_writes = off",
            "SELECT pg_reload_conf()",
            "CHECKPOINT",
            "INSERT INTO after_switch SELECT generate_series(1, 1000)",
        ],
    );
}
