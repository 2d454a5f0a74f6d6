//! SQL sessions from the same connection strings.

use pgwal::replication::{ConnInfo, SqlState};
use pgwal::sql::{SqlError, connect};
use testkit::Cluster;

fn conninfo(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &|_| None).unwrap()
}

#[tokio::test]
async fn queries_run_on_a_session_that_was_handed_over() {
    for major in [13, 15, 17] {
        testkit::require_pg!(major);
        let cluster = Cluster::builder(major)
            .tls()
            .hba("hostssl all scram 127.0.0.1/32 scram-sha-256")
            .hba("hostnossl all scram 127.0.0.1/32 reject")
            .start();
        cluster.execute("set password_encryption = 'scram-sha-256'; create role scram login password 'x'");
        let text = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=scram password=x dbname=postgres sslmode=verify-full \
             sslrootcert={} channel_binding=require application_name=teller options='-c work_mem=1234kB'",
            cluster.port(),
            cluster.tls().ca_cert().display()
        );
        let client = connect(&conninfo(&text)).await.unwrap();
        let row = client
            .query_one("select current_user::text, current_setting('work_mem'), $1::int8 + 1", &[&41_i64])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), "scram");
        assert_eq!(row.get::<_, &str>(1), "1234kB");
        assert_eq!(row.get::<_, i64>(2), 42);
        let row = client
            .query_one("select application_name from pg_stat_activity where pid = pg_backend_pid()", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), "teller");
    }
}

#[tokio::test]
async fn errors_are_those_of_replication_connections() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let error = connect(&conninfo(&format!("{} dbname=missing", cluster.conninfo()))).await.unwrap_err();
    let SqlError::Connect(error) = error else { panic!("{error}") };
    assert_eq!(error.sqlstate(), Some(SqlState::INVALID_CATALOG_NAME), "{error}");
}

#[tokio::test]
async fn finds_the_primary_by_sql_too() {
    testkit::require_pg!(13);
    let primary = Cluster::start(13);
    let standby = primary.standby("s");
    for (wanted, expected) in [("primary", false), ("standby", true)] {
        let text = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=postgres target_session_attrs={wanted}",
            standby.port(),
            primary.port()
        );
        let client = connect(&conninfo(&text)).await.unwrap();
        let row = client.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
        assert_eq!(row.get::<_, bool>(0), expected);
    }
}
