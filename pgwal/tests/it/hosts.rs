//! Several hosts, timeouts, and which server will do.

use std::time::{Duration, Instant};

use pgwal::replication::{ConnectError, ConnectFailure, SqlState};
use testkit::Cluster;

use crate::authentication::{connect, failure};

/// A port on which nothing listens: it was free a moment ago.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn the_first_living_host_is_taken_and_failures_are_all_told() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    let dead = dead_port();
    let conninfo = format!("host=127.0.0.1,127.0.0.1 port={dead},{} user=postgres", cluster.port());
    assert_eq!(connect(&conninfo).await.unwrap().host().port, cluster.port());

    let conninfo = format!("host=127.0.0.1,/nonexistent port={dead} user=postgres");
    let error = connect(&conninfo).await.unwrap_err();
    let ConnectError::Hosts(attempts) = &error else { panic!("{error:?}") };
    assert_eq!(attempts.len(), 2);
    let text = error.to_string();
    assert!(text.contains(&format!("\"127.0.0.1\", port {dead}: Connection refused")), "{text}");
    assert!(text.contains(&format!("socket \"/nonexistent/.s.PGSQL.{dead}\": No such file")), "{text}");
}

#[tokio::test]
async fn a_host_that_refuses_the_user_ends_the_search() {
    testkit::require_pg!(15);
    let strict = Cluster::builder(15).hba("host replication all 127.0.0.1/32 reject").start();
    let open = Cluster::start(15);
    let conninfo = format!("host=127.0.0.1,127.0.0.1 port={},{} user=postgres", strict.port(), open.port());
    let ConnectError::Hosts(attempts) = connect(&conninfo).await.unwrap_err() else { panic!() };
    assert!(attempts.iter().all(|attempt| attempt.host.port == strict.port()));
    assert_eq!(attempts.last().unwrap().failure.sqlstate(), Some(SqlState::INVALID_AUTHORIZATION));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    // Accepted by the kernel, answered by nobody.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let error = failure(&format!("host=127.0.0.1 port={port} user=u connect_timeout=2")).await;
    assert!(matches!(error, ConnectFailure::Timeout(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn what_is_not_postgresql_is_told_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let error = failure(&format!("host=127.0.0.1 port={port} user=u sslmode=disable")).await;
    assert!(error.to_string().contains("is this a PostgreSQL server?"), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told_so() {
    let error = failure("host=no-such-host.invalid user=u").await;
    assert!(matches!(error, ConnectFailure::Resolve(_)), "{error}");
}

#[tokio::test]
async fn finds_the_server_of_the_wanted_kind() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let primary = Cluster::start(major);
        let standby = primary.standby("s");
        let (first, second) = (standby.port(), primary.port());
        let both = format!("host=127.0.0.1,127.0.0.1 port={first},{second} user=postgres");
        let reversed = format!("host=127.0.0.1,127.0.0.1 port={second},{first} user=postgres");
        for (hosts, wanted, port) in [
            (&both, "any", first),
            (&both, "primary", second),
            (&both, "read-write", second),
            (&reversed, "standby", first),
            (&reversed, "read-only", first),
            (&reversed, "prefer-standby", first),
        ] {
            let connection = connect(&format!("{hosts} target_session_attrs={wanted}")).await.unwrap();
            assert_eq!(connection.host().port, port, "{major} {wanted}");
        }
        let alone = primary.tcp_conninfo();
        let connection = connect(&format!("{alone} target_session_attrs=prefer-standby")).await.unwrap();
        assert_eq!(connection.host().port, second);
        let error = failure(&format!("{alone} target_session_attrs=standby")).await;
        assert!(matches!(error, ConnectFailure::WrongRole(_)), "{error}");
        assert!(error.to_string().contains("target_session_attrs=standby"), "{error}");
    }
}
