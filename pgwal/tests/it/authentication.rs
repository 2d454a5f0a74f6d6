//! Every way a server can ask who is there.

use pgwal::replication::{ConnInfo, ConnectError, ConnectFailure, Connection, SqlState};
use pgwal::wire::AuthMethod;
use testkit::{Cluster, TestDir};

/// Connects; the environment is empty, so that the machine's own settings change nothing.
pub(crate) async fn connect(conninfo: &str) -> Result<Connection, ConnectError> {
    Connection::connect(&ConnInfo::parse(conninfo, &|_| None)?).await
}

/// The failure of the last host that was tried.
pub(crate) async fn failure(conninfo: &str) -> ConnectFailure {
    match connect(conninfo).await {
        Err(ConnectError::Hosts(mut attempts)) => attempts.pop().unwrap().failure,
        other => panic!("{other:?}"),
    }
}

/// A server that asks user `md5` for MD5, `scram` for SCRAM and so on; the password is the user's name.
fn cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major)
        .hba("host replication md5      127.0.0.1/32 md5")
        .hba("host replication scram    127.0.0.1/32 scram-sha-256")
        .hba("host replication clear    127.0.0.1/32 password")
        .hba("host replication rejected 127.0.0.1/32 reject")
        .hba("local replication clear   password")
        .start();
    cluster.execute(
        "set password_encryption = 'md5';
         create role md5 replication login password 'md5';
         set password_encryption = 'scram-sha-256';
         create role scram replication login password 'scram';
         create role clear replication login password 'clear';
         create role rejected replication login;
         create role plain login;",
    );
    cluster
}

fn as_user(cluster: &Cluster, user: &str, rest: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} {rest}", cluster.port())
}

#[tokio::test]
async fn every_method_lets_the_right_password_in() {
    for major in [13, 15, 18] {
        testkit::require_pg!(major);
        let cluster = cluster(major);
        for (user, method) in
            [("md5", AuthMethod::Md5), ("scram", AuthMethod::Scram), ("clear", AuthMethod::Cleartext)]
        {
            let conninfo = as_user(&cluster, user, &format!("password={user}"));
            let connection = connect(&conninfo).await.unwrap();
            assert_eq!(connection.auth_method(), method, "{major}");
            assert_eq!(connection.server_version_num() / 10_000, major);
            connection.close().await;
        }
        let trusted = connect(&cluster.conninfo()).await.unwrap();
        assert_eq!(trusted.auth_method(), AuthMethod::None);
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_by_its_code() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    for user in ["md5", "scram", "clear"] {
        let conninfo = as_user(&cluster, user, "password=wrong");
        let error = connect(&conninfo).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some(SqlState::INVALID_PASSWORD), "{error}");
        let text = error.to_string();
        assert!(text.contains("password authentication failed") && !text.contains("wrong"), "{text}");
    }
}

#[tokio::test]
async fn a_missing_password_is_told_before_the_server_is_bothered() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let error = failure(&as_user(&cluster, "scram", "")).await;
    assert!(matches!(error, ConnectFailure::Auth { .. }), "{error}");
    assert!(error.to_string().contains("asks for a password and none was given"), "{error}");
}

#[tokio::test]
async fn refusals_carry_the_servers_words() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let rejected = failure(&as_user(&cluster, "rejected", "")).await;
    assert_eq!(rejected.sqlstate(), Some(SqlState::INVALID_AUTHORIZATION), "{rejected}");
    let unprivileged = failure(&as_user(&cluster, "plain", "")).await;
    assert_eq!(unprivileged.sqlstate(), Some(SqlState::INSUFFICIENT_PRIVILEGE), "{unprivileged}");
    let unknown = failure(&as_user(&cluster, "nobody_here", "")).await;
    assert_eq!(unknown.sqlstate(), Some(SqlState::INVALID_AUTHORIZATION), "{unknown}");
}

#[tokio::test]
async fn passwords_come_from_the_password_file() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let dir = TestDir::new();
    let passfile = |text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.write("pgpass", text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        format!("passfile={}", path.display())
    };
    let line = format!("127.0.0.1:{}:replication:scram:scram\n", cluster.port());
    let good = as_user(&cluster, "scram", &passfile(&line, 0o600));
    assert_eq!(connect(&good).await.unwrap().auth_method(), AuthMethod::Scram);

    // By a socket that is in no default directory, the host is that directory.
    let line = format!("{}:*:replication:clear:clear\n", cluster.socket_dir().display());
    let by_socket = format!(
        "host={} port={} user=clear {}",
        cluster.socket_dir().display(),
        cluster.port(),
        passfile(&line, 0o600)
    );
    assert_eq!(connect(&by_socket).await.unwrap().auth_method(), AuthMethod::Cleartext);

    let open_to_all = as_user(&cluster, "scram", &passfile(&line, 0o644));
    let error = failure(&open_to_all).await;
    assert!(error.to_string().contains("group or world access"), "{error}");
}

#[tokio::test]
async fn require_auth_keeps_the_password_from_a_server_that_asks_otherwise() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let refused = failure(&as_user(&cluster, "clear", "password=clear require_auth=scram-sha-256")).await;
    assert!(matches!(refused, ConnectFailure::Auth { .. }), "{refused}");
    let refused = failure(&format!("{} require_auth=!none", cluster.tcp_conninfo())).await;
    assert!(matches!(refused, ConnectFailure::Auth { .. }), "{refused}");
    connect(&as_user(&cluster, "scram", "password=scram require_auth=!md5,!password")).await.unwrap();
}

#[tokio::test]
async fn channel_binding_cannot_be_had_without_tls() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let error = failure(&as_user(&cluster, "scram", "password=scram channel_binding=require")).await;
    assert!(error.to_string().contains("channel_binding=require"), "{error}");
}

#[tokio::test]
async fn requirepeer_looks_at_who_runs_the_server() {
    testkit::require_pg!(15);
    let cluster = cluster(15);
    let right = testkit::unprivileged_user();
    connect(&format!("{} requirepeer={}", cluster.conninfo(), right.name)).await.unwrap();
    let error = failure(&format!("{} requirepeer=nobody_here", cluster.conninfo())).await;
    assert!(matches!(error, ConnectFailure::WrongPeer { .. }), "{error}");
}
